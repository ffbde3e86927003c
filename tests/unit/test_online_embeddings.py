"""Item vectors learnt online: a step is AdaGrad on the plain loss, memory is bounded, places learn their weight."""

from __future__ import annotations

import numpy as np
import pytest

from udfs.neighbours.session_index import as_queries
from udfs.online.item_embeddings import EMBEDDING_FEATURES, EmbeddingSettings, ItemEmbeddings
from udfs.online.reference import plain_embedding_loss

SMALL = EmbeddingSettings(dimensions=4, session_items=3, batch=2, negatives=3, replays=0, remembered=8)
SESSIONS = np.array([[1, 2, 3], [4, -1, -1], [5, 6, -1]], np.int32)
CLICKED = np.array([7, 8, 9], np.int32)
NEGATIVES = np.array([10, 11, 7], np.int32)  # one of them is no negative of the first click
EXAMPLES = [([1, 2, 3], 7), ([4], 8), ([5, 6], 9)]


def plain_loss(vectors: np.ndarray, places: np.ndarray) -> float:
    by_row = {row: vector.tolist() for row, vector in enumerate(vectors)}
    return plain_embedding_loss(by_row, places.tolist(), EXAMPLES, NEGATIVES.tolist(), SMALL.temperature)


def test_a_step_is_adagrad_on_the_plain_loss() -> None:
    embeddings = ItemEmbeddings(12, SMALL, seed=3)
    before, places = embeddings.vectors.astype(np.float64), embeddings.place_weights().astype(np.float64)
    embeddings.step(SESSIONS, CLICKED, NEGATIVES)
    for row in (8, 9, 10, 11):  # no session's items: one AdaGrad step each
        slope = np.zeros(4)
        for i in range(4):
            ends = []
            for side in (-1e-5, 1e-5):
                moved = before.copy()
                moved[row, i] += side
                ends.append(plain_loss(moved, places))
            slope[i] = (ends[1] - ends[0]) / 2e-5
        step = -0.1 * slope / np.sqrt(0.01 + (slope**2).sum() / 4)
        np.testing.assert_allclose(embeddings.vectors[row] - before[row], step, rtol=2e-3, atol=1e-5)
    assert (embeddings.vectors[0] == before[0].astype(np.float32)).all()
    assert plain_loss(embeddings.vectors.astype(np.float64), places) < plain_loss(before, places)


def test_items_of_a_session_move_down_the_plain_loss() -> None:
    embeddings = ItemEmbeddings(12, SMALL, seed=4)
    before, places = embeddings.vectors.astype(np.float64), embeddings.place_weights().astype(np.float64)
    embeddings.step(SESSIONS, CLICKED, NEGATIVES)
    for row in (1, 2, 3, 4, 5, 6):
        slope = np.zeros(4)
        for i in range(4):
            moved = before.copy()
            moved[row, i] += 1e-5
            slope[i] = (plain_loss(moved, places) - plain_loss(before, places)) / 1e-5
        step = embeddings.vectors[row] - before[row]
        cosine = -(step @ slope) / np.sqrt((step @ step) * (slope @ slope))
        assert cosine == pytest.approx(1.0, abs=1e-3)


def test_weights_of_places_follow_what_predicts() -> None:
    """The item before the last tells what comes, the last one nothing."""
    settings = EmbeddingSettings(dimensions=8, session_items=2, batch=16, negatives=16, remembered=512)
    embeddings = ItemEmbeddings(40, settings, seed=0)
    rng = np.random.default_rng(0)
    for _ in range(120):
        telling, noise = 2 * rng.integers(0, 10, 16), 20 + rng.integers(0, 20, 16)
        queries = as_queries([[a, b] for a, b in zip(telling.tolist(), noise.tolist(), strict=True)])
        embeddings.learn(queries, (telling + 1).astype(np.int32))
    newest, before = embeddings.place_weights()[1]
    first_newest, first_before = ItemEmbeddings(40, settings, seed=0).place_weights()[1]
    assert before / newest > 1.25 * first_before / first_newest


def test_features_are_cosines_and_what_is_missing_to_the_best() -> None:
    embeddings = ItemEmbeddings(6, SMALL, seed=1)
    rows, counts = np.array([[1, 2, 3], [4, 5, -1]], np.int32), np.array([3, 2], np.int32)
    found = embeddings.features(as_queries([[0, 1], [2]]), rows, counts)
    units = embeddings.vectors / np.linalg.norm(embeddings.vectors, axis=1, keepdims=True)
    weights = embeddings.place_weights()[1]
    mean = weights[0] * embeddings.vectors[1] + weights[1] * embeddings.vectors[0]
    session = 2 * units[[1, 2, 3]] @ mean / np.linalg.norm(mean)
    last = 2 * units[[1, 2, 3]] @ units[1]
    wanted = np.stack([session, last, session - session.max(), last - last.max()], axis=1)
    np.testing.assert_allclose(found[0], wanted, atol=1e-5)
    assert not found[1, 2].any() and found.shape[2] == len(EMBEDDING_FEATURES)


def test_only_so_many_clicks_are_remembered_and_new_items_get_room() -> None:
    embeddings = ItemEmbeddings(2, SMALL)
    for number in range(30):
        embeddings.learn(as_queries([[number % 5], [number % 7]]), np.array([20, 3], np.int32))
    assert len(embeddings.vectors) >= 21 and len(embeddings._past_items) == SMALL.remembered
    size = embeddings.size_bytes()
    embeddings.learn(as_queries([[1]] * 50), np.full(50, 2, np.int32))
    assert embeddings.size_bytes() == size
    assert np.isfinite(embeddings.vectors).all()

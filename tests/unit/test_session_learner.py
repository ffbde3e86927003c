"""The learner of the learn job: equal logs give equal versions, restored or not, and workers score by them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from schemas.ids import item_hash
from schemas.records import LearntPart
from udfs.neighbours.item_table import ItemTable
from udfs.neighbours.scan_arrays import Candidates, Queries
from udfs.neighbours.session_contexts import contexts
from udfs.neighbours.session_index import SessionIndex, as_queries
from udfs.online.item_embeddings import BLOCK_ROWS, EmbeddingSettings
from udfs.online.publication import (
    RANKER_PART,
    decode_items,
    decode_ranker,
    encode_items,
    encode_ranker,
)
from udfs.online.published_ranker import PublishedRanker
from udfs.online.publisher import PublisherSettings
from udfs.online.ranker_learning import LearningSettings
from udfs.online.ranker_weights import RankerWeights, WeightsError
from udfs.online.session_learner import LIMITS, SCAN, LearnerSettings, SessionLearner
from udfs.online.session_ranker import RANKER_FEATURES, SessionRanker, SessionRankerSettings

QUICK = LearnerSettings(
    SessionRankerSettings(
        candidates=20,
        limits=LIMITS._replace(sessions=256, pool=4_096),
        scan=SCAN,
        embeddings=EmbeddingSettings(remembered=1_024),
    ),
    PublisherSettings(clicks=256, blocks=2),
)
Log = tuple[NDArray[np.uint64], NDArray[np.uint64]]


def pairs_log(seed: int, sessions: int, items: int = 40) -> Log:
    """Sessions of popular item 999, then 2i, then 2i + 1, three at a time side by side."""
    rng = np.random.default_rng(seed)
    keys, names = [], []
    for first in range(0, sessions, 3):
        starts = 2 * rng.integers(0, items, 3)
        for step in range(3):
            for lane in range(3):
                keys.append(first + lane)
                names.append((999, starts[lane], starts[lane] + 1)[step])
    hashes = {int(name): item_hash(f"i{name}") for name in set(names)}
    return np.array(keys, np.uint64), np.array([hashes[int(name)] for name in names], np.uint64)


def published(parts: list[LearntPart]) -> PublishedRanker:
    ranker = PublishedRanker(ItemTable().add)
    for part in parts:
        ranker.take(part)
    return ranker


@pytest.fixture(scope="module")
def learnt() -> tuple[SessionLearner, list[LearntPart], Log]:
    log, learner = pairs_log(0, 900), SessionLearner(QUICK)
    return learner, learner.learn(*log), log


def test_versions_are_those_of_a_plain_session_ranker(
    learnt: tuple[SessionLearner, list[LearntPart], Log],
) -> None:
    _, parts, (keys, hashes) = learnt
    plain, rows_of, so_far = SessionRanker(1_024, QUICK.ranker), dict[int, int](), dict[int, list[int]]()
    wanted = []
    for at in range(0, len(keys) - len(keys) % 64, 64):
        contexts_, rows = [], []
        for key, hashed in zip(keys[at : at + 64].tolist(), hashes[at : at + 64].tolist(), strict=True):
            rows.append(rows_of.setdefault(hashed, len(rows_of)))
            contexts_.append(list(so_far.setdefault(key, [])))
            so_far[key].append(rows[-1])
        queries = as_queries(contexts_, keys[at : at + 64].tolist())
        plain.learn(queries, np.array(rows, np.int32))
        if (at + 64) % 256 == 0:
            wanted.append(encode_ranker(plain.learner.weights, plain.embeddings.place_weights()))
    assert [part.data for part in parts if part.part == RANKER_PART] == wanted
    assert len(wanted) > 5


@pytest.mark.parametrize("cut", [1, 100, 517])
def test_a_log_cut_anywhere_and_restored_in_the_middle_gives_the_same_versions_and_state(
    cut: int, learnt: tuple[SessionLearner, list[LearntPart], Log]
) -> None:
    whole, wanted, (keys, hashes) = learnt
    learner, found = SessionLearner(QUICK), []
    for number, at in enumerate(range(0, len(keys), cut)):
        found += learner.learn(keys[at : at + cut], hashes[at : at + cut])
        if number % (2_000 // cut) == 1:
            kept = {name: array.copy() for name, array in learner.state().items()}
            learner = SessionLearner(QUICK)
            learner.restore(kept)
    assert found == wanted
    ours, theirs = learner.state(), whole.state()
    assert [name for name in theirs if ours[name].tobytes() != theirs[name].tobytes()] == []


def test_sessions_so_far_come_from_the_index() -> None:
    index = SessionIndex(LIMITS._replace(sessions=16, pool=64), SCAN)
    for session, item in [(1, 7), (1, 8), (2, 9)]:
        index.observe(session, item)
    found = contexts(index.arrays, np.array([1, 2, 1, 3], np.uint64), np.array([4, 5, 6, 7], np.int32))
    sessions = [
        found.items[a:b].tolist() for a, b in zip(found.start.tolist(), found.stop.tolist(), strict=True)
    ]
    assert sessions == [[7, 8], [9], [7, 8, 4], []]


def test_a_worker_with_all_vectors_sees_what_the_learner_sees() -> None:
    learner = SessionLearner(QUICK._replace(publisher=PublisherSettings(clicks=1_792, blocks=1_000)))
    keys, hashes = pairs_log(1, 600)
    (*_, ranker) = parts = learner.learn(keys[:1_792], hashes[:1_792])
    table = ItemTable()
    table.add(learner.items.hashes)  # the same rows, so that candidates can be handed over
    worker = PublishedRanker(table.add)
    for part in parts:
        worker.take(part)
    queries = as_queries([[0], [1, 2], [3]])
    candidates = learner.ranker.index.query(queries, 20)
    ours, theirs = worker.features(candidates, queries), learner.ranker.features(candidates, queries)
    assert candidates.counts.min() > 2
    np.testing.assert_allclose(ours, theirs, atol=5e-3)  # vectors travel as float16
    assert (worker.version, worker.clicks) == (ranker.version, ranker.clicks) == (1, 1_792)
    plain, real = learner.ranker.learner.weights.scores(ours), candidates.rows >= 0
    scores = worker.scores(candidates, queries)
    np.testing.assert_allclose(scores[real], plain[real], atol=1e-4)
    for number in range(3):  # bit for bit the same, alone or with others
        alone = Candidates(*(array[number : number + 1] for array in candidates))
        asked = Queries(queries.items, *(array[number : number + 1] for array in queries[1:]))
        assert worker.scores(alone, asked).tobytes() == scores[number : number + 1].tobytes()


def test_what_is_published_finds_what_comes_next(
    learnt: tuple[SessionLearner, list[LearntPart], Log],
) -> None:
    learner, parts, _ = learnt
    worker = published(parts)
    rows = worker._add(np.array([item_hash(f"i{n}") for n in (999, *range(80))], np.uint64))
    index = SessionIndex(LIMITS, SCAN)
    keys, hashes = pairs_log(5, 300)
    index.observe_all(keys, worker._add(hashes))
    queries = as_queries([[int(rows[0]), int(rows[1 + n])] for n in range(0, 80, 2)])
    found = index.query(queries, 20)
    chances = worker.probabilities(found, queries)
    best = np.take_along_axis(found.rows, chances.argmax(axis=1)[:, None], axis=1)[:, 0]
    assert (best == rows[2::2]).mean() > 0.9
    np.testing.assert_allclose(chances.sum(axis=1), 1.0, rtol=1e-5)
    assert learner.publisher.version == worker.version


def test_before_a_version_candidates_share_by_their_first_order() -> None:
    worker = PublishedRanker(ItemTable().add)
    index = SessionIndex(LIMITS, SCAN)
    for session, item in [(1, 7), (1, 8), (2, 7), (2, 9), (3, 7), (3, 8)]:
        index.observe(session, item)
    queries = as_queries([[7]])
    found = index.query(queries, 5)
    first = found.scores[0, : found.counts[0], 0]
    shares = worker.probabilities(found, queries)[0, : found.counts[0]]
    np.testing.assert_allclose(shares, first / first.sum(), rtol=1e-5)


def test_parts_count_when_their_version_is_whole(
    learnt: tuple[SessionLearner, list[LearntPart], Log],
) -> None:
    _, parts, _ = learnt
    worker = PublishedRanker(ItemTable().add)
    assert parts[0].part == "items/0" and not worker.take(parts[0])
    assert worker.version == 0 and not worker._vectors.any()
    ranker = next(part for part in parts if part.part == RANKER_PART)
    assert worker.take(ranker) and worker.version == 1 and worker._vectors.any()


def test_a_version_has_the_blocks_that_were_moved_most_and_every_block_has_its_turn() -> None:
    rng = np.random.default_rng(2)
    items = rng.permutation(5 * BLOCK_ROWS)
    settings = QUICK._replace(publisher=PublisherSettings(clicks=128, blocks=1))
    learner = SessionLearner(settings)
    hashes = np.concatenate([items, rng.choice(items, 6_000)]).astype(np.uint64)
    parts = learner.learn(np.arange(len(hashes), dtype=np.uint64) // 4, hashes)
    by_version: dict[int, list[str]] = {}
    for part in parts:
        by_version.setdefault(part.version, []).append(part.part)
    assert all(len(names) <= 2 and names[-1] == RANKER_PART for names in by_version.values())
    blocks = {names[0] for names in by_version.values()} - {RANKER_PART}
    assert blocks == {f"items/{block}" for block in range(5)}


def test_items_beyond_the_limit_teach_nothing_and_fill_nothing() -> None:
    learner = SessionLearner(QUICK._replace(most_items=10))
    hashes = np.arange(640, dtype=np.uint64) % 50
    learner.learn(np.arange(640, dtype=np.uint64) // 5, hashes)
    assert learner.counts()["items"] == 10 and learner.counts()["clicks"] == 130


def test_poisoned_clicks_are_answered_with_the_last_good_weights() -> None:
    """A burst of robots that all end with the same item: lists get worse than they were, so the gate falls back."""
    ranker = QUICK.ranker._replace(
        learning=LearningSettings(gate_lists=1_024), limits=LIMITS._replace(sessions=4_096, pool=65_536)
    )
    every_batch = PublisherSettings(clicks=64, blocks=1)
    learner = SessionLearner(QUICK._replace(ranker=ranker, publisher=every_batch))
    learner.learn(*pairs_log(3, 4_000, items=10))
    assert learner.counts()["fallbacks"] == 0
    good = learner.ranker.learner._good.values.copy()
    keys, hashes = pairs_log(4, 900, items=10)
    hashes.reshape(-1, 9)[:, 6:] = item_hash("i999")
    parts = learner.learn(1_000_000 + keys, hashes)
    assert learner.counts()["fallbacks"] == 1
    weights = [decode_ranker(part.data)[0].values for part in parts if part.part == RANKER_PART]
    assert [number for number, values in enumerate(weights) if np.array_equal(values, good)] != []


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda data: data[:5], "at least"),
        (lambda data: b"XXXX" + data[4:], "TRIT"),
        (lambda data: data[:-1], "wanted .* bytes"),
        (lambda data: data[:-2] + b"\x00\x7c", "not finite"),
    ],
)
def test_bytes_that_are_no_items_are_refused_and_change_nothing(spoil: object, says: str) -> None:
    good = encode_items(np.arange(3, dtype=np.uint64), np.ones((3, 4), np.float32), np.ones((3, 2)))
    assert decode_items(good).vectors.shape == (3, 4)
    worker = PublishedRanker(ItemTable().add)
    with pytest.raises(WeightsError, match=says):
        worker.take(LearntPart("items/0", 1, 64, spoil(good)))  # type: ignore[operator]
    assert not worker._waiting


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda data: b"XXXX" + data[4:], "TRRK"),
        (lambda data: data[:20], "places"),
        (lambda data: data[:8] + b"\x00\x00\xc0\x7f" + data[12:], "finite"),
        (lambda data: data[:-4] + b"\x00\x00\xc0\x7f", "not finite"),
    ],
)
def test_bytes_that_are_no_ranker_are_refused_and_the_last_version_stays(spoil: object, says: str) -> None:
    weights = RankerWeights.fresh(RANKER_FEATURES, 4)
    good = encode_ranker(weights, np.full((2, 2), 0.5, np.float32))
    np.testing.assert_array_equal(decode_ranker(good)[0].values, weights.values)
    worker = published([LearntPart(RANKER_PART, 7, 64, good)])
    with pytest.raises(WeightsError, match=says):
        worker.take(LearntPart(RANKER_PART, 8, 128, spoil(good)))  # type: ignore[operator]
    assert worker.version == 7


def test_other_settings_have_another_fingerprint() -> None:
    assert LearnerSettings().fingerprint() == LearnerSettings().fingerprint()
    assert LearnerSettings().fingerprint() != LearnerSettings(seed=1).fingerprint()

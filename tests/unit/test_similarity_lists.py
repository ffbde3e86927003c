"""The lists that compiled code chooses and writes, against the scores in NumPy."""

from __future__ import annotations

import re
import struct
import warnings

import numpy as np
import pytest

from udfs.similarity.item_counts import ItemCounts, Neighbours
from udfs.similarity.scores import conditional, cosine

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # PyFlink's own, while it is imported
    from flink_jobs.similarity_lists import Known, encode_lists
    from flink_jobs.text_kernel import Texts

HALF_LIFE_MS = 60 * 86_400_000
NOW_MS = 1_763_700_000_000
IDS = [f"ü{number}" * (number % 9) for number in range(200)]


def known_items(rng: np.random.Generator) -> Known:
    alone = np.log2(rng.uniform(1, 50, len(IDS))) + NOW_MS / HALF_LIFE_MS
    ids = list(IDS)
    for number in range(0, len(IDS), 7):
        alone[number], ids[number] = np.inf, ""
    return Known(np.sort(rng.integers(1, 1 << 63, len(IDS)).astype(np.uint64)), alone, Texts.of(ids))


def table(rng: np.random.Generator, known: Known, size: int) -> Neighbours:
    weights = rng.integers(1, 5, size).astype(float)  # some are equal
    errors = np.where(rng.random(size) < 0.2, 1.0, 0.0)
    return Neighbours(rng.choice(known.keys, size, replace=False), weights, errors)


def read(shape: bytes, pieces: bytes) -> tuple[list[tuple[float, str]], list[tuple[float, str]], list[str]]:
    """Read as the store's function does: similar, bought, fields."""
    sizes = re.sub(r"c(\d+)", r"\1s", shape.decode())
    counts, part = struct.unpack_from("<HHH", pieces), struct.unpack(sizes, pieces)[3:]
    texts = [one.decode() if isinstance(one, bytes) else one for one in part]
    assert len(texts) == sum(counts)
    ends = np.cumsum(counts)
    lists = [texts[: ends[0]], texts[ends[0] : ends[1]]]
    similar, bought = ([(one[n], one[n + 1]) for n in range(0, len(one), 2)] for one in lists)
    return similar, bought, texts[ends[1] :]


def best(scores: np.ndarray, known: Known, hashes: np.ndarray, size: int) -> list[tuple[float, str]]:
    rows = np.searchsorted(known.keys, hashes)
    listed = (scores > 0) & (scores < np.inf) & np.isfinite(known.alone[rows])
    order = np.argsort(-scores, kind="stable")
    return [(scores[place], IDS[rows[place]]) for place in order if listed[place]][:size]


@pytest.mark.parametrize("size", [1, 5, 64])
def test_lists_are_the_best_by_score_and_the_first_of_equals_first(size: int) -> None:
    rng = np.random.default_rng(size)
    known = known_items(rng)
    items = [
        ItemCounts(
            b"default/i", NOW_MS - int(rng.integers(HALF_LIFE_MS)), 3, 20.0, bought, 1.5,
            table(rng, known, viewed_size), table(rng, known, bought_size),
        )
        for viewed_size, bought_size, bought in ((64, 32, 9.0), (0, 0, 0.0), (10, 0, 0.0), (3, 20, 4.0), (64, 5, 0.0))
    ]  # fmt: skip
    encoded = encode_lists(items, known, HALF_LIFE_MS, size)
    for place, counts in enumerate(items):
        similar, bought, fields = read(encoded.shapes[place], encoded.pieces[place])
        others = known.alone[np.searchsorted(known.keys, counts.viewed_with.hashes)]
        scores = cosine(counts.viewed_with.certain, counts.viewed, counts.as_of_ms, others, HALF_LIFE_MS)
        shares = conditional(counts.bought_with.certain, counts.bought)
        for found, wanted in (
            (similar, best(scores, known, counts.viewed_with.hashes, size)),
            (bought, best(shares, known, counts.bought_with.hashes, size)),
        ):
            assert [score for score, _ in found] == pytest.approx([score for score, _ in wanted], rel=1e-12)
            assert {name for score, name in found if score > found[-1][0] * (1 + 1e-9)} == {
                name for score, name in wanted if score > wanted[-1][0] * (1 + 1e-9)
            }
        assert [name for _, name in bought] == [name for _, name in wanted]
        hashes = np.concatenate([counts.viewed_with.hashes, counts.bought_with.hashes])
        assert encoded.incomplete[place] == np.isinf(known.alone[np.searchsorted(known.keys, hashes)]).any()
        assert fields == [
            *("viewed", "20.0", "bought", repr(counts.bought)),
            *("trend", "1.5", "_sim_wm", str(counts.as_of_ms)),
        ]

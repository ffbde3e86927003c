"""A made-up shop for timing: items in categories, users with a full history, trees over computed features.

Nothing here says how good a list is. Shapes are those of a real shop: popularity by a power law, users who
keep to a few categories, neighbours within a category, boosted trees learnt from computed features.
"""

from pathlib import Path

import numpy as np

from model_export.content import ContentSettings, fit_content
from model_export.onnx_export import export_ranker
from model_export.ranker import RankerSettings, RankingExamples, fit_ranker, predict
from schemas.ids import category_hash, item_hash, user_key
from schemas.records import Item
from udfs.model.bundle import Bundle
from udfs.model.bundle_writer import write_bundle
from udfs.model.items import ItemArrays
from udfs.model.manifest import ModelSettings
from udfs.ranking.catalogue import CatalogueView
from udfs.ranking.inverted_lists import build_ivf
from udfs.ranking.item_index import EXACT_UP_TO_ITEMS, ItemIndex
from udfs.ranking.rank import RankSettings, prepare
from udfs.ranking.snapshot import Snapshot
from udfs.user_state import EMPTY, EVENT_TYPES
from udfs.user_vector import refresh_embedding

NOW_MS = 1_760_000_000_000
DAY_S = 86_400
EPOCH = 1
LEARN_FROM = 2_000


def items(n: int, dimension: int, rng: np.random.Generator, categories: int = 60) -> ItemArrays:
    """Return n items in hash order."""
    category = rng.integers(0, categories, n)
    centres = rng.normal(size=(categories, dimension))
    factors = 0.25 * (centres[category] + 0.7 * rng.normal(size=(n, dimension)))
    popularity = 20_000.0 / (1.0 + rng.permutation(n)) ** 0.9
    by_category = [np.flatnonzero(category == number) for number in range(categories)]
    rows = [_neighbours(item, by_category[category[item]], n, rng) for item in range(n)]
    return ItemArrays(
        item_ids=[f"item-{number}" for number in range(n)],
        factors=factors.astype(np.float32),
        categories=np.array([category_hash(f"category-{number}") for number in category], np.uint32),
        category_names={
            category_hash(f"category-{number}"): f"category-{number}" for number in range(categories)
        },
        prices=np.exp(rng.normal(3, 1, n)).astype(np.float32),
        popularity=popularity.astype(np.float32),
        trending=(popularity * rng.exponential(0.1, n)).astype(np.float32),
        neighbour_offsets=np.arange(0, 50 * n + 1, 50, dtype=np.int64),
        neighbour_rows=np.concatenate(rows).astype(np.int32),
        neighbour_scores=np.tile(np.geomspace(0.5, 0.02, 50), n).astype(np.float32),
        rebuy_days=np.where(rng.random(n) < 0.4, rng.uniform(5, 90, n), np.nan).astype(np.float32),
        repeat_rate=rng.beta(1, 4, n).astype(np.float32),
    ).in_hash_order()


def _neighbours(item: int, of_category: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """50 different items, most of them of the same category."""
    near = rng.choice(of_category, min(40, len(of_category)), replace=False)
    both = np.concatenate([near, rng.choice(n, 80, replace=False)])
    _, first = np.unique(both, return_index=True)
    different = both[np.sort(first)]
    return different[different != item][:50]


def record(name: str, category: str, rng: np.random.Generator) -> Item:
    """Return a catalogue record whose title has two words of its category's and two of the whole shop's."""
    words = [
        *(f"{category}-{rng.integers(12)}" for _ in range(2)),
        *(f"word{rng.integers(400)}" for _ in range(2)),
    ]
    return Item(name, "default", " ".join(words), category, None, 9.0, True, False, {}, NOW_MS)


def catalogue(arrays: ItemArrays, rng: np.random.Generator) -> list[Item]:
    """Return a record of every item."""
    names = arrays.category_names
    return [
        record(name, names[category], rng)
        for name, category in zip(arrays.item_ids, arrays.categories.tolist(), strict=True)
    ]


def arrivals(count: int, rng: np.random.Generator) -> list[Item]:
    """Return records of items that no bundle knows."""
    return [record(f"new-{number}", f"category-{rng.integers(60)}", rng) for number in range(count)]


def snapshots(index: ItemIndex, users: int, rng: np.random.Generator) -> list[Snapshot]:
    """Return users with every list of the state full but purchases (10), and a vector of this epoch."""
    return [_snapshot(index, f"user-{number}", rng) for number in range(users)]


def _snapshot(index: ItemIndex, user_id: str, rng: np.random.Generator) -> Snapshot:
    hashes, category = index.columns.hashes, index.columns.category
    liked = rng.choice(np.unique(category), 5, replace=False)
    pool = np.flatnonzero(np.isin(category, liked))
    rows = np.where(rng.random(50) < 0.8, rng.choice(pool, 50), rng.choice(len(hashes), 50))
    now_s = NOW_MS // 1000
    seconds = np.sort(now_s - rng.exponential(10 * DAY_S, 50).astype(np.int64))
    seconds[-6:] = now_s - np.arange(6)[::-1] * 40
    bought = rng.choice(rows, 10, replace=False)
    kinds = rng.choice(["view", "click", "add_to_cart", "purchase"], 50, p=[0.85, 0.07, 0.05, 0.03])
    state = EMPTY._replace(
        first_ms=1000 * (now_s - 90 * DAY_S),
        last_ms=1000 * int(seconds[-1]),
        n_events=400,
        n_sessions=30,
        session_events=6,
        session_start_ms=1000 * int(seconds[-6]),
        session_last_ms=1000 * int(seconds[-1]),
        interests_ms=1000 * (now_s - 3 * DAY_S),
        n_views=350,
        n_carts=30,
        n_purchases=20,
        spend=600.0,
        item_hashes=hashes[rows].tobytes(),
        item_seconds=seconds.astype("<u4").tobytes(),
        item_types=bytes(EVENT_TYPES.index(kind) for kind in kinds),
        bought_hashes=np.unique(hashes[bought]).tobytes(),
        bought_seconds=np.sort(now_s - rng.integers(2, 80, len(np.unique(bought))) * DAY_S)
        .astype("<u4")
        .tobytes(),
        bought_counts=(1.0 + rng.exponential(2, len(np.unique(bought)))).astype("<f4").tobytes(),
        seen_hashes=rng.choice(hashes, 64, replace=False).tobytes(),
        interest_categories=rng.choice(np.unique(category), 16, replace=False).tobytes(),
        interest_weights=rng.exponential(3, 16).astype("<f4").tobytes(),
    )
    if rng.random() < 0.3:  # has answered lists, so that its arms are its own
        state = state._replace(
            arm_alpha=(np.array([10, 1, 1, 1, 1]) + rng.random(5) * 5).astype("<f4").tobytes(),
            arm_beta=(np.array([90, 49, 49, 49, 49]) + rng.random(5) * 60).astype("<f4").tobytes(),
        )
    state = refresh_embedding(state, index.factors, EPOCH)
    version = f"{item_hash(user_id):032x}"
    return Snapshot(user_key("default", user_id), "default", user_id, version, NOW_MS, EPOCH, state.encode())


def write(
    path: Path,
    n: int,
    dimension: int,
    trees: int = 60,
    depth: int = 4,
    seed: int = 0,
    with_content: bool = False,
) -> Bundle:
    """Write and open a bundle of n items, its ranker learnt from what 2,000 made-up users seem to want.

    With `with_content` it has a vocabulary, and new items can join it.
    """
    rng = np.random.default_rng(seed)
    arrays = items(n, dimension, rng)
    index = ItemIndex.build(arrays)
    settings = RankSettings()
    found = prepare(index, snapshots(index, LEARN_FROM, rng), CatalogueView(index), settings, EPOCH)
    wish = found.features @ rng.normal(size=found.features.shape[1]) + rng.gumbel(size=len(found.features))
    groups = np.full(LEARN_FROM, settings.finalists)
    grades = np.digitize(wish.reshape(LEARN_FROM, -1).argsort(axis=1).argsort(axis=1).ravel(), [34, 37, 39])
    examples = RankingExamples(found.features, grades.astype(np.int32), groups)
    ranker = fit_ranker(examples, RankerSettings(trees=trees, depth=depth), rng)
    export = export_ranker(ranker, found.features, rng)
    canary = found.features[rng.choice(len(found.features), 64, replace=False)]
    sha256 = write_bundle(
        path,
        arrays,
        export.model,
        canary,
        predict(ranker, canary),
        epoch=EPOCH,
        model_version="synthetic",
        created_ms=NOW_MS,
        settings=ModelSettings(weight_content=0.1, share_content=0.04, share_embedding=0.26)
        if with_content
        else None,
        content=fit_content(
            arrays,
            catalogue(arrays, np.random.default_rng(seed)),
            ContentSettings(),
            np.random.default_rng(seed),
        )
        if with_content
        else None,
        ivf=build_ivf(arrays.factors)[0] if n > EXACT_UP_TO_ITEMS else None,
    )
    return Bundle.open(path, sha256)

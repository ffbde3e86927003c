"""What the kernels write for a whole batch is what the readable code says of each user."""

from __future__ import annotations

import doctest
import re
from typing import Any

import numpy as np
import pytest
from bundles import make_bundle, snapshot, toy_state
from hypothesis import given
from hypothesis import strategies as st

import flink_jobs.text_kernel
from flink_jobs.list_columns import BundleTexts, encode_entries, encode_served
from flink_jobs.list_entry import ListEntry, as_pieces
from flink_jobs.text_kernel import Texts, put_decimal, put_int, put_long, text_greater
from flink_jobs.user_view import recent_items, user_features
from schemas.codec import decode
from schemas.encoder import write_long
from schemas.records import ServedList
from schemas.redis_keys import user_keys
from udfs.bandits.list_policy import ListPolicy
from udfs.model.bundle import Bundle
from udfs.ranking.catalogue import CatalogueView
from udfs.ranking.rank import RankSettings, rank_columns
from udfs.ranking.ranked import RankedBatch
from udfs.ranking.snapshot import Snapshot
from udfs.user_state import EMPTY, NEW, SLOT_SOURCES, UserState

NOW_MS = 1_762_000_000_123


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "7")


def batch_of(bundle: Bundle, snapshots: list[Snapshot], **how: Any) -> RankedBatch:
    return rank_columns(bundle, snapshots, CatalogueView(bundle), RankSettings(candidates=100, **how))


def some_users(bundle: Bundle) -> list[Snapshot]:
    rng = np.random.default_rng(5)
    names = list(bundle.items.category_names)
    users = []
    for number in range(60):
        viewed = rng.integers(0, 320, int(rng.integers(0, 51))).tolist()  # some are unknown
        bought = tuple(rng.permutation(320)[: int(rng.integers(0, 30))].tolist())
        state = toy_state(viewed, bought=bought, bought_age_s=int(rng.integers(0, 10**6)))
        categories = rng.permutation([*names, 7, 9])[: rng.integers(0, 5)].astype("<u4")
        weights = rng.integers(0, 3, len(categories)).astype("<f4")  # ties
        state = state._replace(
            interest_categories=categories.tobytes(),
            interest_weights=weights.tobytes(),
            spend=float(np.float32(rng.choice([0.0, 12.5, -3.999, 1e20, 123456.78]))),
            n_events=int(rng.integers(0, 2**32)),
        )
        user_id = ["u1", "ü/1", "{a}%", "x" * 128][number % 4]
        users.append(snapshot(state, user_id, version=f"{rng.integers(0, 10**9):032x}"))
    users[-1] = snapshot(EMPTY, "new")
    return users


def served_list(batch: RankedBatch, user: int, variant: str, served_ms: int) -> ServedList:
    ranked = batch.list_of(user)
    return ServedList(
        ranked.rec_id, ranked.tenant, ranked.user_id, ranked.version, ranked.at_ms, served_ms, ranked.epoch,
        ranked.model_version, variant, ranked.index_mark, ranked.items, batch.snapshots[user].state,
        ranked.session_mark, ranked.weights_version, ranked.posterior_version, ranked.source_probabilities,
        ranked.list_policy, ranked.list_shares,
    )  # fmt: skip


def split(shape: bytes | str, pieces: bytes) -> list[list[bytes]]:
    """Read pieces as lists.lua does: the four groups."""
    text = shape if isinstance(shape, str) else shape.decode()
    assert re.fullmatch(r"BBBB(c[1-9][0-9]*)*", text)
    groups, at = list(pieces[:4]), 4
    parts = []
    for length in map(int, text[5:].split("c")):
        parts.append(pieces[at : at + length])
        at += length
    assert at == len(pieces)
    result = []
    for count in groups:
        result.append(parts[:count])
        parts = parts[count:]
    assert not parts
    return result


def as_values(groups: list[list[bytes]]) -> list[object]:
    """Numbers as numbers: the texts of one number may differ, not its value."""
    scored, meta, session, features = groups
    fields = dict(zip(meta[::2], meta[1::2], strict=True))
    if b"propensities" in fields:
        fields[b"propensities"] = [float(text) for text in fields[b"propensities"].split(b" ")]
    return [
        [float(text) for text in scored[::2]],
        scored[1::2],
        fields,
        session,
        dict(zip(features[::2], features[1::2], strict=True)),
    ]


@pytest.mark.parametrize("variant", ["", "default"])
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"exploration_floor": 0.15},
        {"list_size": 40},
        {"diversity": 0.0},
        {"new_item_share": 0.2, "new_item_weight": 1e9},
        {"list_policies": (ListPolicy("plain"), ListPolicy("spread", diversity=0.5))},
    ],
)
def test_a_batch_for_the_store_says_what_each_entry_says(bundle, variant, how):
    batch = batch_of(bundle, some_users(bundle), **how)
    batch = batch._replace(posterior_versions=np.arange(len(batch.snapshots)) % 3)
    found = encode_entries(batch, BundleTexts.of(bundle), variant, NOW_MS, hash_tags=True)
    item_of = dict(zip(bundle.items.columns.hashes.tolist(), bundle.items.item_ids, strict=True))
    orders = 0
    for user, asked in enumerate(batch.snapshots):
        served = served_list(batch, user, variant, NOW_MS)
        state = UserState.decode(asked.state)
        entry = ListEntry(
            served, recent_items(state, item_of), user_features(state, bundle.items.category_names)
        )
        wanted = as_values(split(*as_pieces(served, entry)))
        assert as_values(split(found.shapes[user], found.pieces[user])) == wanted
        assert found.keys[4 * user : 4 * user + 4] == list(user_keys(asked.tenant, asked.user_id))
        orders += b"order" in wanted[2]
    if "new_item_share" in how:
        assert (batch.arms == SLOT_SOURCES.index(NEW)).any()
    assert found.versions == [asked.version for asked in batch.snapshots]
    assert orders > 0
    if how == {"diversity": 0.0}:
        assert orders < len(batch.snapshots), "a list in the order of its scores says no order"


@pytest.mark.parametrize(
    ("variant", "how"),
    [
        ("", {"new_item_share": 0.2, "new_item_weight": 1e9}),
        ("blue", {"new_item_share": 0.2, "new_item_weight": 1e9}),
        ("", {"list_policies": (ListPolicy("plain"), ListPolicy("b", 0.5), ListPolicy("c", 0.9))}),
    ],
)
def test_the_records_of_a_batch_read_back_as_each_list(bundle, variant, how):
    batch = batch_of(bundle, some_users(bundle), **how)
    batch = batch._replace(posterior_versions=np.arange(len(batch.snapshots)))
    records = encode_served(batch, BundleTexts.of(bundle), variant, NOW_MS)
    for user, record in enumerate(records):
        wanted = served_list(batch, user, variant, NOW_MS)
        found = decode("ServedList", record)
        assert found._replace(items=list(found.items)) == wanted
        assert [share.policy for share in found.list_shares] == list(batch.policies.names)


def test_a_list_of_nothing_is_written_too(bundle):
    batch = batch_of(bundle, some_users(bundle)[:3])
    batch = batch._replace(counts=np.zeros(3, np.int32))
    texts = BundleTexts.of(bundle)
    entries = encode_entries(batch, texts, "", NOW_MS, hash_tags=False)
    assert split(entries.shapes[0], entries.pieces[0])[0] == []
    assert decode("ServedList", encode_served(batch, texts, "", NOW_MS)[2]).items in ((), [])


def written(put: object, *arguments: object) -> bytes:
    out = np.zeros(64, np.uint8)
    return out[: put(out, 0, *arguments)].tobytes()  # type: ignore[operator]


@given(st.integers(-(2**62), 2**62))
def test_integers_are_written_as_python_writes_them(value):
    assert written(put_int, value) == str(value).encode()
    assert written(put_long, value) == write_long(value)


@pytest.mark.parametrize("decimals", [6, 9])
@given(value=st.floats(-8e5, 8e5))
def test_a_rounded_number_reads_back_as_itself(decimals, value):
    rounded = float(np.round(value, decimals))
    text = written(put_decimal, rounded, decimals)
    assert float(text) == rounded
    assert re.fullmatch(rb"-?\d+\.(0|\d*[1-9])", text)


@given(st.lists(st.text(max_size=4), min_size=2, max_size=2))
def test_texts_compare_by_their_bytes(pair):
    texts = Texts.of(pair)
    assert text_greater(texts, 0, 1) == (pair[0].encode() > pair[1].encode())


def test_examples_run():
    assert doctest.testmod(flink_jobs.text_kernel).failed == 0

"""The lists of a whole batch as the list store and `recs.served.v1` take them, written by compiled code.

A list as Python objects costs three times as much as ranking it did. `list_entry.as_pieces`, `user_view` and
`schemas.codec.encode` say the same one user at a time and are what the kernels are tested against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flink_jobs.list_entry import SESSION_ITEMS, marks_text
from flink_jobs.list_kernel import write_entries
from flink_jobs.served_kernel import write_served
from flink_jobs.text_kernel import MAX_NUMBER_BYTES, Texts
from schemas.definitions import TODAY
from schemas.redis_keys import keys_of_user_key
from schemas.stored_list import SOURCE_LETTERS
from udfs.model.bundle import Bundle
from udfs.ranking.ranked import RankedBatch
from udfs.user_state import SLOT_SOURCES

_SERVED_HEADER = np.frombuffer(b"\xc3\x01" + TODAY["ServedList"].fingerprint, np.uint8)
_SOURCES = Texts.of(SLOT_SOURCES)
_LETTERS = np.frombuffer("".join(SOURCE_LETTERS[source] for source in SLOT_SOURCES).encode(), np.uint8)
_FIXED_BYTES = 4_096  # labels, numbers, versions, three category names; beside items and snapshot


class BundleTexts(NamedTuple):
    """The texts of one bundle: made once when it is opened."""

    item_ids: Texts
    category_hashes: NDArray[np.uint32]  # ascending
    category_names: Texts
    model_version: str
    longest_id: int  # bytes; a look at every item, so not once a batch
    longest_category: int

    @staticmethod
    def of(bundle: Bundle) -> BundleTexts:
        """Gather them."""
        names: Mapping[int, str] = bundle.items.category_names
        hashes = sorted(names)
        item_ids = Texts.of(bundle.items.item_ids)
        category_names = Texts.of([names[hashed] for hashed in hashes])
        return BundleTexts(
            item_ids,
            np.array(hashes, np.uint32),
            category_names,
            bundle.model_version,
            item_ids.longest(),
            category_names.longest(),
        )


class EncodedEntries(NamedTuple):
    """What the list store's function wants of U users: see lists.lua."""

    keys: list[str]  # four a user
    versions: list[str]
    shapes: list[bytes]
    pieces: list[bytes]


def encode_entries(
    batch: RankedBatch, texts: BundleTexts, variant: str, now_ms: int, hash_tags: bool
) -> EncodedEntries:
    """Write a batch for the list store.

    Parameters
    ----------
    texts
        Of the batch's bundle.
    variant
        Arm of the experiment.
    now_ms
        Wall clock, stored as `_t`.
    hash_tags
        Keys with literal braces.
    """
    users, slots = batch.rows.shape
    item, name = texts.longest_id, texts.longest_category
    room = _FIXED_BYTES + 3 * name + slots * (item + 3 * MAX_NUMBER_BYTES) + SESSION_ITEMS * item
    out, out_ends = np.empty(users * room, np.uint8), np.empty(users, np.int64)
    shape_room = 8 * (2 * slots + 128)
    shapes, shape_ends = np.empty(users * shape_room, np.uint8), np.empty(users, np.int64)
    versions = [snapshot.version for snapshot in batch.snapshots]
    write_entries(
        batch.counts,
        batch.rows,
        batch.scores,
        batch.arms,
        batch.propensity,
        batch.states,
        batch.history.item_rows,
        texts.item_ids,
        texts.category_hashes,
        texts.category_names,
        Texts.of(batch.rec_ids),
        Texts.of(versions),
        # Texts of float32 sums: few digits, and the only numbers here without a fixed number of decimals.
        Texts.of([repr(round(spend, 2)) for spend in batch.states.spend.tolist()]),
        Texts.of(_marks(batch)),
        Texts.of([variant, texts.model_version, str(batch.bundle.epoch), str(now_ms)]),
        _LETTERS,
        out,
        out_ends,
        shapes,
        shape_ends,
    )
    return EncodedEntries(
        [key for snapshot in batch.snapshots for key in keys_of_user_key(snapshot.key, hash_tags)],
        versions,
        _cut(shapes, shape_ends),
        _cut(out, out_ends),
    )


def encode_served(batch: RankedBatch, texts: BundleTexts, variant: str, served_ms: int) -> list[bytes]:
    """Write the `ServedList` record of every list of a batch, single-object encoding.

    Parameters
    ----------
    served_ms
        Wall clock at which the lists stood in the store.
    """
    users, slots = batch.rows.shape
    snapshots = Texts.of_bytes([snapshot.state for snapshot in batch.snapshots])
    tenants = Texts.of([snapshot.tenant for snapshot in batch.snapshots])
    user_ids = Texts.of([snapshot.user_id for snapshot in batch.snapshots])
    names = len(snapshots.data) + len(tenants.data) + len(user_ids.data)
    list_names = Texts.of(batch.policies.names)
    per_user = 1_024 + len(variant) + 2 * len(list_names.data) + slots * (texts.longest_id + 64)
    room = users * per_user + names
    out, out_ends = np.empty(room, np.uint8), np.empty(users, np.int64)
    write_served(
        _SERVED_HEADER,
        batch.counts,
        batch.rows,
        batch.scores.view(np.uint8).reshape(users, slots, 8),
        batch.arms,
        batch.propensity.view(np.uint8).reshape(users, slots, 8),
        batch.states.at_ms,
        texts.item_ids,
        _SOURCES,
        Texts.of(batch.rec_ids),
        tenants,
        user_ids,
        Texts.of([snapshot.version for snapshot in batch.snapshots]),
        Texts.of([texts.model_version, variant]),
        snapshots,
        np.array(
            [served_ms, batch.bundle.epoch, batch.mark, batch.session_mark, batch.weights_version], np.int64
        ),
        batch.posterior_versions,
        np.ascontiguousarray(batch.source_probabilities).view(np.uint8),
        list_names,
        batch.policies.drawn,
        batch.policies.probabilities.view(np.uint8),
        out,
        out_ends,
    )
    return _cut(out, out_ends)


def _marks(batch: RankedBatch) -> list[str]:
    """Return how far each list's sources had been followed: users of one tenant share a text."""
    versions = batch.posterior_versions.tolist()
    made = {
        version: marks_text(batch.mark, batch.session_mark, batch.weights_version, version)
        for version in set(versions)
    }
    return [made[version] for version in versions]


def _cut(out: NDArray[np.uint8], ends: NDArray[np.int64]) -> list[bytes]:
    """Return the parts of an array that end at `ends`, one behind the other."""
    whole = out[: ends[-1]].tobytes() if len(ends) else b""
    bounds: Sequence[int] = [0, *ends.tolist()]
    return [whole[start:stop] for start, stop in pairwise(bounds)]

"""The kernel behind `list_columns.encode_served`: Avro bytes of `schemas/served_list.avsc`, field by field."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flink_jobs.text_kernel import Bytes, Texts, put_long, put_string
from udfs.kernel_cache import kernel


@kernel
def write_served(
    header: Bytes,
    counts: NDArray[np.int32],
    rows: NDArray[np.int32],
    scores: Bytes,
    arms: NDArray[np.int32],
    propensity: Bytes,
    at_ms: NDArray[np.int64],
    item_ids: Texts,
    sources: Texts,
    rec_ids: Texts,
    tenants: Texts,
    user_ids: Texts,
    versions: Texts,
    shared: Texts,
    snapshots: Texts,
    numbers: NDArray[np.int64],
    posterior_versions: NDArray[np.int64],
    probabilities: Bytes,
    list_names: Texts,
    drawn: NDArray[np.int32],
    list_probabilities: Bytes,
    out: Bytes,
    out_ends: NDArray[np.int64],
) -> None:
    """Write U records one behind the other.

    Parameters
    ----------
    header
        (10,): magic and fingerprint.
    counts, rows, arms
        See `RankedBatch`.
    scores, propensity
        (U, L, 8): the bytes of each float64, little-endian.
    shared
        Model version and variant.
    numbers
        Served time, epoch, index mark, session mark and weights version.
    posterior_versions
        (U,)
    probabilities
        (U, 8 * sources): the bytes of each float64, little-endian.
    list_names, drawn, list_probabilities
        See `DrawnPolicies`; the last as (U, 8 * K) bytes. Without list policies K is 0.
    out, out_ends
        Where to write, with room for all; where each record ends.
    """
    at = 0
    for user in range(len(counts)):
        for k in range(len(header)):
            out[at] = header[k]
            at += 1
        at = put_string(out, at, rec_ids, user)
        at = put_string(out, at, tenants, user)
        at = put_string(out, at, user_ids, user)
        at = put_string(out, at, versions, user)
        at = put_long(out, at, at_ms[user])
        at = put_long(out, at, numbers[0])
        at = put_long(out, at, numbers[1])
        at = put_string(out, at, shared, 0)
        at = put_string(out, at, shared, 1)
        at = put_long(out, at, numbers[2])
        if counts[user]:
            at = put_long(out, at, np.int64(counts[user]))
            for slot in range(counts[user]):
                at = put_string(out, at, item_ids, rows[user, slot])
                for k in range(8):
                    out[at + k] = scores[user, slot, k]
                at = put_string(out, at + 8, sources, arms[user, slot])
                for k in range(8):
                    out[at + k] = propensity[user, slot, k]
                at += 8
        out[at] = 0
        at += 1
        at = put_string(out, at, snapshots, user)
        at = put_long(out, at, numbers[3])
        at = put_long(out, at, numbers[4])
        at = put_long(out, at, posterior_versions[user])
        at = put_long(out, at, np.int64(probabilities.shape[1] // 8))
        for k in range(probabilities.shape[1]):
            out[at] = probabilities[user, k]
            at += 1
        out[at] = 0
        at += 1
        policies = list_probabilities.shape[1] // 8
        if policies:
            at = put_string(out, at, list_names, drawn[user])
            at = put_long(out, at, np.int64(policies))
            for policy in range(policies):
                at = put_string(out, at, list_names, policy)
                for k in range(8):
                    out[at + k] = list_probabilities[user, 8 * policy + k]
                at += 8
        else:
            out[at] = 0
            at += 1
        out[at] = 0
        at += 1
        out_ends[user] = at

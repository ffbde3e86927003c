"""An item table that users' devices learn together: popularity, then how often items go together, under a budget.

Each user contributes twice, each time a vector of length one: what they took, then all pairs of the most popular
items among it. Both go the whole way of a device and a model line: clip, noise by mode, whole numbers, checks, sums,
release. What is made of the released table (denoising, inverse) costs no privacy, and a user's own history stays on
the device.
"""

from __future__ import annotations

from math import inf, sqrt
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from schemas.records import EdgeModel
from schemas.refusal import Refused
from udfs.federate.audit import PlainRun, device_update
from udfs.federate.line_settings import LineSettings
from udfs.federate.pair_table import Matrix, item_weights, pair_matrix, pair_vectors
from udfs.federate.release import Seed
from udfs.privacy.gaussian import mu_of
from udfs.privacy.terms import Mode

PAIRED_ITEMS: Final = 300
"""So many items have pairs; more have too little signal each. Chosen, with what follows, before the test part."""
POPULARITY_SHARE: Final = 0.1
"""Of mu squared; the pairs get the rest."""
LATE_SHARE: Final = 0.005
"""A cohort is full without the last few: the noise gate refuses one honest device in a thousand."""


class ItemTable(NamedTuple):
    """What was learnt.

    Attributes
    ----------
    popularity
        float64 (n_items,), with noise.
    top
        int64 (M,): items with pairs.
    pairs
        float64 (M, M), symmetric, with noise; zeros where the mode has none.
    pair_sigma
        Deviation of the noise of a pair.
    records
        The released versions.
    """

    popularity: Matrix
    top: npt.NDArray[np.int64]
    pairs: Matrix
    pair_sigma: float
    records: tuple[EdgeModel, ...]


def learn(weights: Matrix, mode: Mode, epsilon: float, delta: float, seed: int) -> ItemTable:
    """Let every user's device contribute.

    Parameters
    ----------
    weights
        float64 (n_users, n_items): how much each user took of each item; 0 is not at all.
    epsilon
        Of a user, for both contributions together, at `delta`; infinite: no noise. In local mode all of it goes to
        the popularity: noise on each device drowns pairs.
    """
    mu = inf if epsilon == inf else mu_of(epsilon, delta)
    share = 1.0 if mode is Mode.LOCAL else POPULARITY_SHARE
    popularity, first = _release("popularity", weights, mode, mu * sqrt(share), delta, seed)
    top = np.argsort(-popularity, kind="stable")[:PAIRED_ITEMS]
    size = len(top)
    if mode is Mode.LOCAL and mu < inf:
        return ItemTable(popularity, top, np.zeros((size, size)), 0.0, (first,))
    rows = pair_vectors(weights[:, top]).astype(np.float32)
    total, second = _release("pairs", rows, mode, mu * sqrt(1.0 - share), delta, seed)
    pairs = pair_matrix(total, size)
    sigma = 0.0 if mu == inf else 1.0 / (mu * sqrt(1.0 - share))
    return ItemTable(popularity, top, pairs, sigma, (first, second))


def scores(table: ItemTable, history: Matrix) -> Matrix:
    """Score all items for each user, float64 (n_users, n_items), from what the user's device knows.

    Parameters
    ----------
    history
        float64 (n_users, n_items): how much each item of a user counts now.
    """
    popular = np.maximum(table.popularity, 0.0) / max(float(table.popularity.max()), 1e-12)
    found = np.broadcast_to(popular * 1e-3 - 1.0, history.shape).copy()  # behind all that have pairs
    if not table.pairs.any():
        return found
    made = history[:, table.top] @ item_weights(table.pairs, table.pair_sigma)
    made /= np.maximum(np.abs(made).max(axis=1, keepdims=True), 1e-12)
    found[:, table.top] = made
    return found


def _release(
    name: str, rows: npt.NDArray[np.floating], mode: Mode, mu: float, delta: float, seed: int
) -> tuple[Matrix, EdgeModel]:
    """Sum the rows as a model line does; the sum and the record of the version."""
    count, dimension = rows.shape
    cohort = max(1, int(count * (1.0 - LATE_SHARE)))
    noise = 0.0 if mu == inf else mode.sensitivity_clips / mu
    line = LineSettings(name, dimension, mode, noise, delta, cohort, cohort, timeout_ms=1 << 50)
    key = b"evaluation of seed %012d" % seed
    run = PlainRun(line, Seed("evaluation", key))
    for user in range(count):
        row = rows[user].astype(np.float64)
        length = float(np.linalg.norm(row))
        update = device_update(line, f"{name}-{user}", 0, row / max(length, 1e-12), key)
        try:
            step = run.take(update)
        except Refused:
            continue  # as the gate does to one honest device in a thousand
        if step.released:
            record = step.released[0]
            return np.frombuffer(record.weights, "<f8") * record.cohort_size, record
    raise RuntimeError(f"{name}: {count} devices did not fill a cohort of {cohort}")

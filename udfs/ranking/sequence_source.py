"""The sequence source: what the bundle's network expects after a user's last items.

A bundle without such a network has no such source, and nothing of this runs.
"""

import numpy as np
from numpy.typing import NDArray

from udfs.item_factors import INTERACTION_WEIGHTS
from udfs.kernel_cache import kernel
from udfs.ranking.found_items import FoundItems, no_items
from udfs.ranking.history import N_TYPES, History
from udfs.ranking.inner_product import BLOCK, best_scores, score_all
from udfs.ranking.sequence_network import LENGTH, SequenceNetwork
from udfs.ranking.snapshot import StateColumns
from udfs.ranking.top_k import row_of_key, score_of_key

SCORED_BY_SEQUENCE = 3
"""Times its share that it finds: candidates of other sources get its score too."""


def find_by_sequence(
    network: SequenceNetwork,
    states: StateColumns,
    history: History,
    allowed: NDArray[np.bool_],
    limit: int,
) -> FoundItems:
    """Return what comes next of the items that the network knows, best first, at most `limit` items a user.

    The score is the probability relative to the user's best, above 0 and at most 1. What the user had counts too;
    rules about that are retrieval's.

    Parameters
    ----------
    network
        Of the bundle.
    states, history
        U users: of their interactions, those with a weight that the network knows are read, the newest 20.
    allowed
        bool (n,): in stock and not blocked.
    limit
        Items a user.
    """
    found = no_items(len(history.n_recent), limit)
    tokens, lengths = read_tokens(states, history, network.tokens)
    bias = np.full(network.transposed.shape[1], -np.inf, np.float32)
    bias[: len(network.rows)][allowed[network.rows]] = 0.0
    _find(network.states(tokens, lengths), lengths, network.transposed, bias, np.asarray(network.rows), found)
    return found


def read_tokens(
    states: StateColumns, history: History, tokens: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return what users did last as a network reads it, int64 (U, 20), and how many of them, int32 (U,)."""
    users = len(history.n_recent)
    read = np.zeros((users, LENGTH), np.int64)
    lengths = np.zeros(users, np.int32)
    _read(states, history, tokens, INTERACTION_WEIGHTS, read, lengths)
    return read, lengths


@kernel
def _read(
    states: StateColumns,
    history: History,
    tokens: NDArray[np.int64],
    type_weights: NDArray[np.float32],
    read: NDArray[np.int64],
    lengths: NDArray[np.int32],
) -> None:
    for user in range(len(lengths)):
        count = 0
        for back in range(states.n_interactions[user]):
            k = states.n_interactions[user] - 1 - back
            row, kind = history.item_rows[user, k], states.item_types[user, k]
            if (
                row < 0 or row >= len(tokens) or kind >= N_TYPES
            ):  # items behind the tokens came after the bundle
                continue
            if type_weights[kind] <= 0.0 or tokens[row] == 0:
                continue
            read[user, count] = tokens[row]
            count += 1
            if count == LENGTH:
                break
        lengths[user] = count
        for k in range(count // 2):  # newest first so far
            read[user, k], read[user, count - 1 - k] = read[user, count - 1 - k], read[user, k]


@kernel
def _find(
    states: NDArray[np.float32],
    lengths: NDArray[np.int32],
    transposed: NDArray[np.float32],
    bias: NDArray[np.float32],
    rows: NDArray[np.int32],
    found: FoundItems,
) -> None:
    limit = found.rows.shape[1]
    scores = np.empty(len(bias), np.float32)
    keys = np.empty(len(bias) + BLOCK, np.uint64)
    for user in range(len(lengths)):
        if lengths[user] == 0:
            continue
        score_all(states[user], transposed, bias, scores)
        kept = best_scores(scores, limit, keys)
        best = score_of_key(keys[0]) if kept else np.float32(0.0)
        for k in range(kept):
            found.rows[user, k] = rows[row_of_key(keys[k])]
            found.score[user, k] = np.exp(np.float32(score_of_key(keys[k]) - best))
        found.counts[user] = kept

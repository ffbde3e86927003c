"""Up to a few hundred candidates of each user from all sources (`candidates`), each with its score and rank.

Each source brings its share (`ModelSettings`), best first; an item that several bring is one candidate with
several ranks. Every candidate gets the score of every source, whichever brought it; that of sessions if it is
among the best that they know. Items that are out of stock, blocked or bought within the rebuy interval are no
candidates. A user without a state is served by trending and popular items.
"""

import numpy as np
from numpy.typing import NDArray

from udfs.item_factors import INTERACTION_WEIGHTS
from udfs.kernel_cache import kernel
from udfs.ranking.candidates import (
    CONTENT,
    DEVICES,
    EMBEDDING,
    N_RETRIEVERS,
    NEIGHBOURS,
    POPULAR,
    REPEAT,
    RULES,
    SEQUENCE,
    SESSIONS,
    TRENDING,
    Candidates,
    no_candidates,
    quota,
)
from udfs.ranking.found_items import FoundItems, no_items
from udfs.ranking.history import (
    MOST_TOUCHED,
    History,
    empty_history,
    empty_scratch,
    locate,
    score_repeats,
    sum_neighbours,
)
from udfs.ranking.inner_product import GROUPS, best_scores, score_all, score_one
from udfs.ranking.inverted_lists import ListColumns, search_lists
from udfs.ranking.item_index import ItemColumns, ItemIndex
from udfs.ranking.snapshot import StateColumns
from udfs.ranking.top_k import order_key, row_of_key, score_of_key, sort_top


def find_history(index: ItemIndex, states: StateColumns) -> History:
    """Return the rows of every user's items."""
    history = empty_history(len(states.at_ms))
    locate(index.columns, states, INTERACTION_WEIGHTS, history)
    return history


def retrieve(
    index: ItemIndex,
    states: StateColumns,
    history: History,
    sessions: FoundItems,
    allowed: NDArray[np.bool_],
    candidates: int,
    rebuy_after_ms: int,
    devices: FoundItems | None = None,
    content: FoundItems | None = None,
    sequence: FoundItems | None = None,
    rules: FoundItems | None = None,
) -> Candidates:
    """Find every user's candidates.

    Parameters
    ----------
    index
        The items of the epoch.
    states
        U users; a vector of another epoch must have been folded in again before.
    history
        Their items' rows.
    sessions
        What sessions like theirs bring. Of every such list the source's share becomes candidates, the rest lends its
        scores.
    allowed
        bool (n,): in stock and not blocked.
    candidates
        C, the most a user gets; all items if there are fewer.
    rebuy_after_ms
        For how long a bought item is no candidate.
    devices
        As `sessions`, of what devices have learnt; None: there is no such table.
    content
        As `sessions`, of what is said of items; None: there is no vocabulary.
    sequence
        As `sessions`, of what a network expects; None: there is none.
    rules
        As `sessions`, of what followed such items; None: there are no rules.
    """
    users = len(states.at_ms)
    found = no_candidates(users, min(candidates, len(index)), with_devices=devices is not None)
    quotas = np.array([quota(index, source, candidates) for source in range(N_RETRIEVERS)], np.int64)
    bias = np.full(index.columns.transposed.shape[1], -np.inf, np.float32)
    if len(bias):
        bias[: len(allowed)][allowed] = 0.0
    _retrieve(
        index.columns,
        index.lists,
        index.settings.nprobe,
        states,
        history,
        sessions,
        no_items(users) if devices is None else devices,
        no_items(users) if content is None else content,
        no_items(users) if sequence is None else sequence,
        no_items(users) if rules is None else rules,
        allowed,
        bias,
        quotas,
        rebuy_after_ms,
        INTERACTION_WEIGHTS,
        found,
    )
    return found


@kernel
def _retrieve(
    items: ItemColumns,
    lists: ListColumns,
    nprobe: int,
    states: StateColumns,
    history: History,
    sessions: FoundItems,
    devices: FoundItems,
    content: FoundItems,
    sequence: FoundItems,
    rules: FoundItems,
    allowed: NDArray[np.bool_],
    bias: NDArray[np.float32],
    quotas: NDArray[np.int64],
    rebuy_after_ms: int,
    type_weights: NDArray[np.float32],
    found: Candidates,
) -> None:
    n, dimension = items.factors.shape
    limit = found.rows.shape[1]
    exact, room = len(bias) > 0, max(n, len(bias), MOST_TOUCHED) + lists.centroids.shape[1] + GROUPS
    scores = np.empty(len(bias) if exact else room, np.float32)
    keys = np.empty(room + 1, np.uint64)
    slot = np.zeros(n, np.int32)  # 1 + place among the candidates; cleared user by user
    scratch = empty_scratch(n)
    for user in range(len(states.at_ms)):
        stamp = user + 1
        n_had = score_repeats(user, items, states, history, type_weights, rebuy_after_ms, scratch)
        n_touched = sum_neighbours(user, items, history, scratch)
        vector = states.embedding[user]
        has_vector = states.dim[user] == dimension
        taken = 0
        scored = 0  # candidates whose inner product is known from the search
        if has_vector:
            if exact:
                score_all(vector, items.transposed, bias, scores)
                for j in range(n_had):
                    if scratch.excluded[scratch.had[j]] == stamp:
                        scores[scratch.had[j]] = -np.inf
                best = best_scores(scores, quotas[EMBEDDING], keys)
            else:
                best = search_lists(
                    vector, lists, nprobe, quotas[EMBEDDING], allowed, scratch.excluded, stamp, scores, keys
                )
                scored = best
                for c in range(scored):
                    found.embedding_score[user, c] = score_of_key(keys[c])
            taken = _take(user, EMBEDDING, keys, min(best, quotas[EMBEDDING]), taken, slot, found)
        best = 0
        for j in range(n_touched):
            row = scratch.touched[j]
            keys[best] = order_key(scratch.sums[row], row)
            best += allowed[row] and scratch.excluded[row] != stamp
        sort_top(keys, best, quotas[NEIGHBOURS])
        taken = _take(user, NEIGHBOURS, keys, min(best, quotas[NEIGHBOURS]), taken, slot, found)
        best = 0
        for j in range(n_had):
            row = scratch.had[j]
            keys[best] = order_key(scratch.had_score[j], row)
            best += allowed[row] and scratch.excluded[row] != stamp
        sort_top(keys, best, quotas[REPEAT])
        taken = _take(user, REPEAT, keys, min(best, quotas[REPEAT]), taken, slot, found)
        taken = _take_found(
            user, SESSIONS, sessions, quotas[SESSIONS], allowed, scratch.excluded, keys, taken, slot, found
        )
        taken = _take_found(
            user, DEVICES, devices, quotas[DEVICES], allowed, scratch.excluded, keys, taken, slot, found
        )
        taken = _take_found(
            user, CONTENT, content, quotas[CONTENT], allowed, scratch.excluded, keys, taken, slot, found
        )
        taken = _take_found(
            user, SEQUENCE, sequence, quotas[SEQUENCE], allowed, scratch.excluded, keys, taken, slot, found
        )
        taken = _take_found(
            user, RULES, rules, quotas[RULES], allowed, scratch.excluded, keys, taken, slot, found
        )
        for source in (TRENDING, POPULAR):
            order = items.trending_order if source == TRENDING else items.popular_order
            rank = 0
            for row in order:
                if rank >= quotas[source] or taken >= limit:
                    break
                if allowed[row] and scratch.excluded[row] != stamp:
                    rank += 1
                    if slot[row] == 0:
                        found.rows[user, taken] = row
                        taken += 1
                        slot[row] = taken
                    found.rank[user, slot[row] - 1, source] = rank
        found.counts[user] = taken
        for j in range(n_had):
            if slot[scratch.had[j]] > 0:
                found.repeat_score[user, slot[scratch.had[j]] - 1] = scratch.had_score[j]
        _lend_scores(user, sessions, slot, found.session_score)
        _lend_scores(user, devices, slot, found.device_score)
        _lend_scores(user, content, slot, found.content_score)
        _lend_scores(user, sequence, slot, found.sequence_score)
        _lend_scores(user, rules, slot, found.rule_score)
        for c in range(taken):
            row = found.rows[user, c]
            slot[row] = 0
            found.neighbour_score[user, c] = scratch.sums[row]
            found.neighbour_max[user, c] = scratch.peaks[row]
            found.neighbour_hits[user, c] = scratch.hits[row]
            if has_vector and exact:
                found.embedding_score[user, c] = scores[row]
            elif has_vector and c >= scored:
                found.embedding_score[user, c] = score_one(vector, items.factors, row)
        for j in range(n_touched):
            row = scratch.touched[j]
            scratch.sums[row] = np.float32(0.0)
            scratch.peaks[row] = np.float32(0.0)
            scratch.hits[row] = 0


@kernel
def _take(
    user: int,
    source: int,
    keys: NDArray[np.uint64],
    count: int,
    taken: int,
    slot: NDArray[np.int32],
    found: Candidates,
) -> int:
    """Make the rows of the first keys candidates, or note their rank; return how many there are."""
    for k in range(count):
        row = row_of_key(keys[k])
        if slot[row] == 0:
            found.rows[user, taken] = row
            taken += 1
            slot[row] = taken
        found.rank[user, slot[row] - 1, source] = k + 1
    return taken


@kernel
def _take_found(
    user: int,
    source: int,
    brought: FoundItems,
    most: int,
    allowed: NDArray[np.bool_],
    excluded: NDArray[np.int32],
    keys: NDArray[np.uint64],
    taken: int,
    slot: NDArray[np.int32],
    found: Candidates,
) -> int:
    """Make the `most` best of what a source found candidates, as `_take` does."""
    best = 0
    for j in range(brought.counts[user]):
        row = brought.rows[user, j]
        keys[best] = order_key(brought.score[user, j], row)
        best += allowed[row] and excluded[row] != user + 1
    return _take(user, source, keys, min(best, most), taken, slot, found)


@kernel
def _lend_scores(user: int, brought: FoundItems, slot: NDArray[np.int32], score: NDArray[np.float32]) -> None:
    """Write a source's score of each candidate that it found, whichever source brought that."""
    for j in range(brought.counts[user]):
        at = slot[brought.rows[user, j]]
        if at > 0:
            score[user, at - 1] = brought.score[user, j]

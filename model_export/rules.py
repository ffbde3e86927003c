"""Sequential rules: what users took after an item, nearer steps more, as shares of all that followed it.

An event adds 1 / s to the rule from each of the user's earlier events, s = 1 to `steps` of them back: whole within a
session, `across * 0.5 ** (gap / half_life)` of it from one session to a later one. A rule's score is its sum over
that of all rules of the same item plus `shrink`, so that what followed once does not score 1. A user's newest
`max_events` events count and no more, as for `model_export.neighbours`; unlike there, the order counts.

Source: Ludewig and Jannach, "Evaluation of session-based recommendation algorithms", UMUAI 28, 2018, equation 4;
the shrinkage, and what counts across sessions, are ours.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from model_export.interactions import DAY_MS, Interactions
from model_export.neighbours import by_item, by_user, compressed
from udfs.kernel_cache import kernel
from udfs.model.manifest import NEIGHBOURS_PER_ITEM
from udfs.ranking.item_links import ItemLinks


@dataclass(frozen=True)
class RuleSettings:
    """How rules are counted."""

    per_item: int = 20
    steps: int = 10  # events of the user, within a session or not
    across: float = 0.0  # of a step from one session to a later one; 0: rules are of sessions alone
    half_life_days: float = 30.0  # of `across`
    shrink: float = 5.0
    max_events: int = 1_000  # newest of a user

    def __post_init__(self) -> None:
        if not 1 <= self.per_item <= NEIGHBOURS_PER_ITEM or self.steps < 1 or self.max_events < 1:
            raise ValueError(
                f"rules: per_item 1 to {NEIGHBOURS_PER_ITEM}, steps, max_events at least 1: {self}"
            )
        if not 0.0 <= self.across <= 1.0 or self.half_life_days <= 0.0 or self.shrink < 0.0:
            raise ValueError(f"rules: across 0 to 1, half_life_days above 0, shrink 0 or more: {self}")


def fit_rules(data: Interactions, settings: RuleSettings) -> ItemLinks:
    """Count rules and keep each item's best; a score is its share of all that followed the item.

    Every occurrence of an item looks at what follows it, so the work is events x steps and the memory one array of n
    items.

    Parameters
    ----------
    data
        Interactions before the cut.
    settings
        How.
    """
    users, items, times_ms, sessions = by_user(data, settings.max_events)
    occurrences, starts = by_item(items, data.n_items)
    lengths, rows, scores = _rule_lists(
        users,
        items,
        times_ms,
        sessions,
        occurrences,
        starts,
        settings.per_item,
        settings.steps,
        settings.across,
        settings.half_life_days * DAY_MS,
        settings.shrink,
    )
    return ItemLinks(*compressed(lengths, rows, scores))


@kernel
def _rule_lists(  # type: ignore[no-untyped-def]
    users, items, times_ms, sessions, occurrences, starts, per_item, steps, across, half_life_ms, shrink
):
    """Return lengths (n,), rows (n, per_item) and scores (n, per_item) of the rules."""
    n_items = len(starts) - 1
    lengths = np.zeros(n_items, np.int64)
    rows = np.zeros((n_items, per_item), np.int32)
    scores = np.zeros((n_items, per_item), np.float32)
    sums = np.zeros(n_items, np.float64)
    touched = np.empty(n_items, np.int64)
    for item in range(n_items):
        n_touched = 0
        total = 0.0
        for k in range(starts[item], starts[item + 1]):
            at = occurrences[k]
            for after in range(at + 1, min(len(items), at + steps + 1)):
                if users[after] != users[at]:
                    break
                if items[after] == item:
                    continue
                weight = 1.0 / (after - at)
                if sessions[after] != sessions[at]:
                    weight *= across * 2.0 ** (-(times_ms[after] - times_ms[at]) / half_life_ms)
                if weight == 0.0:
                    continue
                if sums[items[after]] == 0.0:
                    touched[n_touched] = items[after]
                    n_touched += 1
                sums[items[after]] += weight
                total += weight
        followers = np.sort(touched[:n_touched])
        values = np.empty(n_touched, np.float32)
        for k in range(n_touched):
            values[k] = sums[followers[k]] / (total + shrink)
            sums[followers[k]] = 0.0
        best = np.argsort(-values, kind="mergesort")[:per_item]
        for k in range(len(best)):
            if values[best[k]] > 0.0:  # a share too small for its type is none
                rows[item, k] = followers[best[k]]
                scores[item, k] = values[best[k]]
                lengths[item] = k + 1
    return lengths, rows, scores


def reference_rules(data: Interactions, settings: RuleSettings) -> list[list[tuple[int, float]]]:
    """Return what `fit_rules` returns, user by user and event by event: slow, readable, for tests."""
    histories: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    for user, item, time_ms, session in zip(
        data.users.tolist(), data.items.tolist(), data.times_ms.tolist(), data.sessions.tolist(), strict=True
    ):
        histories[user].append((item, time_ms, session))
    rules: list[dict[int, float]] = [defaultdict(float) for _ in range(data.n_items)]
    for history in histories.values():
        newest = history[-settings.max_events :]
        for at, (item, time_ms, session) in enumerate(newest):
            for back, (before, then_ms, earlier) in enumerate(
                reversed(newest[max(at - settings.steps, 0) : at]), start=1
            ):
                gap_days = (time_ms - then_ms) / DAY_MS
                decayed = settings.across * 0.5 ** (gap_days / settings.half_life_days)
                if before != item:
                    rules[before][item] += (1.0 if session == earlier else decayed) / back
    lists = []
    for found in rules:
        total = sum(found.values()) + settings.shrink
        shares = [(after, weight / total) for after, weight in found.items() if weight > 0.0]
        lists.append(sorted(shares, key=lambda pair: (-pair[1], pair[0]))[: settings.per_item])
    return lists

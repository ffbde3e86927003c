"""The join of a whole log at once, slowly and without state: what `FeedbackLogic` must say of one user.

It also serves offline, where all records lie in files and nothing is late.
"""

from __future__ import annotations

from collections.abc import Iterable

from schemas.codec import encode
from schemas.records import Event, Example, ExampleItem, ServedList
from udfs.feedback.outcome import rec_hash
from udfs.feedback.rules import FeedbackRules

_KIND = {"view": "click"}


def join(
    lists: Iterable[ServedList], events: Iterable[tuple[Event, int]], rules: FeedbackRules
) -> tuple[set[Example], set[tuple[str, str, float, int]]]:
    """Return the examples and the credits (rec_id, arm, reward, event_time) of one user.

    Parameters
    ----------
    lists
        All that were served, in any order, repeats too.
    events
        All events with their effective times, in any order, repeats too.
    rules
        As those of the logic.
    """
    by_id: dict[str, ServedList] = {}
    for one in sorted(lists, key=encode):
        by_id[one.rec_id] = one
    known = {event.event_id: (event, at_ms) for event, at_ms in events}
    shown: dict[str, list[tuple[Event, int]]] = {rec_id: [] for rec_id in by_id}
    for event, at_ms in known.values():
        if event.event_type == "impression" and event.rec_id in shown:
            shown[event.rec_id].append((event, at_ms))
    shown = {rec_id: found for rec_id, found in shown.items() if found}
    first_ms = {rec_id: min(at_ms for _, at_ms in found) for rec_id, found in shown.items()}
    seen = {rec_id: _first_seen(by_id[rec_id], found) for rec_id, found in shown.items()}
    window = {
        "click": rules.click_ms,
        "dwell": rules.dwell_ms,
        "add_to_cart": rules.add_to_cart_ms,
        "purchase": rules.purchase_ms,
    }
    outcomes: dict[tuple[str, str], list[tuple[str, int, float]]] = {}
    removed: dict[str, list[int]] = {}
    for event, at_ms in known.values():
        kind = _KIND.get(event.event_type, event.event_type)
        if kind == "remove_from_cart" and event.item_id is not None:
            removed.setdefault(event.item_id, []).append(at_ms)
        if kind not in window or (event.event_type == "view" and event.rec_id is None):
            continue
        items = (
            [event.item_id, *(line.item_id for line in event.items)]
            if kind == "purchase"
            else [event.item_id]
        )
        distinct = [item for item in dict.fromkeys(items) if item is not None]
        for item in distinct:
            places = [
                (first_ms[rec_id], rec_hash(rec_id), rec_id)
                for rec_id in shown
                if event.rec_id in (None, rec_id)
                and item in seen[rec_id]
                and seen[rec_id][item][0] - rules.skew_ms <= at_ms <= first_ms[rec_id] + window[kind]
            ]
            if places:
                value = (event.value or 0.0) / len(distinct) if kind in ("purchase", "dwell") else 0.0
                outcomes.setdefault((max(places)[2], item), []).append((kind, at_ms, value))
    examples, credits = set(), set()
    for rec_id, start_ms in first_ms.items():
        served, removals = by_id[rec_id], {}
        for item, times in removed.items():
            removals[item] = [at_ms for at_ms in times if at_ms <= start_ms + rules.add_to_cart_ms]

        def slots(
            until_ms: int, rec_id: str = rec_id, removals: dict[str, list[int]] = removals
        ) -> list[ExampleItem]:
            return [
                _slot(
                    by_id[rec_id],
                    slot,
                    seen[rec_id][item.item_id][1],
                    [one for one in outcomes.get((rec_id, item.item_id), []) if one[1] <= until_ms],
                    [at_ms for at_ms in removals.get(item.item_id, []) if at_ms <= until_ms],
                    rules,
                )
                for slot, item in enumerate(by_id[rec_id].items)
                if item.item_id in seen[rec_id] and seen[rec_id][item.item_id][0] <= until_ms
            ]

        early = slots(start_ms + rules.credit_ms)
        for source in {slot.source for slot in early}:
            rewards = [slot.reward for slot in early if slot.source == source]
            credits.add((rec_id, source, sum(rewards) / len(rewards), start_ms + rules.credit_ms))
        if early and served.list_policy:
            whole = min(1.0, sum(slot.reward for slot in early))
            credits.add((rec_id, f"list:{served.list_policy}", whole, start_ms + rules.credit_ms))
        final = slots(start_ms + rules.longest_ms)
        if final:
            settled_ms = start_ms + rules.longest_ms + rules.skew_ms + rules.lateness_ms
            examples.add(_example(served, start_ms, settled_ms, tuple(final)))
    return examples, credits


def _first_seen(served: ServedList, impressions: list[tuple[Event, int]]) -> dict[str, tuple[int, int]]:
    """Return item → when it was first shown, and where."""
    found: dict[str, tuple[int, int]] = {}
    for slot, item in enumerate(served.items):
        for event, at_ms in impressions:
            if not event.items:
                if event.item_id in (None, item.item_id):
                    found[item.item_id] = min(found.get(item.item_id, (at_ms, slot)), (at_ms, slot))
                continue
            for place, line in enumerate(event.items):
                if line.item_id == item.item_id:
                    where = at_ms, place if line.position is None else line.position
                    found[item.item_id] = min(found.get(item.item_id, where), where)
                    break
    return found


def _slot(
    served: ServedList,
    slot: int,
    position: int,
    outcomes: list[tuple[str, int, float]],
    removals: list[int],
    rules: FeedbackRules,
) -> ExampleItem:
    item = served.items[slot]
    clicked = any(kind == "click" for kind, _, _ in outcomes)
    bought = any(kind == "purchase" for kind, _, _ in outcomes)
    carted = any(
        kind == "add_to_cart" and not any(removed >= at_ms for removed in removals)
        for kind, at_ms, _ in outcomes
    )
    dwell_s = max((value for kind, _, value in outcomes if kind == "dwell"), default=0.0)
    revenue = sum(sorted(value for kind, _, value in outcomes if kind == "purchase"))
    worth = [
        (0.0, -1, "none"),
        (rules.click_reward, 0, "click") if clicked else (0.0, -1, "none"),
        (rules.dwell_reward, 1, "dwell") if 0 < dwell_s >= rules.dwell_from_s else (0.0, -1, "none"),
        (rules.add_to_cart_reward, 2, "add_to_cart") if carted else (0.0, -1, "none"),
        (rules.purchase_reward, 3, "purchase") if bought else (0.0, -1, "none"),
    ]
    reward, _, label = max(worth)
    return ExampleItem(
        item.item_id,
        slot,
        position,
        item.source,
        item.score,
        item.propensity,
        label,
        reward,
        clicked,
        carted,
        bought,
        dwell_s,
        revenue,
    )


def _example(served: ServedList, shown_ms: int, settled_ms: int, items: tuple[ExampleItem, ...]) -> Example:
    return Example(
        served.rec_id,
        served.tenant,
        served.user_id,
        served.version,
        served.event_time,
        shown_ms,
        settled_ms,
        served.epoch,
        served.model_version,
        served.variant,
        served.index_mark,
        items,
        served.snapshot,
        served.source_probabilities,
        served.list_policy,
        served.list_shares,
    )

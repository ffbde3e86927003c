"""What an event must hold beyond its schema, and which time counts."""

from __future__ import annotations

from math import isfinite
from typing import Final

from schemas.ids import check_id, plain_id, split_user_key, user_key
from schemas.records import Control, Credit, Event, ServedList
from schemas.refusal import Refused

EARLIEST_AFTER_MS: Final = -7 * 86_400_000
LATEST_AFTER_MS: Final = 60_000
MAX_TIME_MS: Final = (1 << 32) * 1_000 - 1  # state keeps seconds in 32 bits: until February 2106

NEEDS_ITEM: Final = frozenset({"view", "click", "add_to_cart", "remove_from_cart", "purchase"})


def effective_time(event: Event) -> tuple[int, str | None]:
    """The time that counts: the client's, held within what its arrival makes plausible.

    Returns
    -------
    ms
        `event_time` clamped to [received_time − 7 days, received_time + 1 minute].
    clamped
        `clamped_future`, `clamped_ancient`, `no_received_time` (0: nothing to compare with) or None.

    Examples
    --------
    >>> times = (1_000_000, 900_000)
    >>> event = Event("e", "view", "default", "u", None, "i", *times, None, (), None, None, {}, "none")
    >>> effective_time(event)
    (960000, 'clamped_future')
    """
    event_time = event.event_time
    received_time = event.received_time
    ahead = event_time - received_time
    if EARLIEST_AFTER_MS <= ahead <= LATEST_AFTER_MS:
        return event_time, None
    if received_time == 0:
        return event_time, "no_received_time"
    if ahead > 0:
        return received_time + LATEST_AFTER_MS, "clamped_future"
    return received_time + EARLIEST_AFTER_MS, "clamped_ancient"


def validate_event(event: Event, key: str | None) -> None:
    """Refuse an event that must not enter state.

    Parameters
    ----------
    key
        The Kafka record's key. Wanted: `user_key` of the payload's tenant and user, because the shard comes
        from it.

    Raises
    ------
    Refused
        missing_key, key_mismatch, bad_id, missing_field or bad_value.
    """
    if not key:
        raise Refused("missing_key", "key: wanted tenant/user, got none")
    event_id, event_type, tenant, user_id, session_id, item_id, event_time, received_time = event[:8]
    # The slash, the escapes and the lengths are only looked at when one match does not tell.
    if (
        key != f"{tenant}/{user_id}"
        or plain_id(tenant) is None
        or plain_id(user_id) is None
        or _has_escape(key)
    ):
        _check_key(event, key)
    if plain_id(event_id) is None:
        check_id("event_id", event_id)
    if item_id is not None:
        if plain_id(item_id) is None:
            check_id("item_id", item_id)
    elif event_type in NEEDS_ITEM:
        raise Refused("missing_field", f"item_id: wanted for {event_type}, got none")
    if session_id is not None and plain_id(session_id) is None:
        check_id("session_id", session_id)
    if not (0 < event_time <= MAX_TIME_MS and 0 <= received_time <= MAX_TIME_MS):
        _check_time("event_time", event_time, 1)
        _check_time("received_time", received_time, 0)
    if event.rec_id is not None:
        check_id("rec_id", event.rec_id)
    for entry in event.items:
        check_id("items.item_id", entry.item_id)
        if entry.position is not None and not 0 <= entry.position < 1 << 31:
            raise Refused("bad_value", f"items.position: wanted 0 or more, got {entry.position}")
    if event.value is not None and not isfinite(event.value):
        raise Refused("bad_value", f"value: wanted a finite number, got {event.value}")


def _has_escape(key: str) -> bool:
    return "%" in key or "{" in key or "}" in key or key.count("/") != 1


def _check_key(event: Event | Credit, key: str) -> None:
    check_id("tenant", event.tenant)
    check_id("user_id", event.user_id)
    wanted = user_key(event.tenant, event.user_id)
    if key != wanted:
        raise Refused("key_mismatch", f"key: wanted {wanted!r} of the payload, got {key[:300]!r}")


def _check_time(name: str, value: int, lowest: int) -> None:
    if not lowest <= value <= MAX_TIME_MS:
        raise Refused("bad_value", f"{name}: wanted {lowest} to {MAX_TIME_MS} ms, got {value}")


def validate_credit(credit: Credit, key: str | None) -> None:
    """Refuse a credit that does not stand under the key of its user, because the shard comes from it.

    Raises
    ------
    Refused
        missing_key, key_mismatch or bad_id.
    """
    if not key:
        raise Refused("missing_key", "key: wanted tenant/user, got none")
    _check_key(credit, key)


def validate_served(served: ServedList, key: str) -> None:
    """Refuse a list that must not enter state.

    Raises
    ------
    Refused
        key_mismatch, bad_id or bad_value.
    """
    if key != user_key(served.tenant, served.user_id):
        raise Refused("key_mismatch", f"list of {user_key(served.tenant, served.user_id)!r} under {key!r}")
    for name in ("tenant", "user_id", "rec_id"):
        check_id(name, getattr(served, name))
    if not 0 < served.event_time <= MAX_TIME_MS:
        raise Refused("bad_value", f"event_time: wanted 1 to {MAX_TIME_MS} ms, got {served.event_time}")
    for item in served.items:
        check_id("items.item_id", item.item_id)
        if not (isfinite(item.score) and 0.0 < item.propensity <= 1.0):
            raise Refused(
                "bad_value",
                f"score and propensity: wanted finite and in (0, 1], got {item.score}, {item.propensity}",
            )


def validate_control(control: Control, key: str | None) -> None:
    """Refuse an order that does not say what its kind needs.

    Parameters
    ----------
    key
        The Kafka record's key. Wanted: `tenant/user` of a user-scoped order, ``*<kind>`` of one for all.

    Raises
    ------
    Refused
        missing_key, key_mismatch, bad_id or bad_control.
    """
    if not key:
        raise Refused("missing_key", "key: wanted tenant/user or *<kind>, got none")
    kind = control.kind
    if kind == "unknown":
        raise Refused("bad_control", "kind: a kind that this version does not know")
    if kind in ("activate_epoch", "preload_epoch", "begin_budget_epoch") and (
        control.epoch is None or not 0 <= control.epoch < 1 << 32
    ):
        raise Refused("bad_control", f"epoch: wanted 0 to 2^32 - 1 for {kind}, got {control.epoch}")
    if kind == "set_experiments" and control.experiments is None:
        raise Refused("bad_control", "experiments: wanted for set_experiments, got none")
    if kind == "set_consent" and control.consent is None:
        raise Refused("bad_control", "consent: wanted for set_consent, got none")
    wanted = control_key(control)
    if key != wanted:
        raise Refused("key_mismatch", f"key: wanted {wanted!r} of the payload, got {key[:300]!r}")
    if not wanted.startswith("*"):
        for name, value in zip(("tenant", "user_id"), split_user_key(key), strict=True):
            check_id(name, value)


def control_key(control: Control) -> str:
    """Kafka key of an order: of one user, or of all.

    Raises
    ------
    Refused
        `bad_control` for an order that needs a user and names none.
    """
    if control.tenant is not None and control.user_id is not None:
        return user_key(control.tenant, control.user_id)
    if control.kind in ("set_consent", "erase_user") or (control.tenant, control.user_id) != (None, None):
        raise Refused(
            "bad_control",
            f"{control.kind}: wanted tenant and user_id, got {control.tenant!r} and {control.user_id!r}",
        )
    return f"*{control.kind}"

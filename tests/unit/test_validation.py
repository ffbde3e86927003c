"""What an event must hold, and which time counts."""

import math

import pytest
from schema_samples import FULL_EVENT, SAMPLES, VIEW

from schemas.ids import user_key
from schemas.records import EVENT_TYPES, EventItem
from schemas.refusal import Refused
from schemas.validation import (
    MAX_TIME_MS,
    NEEDS_ITEM,
    control_key,
    effective_time,
    validate_control,
    validate_credit,
    validate_event,
)

KEY = "default/user-123456"
R = VIEW.received_time
DAY_MS = 86_400_000


def reason_of(event, key=None):
    with pytest.raises(Refused) as caught:
        validate_event(event, user_key(event.tenant, event.user_id) if key is None else key)
    return caught.value.reason


def test_good_events_pass():
    validate_event(VIEW, KEY)
    validate_event(FULL_EVENT, "acme/u%2Fä%7B1%7D")
    validate_event(VIEW._replace(tenant="a b", user_id="日本"), "a b/日本")


@pytest.mark.parametrize("key", ["", None])
def test_a_missing_key_is_refused(key):
    with pytest.raises(Refused, match="missing_key"):
        validate_event(VIEW, key)


@pytest.mark.parametrize(
    ("tenant", "user_id", "key"),
    [
        ("default", "u1", "default/u2"),
        ("default", "u1", "u1"),
        ("default", "a/b", "default/a/b"),  # not percent-encoded
        ("a/b", "c", "a/b/c"),
        ("default", "{u}", "default/{u}"),
        ("default", "%2F", "default/%2F"),  # the key of the user "/"
        ("default", "/", "default//"),
    ],
)
def test_a_key_of_someone_else_is_refused(tenant, user_id, key):
    assert reason_of(VIEW._replace(tenant=tenant, user_id=user_id), key) == "key_mismatch"


@pytest.mark.parametrize("field", ["event_id", "tenant", "user_id", "session_id", "item_id", "rec_id"])
@pytest.mark.parametrize("value", ["", "x" * 129, "a\nb", "\x00", "é" * 65])
def test_a_bad_id_is_refused(field, value):
    assert reason_of(VIEW._replace(**{field: value})) == "bad_id"


def test_bad_items_of_an_impression_are_refused():
    assert reason_of(FULL_EVENT._replace(items=(EventItem("a", 0), EventItem("", 1)))) == "bad_id"
    assert reason_of(FULL_EVENT._replace(items=(EventItem("a", -1),))) == "bad_value"


@pytest.mark.parametrize("event_type", EVENT_TYPES)
def test_an_item_is_wanted_where_the_type_needs_one(event_type):
    event = VIEW._replace(event_type=event_type, item_id=None)
    if event_type in NEEDS_ITEM:
        assert reason_of(event) == "missing_field"
    else:
        validate_event(event, KEY)


@pytest.mark.parametrize("times", [(0, 1), (-1, 1), (MAX_TIME_MS + 1, 1), (1, -1), (1, MAX_TIME_MS + 1)])
def test_times_that_state_cannot_hold_are_refused(times):
    assert reason_of(VIEW._replace(event_time=times[0], received_time=times[1])) == "bad_value"


def test_times_at_the_limits_pass():
    validate_event(VIEW._replace(event_time=1, received_time=0), KEY)
    validate_event(VIEW._replace(event_time=MAX_TIME_MS, received_time=MAX_TIME_MS), KEY)
    assert MAX_TIME_MS // 1000 < 1 << 32


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number_is_refused(value):
    assert reason_of(VIEW._replace(value=value)) == "bad_value"


@pytest.mark.parametrize(
    ("event_time", "received_time", "wanted"),
    [
        (R, R, (R, None)),
        (R + 60_000, R, (R + 60_000, None)),
        (R + 60_001, R, (R + 60_000, "clamped_future")),
        (R - 7 * DAY_MS, R, (R - 7 * DAY_MS, None)),
        (R - 7 * DAY_MS - 1, R, (R - 7 * DAY_MS, "clamped_ancient")),
        (1, R, (R - 7 * DAY_MS, "clamped_ancient")),
        (R, 0, (R, "no_received_time")),
        (R, 5, (60_005, "clamped_future")),
    ],
)
def test_the_effective_time_is_held_near_the_arrival(event_time, received_time, wanted):
    assert effective_time(VIEW._replace(event_time=event_time, received_time=received_time)) == wanted


CONTROL = SAMPLES["Control"]


def test_good_orders_pass():
    validate_control(CONTROL, "acme/u1")
    for_all = CONTROL._replace(kind="activate_epoch", tenant=None, user_id=None, consent=None)
    validate_control(for_all, "*activate_epoch")
    validate_control(for_all._replace(kind="republish", epoch=None), "*republish")
    validate_control(CONTROL._replace(kind="republish"), "acme/u1")
    assert control_key(CONTROL._replace(user_id="a/b")) == "acme/a%2Fb"


@pytest.mark.parametrize(
    ("change", "key", "reason"),
    [
        ({}, None, "missing_key"),
        ({}, "acme/u2", "key_mismatch"),
        ({"kind": "unknown"}, "acme/u1", "bad_control"),
        ({"consent": None}, "acme/u1", "bad_control"),
        ({"user_id": None}, "*set_consent", "bad_control"),
        ({"kind": "erase_user", "user_id": None, "tenant": None}, "*erase_user", "bad_control"),
        ({"kind": "activate_epoch", "epoch": None}, "*activate_epoch", "bad_control"),
        ({"kind": "activate_epoch", "epoch": -1}, "*activate_epoch", "bad_control"),
        ({"kind": "preload_epoch", "epoch": 1 << 32}, "*preload_epoch", "bad_control"),
        ({"user_id": ""}, "acme/", "bad_id"),
    ],
)
def test_a_bad_order_is_refused(change, key, reason):
    with pytest.raises(Refused) as caught:
        validate_control(CONTROL._replace(**change), key)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("change", "key", "reason"),
    [
        ({}, None, "missing_key"),
        ({}, "", "missing_key"),
        ({}, "acme/u2", "key_mismatch"),
        ({}, "u1", "key_mismatch"),
        ({"user_id": ""}, "acme/", "bad_id"),
        ({"tenant": "a\nb"}, "a\nb/u1", "bad_id"),
    ],
)
def test_a_credit_under_another_key_than_its_users_is_refused(change, key, reason):
    credit = SAMPLES["Credit"]
    validate_credit(credit, "acme/u1")
    with pytest.raises(Refused) as caught:
        validate_credit(credit._replace(**change), key)
    assert caught.value.reason == reason

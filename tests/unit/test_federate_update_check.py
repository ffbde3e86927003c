"""What an update must be before a budget is charged for it."""

from __future__ import annotations

import numpy as np
import pytest
from federate_examples import CENTRAL, KEY, LINES, LOCAL, updates

from schemas.codec import decode, encode
from schemas.ids import user_key
from schemas.refusal import Refused
from udfs.federate.audit import device_update
from udfs.federate.update_check import check_update, redacted, update_digest
from udfs.privacy.fixed_point import from_units
from udfs.privacy.terms import Mode

(GOOD,) = updates(LOCAL, 1)
NAME = user_key(GOOD.tenant, GOOD.user_id)


def check(update, key=NAME, line=LOCAL):
    return check_update(update, key, {line.name: line})


@pytest.mark.parametrize("mode", Mode)
def test_an_update_survives_the_way_through_kafka(mode):
    line = LINES[mode]
    (update,) = updates(line, 1)
    back = decode("EdgeUpdate", encode(update))
    assert (check(back, line=line) == check(update, line=line)).all()
    assert update_digest(back) == update_digest(update)


def test_a_central_update_is_its_clipped_delta():
    update = device_update(CENTRAL, "u", 0, np.full(16, 5.0), KEY)
    values = from_units(check(update, "default/user-u", CENTRAL))
    assert values == pytest.approx(np.full(16, 0.25), abs=1e-6)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"user_id": ""}, "bad_id"),
        ({"client_id": "a\nb"}, "bad_id"),
        ({"update_id": "x" * 129}, "bad_id"),
        ({"user_id": "other"}, "key_mismatch"),
        ({"consent": "essential"}, "consent_missing"),
        ({"consent": "none"}, "consent_missing"),
        ({"model_line": "other"}, "unknown_line"),
        ({"base_version": -1}, "bad_value"),
        ({"mode": "central"}, "wrong_terms"),
        ({"mode": "unknown"}, "wrong_terms"),
        ({"noise_multiplier": 4.5}, "wrong_terms"),
        ({"noise_multiplier": float("nan")}, "wrong_terms"),
        ({"clip_norm": float("nan")}, "wrong_terms"),
        ({"clip_norm": 1e9}, "wrong_terms"),
        ({"clip_norm": 0.0}, "wrong_terms"),
        ({"dimension": 15}, "wrong_shape"),
        ({"within_clip": True}, "wrong_terms"),
        ({"bits": 8}, "wrong_terms"),
        ({"step": 3}, "wrong_terms"),
        ({"step": 0}, "wrong_terms"),
        ({"payload": GOOD.payload[:-2]}, "wrong_shape"),
        ({"payload": b"\0" * len(GOOD.payload)}, "noise_missing"),
        ({"payload": b"\xff\x7f" * 16}, "norm_too_large"),
    ],
)
def test_what_is_wrong_is_refused_with_its_reason(changed, reason):
    with pytest.raises(Refused) as caught:
        check(GOOD._replace(**changed))
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("key", "reason"), [(None, "missing_key"), ("", "missing_key"), ("default/x", "key_mismatch")]
)
def test_the_key_must_be_the_user_s(key, reason):
    with pytest.raises(Refused) as caught:
        check(GOOD, key)
    assert caught.value.reason == reason


def test_an_undecided_update_has_another_digest_for_every_change():
    names = {update_digest(GOOD)}
    for field, value in (
        ("payload", GOOD.payload[::-1]),
        ("base_version", 1),
        ("user_id", "v"),
        ("client_id", "d"),
    ):
        names.add(update_digest(GOOD._replace(**{field: value})))
    assert len(names) == 5


def test_a_dead_letter_keeps_nothing_of_the_numbers():
    kept = redacted(GOOD._replace(within_clip=True))
    assert kept.payload == b""
    assert kept.within_clip is None
    assert kept.user_id == GOOD.user_id

"""Session records read as columns, and applied to baskets in compiled code, against the readable references."""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence

import numpy as np
import pytest

from schemas.codec import Codec, encode
from schemas.ids import user_key
from schemas.records import DEFAULT_TENANT, SessionDelta
from schemas.refusal import Refused
from tests.unit.test_similarity_counts import START_MS, shopping
from udfs.item_factors import INTERACTION_WEIGHTS
from udfs.similarity.basket import Basket
from udfs.similarity.country_trends import country_code
from udfs.similarity.session_kernel import SessionSteps, apply_steps
from udfs.similarity.session_step import item_key, step
from udfs.user_action import CODES

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # PyFlink's own, while it is imported
    from flink_jobs.similarity_records import SessionColumns, read_one, read_sessions

CODEC = Codec({4: "SessionDelta"})
PLAIN = SessionDelta(
    *("default", "u1", 2, START_MS, 3, "i1", "view", START_MS + 5, b"\xff" * 80, 1, 1 << 40, 2, "CH")
)
STRANGE = [
    PLAIN._replace(tenant="acme"),
    PLAIN._replace(tenant="a/b", user_id="{u}%"),
    PLAIN._replace(tenant=""),
    PLAIN._replace(user_id="ü" * 60, item_id="Grüße/1", country="Österreich"),
    PLAIN._replace(item_id="a{b}/%~ "),
    PLAIN._replace(item_id="x" * 128),
    PLAIN._replace(item_id="x" * 129),
    PLAIN._replace(item_id=""),
    PLAIN._replace(item_id="tab\t"),
    PLAIN._replace(event_type="search"),
    PLAIN._replace(event_type="remove_from_cart"),
    PLAIN._replace(event_type="purchase", previous_items=b""),
    PLAIN._replace(country=""),
    PLAIN._replace(country="two\nlines"),
    PLAIN._replace(country="x" * 300),
    PLAIN._replace(session_start=-5, event_time=0, offset=-1, position=-3),
    PLAIN._replace(event_time=1 << 60),
    PLAIN._replace(event_time=(1 << 63) - 1),
    PLAIN._replace(n=65_535, partition=(1 << 31) - 1),
    PLAIN._replace(n=65_536),
    PLAIN._replace(n=-1),
    PLAIN._replace(partition=-1),
    PLAIN._replace(session_ordinal=-1),
]


def columns_of(deltas: Sequence[SessionDelta]) -> SessionSteps:
    """What records say, one field after the other."""
    users: dict[tuple[str, str], int] = {}

    def numbers(name: str) -> np.ndarray:
        return np.array([getattr(one, name) for one in deltas], np.int64)

    return SessionSteps(
        np.array([users.setdefault((one.tenant, one.user_id), len(users)) for one in deltas], np.int64),
        numbers("session_ordinal"),
        numbers("session_start"),
        numbers("position"),
        numbers("event_time"),
        numbers("partition"),
        numbers("offset"),
        numbers("n"),
        np.array([item_key(one.tenant, one.item_id) for one in deltas], np.uint64),
        np.array([INTERACTION_WEIGHTS[CODES[one.event_type]] for one in deltas], np.float32),
        np.array([one.event_type == "purchase" for one in deltas], bool),
        np.array([country_code(one.country) for one in deltas], np.uint32),
    )


def assert_read(keys: Sequence[str], payloads: Sequence[bytes]) -> SessionColumns:
    """Compare with records read one by one."""
    found = read_sessions(CODEC, keys, payloads)
    deltas, of_good, refused = [], [], []
    for place, (key, payload) in enumerate(zip(keys, payloads, strict=True)):
        try:
            deltas.append(read_one(CODEC, key, payload))
            of_good.append(key)
        except Refused as reason:
            refused.append((place, reason.reason, reason.detail))
    assert [(place, why.reason, why.detail) for place, why in found.refused] == refused
    assert found.users == list(dict.fromkeys(keys))
    assert [found.users[user] for user in found.steps.users] == of_good
    for name, column, wanted in zip(SessionSteps._fields, found.steps, columns_of(deltas), strict=True):
        if name != "users":
            assert column.dtype == wanted.dtype
            assert column.tolist() == wanted.tolist(), name
    for one in deltas:
        assert found.names[item_key(one.tenant, one.item_id)] == user_key(one.tenant, one.item_id).encode()
        if country_code(one.country):
            assert found.names[country_code(one.country)] == one.country.encode()
    return found


def test_plain_and_strange_records_are_read_as_one_by_one() -> None:
    deltas = [PLAIN, *STRANGE, *shopping(2)]
    keys = [user_key(one.tenant, one.user_id) for one in deltas]
    found = assert_read(keys, [encode(one) for one in deltas])
    assert {why.reason for _, why in found.refused} == {"bad_id", "bad_value"}
    assert len(found.refused) == 10
    confluent = [b"\0\0\0\0\4" + encode(one)[10:] for one in deltas]
    assert len(assert_read(keys, confluent).steps.users) == len(found.steps.users)


def test_no_records_are_no_columns() -> None:
    assert len(assert_read([], []).steps.users) == 0


@pytest.mark.parametrize(
    "key", ["default/u2", "default/u11", "default/u", "acme/u1", "default/", "u1", "", "default/ü"]
)
def test_a_key_that_is_not_the_records_is_refused(key: str) -> None:
    assert_read([key, "default/u1"], [encode(PLAIN)] * 2)
    assert len(read_sessions(CODEC, [key], [encode(PLAIN)]).refused) == 1


def test_what_only_looks_plain_is_not_taken_for_it() -> None:
    raw = PLAIN._replace(user_id="{u}")
    whole = encode(PLAIN._replace(event_type="view", item_id="i1"))
    two_bytes = whole.replace(b"\x04i1\x02", b"\x04i1\x82\x00")  # an enum's index is one byte
    assert len(two_bytes) == len(whole) + 1
    long = whole.replace(b"\x04i1\x02", b"\x84\x00i1\x02")  # a length may take more bytes than it must
    found = assert_read(["default/{u}", *["default/u1"] * 2], [encode(raw), two_bytes, long])
    assert [place for place, _ in found.refused] == [0, 1]


def test_cut_and_damaged_records_are_read_or_refused_as_one_by_one() -> None:
    rng = random.Random(3)
    payloads = []
    for one in (PLAIN, *STRANGE):
        whole = encode(one)
        payloads += [whole[:size] for size in range(len(whole))] if one is PLAIN else []
        payloads += [whole + b"\0", whole[:10] + b"\x80" + whole[10:]]
        for _ in range(200):
            damaged = bytearray(whole)
            for _ in range(rng.choice((1, 1, 2, 5))):
                damaged[rng.randrange(10, len(damaged))] = rng.choice(
                    (0, 1, 2, 127, 128, 255, rng.randrange(256))
                )
            payloads.append(bytes(damaged))
    found = assert_read(["default/u1"] * len(payloads), payloads)
    assert 1_000 < len(found.refused) < len(payloads) - 500


@pytest.mark.parametrize("seed", range(6))
def test_baskets_and_contributions_of_a_batch_are_those_of_its_records_one_by_one(seed: int) -> None:
    deltas = shopping(seed, events=120 if seed % 2 else 14, items=60 if seed % 3 else 200)
    deltas += deltas[-9:]  # that come again
    known: dict[str, bytes | None] = {}
    fast: dict[str, bytes | None] = {}
    bought = 0
    for start in range(0, len(deltas), 37):
        some = deltas[start : start + 37]
        wanted, counted = [], []
        for delta in some:
            before = known.get(delta.user_id)
            done = step(None if before is None else Basket.decode(before), delta, 100)
            known[delta.user_id] = None if done.basket is None else done.basket.encode()
            wanted += [packed for _, packed in done.contributions]
            counted.append(bool(done.contributions))
        users = list(dict.fromkeys(delta.user_id for delta in some))
        made = apply_steps([fast.get(user) for user in users], columns_of(some), 100)
        fast.update(zip(users, made.baskets, strict=True))
        assert made.counted.tolist() == counted
        assert sorted(one.tobytes() for one in made.contributions) == sorted(wanted)
        bought += int(((made.contributions["other"] != 0) & (made.contributions["bought"] > 0)).sum())
        assert fast == known
    assert bought > 100


def test_a_basket_of_another_format_is_refused() -> None:
    assert PLAIN.tenant == DEFAULT_TENANT
    with pytest.raises(ValueError, match="wanted format 1, got 9"):
        apply_steps([b"\x09" + bytes(39)], columns_of([PLAIN]), 100)

"""Input that no one should send: each record gets its dead letter, and the others their due."""

from __future__ import annotations

import fastavro.schema
import pytest

from schemas.codec import encode
from schemas.records import Control, Event, EventItem, Item
from tests.stack.deployment import until
from tests.stack.running_shop import EVENTS, RunningShop

pytestmark = pytest.mark.stack
DEAD_LETTERS, CONTROL = "recs.dead-letters.v1", "recs.control.v1"
KEY = "default/poisoner"
RECURSIVE = {
    "type": "record",
    "name": "Node",
    "fields": [{"name": "next", "type": ["null", "Node"]}],
}


def poison(good: Event) -> dict[str, tuple[bytes | None, bytes | None, str]]:
    """Name → key, value and the reason it must be refused for."""
    key, value = KEY.encode(), encode(good)
    canonical = fastavro.schema.to_parsing_canonical_form(fastavro.parse_schema(RECURSIVE))
    recursive = bytes.fromhex(fastavro.schema.fingerprint(canonical, "CRC-64-AVRO"))
    item = Item("i", "default", "t", "c", None, 1.0, True, False, {}, 1)
    return {
        "wrong magic": (key, b"\x7b" + value, "wrong_magic"),
        "JSON": (key, b'{"event_id": "1"}', "wrong_magic"),
        "unknown fingerprint": (key, b"\xc3\x01" + bytes(range(8)) + value[10:], "unknown_schema"),
        "fingerprint of a recursive schema": (key, b"\xc3\x01" + recursive + b"\x02" * 500, "unknown_schema"),
        "unknown Confluent id": (key, b"\x00\x00\x00\x7f\x7f" + value[10:], "unknown_schema"),
        "half a header": (key, value[:7], "unknown_schema"),
        "truncated": (key, value[:-3], "undecodable"),
        "array bomb": (key, _array_bomb(good), "undecodable"),
        "10 MB": (key, encode(good._replace(query="x" * 10_000_000)), "too_large"),
        "a record of another kind": (key, encode(item), "unknown_schema"),
        "the body of another kind": (key, value[:10] + encode(item)[10:], "undecodable"),
        "another user's key": (b"default/somebody", value, "key_mismatch"),
        "no key": (None, value, "missing_key"),
        "a key that is not UTF-8": (b"default/\xff\xfe", value, "key_mismatch"),
        "a key with NUL": (b"default/\x00poisoner", value, "key_mismatch"),
        "a key of the mark for such keys": (b"\x0164656661756C74", value, "key_mismatch"),
        "an overlong slash in the key": (b"default\xc0\xafpoisoner", value, "key_mismatch"),
        "no value": (key, None, "empty"),
        "an empty value": (key, b"", "empty"),
        "trailing bytes": (key, value + b"\x00", "trailing_bytes"),
        "not a number": (key, encode(good._replace(value=float("nan"))), "bad_value"),
        "a control character": (key, encode(good._replace(event_id="a\nb")), "bad_id"),
        "no item": (key, encode(good._replace(item_id=None)), "missing_field"),
        "before time began": (key, encode(good._replace(event_time=-5)), "bad_value"),
    }


def _array_bomb(good: Event) -> bytes:
    """Ten million items announced in a few bytes, and none there."""
    none = encode(good._replace(items=()))
    one = encode(good._replace(items=(EventItem("i", 1),)))
    place = next(place for place, (left, right) in enumerate(zip(none, one, strict=False)) if left != right)
    count, varint = 2 * 10_000_000, b""
    while count > 0x7F:
        varint += bytes([count & 0x7F | 0x80])
        count >>= 7
    return none[:place] + varint + bytes([count])


def test_every_bad_event_gets_a_dead_letter_and_every_good_one_between_is_applied(shop: RunningShop) -> None:
    items = shop.known_items(30)
    records: list[tuple[bytes | None, bytes | None]] = []
    wanted: list[tuple[str, bytes]] = []
    for number, (key, value, reason) in enumerate(poison(shop.event("view", "poisoner", items[0])).values()):
        good = shop.event("click", "poisoner", items[number])
        records += [(KEY.encode(), encode(good)), (key, value)]
        wanted.append((reason, value or b""))
    day_ms = 86_400_000
    late = shop.now_ms
    for odd in (
        shop.event("view", "poisoner", items[1], event_time=late + 30 * day_ms),
        shop.event("view", "poisoner", items[2], event_time=late - 30 * day_ms),
        shop.event("view", "poisoner", "never heard of"),
        shop.event("unknown", "poisoner"),
        shop.event("unknown", "poisoner", event_id="twice"),
        shop.event("unknown", "poisoner", event_id="twice"),
        shop.event("view", "no-one", items[0], consent="none"),
        shop.event("view", "no-one", items[0], consent="essential"),
        shop.event("click", "\N{DELIVERY TRUCK} caf\u00e9", items[3]),
    ):
        records.append((f"default/{odd.user_id}".encode(), encode(odd)))
    before = len(shop.plain.refused)
    shop.deployment.produce_raw(EVENTS, records, shop.now_ms)
    shop.catch_up()

    refused = shop.plain.refused[before:]
    assert sorted((refused.reason, row.value or b"") for row, refused in refused) == sorted(wanted)
    places = {(row.partition, row.offset): (row, refused) for row, refused in refused}
    letters = {}

    def all_there() -> bool:
        for letter in shop.deployment.records(DEAD_LETTERS, "DeadLetter"):
            if letter.topic == EVENTS and (letter.partition, letter.offset) in places:
                letters[letter.partition, letter.offset] = letter
        return set(letters) == set(places)

    until(all_there, 60, lambda: f"{len(places)} dead letters, there are {len(letters)}", 0.5)
    for place, (row, refusal) in places.items():
        letter = letters[place]
        assert (letter.reason, letter.detail) == (refusal.reason, refusal.detail)
        assert letter.value == (row.value or b"")
        assert letter.key == (row.key or b"")
        assert (letter.timestamp, letter.job) == (row.timestamp, "recommend")

    counts = shop.check_counts()
    assert {"clamped_future", "clamped_ancient", "unknown_item", "unknown_type"} <= set(counts)
    outcomes = ("accepted", "duplicate", "unknown_type", "no_consent", "essential_only")
    of_refused = sum(count for name, count in counts.items() if name.startswith("refused_"))
    assert counts["events"] == sum(counts[name] for name in outcomes) + of_refused
    assert shop.deployment.state_of_job() == "RUNNING"
    shop.check_lists([KEY, "default/\N{DELIVERY TRUCK} caf\u00e9"])
    shop.check_states()


def test_a_bad_order_gets_one_dead_letter_whatever_the_number_of_shards(shop: RunningShop) -> None:
    order = Control("bad-1", "activate_epoch", None, None, None, None, 1, "")
    elsewhere = order._replace(kind="erase_user", tenant="default", user_id="somebody")
    bad = [
        (b"*republish", b"no record at all"),
        (b"*activate_epoch", encode(order)),
        (b"*activate_epoch", encode(order._replace(epoch=99))),
        (b"*unknown", encode(order._replace(kind="unknown"))),
        (b"default/poisoner", encode(elsewhere)),
        (
            b"default/somebody",
            encode(elsewhere._replace(kind="set_consent", consent=None)),
        ),
        (b"*republish", None),
    ]
    before = shop.deployment.ends(CONTROL)
    counts = shop.deployment.counts()
    shop.deployment.produce_raw(CONTROL, bad, shop.now_ms)

    def letters() -> list[tuple[int, str]]:
        return sorted(
            (letter.offset - before, letter.reason)
            for letter in shop.deployment.records(DEAD_LETTERS, "DeadLetter")
            if letter.topic == CONTROL and letter.offset >= before
        )

    wanted = [
        (0, "wrong_magic"),
        (1, "bad_control"),
        (2, "no_bundle"),
        (3, "bad_control"),
        (4, "key_mismatch"),
        (5, "bad_control"),
        (6, "empty"),
    ]
    until(lambda: len(letters()) >= len(wanted), 60, lambda: f"{len(wanted)} letters, there are {letters()}")
    # Whoever refuses it as well does so in the same batch or the next.
    shop.deployment.produce([shop.event("search", "poisoner")])
    shop.catch_up()
    assert letters() == wanted
    until(
        lambda: (
            sum(
                count - counts.get(name, 0)
                for name, count in shop.deployment.counts().items()
                if name.startswith("control_refused_")
            )
            == len(wanted)
        ),
        20,
        lambda: f"{len(wanted)} refused orders in the counts: {shop.deployment.counts()}",
    )
    shop.check_lists([KEY])

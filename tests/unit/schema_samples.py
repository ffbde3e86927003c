"""One record of each type, with every optional field set. tests/fixtures/schemas/v1 holds their bytes."""

from schemas.records import (
    Control,
    Credit,
    DeadLetter,
    Event,
    EventItem,
    Example,
    ExampleItem,
    Item,
    ModelPointer,
    ServedItem,
    ServedList,
    SessionDelta,
)

T = 1_763_700_000_000

FULL_EVENT = Event(
    event_id="0199-e1",
    event_type="impression",
    tenant="acme",
    user_id="u/ä{1}",
    session_id="s-1",
    item_id="item-1",
    event_time=T,
    received_time=T + 250,
    rec_id="rec-1",
    items=(EventItem("item-1", 0), EventItem("item-2", None)),
    value=12.5,
    query="grüne Schuhe",
    context={"device": "mobile", "country": "CH"},
    consent="personalization",
)
VIEW = Event(
    event_id="0193-4e5f-7f00-aaaa-bbbbccccdddd-1234",
    event_type="view",
    tenant="default",
    user_id="user-123456",
    session_id="sess-1234",
    item_id="item-12345",
    event_time=T,
    received_time=T + 100,
    rec_id=None,
    items=(),
    value=None,
    query=None,
    context={"device": "mobile", "country": "CH", "page": "product"},
    consent="personalization",
)

SAMPLES = {
    "Event": FULL_EVENT,
    "Item": Item("item-1", "acme", "Boots", "shoes", "Alp", 99.5, True, False, {"colour": "red"}, T),
    "ServedList": ServedList(
        "rec-1",
        "acme",
        "u1",
        "000000000000000000ff000000000001",
        T,
        T + 90,
        3,
        "2026-11-21a",
        "b",
        17,
        (ServedItem("item-1", 0.75, "ranker", 0.9), ServedItem("item-2", -0.5, "popular", 0.025)),
        b"\x01\x02state",
    ),
    "SessionDelta": SessionDelta(
        "acme", "u1", 2, T - 60_000, 3, "item-1", "add_to_cart", T, bytes(range(16)), 7, 1_000_000, 0
    ),
    "DeadLetter": DeadLetter(
        "recs.events.v1", 7, 12, T, b"acme/u1", b"\xff\x00", "wrong_magic", "got ff00", "recommend"
    ),
    "Control": Control("c-1", "set_consent", "acme", "u1", 4, "essential", T, "asked by the user"),
    "Credit": Credit("acme", "u1", "rec-1", "ranker", 1.0, T, "cr-1"),
    "Example": Example(
        "rec-1",
        "acme",
        "u1",
        "000000000000000000ff000000000001",
        T,
        T + 5_000,
        T + 90_000_000,
        3,
        "2026-11-21a",
        "search=b",
        17,
        (
            ExampleItem("item-1", 0, 2, "ranker", 0.75, 0.9, "purchase", 1.0, True, False, True, 12.5, 99.5),
            ExampleItem("item-2", 1, 3, "popular", -0.5, 0.025, "none", 0.0, False, False, False, 0.0, 0.0),
        ),
        b"\x01\x02state",
    ),
    "ModelPointer": ModelPointer("2026-11-21a", 3, "models/3", "ab" * 32, T, "activate"),
}

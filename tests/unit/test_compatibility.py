"""Today's schemas read every released one, and the check that says so can say no."""

import copy

import pytest

from schemas.compatibility import check, check_release
from schemas.definitions import RELEASED, TODAY


def test_today_s_schemas_and_every_release_read_each_other():
    assert check_release() == []


def test_every_schema_was_released():
    newest = RELEASED[max(RELEASED)]
    assert set(newest) == set(TODAY)


def changed(name, change):
    schema = copy.deepcopy(TODAY[name].schema)
    change({field["name"]: field for field in schema["fields"]}, schema["fields"])
    return schema


def troubles(name, change):
    """Of a changed schema as today's against the release, both ways."""
    schema = changed(name, change)
    return check(schema, RELEASED[1][name].schema) + check(RELEASED[1][name].schema, schema)


def test_an_added_field_with_a_default_passes():
    assert troubles("Event", lambda by, all_: all_.append({"name": "x", "type": "long", "default": 0})) == []


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("Event", lambda by, all_: all_.append({"name": "x", "type": "long"}), "Event.x: has no default"),
        ("Event", lambda by, all_: all_.remove(by["user_id"]), "Event.user_id: has no default"),
        ("Event", lambda by, all_: by["user_id"].update(type="long"), "Event.user_id: a reader of long"),
        ("Event", lambda by, all_: by["item_id"].update(type="string"), "Event.item_id"),
        ("Event", lambda by, all_: by["user_id"].update(name="user"), "Event.user: has no default"),
        ("Event", lambda by, all_: by["context"]["type"].update(values="long"), "Event.context.values"),
        (
            "Event",
            lambda by, all_: by["items"]["type"]["items"].update(name="Other"),
            "Other cannot read EventItem",
        ),
        ("Item", lambda by, all_: by["price"].update(type=["null", "string"]), "Item.price"),
        ("SessionDelta", lambda by, all_: by["n"].update(type="long"), "SessionDelta.n: a reader of int"),
    ],
)
def test_a_change_that_breaks_a_reader_is_named(name, change, says):
    assert says in " ".join(troubles(name, change))


def test_a_removed_symbol_passes_only_with_a_default():
    def remove(by, all_):
        by["event_type"]["type"]["symbols"].remove("dwell")

    def remove_without_default(by, all_):
        remove(by, all_)
        del by["event_type"]["type"]["default"]

    assert troubles("Event", remove) == []
    assert "symbols ['dwell']" in " ".join(troubles("Event", remove_without_default))


def test_a_schema_that_is_gone_is_named(monkeypatch):
    monkeypatch.delitem(TODAY, "Credit")
    assert check_release() == ["Credit: was released in 1 and is gone"]

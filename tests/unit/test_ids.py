"""Ids: keys that can be taken apart again, hashes that never change."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.ids import (
    category_hash,
    check_id,
    event_hash,
    item_hash,
    plain_id,
    split_user_key,
    user_key,
)
from schemas.refusal import Refused

names = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("%{}/%2Fa"), min_size=1)


@given(names, names)
def test_a_key_is_taken_apart_into_what_it_was_made_of(tenant, user_id):
    key = user_key(tenant, user_id)
    assert split_user_key(key) == (tenant, user_id)
    assert key.count("/") == 1
    assert "{" not in key


@given(names, names, names, names)
def test_two_users_never_share_a_key(tenant, user_id, other_tenant, other_user_id):
    same = (tenant, user_id) == (other_tenant, other_user_id)
    assert (user_key(tenant, user_id) == user_key(other_tenant, other_user_id)) == same


@pytest.mark.parametrize("key", ["", "u1", "a/b/c", "a/{b}", "a/b%", "a/b%2f", "a/%41"])
def test_a_text_that_is_no_key_is_refused(key):
    with pytest.raises(Refused, match="key_mismatch"):
        split_user_key(key)


@pytest.mark.parametrize("value", ["a", " ", "x" * 128, "ä" * 64, "😀" * 32, "日本", "a\u200bb", "{}/%"])
def test_a_good_id_passes(value):
    check_id("item_id", value)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("", "got 0"),
        ("x" * 129, "got 129"),
        ("ä" * 65, "got 130"),
        ("a\nb", "U+000A at 1"),
        ("\x00", "U+0000"),
        ("a\x7f", "U+007F"),
        ("a\x9f", "U+009F"),
        ("\ud800", "U+D800"),
        ("a\n", "U+000A at 1"),
    ],
)
def test_a_bad_id_is_refused_and_says_why(value, says):
    with pytest.raises(Refused) as caught:
        check_id("item_id", value)
    assert caught.value.reason == "bad_id"
    assert "item_id" in caught.value.detail
    assert says in caught.value.detail


@given(st.text())
def test_the_quick_look_never_passes_what_the_slow_one_refuses(value):
    if plain_id(value) is not None:
        assert 1 <= len(value.encode()) <= 128
        assert value.isprintable()


def test_hashes_are_what_stored_state_and_bundles_hold():
    assert item_hash("item-1") == 12172481486005482930
    assert item_hash("ä") == 6066459093398238388
    assert category_hash("shoes") == 750744329
    assert event_hash("e-1").hex() == "85d9ac2987bc"


def test_hashes_are_never_the_mark_of_an_empty_place(monkeypatch):
    monkeypatch.setattr("schemas.ids.xxh3_64_intdigest", lambda text: 1 << 32)
    assert category_hash("x") == 1
    monkeypatch.setattr("schemas.ids.xxh3_64_intdigest", lambda text: 0)
    assert item_hash("x") == 1

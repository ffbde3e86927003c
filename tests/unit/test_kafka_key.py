"""A Kafka key survives its way through text, and a bad one equals no user's key."""

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

import flink_jobs.kafka_key
from flink_jobs.kafka_key import MARK, key_bytes, key_text
from schemas.ids import user_key


def test_examples_run() -> None:
    assert doctest.testmod(flink_jobs.kafka_key).failed == 0


@given(st.one_of(st.binary(max_size=40), st.text(max_size=20).map(str.encode)))
def test_every_key_comes_back_byte_for_byte(raw: bytes) -> None:
    assert key_bytes(key_text(raw)) == raw


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20))
def test_a_users_key_stays_as_it_is(user_id: str) -> None:
    key = user_key("default", user_id)
    assert key_text(key.encode()) == key


@pytest.mark.parametrize("raw", [b"default/\xff", b"default/a\0b", b"\x01ab", b"\xed\xa0\x80", b"*\xff"])
def test_a_key_that_is_no_plain_text_is_marked_and_all_letters(raw: bytes) -> None:
    text = key_text(raw)
    assert text.startswith(MARK) and text[1:].isalnum() and text.isascii()

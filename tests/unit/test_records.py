"""Names of keys and topics, versions, refusals: the small promises."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.records import MESSAGES
from schemas.redis_keys import (
    format_version,
    item_features_key,
    item_sim_key,
    parse_version,
    stats_key,
    trending_key,
    user_keys,
)
from schemas.refusal import REASONS, Refused
from schemas.topics import DEAD_LETTERS, EVENTS, TOPICS, partition_count, topic_config

versions = st.tuples(
    st.integers(0, (1 << 16) - 1), st.integers(0, (1 << 63) - 1), st.integers(0, (1 << 48) - 1)
)


@given(versions, versions)
def test_a_newer_version_is_greater_as_a_string(first, second):
    assert (format_version(*first) < format_version(*second)) == (first < second)
    assert parse_version(format_version(*first)) == first


@pytest.mark.parametrize("parts", [(1 << 16, 0, 0), (0, 1 << 63, 0), (0, 0, 1 << 48), (-1, 0, 0), (0, -1, 0)])
def test_a_version_that_does_not_fit_its_width_is_an_error(parts):
    with pytest.raises(ValueError, match="version: wanted"):
        format_version(*parts)


def test_a_text_of_another_width_is_no_version():
    with pytest.raises(ValueError, match="32 hexadecimal digits"):
        parse_version("00")


def test_keys_are_named_as_the_contract_says():
    assert user_keys("default", "u1") == (
        "usr:rec:{u1}",
        "usr:rec:meta:{u1}",
        "user_session:{u1}",
        "user_features:{u1}",
    )
    assert user_keys("t/1", "a{b}c", True).session == "t:t%2F1:user_session:{a%7Bb%7Dc}"
    assert user_keys("default", "u1", hash_tags=False).rec == "usr:rec:u1"
    assert item_sim_key("acme", "i1") == "t:acme:item:sim:{i1}"
    assert item_features_key("default", "i1", hash_tags=False) == "item_features:i1"
    assert trending_key("a/b") == "trending:a%2Fb"
    assert stats_key("recommend") == "stats:recommend"


@given(st.text(min_size=1), st.text(min_size=1), st.booleans())
def test_users_of_two_names_share_no_key(user_id, other, hash_tags):
    if user_id != other:
        for tenant in ("default", "acme"):
            assert not set(user_keys(tenant, user_id, hash_tags)) & set(
                user_keys("default", other, hash_tags)
            )


def test_every_topic_carries_a_record_that_exists():
    assert {topic.record for topic in TOPICS} == set(MESSAGES)
    assert len({topic.name for topic in TOPICS}) == len(TOPICS)


def test_topics_take_their_settings():
    config = topic_config(EVENTS, retention_ms=-1, max_future_ms=5)
    assert config["retention.ms"] == "-1"
    assert config["message.timestamp.after.max.ms"] == "5"
    assert config["message.timestamp.type"] == "CreateTime"
    assert "retention.ms" not in EVENTS.config
    configs = {topic.name: topic_config(topic, retention_ms=7, max_future_ms=5) for topic in TOPICS}
    assert "retention.ms" not in configs["recs.items.v1"]
    assert configs["recs.control.v1"]["retention.ms"] != "7"
    assert [name for name, found in configs.items() if "message.timestamp.after.max.ms" in found] == [
        EVENTS.name
    ]
    assert {topic.name: partition_count(topic, 8) for topic in TOPICS} == {
        "recs.events.v1": 8,
        "recs.items.v1": 1,
        "recs.control.v1": 1,
        "recs.credits.v1": 8,
        "recs.sessions.v1": 8,
        "recs.served.v1": 8,
        "recs.dead-letters.v1": 1,
        "recs.models.v1": 1,
        "recs.examples.v1": 8,
        "edge.updates.v1": 8,
        "edge.models.v1": 1,
        "edge.cohorts.v1": 1,
        "recs.weights.v1": 1,
        "recs.posteriors.v1": 1,
    }


def test_a_dead_letter_holds_the_largest_event():
    room = int(DEAD_LETTERS.config["max.message.bytes"]) - int(EVENTS.config["max.message.bytes"])
    assert room >= 1024 * 1024


def test_a_refusal_has_a_known_reason_and_survives_pickling():
    refused = pickle.loads(pickle.dumps(Refused("bad_id", "user_id: empty")))
    assert (refused.reason, refused.detail) == ("bad_id", "user_id: empty")
    assert all(REASONS.values())
    with pytest.raises(KeyError, match=r"not in schemas\.refusal\.REASONS"):
        Refused("mood", "")

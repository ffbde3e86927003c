"""Lists in a real store: newest wins, erased stays erased, and nothing is dropped when it goes down."""

import threading
import time

import pytest
import redis
from store_server import StoreServer

from flink_jobs import list_store
from flink_jobs.list_store import EraseEntry, ListEntry, ListStore, StoreUnavailable, connect
from schemas.records import ListShare, ServedItem, ServedList
from schemas.redis_keys import format_version, stats_key, user_keys
from schemas.stored_list import META_FIELDS

NOW_MS = 1_763_700_000_000
ITEMS = (
    ServedItem("item-1", 0.75, "ranker", 0.9),
    ServedItem("item-2", 0.1 + 0.2, "popular", 0.025),
    ServedItem("item-3", 0.5, "embedding", 1 / 3),  # above its score: explored
)


def served(user_id="u1", offset=1, tenant="default", items=ITEMS, **fields):
    made = ServedList(
        f"rec-{offset}",
        tenant,
        user_id,
        format_version(0, offset, 0),
        NOW_MS - 500,
        0,
        3,
        "m-1",
        "b",
        17,
        items,
        b"s",
    )
    return made._replace(**fields)


def entry(*arguments, session=("i3", "i2"), features=None, **fields):
    return ListEntry(served(*arguments, **fields), session, features or {"n_views": 3, "spend": 1.5})


@pytest.fixture
def store(store_client, store_url):
    return ListStore(connect(store_url), ttl_s=1_000, retry_limit_s=2, clock_ms=lambda: NOW_MS)


def everything(client, tenant="default", user_id="u1", hash_tags=True):
    rec, meta, session, features = user_keys(tenant, user_id, hash_tags)
    return {
        "rec": client.zrevrange(rec, 0, -1, withscores=True),
        "meta": client.hgetall(meta),
        "session": client.lrange(session, 0, -1),
        "features": client.hgetall(features),
    }


def test_a_first_list_is_stored_whole(store, store_client):
    (outcome,) = store.put([entry()])
    assert outcome.state == "kept"
    assert outcome.served == served(served_time=NOW_MS)
    assert everything(store_client) == {
        "rec": [("item-1", 0.75), ("item-3", 0.5), ("item-2", 0.30000000000000004)],
        "meta": {
            "rec_id": "rec-1",
            "_v": format_version(0, 1, 0),
            "_wm": str(NOW_MS - 500),
            "_t": str(NOW_MS),
            "_epoch": "3",
            "_model": "m-1",
            "variant": "b",
            "_mark": "17",
            "propensities": "0.9 0.025 0.3333333333333333",
            "sources": "rpe",
            "order": "021",
        },
        "session": ["i3", "i2"],
        "features": {"n_views": "3", "spend": "1.5", "_v": format_version(0, 1, 0), "_wm": str(NOW_MS - 500)},
    }


def test_every_key_of_a_user_has_the_one_ttl(store, store_client):
    store.put([entry()])
    assert [store_client.ttl(key) for key in user_keys("default", "u1")] == [1_000] * 4
    store_client.expire(user_keys("default", "u1").session, 5)
    store.put([entry(offset=2)])
    assert [store_client.ttl(key) for key in user_keys("default", "u1")] == [1_000] * 4


def test_the_newer_version_replaces_everything(store, store_client):
    store.put([entry()])
    replacement = ListEntry(served(offset=2, items=(ServedItem("x", 1.0, "repeat", 0.5),), variant=""))
    assert store.put([replacement])[0].state == "kept"
    found = everything(store_client)
    assert found["rec"] == [("x", 1.0)]
    assert found["session"] == []
    assert found["features"] == {}
    assert {"variant", "order"} & set(found["meta"]) == set()


def test_an_older_version_changes_nothing(store, store_client):
    store.put([entry(offset=255)])
    before = everything(store_client)
    (outcome,) = store.put([entry(offset=16)])  # "10" in hexadecimal, after "ff" as a number
    assert outcome == ("older", None)
    assert everything(store_client) == before


def test_generation_comes_before_offset(store):
    store.put([entry(offset=9)])
    assert store.put([entry(version=format_version(1, 0, 0))])[0].state == "kept"
    assert store.put([entry(offset=10)])[0].state == "older"


def test_an_equal_version_keeps_and_returns_the_stored_list(store, store_url, store_client):
    store.put([entry()])
    before = everything(store_client)
    later = ListStore(connect(store_url), ttl_s=1_000, clock_ms=lambda: NOW_MS + 9_999)
    other = entry(
        items=(ServedItem("other", 9.0, "ranker", 1.0),), rec_id="other", model_version="m-2", epoch=4
    )
    (outcome,) = later.put([other])
    assert outcome == ("equal", served(served_time=NOW_MS))
    assert everything(store_client) == before


def test_a_list_sent_again_keeps_its_list_policy_and_another_s_is_not_logged_in_its_place(store):
    drawn = {"list_policy": "b", "list_shares": (ListShare("plain", 0.25), ListShare("b", 0.75))}
    probabilities = {"source_probabilities": (0.2,) * 5}
    store.put([entry(**drawn, **probabilities)])
    (again,) = store.put([entry(**drawn, **probabilities)])
    assert again == ("equal", served(**drawn, **probabilities, served_time=NOW_MS))
    (other,) = store.put([entry(**drawn, **probabilities, rec_id="other")])
    assert other == ("equal", served(served_time=NOW_MS)), "neither its policy nor the sources' probabilities"


def test_an_empty_list_is_a_list(store, store_client):
    empty = ListEntry(served(items=(), variant=""))
    assert store.put([empty])[0].state == "kept"
    (again,) = store.put([empty])
    assert again.state == "equal"
    assert again.served.items == ()
    assert everything(store_client)["rec"] == []


def test_a_list_whose_ranking_was_evicted_is_written_again(store, store_client):
    store.put([entry()])
    store_client.delete(user_keys("default", "u1").rec)
    assert store.put([entry()])[0].state == "kept"
    assert len(everything(store_client)["rec"]) == 3


def test_ties_and_any_order_come_back_as_they_were(store):
    items = tuple(
        ServedItem(name, score, "ranker", 0.5)
        for name, score in [
            ("a", 1.0),
            ("ä", 1.0),
            ("b", 1.0),
            ("z", 7.5),
            ("y", -3.0),
            ("\U0001f600", 1.0),
            ("￿", 1.0),
        ]
    )
    store.put([entry(items=items)])
    (outcome,) = store.put([entry(items=items)])
    assert outcome.state == "equal"
    assert outcome.served.items == items


def test_a_tie_comes_back_in_the_list_s_order(store):
    for offset, names in enumerate(("ab", "ba")):
        items = tuple(ServedItem(name, 1.0, "ranker", 0.5) for name in names)
        for state in ("kept", "equal"):
            (outcome,) = store.put([entry(offset=offset, items=items)])
            assert (outcome.state, outcome.served.items) == (state, items)


def test_an_erased_user_leaves_only_a_mark(store, store_client):
    store.put([entry(), entry("u2")])
    assert store.put([EraseEntry("default", "u1", format_version(0, 1, 1))]) == [("erased", None)]
    assert everything(store_client) == {
        "rec": [],
        "meta": {"_v": format_version(0, 1, 1), "_erased": "1"},
        "session": [],
        "features": {},
    }
    assert store_client.ttl(user_keys("default", "u1").meta) == 1_000
    assert len(everything(store_client, user_id="u2")["rec"]) == 3


@pytest.mark.parametrize("version", [format_version(0, 1, 0), format_version(0, 1, 1)])
def test_a_late_replay_does_not_bring_an_erased_user_back(store, store_client, version):
    store.put([EraseEntry("default", "u1", format_version(0, 1, 1))])
    assert store.put([entry(version=version)]) == [("older", None)]
    assert everything(store_client)["rec"] == []


def test_an_erasure_holds_in_either_order_and_twice(store, store_client):
    store.put([entry(offset=5)])
    assert store.put([EraseEntry("default", "u1", format_version(0, 4, 0))])[0].state == "older"
    assert len(everything(store_client)["rec"]) == 3
    assert store.put([EraseEntry("default", "u1", format_version(0, 5, 0))])[0].state == "erased"
    assert store.put([EraseEntry("default", "u1", format_version(0, 5, 0))])[0].state == "older"
    assert store.put([entry(offset=6)])[0].state == "kept"
    assert "_erased" not in everything(store_client)["meta"]


def test_one_batch_may_hold_a_user_twice(store, store_client):
    outcomes = store.put(
        [entry(offset=2), entry(offset=3), entry(offset=1), EraseEntry("default", "u9", "0")]
    )
    assert [outcome.state for outcome in outcomes] == ["kept", "kept", "older", "erased"]
    assert everything(store_client)["meta"]["rec_id"] == "rec-3"


def test_large_batches_go_in_several_calls(store, store_client, monkeypatch):
    monkeypatch.setattr(list_store, "MAX_USERS_PER_CALL", 7)
    small_calls = ListStore(store._client, ttl_s=1_000)
    outcomes = small_calls.put([entry(f"u{number}", offset=number) for number in range(50)])
    assert [outcome.served.user_id for outcome in outcomes] == [f"u{number}" for number in range(50)]
    assert store_client.dbsize() == 200


@pytest.mark.parametrize("hash_tags", [True, False])
@pytest.mark.parametrize(
    ("tenant", "user_id"),
    [
        ("default", "a{b}c"),
        ("t{1}", "}{"),
        ("acme", "ä/ö"),
        ("default", "%7B"),
        ("x/y", "  "),
        ("acme", "日本" * 20),
    ],
)
def test_strange_ids_have_keys_of_their_own_in_one_slot(store_client, store_url, tenant, user_id, hash_tags):
    store = ListStore(connect(store_url), ttl_s=1_000, hash_tags=hash_tags)
    items = (ServedItem(f"{{{user_id}}}", 1.0, "ranker", 1.0),)
    (outcome,) = store.put(
        [entry(user_id, tenant=tenant, items=items, session=(user_id,), features={"ä": user_id})]
    )
    assert outcome.state == "kept"
    found = everything(store_client, tenant, user_id, hash_tags)
    assert found["rec"] == [(items[0].item_id, 1.0)]
    assert found["session"] == [user_id]
    assert found["features"]["ä"] == user_id
    keys = user_keys(tenant, user_id, hash_tags)
    assert sorted(store_client.keys("*")) == sorted(keys)
    if hash_tags:
        slots = {key[key.index("{") + 1 : key.index("}")] for key in keys}
        assert len(slots) == 1
        assert "" not in slots


def test_tenants_do_not_see_each_other(store, store_client):
    store.put([entry(tenant="acme"), entry(offset=2)])
    assert everything(store_client, "acme")["meta"]["rec_id"] == "rec-1"
    assert everything(store_client)["meta"]["rec_id"] == "rec-2"


def test_in_a_cluster_every_user_is_a_call_of_its_own(store_client, store_url):
    client = connect(store_url)
    store = ListStore(client, ttl_s=1_000, cluster=True)
    store.put([entry(f"u{number}") for number in range(3)])
    assert store_client.info("commandstats")["cmdstat_fcall"]["calls"] >= 3
    assert store_client.dbsize() == 12
    with pytest.raises(ValueError, match="hash_tags"):
        ListStore(client, ttl_s=1_000, cluster=True, hash_tags=False)


def test_a_foreign_key_of_another_type_is_replaced_and_stops_nobody(store, store_client):
    for key in user_keys("default", "u1"):
        store_client.set(key, "foreign")
    assert [outcome.state for outcome in store.put([entry(), entry("u2")])] == ["kept", "kept"]
    assert len(everything(store_client)["rec"]) == 3


@pytest.mark.parametrize(
    "items",
    [
        (ServedItem("a", float("nan"), "ranker", 0.5),),
        (ServedItem("a", float("inf"), "ranker", 0.5),),
        (ServedItem("a", 1.0, "ranker", float("nan")),),
        (ServedItem("a", 1.0, "mood", 0.5),),
        (ServedItem("a", 1.0, "ranker", 0.5),) * 2,
        (ServedItem("", 1.0, "ranker", 0.5),),
        tuple(ServedItem(str(number), 1.0, "ranker", 0.5) for number in range(51)),
    ],
)
def test_a_list_that_cannot_be_stored_is_an_error_before_anything_is_sent(store, store_client, items):
    with pytest.raises(ValueError, match="wanted"):
        store.put([entry("u2"), entry(items=items)])
    assert store_client.dbsize() == 0


def test_session_and_long_lists_are_held_to_their_size(store, store_client):
    items = tuple(
        ServedItem("x" * 120 + str(number), number / 7, "neighbours", 1 / 3) for number in range(50)
    )
    store.put([entry(items=items, session=[f"i{number}" for number in range(30)])])
    assert everything(store_client)["session"] == [f"i{number}" for number in range(20)]
    assert store.put([entry(items=items)])[0].served.items == items


def test_an_erasure_that_knows_no_offset_wins_over_older_lists_and_over_no_newer_one(store, store_client):
    store.put([entry(version=format_version(0, 5, 3))])
    erasure = EraseEntry("default", "u1", format_version(0, 0, 7))
    assert store.put([erasure])[0].state == "erased"
    assert everything(store_client)["meta"] == {"_v": format_version(0, 5, 7), "_erased": "1"}
    for late in (entry(version=format_version(0, 5, 3)), entry(version=format_version(0, 4, 6)), erasure):
        assert store.put([late])[0].state == "older"
    assert store.put([entry(version=format_version(0, 6, 7))])[0].state == "kept"
    assert store.put([erasure])[0].state == "older", "as after a failure"
    assert everything(store_client)["meta"]["_v"] == format_version(0, 6, 7)


def test_an_erasure_of_a_new_generation_wins_over_all_lists_of_the_old_one(store, store_client):
    store.put([entry(version=format_version(0, 5, 9))])
    version = format_version(1, 0, 7)
    assert store.put([EraseEntry("default", "u1", version)])[0].state == "erased"
    assert everything(store_client)["meta"]["_v"] == version
    assert store.put([EraseEntry("default", "u1", format_version(0, 0, 99))])[0].state == "older"


def test_counts_are_absolute(store, store_client):
    store.put_counts("recommend", {"/0": 5, "/1": 2})
    store.put_counts("recommend", {"/0": 7})
    store.put_counts("recommend", {})
    assert store_client.hgetall("stats:recommend") == {"0": "7", "1": "2"}


def test_counts_of_two_deployments_on_one_store_stay_apart(store, store_client):
    store.put_counts("recommend", {"/0": 5, "test-/0": 2, "test-/1": 3})
    assert store_client.hgetall(stats_key("recommend")) == {"0": "5"}
    assert store_client.hgetall(stats_key("recommend", "test-")) == {"0": "2", "1": "3"}


# --- when the store is not well ---


def test_an_emptied_store_takes_the_next_batch(store, store_client):
    store.put([entry()])
    store_client.flushall()
    store_client.function_flush("SYNC")
    assert store.put([entry()])[0].state == "kept"
    assert store.retries == 0


@pytest.fixture
def own_server(store_server, tmp_path):
    server = StoreServer(store_server._binary, tmp_path)
    server.start()
    yield server
    server.kill()


def wait_for(holds):
    """Wait until something holds that comes at once, or on a machine with much else to do within a minute or two."""
    began_s = time.monotonic()
    while not holds():
        assert time.monotonic() - began_s < 120
        time.sleep(0.01)


def test_a_store_killed_and_started_again_gets_every_batch(own_server):
    store = ListStore(connect(own_server.url, timeout_s=30), ttl_s=1_000, retry_limit_s=240)
    store.put([entry()])

    def restart():
        own_server.kill()
        wait_for(lambda: store.retries > 0)
        own_server.start()

    restarting = threading.Thread(target=restart)
    restarting.start()
    offset = 2
    while restarting.is_alive():
        assert store.put([entry(offset=offset)])[0].state == "kept"
        offset += 1
    restarting.join()
    assert store.put([entry(offset=offset)])[0].state == "kept"
    with redis.Redis.from_url(own_server.url, decode_responses=True) as client:
        assert everything(client)["meta"]["rec_id"] == f"rec-{offset}"


def test_a_store_that_stays_away_is_an_error_after_the_limit(own_server):
    store = ListStore(connect(own_server.url, timeout_s=30), ttl_s=1_000, retry_limit_s=0.5)
    own_server.kill()
    started = time.monotonic()
    with pytest.raises(StoreUnavailable, match=r"Redis took no batch for 0\.5 s"):
        store.put([entry()])
    assert time.monotonic() - started > 0.2


def test_a_store_busy_with_a_script_is_asked_again(own_server):
    store = ListStore(connect(own_server.url, timeout_s=30), ttl_s=1_000, retry_limit_s=240)
    store.put([entry()])
    with redis.Redis.from_url(own_server.url) as other, redis.Redis.from_url(own_server.url) as third:
        other.config_set("busy-reply-threshold", 50)

        def block():
            with pytest.raises(redis.ResponseError):
                other.eval("while true do end", 0)

        def is_busy():
            try:
                return not third.ping()
            except redis.ResponseError as error:
                return str(error).startswith("BUSY")

        def unblock():
            wait_for(lambda: store.retries > 0)
            third.script_kill()

        blocking = threading.Thread(target=block)
        blocking.start()
        wait_for(is_busy)
        unblocking = threading.Thread(target=unblock)
        unblocking.start()
        assert store.put([entry(offset=2)])[0].state == "kept"
        blocking.join()
        unblocking.join()


class ScriptedClient:
    """Raises what it is given, then answers."""

    def __init__(self, *errors):
        self.errors = list(errors)
        self.calls = 0

    def execute_command(self, *_):
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return [1]


@pytest.mark.parametrize(
    "error",
    [
        redis.exceptions.BusyLoadingError("Redis is loading the dataset in memory"),
        redis.exceptions.ReadOnlyError("You can't write against a read only replica."),
        redis.exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
        redis.exceptions.ResponseError("MASTERDOWN Link with MASTER is down"),
        redis.exceptions.ResponseError("BUSY Redis is busy running a script."),
        redis.exceptions.TimeoutError("Timeout reading from socket"),
    ],
)
def test_what_passes_is_waited_for_with_growing_pauses(error):
    client, pauses = ScriptedClient(*[error] * 8), []
    now_s = [0.0]

    def sleep(pause_s):
        pauses.append(pause_s)
        now_s[0] += pause_s

    store = ListStore(client, ttl_s=10, retry_limit_s=60, monotonic_s=lambda: now_s[0], sleep=sleep)
    assert store.put([entry()])[0].state == "kept"
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


@pytest.mark.parametrize(
    "error",
    [
        redis.exceptions.ResponseError("WRONGTYPE Operation against a key"),
        redis.exceptions.NoPermissionError("no permissions to run the 'fcall' command"),
        redis.exceptions.AuthenticationError("invalid username-password pair"),
    ],
)
def test_what_does_not_pass_is_raised_at_once(error):
    client = ScriptedClient(error)
    with pytest.raises(type(error)):
        ListStore(client, ttl_s=10).put([entry()])
    assert client.calls == 1


def test_the_function_returns_the_fields_that_the_reader_of_replies_expects():
    code = (list_store.resources.files("flink_jobs") / "lists.lua").read_text()
    listed = code.split("META_FIELDS = {")[1].split("}")[0]
    assert tuple(part.strip(" '") for part in listed.split(",")) == META_FIELDS
    assert f"'{list_store.FUNCTION}'" in code

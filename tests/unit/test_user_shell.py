"""The operator around the users' logic: which rows leave it, and with which version."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clients.producer import new_event
from flink_jobs.output_rows import COUNTS, DEAD_LETTER, ERASE, RANK, decode_variant
from flink_jobs.settings import load
from flink_jobs.shard_record import ShardRecord
from schemas.codec import decode, encode
from schemas.records import Control, DeadLetter
from schemas.redis_keys import format_version, parse_version
from tests.bundles import make_bundle
from tests.shell_in_memory import CONTROL, EVENTS, ShellInMemory, of_kind, user_shell
from udfs.experiments.experiment import BUCKETS, Experiment, Variant
from udfs.experiments.running import RunningExperiments
from udfs.user_state import UserState

T0 = 1_760_000_000_000


@pytest.fixture
def shell(tmp_path: Path) -> ShellInMemory:
    make_bundle(tmp_path / "7", epoch=7)
    made = ShellInMemory(
        load(
            environment={},
            job={"shards": 1},
            model={"root": tmp_path},
            kafka={"topic_prefix": "test-"},
        )
    )
    made.run([order(0, "activate_epoch", epoch=7)])
    return made


def order(
    offset: int, kind: str, user_id: str | None = None, epoch: int | None = None, consent: str | None = None
) -> tuple[str, str, bytes, int]:
    tenant, key = (None, f"*{kind}") if user_id is None else ("default", f"default/{user_id}")
    control = Control(f"c{offset}", kind, tenant, user_id, epoch, consent, T0, "")
    return CONTROL, key, encode(control), offset


def click(
    offset: int, user_id: str = "u1", key: str | None = None, at_ms: int | None = None
) -> tuple[str, str, bytes, int]:
    at_ms = T0 + 1_000 * offset if at_ms is None else at_ms
    event = new_event(
        "click", user_id, "item-1", event_id=f"e{offset}", event_time=at_ms, consent="personalization"
    )
    value = encode(event._replace(received_time=at_ms))
    return EVENTS, f"default/{user_id}" if key is None else key, value, offset


@pytest.mark.parametrize(("kind", "consent"), [("erase_user", None), ("set_consent", "essential")])
def test_lists_after_the_erasure_of_a_user_without_state_are_newer_than_it_and_those_before_are_not(
    shell: ShellInMemory, kind: str, consent: str | None
) -> None:
    (before,) = of_kind(shell.run([click(500, "other")]), RANK)
    (erased,) = of_kind(shell.run([order(40, kind, "u1", consent=consent)]), ERASE)
    assert erased[3] == format_version(0, 0, 41)
    (after,) = of_kind(shell.run([click(20)]), RANK)
    assert parse_version(before[3]).control_seq < 41 <= parse_version(after[3]).control_seq


def test_the_erasure_of_a_known_user_goes_by_the_offset_and_changes_no_other_version(
    shell: ShellInMemory,
) -> None:
    (first,) = of_kind(shell.run([click(500)]), RANK)
    (erased,) = of_kind(shell.run([order(40, "erase_user", "u1")]), ERASE)
    assert erased[3] == format_version(0, 500, 41) > first[3]
    (other,) = of_kind(shell.run([click(7, "other")]), RANK)
    assert other[3] == format_version(0, 7, 1)


def test_counts_are_those_of_the_deployment_and_shard(shell: ShellInMemory) -> None:
    shell.run([click(1), click(2)])
    (counts,) = shell.shell._publish_counts(shell.shell._shards[shell.get_current_key()], now_ms=T0)
    assert (counts[0], counts[1]) == (COUNTS, "test-/0")


def test_a_dead_letter_has_the_bytes_of_a_key_that_is_no_text(shell: ShellInMemory) -> None:
    (row,) = of_kind(shell.run([click(1, key="\x0164656661756C742F75C3BF")]), DEAD_LETTER)
    letter = decode("DeadLetter", row[2])
    assert isinstance(letter, DeadLetter)
    assert (letter.reason, letter.key) == ("key_mismatch", b"default/u\xff")
    assert row[1] == "default/u\N{REPLACEMENT CHARACTER}"


def test_an_order_to_another_job_is_no_dead_letter(shell: ShellInMemory) -> None:
    assert of_kind(shell.run([order(9, "begin_budget_epoch", epoch=2)]), DEAD_LETTER) == []


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the shell's clock shows, in its only element."""
    shown = [T0]
    monkeypatch.setattr(user_shell, "wall_clock_ms", lambda: shown[0])
    return shown


def test_a_backlog_in_front_of_the_window_stretches_the_ranking_interval(
    shell: ShellInMemory, clock: list[int]
) -> None:
    """Each batch is on time behind the window, and its events are ever later."""
    ranked = []
    for number in range(200):
        clock[0] = T0 + 100 * number
        late_ms = 30 * number
        rows = shell.run([click(number, at_ms=clock[0] - late_ms)], window_end_ms=clock[0])
        ranked.append(len(of_kind(rows, RANK)))
    assert sum(ranked[:15]) == 15, "without a backlog every click is ranked at once"
    assert sum(ranked[100:]) <= 4
    assert shell.shell._pace.load_interval_ms == 8_000


def test_a_replay_of_last_years_events_is_ranked_like_live_ones(
    shell: ShellInMemory, clock: list[int]
) -> None:
    for number in range(30):
        clock[0] = T0 + 365 * 86_400_000 + 100 * number
        rows = shell.run([click(number, at_ms=T0 + 100 * number)], window_end_ms=clock[0])
        assert len(of_kind(rows, RANK)) == 1


@pytest.mark.parametrize("size", [1, 3, 7, 40])
def test_under_a_backlog_the_final_list_does_not_depend_on_batch_boundaries(
    shell: ShellInMemory, clock: list[int], size: int
) -> None:
    records = [click(number, f"u{number % 3}", at_ms=T0 - 4_000) for number in range(40)]
    newest: dict[str, tuple[str, bytes]] = {}
    for start in range(0, 40, size):
        clock[0] += 100
        for row in of_kind(shell.run(records[start : start + size], window_end_ms=clock[0]), RANK):
            newest[row[1]] = (row[3], row[2])
    clock[0] += 8_000
    for row in of_kind(shell.tick(clock[0]), RANK):
        newest[row[1]] = (row[3], row[2])
    assert {key: version for key, (version, _) in newest.items()} == {
        f"default/u{number % 3}": format_version(0, number, 1) for number in (37, 38, 39)
    }
    assert {key: UserState.decode(data).n_events for key, (_, data) in newest.items()} == {
        "default/u0": 14, "default/u1": 13, "default/u2": 13
    }  # fmt: skip


def test_an_idle_user_is_forgotten_when_the_wheel_comes_round_and_an_active_one_is_looked_at_later(
    shell: ShellInMemory,
) -> None:
    shell.run([click(1, "idle"), click(2, "active")])
    (first_ms,) = set(shell.event_timers_ms)
    shell.run([click(3, "active", at_ms=first_ms)])
    assert shell.wake(first_ms, first_ms) == []
    assert shell.states["users"].keys() == {"default/active"}
    assert shell.event_timers_ms[-1] > first_ms
    assert list(shell.states["wheel"].values()) == [b"default/active"]
    shell.wake(shell.event_timers_ms[-1], shell.event_timers_ms[-1])
    assert not shell.states["users"] and not shell.states["wheel"]


SPREAD = Experiment(
    "spread", "list", 0, BUCKETS, (Variant("a", 1, {}), Variant("b", 1, {"diversity": 0.3, "epoch": 7}))
)


def experiments(offset: int, text: str) -> tuple[str, str, bytes, int]:
    control = Control(f"c{offset}", "set_experiments", None, None, None, None, T0, "", text)
    return CONTROL, "*set_experiments", encode(control), offset


def test_each_ranking_names_its_users_variant_from_the_order_on_until_the_next(shell: ShellInMemory) -> None:
    (before,) = of_kind(shell.run([click(1)]), RANK)
    assert before[6] == ""
    running = RunningExperiments((SPREAD,))
    assert not of_kind(shell.run([experiments(1, running.to_json())]), DEAD_LETTER)
    users = [f"user-{number}" for number in range(40)]
    rows = of_kind(shell.run([click(10 + n, user) for n, user in enumerate(users)]), RANK)
    found = {row[1]: decode_variant(row[6]) for row in rows}
    assert found == {f"default/{user}": running.of_user(f"default/{user}") for user in users}
    assert {label for label, _ in found.values()} == {"spread=a", "spread=b"}
    assert {row[5] for row in rows} == {7}
    promoted = running.stop("spread", "b").to_json()
    (after,) = of_kind(shell.run([experiments(2, promoted), click(100, "other")]), RANK)
    assert decode_variant(after[6]) == ("", {"diversity": 0.3, "epoch": 7})


def test_experiments_survive_a_restart_with_the_shard(shell: ShellInMemory) -> None:
    shell.run([experiments(1, RunningExperiments((SPREAD,)).to_json())])
    record = ShardRecord.decode(shell.states["shard"].value(), 0, 1)
    assert record.running.experiments == (SPREAD,)
    first = json.dumps([1, *json.loads(record.encode())[1:-1]]).encode()
    assert ShardRecord.decode(first, 0, 1).running == RunningExperiments(), "a record of the release before"


@pytest.mark.parametrize(
    "text",
    ["{}", "[]", '{"running":[{}],"promoted":{}}', '{"running":[],"promoted":{"heat":1}}', "x" * 70_000,
     '{"running":[],"promoted":{"epoch":8}}'],
)  # fmt: skip
def test_experiments_that_cannot_run_go_to_the_dead_letters_and_change_nothing(
    shell: ShellInMemory, text: str
) -> None:
    good = RunningExperiments((SPREAD,)).to_json()
    shell.run([experiments(1, good)])
    control = Control("c", "set_experiments", None, None, None, None, T0, "", text)
    (letter,) = of_kind(shell.run([(CONTROL, "*set_experiments", encode(control), 2)]), DEAD_LETTER)
    found = decode("DeadLetter", letter[2])
    assert isinstance(found, DeadLetter)
    assert found.reason == ("no_bundle" if "8" in text else "bad_control")
    assert ShardRecord.decode(shell.states["shard"].value(), 0, 1).experiments == good

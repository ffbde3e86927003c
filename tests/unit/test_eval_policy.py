"""Values of policies on the product's own examples: a log whose truth is known, and the command around it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from model_export.protocols.logged_lists import logged_lists
from model_export.protocols.logged_slots import LoggedSlots, logged_slots
from model_export.protocols.policy_report import judge
from model_export.protocols.policy_value import ESTIMATORS, by_user
from model_export.protocols.slot_policies import NAMES, candidate_probabilities
from schemas.records import Example, ExampleItem, ListShare
from tailrace import example_log
from tailrace.cli import app
from tailrace.errors import UserError
from udfs.bandit import PRIOR_ALPHA, PRIOR_BETA, arm_probabilities, credit_arm
from udfs.user_state import EMPTY, SOURCES

FLOOR = 0.05
RATES = np.array([0.05, 0.10, 0.02, 0.30, 0.08])
"""What a slot of each arm earns; `repeat` is the best, and the log seldom draws it."""
SLOTS, T0, MINUTE = 4, 1_700_000_000_000, 60_000


def log(
    lists: int = 1_500, seed: int = 0, users: int = 300, shared: float = 0.3, logged: bool = False
) -> list[Example]:
    """Lists drawn as the job draws them; at some slots two arms would have put the same item there.

    With `logged` the probabilities are half those of all users, which the user's own credits do not tell.
    """
    rng = np.random.default_rng(seed)
    examples = []
    for number in range(lists):
        user = int(rng.integers(users))
        alpha, beta = b"", b""
        for _ in range(user % 5):  # users whose arms differ
            alpha, beta = credit_arm(alpha, beta, user % len(SOURCES), float(user % 2))
        state = EMPTY._replace(
            arm_alpha=alpha, arm_beta=beta, n_events=user % 40, shards=4, first_ms=1, last_ms=1
        )
        own = zip((alpha, beta), (PRIOR_ALPHA, PRIOR_BETA), strict=True)
        plays = arm_probabilities(
            *(np.frombuffer(one, "<f4") if one else np.array(p) for one, p in own), FLOOR
        )
        if logged:
            plays = (plays + np.array([0.2, 0.1, 0.3, 0.25, 0.15])) / 2
        items = []
        for slot in range(SLOTS):
            arm = int(rng.choice(5, p=plays))
            same = {arm}
            if rng.random() < shared:  # which arms agree is no matter of which is drawn
                pair = set(rng.permutation(5)[:2].tolist())
                same |= pair if arm in pair else set()
            reward = float(rng.random() < RATES[arm])
            items.append(
                ExampleItem(f"i{arm}", slot, slot, SOURCES[arm], 1.0, round(float(plays[list(same)].sum()), 9),
                            "click" if reward else "none", reward, bool(reward), False, False, 0.0, 2.0 * reward)
            )  # fmt: skip
        at_ms = T0 + number * MINUTE
        examples.append(
            Example(f"r{number}", "default", f"u{user}", "v", at_ms, at_ms, at_ms + 30 * MINUTE, 1, "m", "", 1,
                    tuple(items), state.encode(), tuple(plays.tolist()) if logged else ())
        )  # fmt: skip
    return examples


def test_probabilities_that_were_logged_are_taken_and_not_those_of_the_users_own_credits() -> None:
    examples = log(400, logged=True)
    found = logged_slots(examples, "reward", FLOOR)
    assert found.explained.all()
    by_time = sorted(examples, key=lambda one: (one.list_time, one.rec_id))
    assert [tuple(row) for row in found.plays.tolist()] == [one.source_probabilities for one in by_time]
    without = logged_slots([one._replace(source_probabilities=()) for one in examples], "reward", FLOOR)
    assert without.explained.mean() < 0.5


def with_new_items(examples: list[Example], share: float, every: int = 3) -> list[Example]:
    """Give lists a slot for a new item, as `udfs.ranking.new_items` does; users of odd numbers have none left."""
    rng, made = np.random.default_rng(9), []
    for one in examples:
        if int(one.user_id[1:]) % 2:
            made.append(one)
            continue
        at = int(rng.integers(SLOTS + every))
        items = []
        for item in one.items:
            left = 1.0 if item.slot > at else 1.0 - share
            new = {"source": "new", "propensity": share / 7} if item.slot == at else {}
            items.append(item._replace(**{"propensity": round(left * item.propensity, 9), **new}))  # type: ignore[arg-type]
        made.append(one._replace(items=tuple(items)))
    return made


def test_slots_beside_a_share_for_new_items_are_told_to_the_source_and_the_share_is_divided_out() -> None:
    plain = log(800, logged=True)
    mixed = with_new_items(plain, 0.1)
    found = logged_slots(mixed, "reward", FLOOR, 0.1)
    assert found.explained.all() and found.skipped == 0 and len(found.users) == 800
    new = {(one.rec_id, item.slot) for one in mixed for item in one.items if item.source == "new"}
    assert len(new) > 100
    wanted = logged_slots(
        [
            one._replace(items=[item for item in one.items if (one.rec_id, item.slot) not in new])
            for one in plain
        ],
        "reward",
        FLOOR,
    )
    np.testing.assert_allclose(found.propensities, wanted.propensities, atol=2e-9)
    np.testing.assert_array_equal(found.covers, wanted.covers)
    np.testing.assert_array_equal(found.rewards, wanted.rewards)
    untold = logged_slots(mixed, "reward", FLOOR)
    assert untold.explained.mean() < 0.9
    assert any(
        "new_item_share" in text for text in judge(untold, "repeat", "reward", "all", 0).value.warnings
    )


@pytest.fixture(scope="module")
def logged() -> LoggedSlots:
    return logged_slots(log(6_000, shared=0.0), "reward", FLOOR)


@pytest.mark.parametrize("candidate", ["uniform", "repeat", "ranker", "logged"])
def test_every_estimator_comes_near_the_truth(logged: LoggedSlots, candidate: str) -> None:
    report = judge(logged, candidate, "reward", "all", seed=0)
    probabilities = candidate_probabilities(candidate, logged)
    truth = float((probabilities @ RATES)[logged.lists].mean())
    for name in ("ips", "snips", "dr"):
        found = getattr(report.value, name)
        assert abs(found.value - truth) < 3.5 * found.error + 1e-9, name
    assert not [text for text in report.value.warnings if "propensit" in text]


def test_the_better_candidate_is_told_from_the_log_of_another(logged: LoggedSlots) -> None:
    report = judge(logged, "repeat", "reward", "all", seed=0)
    assert report.earned.high < min(report.value.ips.low, report.value.snips.low, report.value.dr.low)


def test_a_policy_that_learns_finds_the_best_source_from_others_lists(logged: LoggedSlots) -> None:
    for candidate in ("thompson-beta:floor=0.02", "ucb1:width=0.3,floor=0.02", "epsilon-greedy:floor=0.02"):
        shares = candidate_probabilities(candidate, logged)
        assert shares[-500:].mean(axis=0).argmax() == SOURCES.index("repeat"), candidate
        assert shares[0] == pytest.approx([0.2] * 5, abs=0.01), "at first it knows nothing"
    assert judge(logged, "ucb1:width=0.3,floor=0.02", "reward", "all", 0).value.snips.value > 0.15


def test_nothing_is_learnt_from_a_list_before_it_is_settled() -> None:
    examples = log(40)
    late = [one._replace(settled_time=T0 + 10**12) for one in examples]
    shares = candidate_probabilities("ucb1", logged_slots(late, "reward", FLOOR))
    assert np.abs(shares - 0.2).max() < 1e-9
    early = candidate_probabilities("ucb1", logged_slots(examples, "reward", FLOOR))
    assert np.abs(early[:30] - 0.2).max() < 1e-9 < np.abs(early[35:] - 0.2).max()


def test_arms_that_agree_on_an_item_share_its_propensity() -> None:
    found = logged_slots(log(400, shared=1.0), "reward", FLOOR)
    assert found.explained.all()
    together = (found.plays[found.lists] * found.covers).sum(axis=1)
    assert np.abs(together - found.propensities).max() < 1e-8
    assert (found.covers.sum(axis=1) > 1.5).any()


def test_the_logged_policy_is_worth_what_it_earned_to_the_digit(logged: LoggedSlots) -> None:
    report = judge(logged, "logged", "reward", "all", seed=0)
    assert report.value.ips.value == pytest.approx(report.earned.value, rel=1e-6)
    assert report.value.effective == pytest.approx(report.slots, rel=1e-6)


def test_wrong_propensities_and_little_overlap_are_said() -> None:
    examples = log(600, shared=0.0)
    wrong = [one._replace(items=[item._replace(propensity=0.5) for item in one.items]) for one in examples]
    report = judge(logged_slots(wrong, "reward", FLOOR), "ranker", "reward", "all", 0)
    assert any("do not give" in text for text in report.value.warnings)
    assert any("mean" in text for text in report.value.warnings)
    right = judge(logged_slots(examples, "reward", FLOOR), "repeat", "reward", "all", 0)
    assert any("overlap" in text for text in right.value.warnings)


def test_an_interval_knows_that_lists_of_a_user_are_alike() -> None:
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(50), 40)
    alike = np.repeat(rng.random(50), 40)
    by_lists = by_user(alike, np.ones(2_000), np.arange(2_000), np.random.default_rng(1))
    by_users = by_user(alike, np.ones(2_000), users, np.random.default_rng(1))
    assert by_users.value == pytest.approx(by_lists.value)
    assert by_users.error > 4 * by_lists.error
    assert by_users.high - by_users.low > 4 * (by_lists.high - by_lists.low)


def test_repeats_count_once_and_a_foreign_snapshot_is_left_out() -> None:
    examples = log(50)
    broken = examples[7]._replace(rec_id="broken", snapshot=b"\xff")
    found = logged_slots([*examples, *examples, broken], "click", FLOOR)
    assert (len(found.users), len(found.rewards), found.skipped) == (50, 200, 1)
    assert logged_slots(examples, "revenue", FLOOR).rewards.max() == 2.0


@pytest.mark.parametrize(
    "candidate", ["best", "ucb1:heat=2", "ranker:floor=1", "ucb1:width=x", "thompson-beta:floor=9"]
)
def test_a_candidate_that_does_not_exist_is_refused_by_name(logged: LoggedSlots, candidate: str) -> None:
    with pytest.raises(ValueError, match="candidate"):
        candidate_probabilities(candidate, logged)


@pytest.mark.parametrize("candidate", [*NAMES])
def test_every_candidate_is_judged_by_the_command(tmp_path: Path, candidate: str) -> None:
    file, config = tmp_path / "examples.avro", tmp_path / "tailrace.toml"
    examples = log(60)
    example_log.keep(examples, file)
    assert list(example_log.from_file(file)) == examples
    config.write_text(f"[model]\nexploration_floor = {FLOOR}\n", encoding="utf-8")
    words = ["eval", "policy", candidate, "--data", str(file), "--json", "--config", str(config)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["lists"] == 60 and set(ESTIMATORS) <= set(found)
    if candidate in ("thompson-beta", "ucb1", "epsilon-greedy"):
        assert CliRunner().invoke(app, [*words, "--evidence", "user"]).exit_code == 0


@pytest.mark.parametrize("candidate", ["uniform", "list:plain"])
def test_without_an_example_the_command_says_what_makes_them(tmp_path: Path, candidate: str) -> None:
    example_log.keep([], tmp_path / "none.avro")
    words = ["eval", "policy", candidate, "--data", str(tmp_path / "none.avro")]
    error = CliRunner().invoke(app, words).exception
    assert isinstance(error, UserError) and error.number == "TR-711"
    assert "none.avro holds no example" in error.what and "tailrace submit feedback" in error.fix


def test_a_file_that_is_none_is_an_error_with_its_name(tmp_path: Path) -> None:
    file = tmp_path / "junk.avro"
    file.write_bytes(b"junk")
    done = CliRunner().invoke(app, ["eval", "policy", "logged", "--data", str(file)])
    assert done.exit_code != 0 and "junk.avro" in str(done.exception)


LIST_SHARES = {"plain": 0.7, "spread": 0.2, "loyal": 0.1}
LIST_RATES = {"plain": 0.05, "spread": 0.15, "loyal": 0.02}


def with_list_policies(examples: list[Example]) -> list[Example]:
    """The same lists, each drawn by one of three list policies, of which the seldom drawn one is the best."""
    rng = np.random.default_rng(4)
    names = list(LIST_SHARES)
    made = []
    for example in examples:
        name = names[int(rng.choice(3, p=list(LIST_SHARES.values())))]
        clicked = [bool(rng.random() < LIST_RATES[name]) for _ in example.items]
        items = [
            item._replace(clicked=click, reward=float(click))
            for item, click in zip(example.items, clicked, strict=True)
        ]
        shares = tuple(ListShare(*pair) for pair in LIST_SHARES.items())
        made.append(example._replace(items=tuple(items), list_policy=name, list_shares=shares))
    return made


@pytest.mark.parametrize("name", [*LIST_SHARES, "uniform", "logged"])
def test_a_list_policys_value_comes_near_what_its_lists_earn(name: str) -> None:
    log_, arms = logged_lists(with_list_policies(log(4_000)), "click")
    assert arms == ("loyal", "plain", "spread") and len(log_.rewards) == 4_000
    rates = {one: SLOTS * rate for one, rate in LIST_RATES.items()}
    logged_worth = sum(share * rates[one] for one, share in LIST_SHARES.items())
    truth = rates | {"uniform": sum(rates.values()) / 3, "logged": logged_worth}
    report = judge(log_, name, "click", "all", 0, arms)
    for estimator in ("ips", "snips", "dr"):
        found = getattr(report.value, estimator)
        assert abs(found.value - truth[name]) < 4 * found.error + 1e-9, estimator
    assert not [text for text in report.value.warnings if "propensit" in text]


def test_a_policy_over_list_policies_learns_which_is_best() -> None:
    log_, arms = logged_lists(with_list_policies(log(3_000)), "reward")
    shares = candidate_probabilities("thompson-beta:floor=0.02", log_, "all", arms)
    assert shares[-100:].mean(axis=0).argmax() == arms.index("spread")
    report = judge(log_, "thompson-beta:floor=0.02", "reward", "all", 0, arms)
    assert report.value.snips.value > report.earned.high
    assert log_.rewards.max() == 1.0, "a list earns 1 at most"


def test_the_command_judges_list_policies_and_leaves_lists_without_one_out(tmp_path: Path) -> None:
    file = tmp_path / "examples.avro"
    examples = with_list_policies(log(60))
    example_log.keep(
        [*examples, *(one._replace(rec_id=f"x{one.rec_id}", list_policy="") for one in examples[:9])], file
    )
    words = ["eval", "policy", "list:spread", "--data", str(file), "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["unit"], found["lists"], found["slots"], found["skipped"]) == ("list", 60, 60, 9)
    assert any("model.list_floor" in text for text in found["warnings"])
    for wrong in (["eval", "policy", "list:ranker", "--data", str(file)], [*words, "--evidence", "user"]):
        assert CliRunner().invoke(app, wrong).exit_code != 0
    example_log.keep(log(5), file)
    assert "list policy" in str(CliRunner().invoke(app, words).exception)

"""Off-policy estimates on logs whose truth is known, and the protocol around them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from model_export.protocols.bandit import THOMPSON, evaluate, progressive
from model_export.protocols.bandit_history import HISTORY, run_history
from model_export.protocols.bandit_later import Gains, above
from model_export.protocols.bandit_log import (
    COLUMNS,
    BanditLog,
    BanditLogError,
    mean_probabilities,
    packaged,
    read_bandit_log,
)
from model_export.protocols.bandit_policies import MostClicked, Thompson, ThompsonSettings, Uniform
from model_export.protocols.off_policy import (
    Rounds,
    cross_fitted_rates,
    doubly_robust,
    effective_rounds,
    ips,
    mean_weight,
    on_policy,
    overlap_warnings,
    snips,
    switch_doubly_robust,
)
from tailrace.cli import app
from tailrace.commands.eval.surroundings import data_cache
from tailrace.errors import UserError
from udfs.bandit import PRIOR_ALPHA, PRIOR_BETA, credit_arm

RATES = np.array([0.02, 0.10, 0.30])
LOGGING = np.array([0.6, 0.3, 0.1])
POLICY = np.array([0.1, 0.2, 0.7])
TRUTH = float(POLICY @ RATES)


def synthetic(rounds: int, rng: np.random.Generator) -> Rounds:
    """Rounds of three actions whose rates are known, and a policy that likes the best."""
    actions = rng.choice(3, rounds, p=LOGGING)
    rewards = (rng.random(rounds) < RATES[actions]).astype(np.float64)
    return Rounds(actions.astype(np.int64), rewards, LOGGING[actions], np.tile(POLICY, (rounds, 1)))


def log_of(rows: list[tuple[int, int, int, float]], items: int = 2, positions: int = 1) -> BanditLog:
    """Rounds (item, position, click, propensity), a second apart."""
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    times = np.arange(len(rows)) * 1_000_000_000
    return BanditLog(
        times, columns[0], columns[1], columns[2].astype(float), columns[3].astype(float), items, positions
    )


def test_ips_by_hand() -> None:
    # Weights .5/.25 = 2 and .5/.5 = 1; rewards 1, 0, 1: (2 + 0 + 1) / 3.
    rounds = Rounds(
        np.array([0, 0, 1]), np.array([1.0, 0, 1]), np.array([0.25, 0.25, 0.5]), np.full((3, 2), 0.5)
    )
    rng = np.random.default_rng(0)
    assert ips(rounds, rng).value == pytest.approx(1.0)
    assert snips(rounds, rng).value == pytest.approx(3 / 5)
    assert effective_rounds(rounds.weights()) == pytest.approx(25 / 9)


def test_doubly_robust_by_hand() -> None:
    # The model expects .2 of action 0, .6 of action 1, .4 of the policy: .4 + 2 (1 - .2) and .4 + 1 (0 - .6).
    rounds = Rounds(np.array([0, 1]), np.array([1.0, 0]), np.array([0.25, 0.5]), np.full((2, 2), 0.5))
    expected = np.tile([0.2, 0.6], (2, 1))
    assert doubly_robust(rounds, expected, np.random.default_rng(0)).value == pytest.approx(0.9)


@pytest.mark.parametrize("name", ["ips", "snips", "dr"])
def test_intervals_hold_the_truth_about_as_often_as_they_say(name: str) -> None:
    held = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        rounds = synthetic(800, rng)
        if name == "dr":
            rates = cross_fitted_rates(rounds.actions, np.zeros(800, np.int64), rounds.rewards, 3, rng)
            estimate = doubly_robust(rounds, rates, rng)
        else:
            estimate = (ips if name == "ips" else snips)(rounds, rng)
        held += estimate.holds(TRUTH)
    assert 52 <= held <= 60


def test_wrong_propensities_are_found_out() -> None:
    rng = np.random.default_rng(1)
    rounds = synthetic(20_000, rng)
    wrong = Rounds(rounds.actions, rounds.rewards, np.full(20_000, 1 / 3), rounds.probabilities)
    assert ips(rounds, rng).holds(TRUTH)
    assert not ips(wrong, rng).holds(TRUTH)


def test_a_good_model_of_rewards_makes_the_interval_narrower() -> None:
    rng = np.random.default_rng(2)
    rounds = synthetic(5_000, rng)
    exact = doubly_robust(rounds, np.tile(RATES, (5_000, 1)), rng)
    assert exact.error < 0.9 * ips(rounds, rng).error


def test_the_error_is_that_of_the_mean_and_the_interval_agrees() -> None:
    rewards = np.repeat([0.0, 1.0], [300, 100])
    found = on_policy(rewards, np.random.default_rng(0))
    assert found.error == pytest.approx(np.sqrt(0.25 * 0.75 / 399))
    assert found.high - found.low == pytest.approx(2 * 1.96 * found.error, rel=0.1)


def test_expected_rewards_are_not_learnt_from_their_own_round() -> None:
    rng = np.random.default_rng(0)
    rewards = np.zeros(10)
    rewards[3] = 1.0
    rates = cross_fitted_rates(np.zeros(10, np.int64), np.zeros(10, np.int64), rewards, 1, rng, folds=10)
    assert rates[3, 0] == 0.0
    assert rates[np.arange(10) != 3, 0].tolist() == pytest.approx([1 / 9] * 9)


def test_a_propensity_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="propensities"):
        Rounds(np.array([0]), np.array([1.0]), np.array([0.0]), np.array([[1.0]]))


def test_the_policy_of_a_log_is_what_it_showed_by_position() -> None:
    shown = log_of([(0, 0, 0, 0.9), (0, 0, 0, 0.9), (1, 0, 0, 0.2), (1, 1, 0, 0.5)], positions=2)
    at = log_of([(0, 1, 0, 0.5), (0, 0, 0, 0.5)], positions=2)
    assert mean_probabilities(shown, at).tolist() == [
        [0.0, 1.0],
        [pytest.approx(2 / 3), pytest.approx(1 / 3)],
    ]


def test_logs_of_different_pages_are_refused() -> None:
    with pytest.raises(BanditLogError, match="different pages"):
        mean_probabilities(log_of([(2, 0, 0, 0.5)], items=3), log_of([(0, 0, 0, 0.5)]))


def test_a_posterior_takes_rewards_as_the_engine_s_does() -> None:
    policy = Thompson(1, 5, ThompsonSettings())
    alpha, beta = b"", b""
    rng = np.random.default_rng(0)
    for reward in (rng.random(600) < 0.3).astype(float):
        policy.learn(0, 2, reward)
        alpha, beta = credit_arm(alpha, beta, 2, reward)
    engine = np.frombuffer(alpha, "<f4")[2] - PRIOR_ALPHA[2], np.frombuffer(beta, "<f4")[2] - PRIOR_BETA[2]
    assert (policy._more[0, 2], policy._less[0, 2]) == pytest.approx(engine, rel=1e-3)


@pytest.mark.parametrize("make", [Uniform, MostClicked, lambda p, k: Thompson(p, k, ThompsonSettings())])
def test_probabilities_sum_to_one_and_keep_the_floor(make) -> None:  # type: ignore[no-untyped-def]
    policy = make(2, 4)
    for _ in range(200):
        policy.learn(1, 3, 1.0)
        policy.learn(0, 0, 0.0)
    shares = policy.probabilities()
    assert shares.shape == (2, 4)
    assert shares.sum(axis=1) == pytest.approx(1.0)
    assert shares.min() >= 0.05 / 4 - 1e-12


def test_thompson_learns_the_obvious_arm() -> None:
    policy = Thompson(1, 3, ThompsonSettings())
    for _ in range(300):
        policy.learn(0, 0, 0.0)
        policy.learn(0, 1, 1.0)
        policy.learn(0, 2, 0.0)
    assert policy.probabilities()[0, 1] > 0.9


def test_a_round_is_judged_by_what_was_known_before_it() -> None:
    # All clicks are on item 1: the first rounds know nothing of them, the last ones do.
    rows = [(number % 2, 0, number % 2, 0.5) for number in range(400)]
    found = progressive(MostClicked(1, 2), log_of(rows), log_of(rows[:2]))
    assert found[0].tolist() == [0.975, 0.025]  # equal rates so far: the first item
    assert found[-1, 1] == 0.975


def test_the_protocol_agrees_with_a_synthetic_thompson_log_and_prefers_the_best_item() -> None:
    rng = np.random.default_rng(3)
    rates, shares = np.array([0.05, 0.3]), np.array([0.3, 0.7])
    random, thompson = [], []
    for _ in range(4_000):
        item = int(rng.integers(2))
        random.append((item, 0, int(rng.random() < rates[item]), 0.5))
        item = int(rng.random() < shares[1])
        thompson.append((item, 0, int(rng.random() < rates[item]), float(shares[item])))
    found = evaluate({"all": (log_of(random), log_of(thompson))}, 0, None)["all"]
    for name in (
        "ips",
        "snips",
        "dr",
    ):  # four errors: three intervals of 95 % each way do not all hold every time
        forth, back = getattr(found.values[THOMPSON], name), getattr(found.uniform_on_thompson, name)
        assert forth.value == pytest.approx(float(shares @ rates), abs=4 * forth.error)
        assert back.value == pytest.approx(float(rates.mean()), abs=4 * back.error)
        agrees = forth.holds(found.thompson.value) and back.holds(found.random.value)
        assert found.checks()[name] == agrees
    assert found.values[THOMPSON].ips.error < 0.02
    assert found.values["tailrace, by position"].ips.low > found.random.high


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Open Bandit as it lies on disk, 300 rounds a log."""
    rng = np.random.default_rng(0)
    for policy in ("random", "bts"):
        for campaign in ("men", "women"):
            items = rng.integers(0, 3, 300)
            table = pd.DataFrame(
                {
                    "timestamp": pd.date_range("2019-11-24", periods=300, freq="min", tz="UTC"),
                    "item_id": items,
                    "position": rng.integers(1, 4, 300),
                    "click": (rng.random(300) < 0.2).astype(int),
                    "propensity_score": 1 / 3,
                }
            )[list(COLUMNS)]
            path = tmp_path / policy / campaign
            path.mkdir(parents=True)
            table.to_csv(path / f"{campaign}.csv")
    return tmp_path


def test_the_command_prints_one_line_of_json_and_writes_its_section(folder: Path) -> None:
    page = folder / "quality.md"
    arguments = ["eval", "bandit", "--data", str(folder), "--campaigns", "men,women", "--out", str(page)]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    (line,) = result.stdout.splitlines()
    found = json.loads(line)
    assert set(found["campaigns"]) == {"men", "women", "pooled"}
    assert found["campaigns"]["pooled"]["rounds"] == {"random": 600, "thompson": 600}
    assert len(found["data_sha256"]["bts/men"]) == 64
    pooled = found["campaigns"]["pooled"]
    assert set(pooled["agrees"]) == {"ips", "snips", "dr", "switch_dr"}
    uniform = pooled["values"]["uniform"]
    assert (uniform["effective_rounds"], uniform["warnings"]) == (600.0, [])
    assert set(pooled["against_thompson"]) == {"first half", "later half"}
    text = page.read_text(encoding="utf-8")
    assert "tailrace eval bandit: begin" in text
    assert str(folder) not in text


@pytest.mark.parametrize(
    ("options", "number"), [(["--campaigns", "children"], "TR-701"), (["--data", "nowhere"], "TR-700")]
)
def test_what_cannot_be_used_is_refused_with_a_number(options: list[str], number: str) -> None:
    result = CliRunner().invoke(app, ["eval", "bandit", "--data", ".", *options])
    assert isinstance(result.exception, UserError)
    assert result.exception.number == number


def test_a_log_without_propensities_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(
        "timestamp,item_id,position,click\n2019-11-24,1,1,0\n", encoding="utf-8"
    )
    with pytest.raises(BanditLogError, match="propensity_score"):
        read_bandit_log(tmp_path / "log.csv")


@pytest.mark.parametrize(
    "row",
    ["2019-11-24,,1,0,0.5", "2019-11-24,-1,1,0,0.5", "2019-11-24,1.5,1,0,0.5", "2019-11-24,1,,0,0.5",
     "2019-11-24,1,1,2,0.5", "2019-11-24,1,1,,0.5", "once,1,1,0,0.5", "2019-11-24,1,1,0,0", "2019-11-24,1,1,0,1.5"],
)  # fmt: skip
def test_a_log_with_a_row_that_says_nothing_is_refused_with_its_path(tmp_path: Path, row: str) -> None:
    path = tmp_path / "log.csv"
    good = "2019-11-24,1,1,0,0.5"
    path.write_text(f"{','.join(COLUMNS)}\n{good}\n{row}\n", encoding="utf-8")
    with pytest.raises(BanditLogError, match=r"log\.csv: wanted"):
        read_bandit_log(path)
    path.write_text(f"{','.join(COLUMNS)}\n{good}\n{good}\n", encoding="utf-8")
    assert len(read_bandit_log(path)) == 2


def test_ips_on_the_random_log_agrees_with_the_clicks_of_the_logged_policy_on_open_bandit() -> None:
    paths = [packaged(policy, "men").path(data_cache()) for policy in ("random", "bts")]
    if not all(path.is_file() for path in paths):
        pytest.skip("Open Bandit is not in the cache; `tailrace eval bandit` fetches it")
    random, thompson = map(read_bandit_log, paths)
    rng = np.random.default_rng(0)
    rounds = Rounds(random.items, random.clicks, random.propensities, mean_probabilities(thompson, random))
    assert ips(rounds, rng).holds(float(thompson.clicks.mean()))
    assert rounds.weights().mean() == pytest.approx(1.0, abs=0.05)


def shop_logs(rounds: int, gain: float, rng: np.random.Generator) -> tuple[BanditLog, BanditLog]:
    """Logs of five items in one position, a half of the rounds of users who once clicked item 3 or 4.

    They click that again with probability `gain`, anything else with .05. The sampler of the shop likes item 0.
    """
    logs = []
    for shares in (np.full(5, 0.2), np.array([0.6, 0.1, 0.1, 0.1, 0.1])):
        items = rng.choice(5, rounds, p=shares)
        affinities = np.zeros((rounds, 5))
        once = rng.integers(3, 5, rounds)
        affinities[np.arange(rounds), once] = rng.integers(0, 2, rounds)
        own = affinities[np.arange(rounds), items] > 0
        clicks = (rng.random(rounds) < np.where(own, gain, 0.05)).astype(float)
        times = np.sort(rng.integers(0, 10**15, rounds))
        logs.append(
            BanditLog(times, items, np.zeros(rounds, np.int64), clicks, shares[items], 5, 1, "", affinities)
        )
    return logs[0], logs[1]


@pytest.mark.parametrize("gain", [0.4, 0.05])
def test_a_policy_with_a_history_is_found_above_where_a_history_tells_something(gain: float) -> None:
    random, shop = shop_logs(6_000, gain, np.random.default_rng(5))
    found = evaluate({"all": (random, shop)}, 0, None)["all"].against["later half"][HISTORY]
    assert set(found) == {"random", "random, beside the sampler", "Thompson", "both"}
    for one in found.values():
        # Half the rounds, .95 of them by the history: .475 (.4 - .05), less what the sampler shows of it by itself.
        truth = 0.5 * 0.95 * (gain - 0.05) * (1 - 0.1)
        assert one.difference.value == pytest.approx(truth, abs=4 * one.difference.error + 1e-9)
        assert one.is_above == (gain > 0.05)
        assert one.speak > 100


def test_weights_of_a_policy_with_a_history_have_the_mean_one_on_either_log() -> None:
    random, shop = shop_logs(6_000, 0.3, np.random.default_rng(6))
    run = run_history(random, shop)
    own = run.probabilities[np.arange(len(random)), random.items] / random.propensities
    assert own.mean() == pytest.approx(1.0, abs=0.05)
    assert run.weights.mean() == pytest.approx(1.0, abs=0.1)
    assert run.sampler_weights(random).mean() == pytest.approx(1.0, abs=0.05)
    assert run.probabilities.sum(axis=1) == pytest.approx(np.ones(len(random)))
    without = shop.affinities.sum(axis=1) == 0  # type: ignore[union-attr]
    assert (run.weights[without] == 1.0).all()


def test_a_round_changes_nothing_of_what_was_decided_before_it() -> None:
    random, shop = shop_logs(600, 0.3, np.random.default_rng(7))
    cut = 400
    changed = dataclasses.replace(
        shop, clicks=np.where(np.arange(600) >= cut, 1.0 - shop.clicks, shop.clicks)
    )
    one, other = run_history(random, shop), run_history(random, changed)
    before = random.times_ns < shop.times_ns[cut]
    assert (one.probabilities[before] == other.probabilities[before]).all()
    assert (one.weights[: cut + 1] == other.weights[: cut + 1]).all()
    assert (one.probabilities != other.probabilities).any()


def test_an_interval_without_clicks_that_speak_for_a_policy_calls_nothing_above() -> None:
    few = Gains(np.array([9.0] + [0.0] * 99), np.ones(100), np.arange(100) < 1, np.zeros(100))
    found = above(few, np.empty(0), np.random.default_rng(0))
    assert (found.speak, found.speak_clicks, found.is_above) == (1, 1, False)


def test_switching_leaves_great_weights_to_the_model() -> None:
    rounds = Rounds(np.array([0, 1]), np.array([1.0, 0.0]), np.array([0.01, 0.5]), np.full((2, 2), 0.5))
    expected, rng = np.tile([0.2, 0.6], (2, 1)), np.random.default_rng(0)
    # The weights are 50 and 1: the first round is the model's, .4; the second .4 + 1 (0 - .6).
    assert switch_doubly_robust(rounds, expected, rng).value == pytest.approx(0.1)
    assert switch_doubly_robust(rounds, expected, rng, at=50.0).value == pytest.approx(
        doubly_robust(rounds, expected, rng).value
    )


def test_too_little_overlap_and_wrong_propensities_are_said() -> None:
    rng = np.random.default_rng(0)
    rounds = synthetic(3_000, rng)
    assert overlap_warnings(rounds.weights(), mean_weight(rounds, rng)) == ()
    wrong = Rounds(rounds.actions, rounds.rewards, np.full(3_000, 0.9), rounds.probabilities)
    (text,) = overlap_warnings(wrong.weights(), mean_weight(wrong, rng))
    assert "weights have the mean" in text
    rare = np.where(np.arange(3_000) % 100, 1e-9, 100.0)
    assert "little overlap" in overlap_warnings(rare, mean_weight(rounds, rng))[0]

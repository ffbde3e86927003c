"""The evaluation gate: what is worse, slow, large or broken does not pass, and the switch asks for the verdict."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import EPOCH, NOW_MS, make_bundle, snapshot, toy_items, toy_state, toy_trees
from typer.testing import CliRunner

from flink_jobs.settings import Settings, load
from model_export.gate.calibration import calibration_error
from model_export.gate.replayed_value import OUTSIDE, ReplayedValue, readable, replayed_value
from schemas.ids import item_hash
from schemas.records import Example, ExampleItem
from tailrace import model_verdict
from tailrace.bundle_keys import sign_bundle, write_new_key
from tailrace.cli import app
from tailrace.commands.model_gate import gate_bundle
from tailrace.errors import UserError
from tailrace.model_switch import Activated
from tests.gate_shop import USERS, events_file
from udfs.bandits.list_policy import ListPolicy
from udfs.bandits.shared_posterior import SharedPosterior
from udfs.model.bundle import Bundle
from udfs.model.gate import Figures, GateLimits, Verdict, judge
from udfs.ranking.catalogue import CatalogueView
from udfs.ranking.features import FEATURE_NAMES
from udfs.ranking.rank import RankSettings, rank_batch
from udfs.ranking.slot_shares import slot_shares
from udfs.user_state import UserState

RANK = RankSettings(exploration_floor=0.05)
TAUGHT = {
    "default": SharedPosterior(
        9,
        np.array([100.0, 60.0, 60.0, 80.0, 60.0])[:, None, None] * np.eye(3),
        np.array([10.0, 30.0, 9.0, 40.0, 9.0])[:, None] * np.eye(3)[0],
    )
}
WITH_NEW = dataclasses.replace(RANK, new_item_share=0.1, new_item_weight=5.0)
GOOD = Figures(100, 0.3, 0.6, 500, 0.1, 300.0, 1_000_000, 0.0)


def names(checks: Any) -> set[str]:
    return {check.name for check in checks if not check.passed}


def test_a_bundle_as_good_as_the_serving_one_passes_every_check() -> None:
    assert names(judge(GOOD, GOOD, 0.1, 0.01, GateLimits())) == set()
    assert names(judge(GOOD, None, 0.1, float("nan"), GateLimits())) == set()


@pytest.mark.parametrize(
    ("change", "fails"),
    [
        ({"ndcg": 0.28}, "ndcg_over_serving"),
        ({"items_shown": 300}, "coverage_over_serving"),
        ({"calibration_error": 0.6}, "calibration_error"),
        ({"cpu_us": 1_001.0}, "cpu_us"),
        ({"size_bytes": 3 << 30}, "bytes"),
        ({"lists": 49}, "lists"),
        ({"canary_difference": 2e-5}, "canary_difference"),
        ({"not_finite": "ranker: score nan in row 3"}, "finite_scores"),
        ({"value": 0.08}, "value_over_serving"),
    ],
)
def test_each_figure_beyond_its_limit_stops_a_candidate(change: dict[str, Any], fails: str) -> None:
    serving = GOOD._replace(value=0.1, value_error=0.01)
    found = judge(serving._replace(**change), serving, 0.1, 0.01, GateLimits())
    assert names(found) == {fails}


def test_a_figure_that_is_not_a_number_passes_nothing() -> None:
    nan = float("nan")
    bad = GOOD._replace(ndcg=nan, cpu_us=nan, calibration_error=nan, canary_difference=nan)
    assert names(judge(bad, GOOD, 0.1, 0.01, GateLimits())) == {
        "canary_difference", "cpu_us", "ndcg_over_popularity", "calibration_error", "ndcg_over_serving",
    }  # fmt: skip


def test_worse_than_popularity_does_not_pass_even_where_nothing_serves() -> None:
    assert names(judge(GOOD, None, 0.31, float("nan"), GateLimits())) == {"ndcg_over_popularity"}


def test_a_candidate_is_not_held_up_by_what_serves_and_ranks_nobody() -> None:
    nan = float("nan")
    broken = GOOD._replace(ndcg=nan, items_shown=0, not_finite="ranker: score nan in row 3", value=0.1)
    checks = judge(GOOD._replace(value=0.01), broken, 0.1, nan, GateLimits())
    assert names(checks) == set()
    (told,) = [check for check in checks if check.name == "against_serving"]
    assert told.note == "what serves cannot be measured: ranker: score nan in row 3"
    assert names(judge(broken, broken, 0.1, nan, GateLimits())) >= {"finite_scores", "ndcg_over_popularity"}


def test_a_verdict_is_read_as_it_was_written_and_says_itself_whether_it_is_passed() -> None:
    checks = judge(GOOD, GOOD._replace(ndcg=0.4), 0.1, 0.01, GateLimits())
    verdict = Verdict(2, "ab", 1, "cd", "shop.jsonl", "ef", 1, 2, checks)
    assert Verdict.from_json(verdict.to_json()) == verdict
    lying = json.loads(verdict.to_json()) | {"passed": True}
    assert not Verdict.from_json(json.dumps(lying).encode()).passed
    with pytest.raises(ValueError, match="format"):
        Verdict.from_json(b'{"format": 9}')


def test_a_score_that_means_another_thing_later_is_not_calibrated() -> None:
    rng = np.random.default_rng(0)
    scores = rng.uniform(0, 1, 20_000).astype(np.float32)
    later = np.arange(20_000) >= 10_000
    same = rng.random(20_000) < 0.4 * scores
    assert calibration_error(scores, same, later) < 0.1
    turned = np.where(later, rng.random(20_000) < 0.4 * (1 - scores), same)
    assert calibration_error(scores, turned, later) > 0.8


def test_shares_of_a_models_own_lists_are_its_propensities(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "7")
    view = CatalogueView(bundle)
    shots = [
        snapshot(toy_state([k, k + 2, k + 7], bought=(k + 1,)), f"u{k}", version=f"{k:032}")
        for k in range(60)
    ]
    lists = rank_batch(bundle, shots, view, RANK)
    logged = np.array(
        [[bundle.items.row(item_hash(item.item_id)) for item in one.items] for one in lists], np.int32
    )
    shares = slot_shares(bundle, shots, logged, view, RANK)
    wanted = np.array([[item.propensity for item in one.items] for one in lists])
    assert len({item.source for one in lists for item in one.items}) > 2, "exploration drew several arms"
    np.testing.assert_allclose(shares, wanted, atol=1e-8)
    turned = slot_shares(bundle, shots, logged[:, ::-1].copy(), view, RANK)
    assert turned.sum() < 0.9 * shares.sum()


def test_what_all_users_taught_and_the_share_for_new_items_are_in_a_models_own_propensities(
    tmp_path: Path,
) -> None:
    bundle = make_bundle(tmp_path / "7")
    taught = own_log(bundle, rank=WITH_NEW, posteriors=TAUGHT)
    sources = [item.source for one in taught for item in one.items]
    assert sources.count("new") > 50 and sources.count("repeat") + sources.count("embedding") > 200
    found = replayed_value(bundle, readable(taught), WITH_NEW, np.random.default_rng(0))
    earned = np.mean([item.reward for one in taught for item in one.items])
    assert found.effective == pytest.approx(2_000, rel=1e-6) and found.as_logged == found.lists == 200
    assert found.reward.value == pytest.approx(earned, rel=1e-6)
    assert found.note.endswith(OUTSIDE) and "did not log" not in found.note

    silent = [one._replace(source_probabilities=()) for one in taught]
    without = replayed_value(bundle, silent, WITH_NEW, np.random.default_rng(0))
    assert without.effective < 1_990 and "200 of 200 lists did not log" in without.note
    other = replayed_value(bundle, readable(taught), RANK, np.random.default_rng(0))
    assert other.effective < 1_990, "without a share no slot takes an item that no source has"


def test_a_list_is_worth_what_it_earned_under_the_list_policy_that_it_had(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "7")
    policies = (
        ListPolicy("plain"),
        ListPolicy("spread", 0.8),
        ListPolicy("mix", None, (1.0, 0.0, 1.0, 0.0, 2.0)),
    )
    rank = dataclasses.replace(RANK, list_policies=policies)
    made = own_log(bundle, rank=rank)
    assert {one.list_policy for one in made} == {"plain", "spread", "mix"}
    found = replayed_value(bundle, readable(made), rank, np.random.default_rng(0))
    assert found.effective == pytest.approx(2_000, rel=1e-6)

    def silent(name: str, how: RankSettings = rank) -> ReplayedValue:
        some = [one._replace(list_policy="") for one in made if one.list_policy == name]
        return replayed_value(bundle, some, how, np.random.default_rng(0))

    for name in ("plain", "mix"):  # the settings' own diversity, and sources that are logged
        assert silent(name).effective == pytest.approx(silent(name).slots, rel=1e-6)
    assert silent("spread").effective < 0.99 * silent("spread").slots, "plain lists have other items there"
    assert silent("spread") == silent("spread", RANK), (
        "a list that names no policy is judged as if there were none"
    )


def test_a_model_that_knows_an_item_well_gives_it_by_its_sources_and_not_by_the_share(tmp_path: Path) -> None:
    old = make_bundle(tmp_path / "7")
    items = dataclasses.replace(toy_items(), popularity=np.full(300, 99.0, np.float32))
    knowing = make_bundle(tmp_path / "8", items, epoch=8)
    (one,) = [one for one in own_log(old, rank=WITH_NEW, users=40) if one.items[1].source == "new"][:1]
    logged, shot = one.items[:3], snapshot(UserState.decode(one.snapshot), one.user_id, version=one.version)
    shares = [
        slot_shares(
            bundle,
            [shot],
            np.array([[bundle.items.row(item_hash(item.item_id)) for item in logged]], np.int32),
            CatalogueView(bundle),
            WITH_NEW,
        )[0]
        for bundle in (old, knowing)
    ]
    np.testing.assert_allclose(shares[0], [item.propensity for item in logged], atol=1e-8)
    assert shares[1][0] == pytest.approx(shares[0][0] / (1 - WITH_NEW.new_item_share)), "nothing is new to it"
    assert shares[1][1] == 0.0


def test_slots_behind_one_that_was_not_shown_are_left_out(tmp_path: Path) -> None:
    (one,) = own_log(make_bundle(tmp_path / "7"), 1)
    seen = one._replace(items=[item for item in one.items if item.slot != 3])
    (kept,) = readable([seen])
    assert [item.slot for item in kept.items] == [0, 1, 2]
    assert readable([one._replace(items=one.items[2:])]) == []


def own_log(
    bundle: Bundle,
    users: int = 200,
    rank: RankSettings = RANK,
    posteriors: dict[str, SharedPosterior] | None = None,
) -> list[Example]:
    """Lists of a bundle with what they earned: the first slot always, and the even items' half the time."""
    rng, examples = np.random.default_rng(0), []
    for k in range(users):
        shot = snapshot(toy_state([k, k + 2, k + 5]), f"u{k}", version=f"{k:032}")
        (ranked,) = rank_batch(bundle, [shot], CatalogueView(bundle), rank, posteriors=posteriors)
        items = []
        for slot, item in enumerate(ranked.items):
            reward = float(slot == 0 or rng.random() < 0.2)
            items.append(
                ExampleItem(item.item_id, slot, slot, item.source, 1.0, item.propensity, "click", reward,
                            True, False, False, 0.0, 0.0)
            )  # fmt: skip
        examples.append(
            Example(ranked.rec_id, "default", f"u{k}", shot.version, NOW_MS, NOW_MS, NOW_MS, EPOCH, "toy", "",
                    0, tuple(items), shot.state, tuple(ranked.source_probabilities),
                    ranked.list_policy, ranked.list_shares)
        )  # fmt: skip
    return examples


def test_on_its_own_log_a_bundle_is_worth_what_the_log_earned(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "7")
    examples = readable(own_log(bundle))
    found = replayed_value(bundle, examples, RANK, np.random.default_rng(0))
    earned = np.mean([item.reward for one in examples for item in one.items])
    assert found.slots == 2_000 and found.effective == pytest.approx(2_000)
    assert found.reward.value == pytest.approx(earned)
    assert found.tells


def test_examples_that_cannot_be_ranked_again_are_left_out(tmp_path: Path) -> None:
    good, bad = own_log(make_bundle(tmp_path / "7"), 2)
    assert readable([good, bad._replace(snapshot=b"x")]) == [good]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load(
        model={"root": tmp_path / "models"},
        kafka={"bootstrap_servers": "127.0.0.1:1"},
        redis={"url": "redis://127.0.0.1:1/0"},
        gate={"most_calibration_error": 5.0},
        registry={"uri": ""},
    )


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    return events_file(tmp_path / "shop.jsonl")


def worse_trees() -> Any:
    return dataclasses.replace(toy_trees(), leaves=-toy_trees().leaves)


def test_a_good_candidate_passes_on_later_events_and_may_be_promoted(settings: Settings, shop: Path) -> None:
    make_bundle(settings.model.root / "1", epoch=1, trees=worse_trees())
    bundle = make_bundle(settings.model.root / "2", epoch=2)
    with pytest.raises(UserError, match="no verdict") as missing:
        model_verdict.require_passed(settings, bundle, 1)
    assert missing.value.number == "TR-380"
    verdict = gate_bundle(settings, 2, 1, shop, own_log(bundle, 20))
    assert verdict.passed, verdict.failures()
    figures = {check.name: check for check in verdict.checks}
    assert figures["lists"].value == USERS
    assert (figures["ndcg_over_popularity"].value or 0) > 2
    assert figures["value_over_serving"].value is None and "too little" in figures["value_over_serving"].note
    assert model_verdict.require_passed(settings, bundle, 1) == verdict
    with pytest.raises(UserError, match="epoch 9 serves"):
        model_verdict.require_passed(settings, bundle, 9)


def test_a_worse_candidate_is_refused_with_the_figures(settings: Settings, shop: Path) -> None:
    make_bundle(settings.model.root / "1", epoch=1)
    worse = make_bundle(settings.model.root / "2", epoch=2, trees=worse_trees())
    verdict = gate_bundle(settings, 2, 1, shop, [])
    assert "ndcg_over_serving" in names(verdict.checks)
    with pytest.raises(UserError, match=r"did not pass the gate: .*ndcg_over_serving") as refused:
        model_verdict.require_passed(settings, worse, 1)
    assert refused.value.number == "TR-382"


def test_scores_that_are_no_numbers_beyond_the_canary_rows_are_found(settings: Settings, shop: Path) -> None:
    trees = toy_trees()
    features, thresholds, leaves = trees.features.copy(), trees.thresholds.copy(), trees.leaves.copy()
    features[0], thresholds[0] = FEATURE_NAMES.index("embedding_score"), 3.5  # canary rows are below 3
    features[0, :], thresholds[0, :] = FEATURE_NAMES.index("popularity_rank"), 3.5
    leaves[0, -4:] = 3e38
    make_bundle(
        settings.model.root / "2",
        epoch=2,
        trees=dataclasses.replace(trees, features=features, thresholds=thresholds, leaves=leaves),
    )
    verdict = gate_bundle(settings, 2, None, shop, [])
    assert "finite_scores" in names(verdict.checks)
    assert any("score" in line for line in verdict.failures())


@pytest.mark.parametrize(
    ("limits", "fails"), [({"most_cpu_us": 0.01}, "cpu_us"), ({"most_bytes": 10_000}, "bytes")]
)
def test_a_slow_or_large_bundle_does_not_pass(
    settings: Settings, shop: Path, limits: dict[str, float], fails: str
) -> None:
    make_bundle(settings.model.root / "2", epoch=2)
    gate = settings.gate.model_copy(update=limits)
    verdict = gate_bundle(settings.model_copy(update={"gate": gate}), 2, None, shop, [])
    assert names(verdict.checks) == {fails}


def test_a_corrupt_bundle_is_not_measured(settings: Settings, shop: Path) -> None:
    make_bundle(settings.model.root / "2", epoch=2)
    file = settings.model.root / "2" / "factors.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(UserError, match=r"refused: hash: .*factors.npy") as refused:
        gate_bundle(settings, 2, None, shop, [])
    assert refused.value.number == "TR-351"
    assert not model_verdict.verdict_file(settings, 2).exists()


def test_where_keys_are_trusted_bundle_and_verdict_must_be_signed(
    settings: Settings, shop: Path, tmp_path: Path
) -> None:
    key = tmp_path / "key.pem"
    public = write_new_key(key)
    model = settings.model.model_copy(update={"trusted_keys": (public,)})
    trusting = settings.model_copy(update={"model": model})
    bundle = make_bundle(model.root / "2", epoch=2)
    with pytest.raises(UserError, match="refused: signature"):
        gate_bundle(trusting, 2, None, shop, [])
    sign_bundle(model.root / "2", key)
    gate_bundle(trusting, 2, None, shop, [])
    with pytest.raises(UserError, match="signature"):
        model_verdict.require_passed(trusting, bundle, None)
    verdict = gate_bundle(trusting, 2, None, shop, [], key)
    assert model_verdict.require_passed(trusting, bundle, None) == verdict
    file = model_verdict.verdict_file(trusting, 2)
    file.write_bytes(file.read_bytes().replace(b'"at most"', b'"at least"', 1))
    with pytest.raises(UserError, match="none of the 1 trusted keys"):
        model_verdict.require_passed(trusting, bundle, None)


def test_a_verdict_of_another_bundle_is_none(settings: Settings, shop: Path) -> None:
    make_bundle(settings.model.root / "2", epoch=2)
    gate_bundle(settings, 2, None, shop, [])
    other = make_bundle(settings.model.root / "3", toy_items(280), epoch=3)
    model_verdict.verdict_file(settings, 2).rename(model_verdict.verdict_file(settings, 3))
    with pytest.raises(UserError, match="it is of epoch 2"):
        model_verdict.require_passed(settings, other, None)


def test_data_that_end_before_the_bundle_measure_nothing(settings: Settings, tmp_path: Path) -> None:
    make_bundle(settings.model.root / "2", epoch=2)
    early = events_file(tmp_path / "early.jsonl", later=False)
    with pytest.raises(UserError, match="no session of a returning user") as refused:
        gate_bundle(settings, 2, None, early, [])
    assert refused.value.number == "TR-383"
    with pytest.raises(UserError, match="no such file"):
        gate_bundle(settings, 2, None, tmp_path / "gone.jsonl", [])


def test_promote_asks_for_the_verdict_before_it_touches_anything(
    settings: Settings, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_bundle(settings.model.root / "2", epoch=2)
    config = tmp_path / "tailrace.toml"
    config.write_text(
        f"[model]\nroot = '{settings.model.root}'\n[registry]\nuri = ''\n[gate]\nmost_calibration_error = 5.0\n"
    )
    switched: list[int] = []

    def activate(_: Settings, epoch: int, **__: Any) -> Activated:
        switched.append(epoch)
        return Activated(epoch, "toy", "ab", 2, True, 0, 0.1)

    monkeypatch.setattr("tailrace.model_epochs.active_epoch", lambda _: None)
    monkeypatch.setattr("tailrace.model_switch.activate", activate)
    monkeypatch.setattr("tailrace.example_log.from_topic", lambda *_: iter(()))

    def run(*words: str) -> Any:
        return CliRunner().invoke(app, ["models", *words, "--config", str(config)])

    refused = run("promote", "2")
    assert getattr(refused.exception, "number", "") == "TR-380" and not switched
    assert run("promote", "2", "--force").exit_code == 0 and switched == [2]
    measured = run("gate", "2", "--data", str(shop), "--json")
    assert measured.exit_code == 0, measured.output
    assert json.loads(measured.stdout)["passed"] is True
    assert "2.gate.json" in {path.name for path in settings.model.root.iterdir()}
    assert run("promote", "2").exit_code == 0 and switched == [2, 2]

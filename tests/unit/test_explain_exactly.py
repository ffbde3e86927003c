"""Contributions of features that add up to the score, and lists explained by their rec_id."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from bundles import item_id, make_bundle, snapshot, toy_items, toy_state
from rich.console import Console

from flink_jobs.settings import Settings, load
from model_export.lake.files import RawRecord, write_run
from model_export.onnx_export import export_ranker
from model_export.ranker import RankerSettings, RankingExamples, fit_ranker, predict
from model_export.tree_contributions import TreeContributions
from schemas.codec import encode
from schemas.records import Item, ServedItem, ServedList
from tailrace import explanation, served_lists
from tailrace.errors import UserError
from udfs.experiments.running import RunningExperiments
from udfs.model.bundle import Bundle, BundleRefused
from udfs.model.manifest import NATIVE_RANKER
from udfs.ranking.catalogue import CatalogueView
from udfs.ranking.explain import explain
from udfs.ranking.features import FEATURE_NAMES, N_FEATURES
from udfs.ranking.live_sessions import LiveSessions
from udfs.ranking.rank import RankSettings, rank_batch

SETTINGS = RankSettings()
SHOT = snapshot(toy_state([4, 6, 8]))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Trees that XGBoost has learnt: what is near in the embedding is taken, half the time."""
    rng = np.random.default_rng(3)
    features = rng.uniform(0, 2, (1_200, N_FEATURES)).astype(np.float32)
    near = features[:, FEATURE_NAMES.index("embedding_score")] > 1
    labels = (near & (rng.random(1_200) < 0.5)).astype(np.int32)
    examples = RankingExamples(features, labels, np.full(60, 20, np.int64))
    ranker = fit_ranker(examples, RankerSettings(trees=12), rng)
    canary = np.random.default_rng(1).uniform(-1, 3, (32, N_FEATURES)).astype(np.float32)
    return make_bundle(
        tmp_path_factory.mktemp("models") / "7",
        toy_items(),
        ranker=export_ranker(ranker, features, rng).model,
        canary_scores=predict(ranker, canary),
        native=bytes(ranker.save_raw("ubj")),
    )


def test_contributions_and_base_add_up_to_the_score_that_serves(bundle: Bundle) -> None:
    contribute = TreeContributions.of(bundle)
    assert contribute is not None
    rows = np.random.default_rng(9).uniform(-1, 3, (500, N_FEATURES)).astype(np.float32)
    served = bundle.ranker.score(rows, 50)
    added = contribute(rows)
    assert added.shape == (500, N_FEATURES + 1)
    assert np.abs(added.sum(axis=1) - served).max() < 1e-5
    assert np.ptp(served) > 0.1
    assert np.ptp(added[:, -1]) < 1e-6, "the base is the same for every row"
    loudest = np.abs(added[:, :-1]).mean(axis=0).argmax()
    assert FEATURE_NAMES[loudest] == "embedding_score"


def test_every_item_of_a_list_is_explained_to_its_score(bundle: Bundle) -> None:
    view = CatalogueView(bundle)
    (ranked,) = rank_batch(bundle, [SHOT], view, SETTINGS)
    for item in ranked.items:
        why = explain(bundle, SHOT, item.item_id, view, SETTINGS, contribute=TreeContributions.of(bundle))
        assert why.base is not None and why.score == item.score
        assert why.base + sum(why.contributions.values()) == pytest.approx(item.score, abs=1e-5)
        (text,) = [line for line in explanation.sentences(why) if line.startswith("score")]
        assert "base" in text and "all others" in text


def test_a_new_item_is_explained_by_its_draw_though_no_source_has_brought_it(bundle: Bundle) -> None:
    view, how = CatalogueView(bundle), RankSettings(new_item_share=0.2, new_item_weight=5.0)
    shots = [snapshot(toy_state([4, 6, 8]), f"u{k}", version=f"{k:032}") for k in range(9)]
    lists = rank_batch(bundle, shots, view, how)
    shot, place, item = next(
        (shot, place, item)
        for shot, one in zip(shots, lists, strict=True)
        for place, item in enumerate(one.items, 1)
        if item.source == "new"
    )
    why = explain(bundle, shot, item.item_id, view, how)
    assert (why.slot, why.slot_source, why.propensity) == (place, "new", item.propensity)
    assert why.sources == {} and why.score is None and 0 <= (why.draw or 0) < 0.2
    told = explanation.sentences(why)
    assert told[0] == "found by no source" and "within the share for new items" in told[1]


def test_every_part_of_an_explanation_is_printed(settings: Settings, bundle: Bundle) -> None:
    record = kept(settings, bundle)
    found = explanation.explain_record(settings, record, record.items)
    out = next(k for k in range(300) if item_id(k) not in {item.item_id for item in record.items})
    view = CatalogueView(bundle)
    view.apply(Item(item_id(out), "default", "", "", None, None, False, False, {}, 1))
    left = explain(bundle, SHOT, item_id(out), view, SETTINGS)
    asked = explanation.explain_record(settings, record, record.items, also=[item_id(out)])
    assert [one.item_id for one in asked.items] == [*(one.item_id for one in record.items), item_id(out)]
    assert explanation.sentences(asked.items[-1])[-1] == "no rule keeps it out"
    assert left.rules_hit == ("out of stock",) and left.slot is None
    assert explanation.sentences(left)[-1].endswith("kept out by: out of stock")
    console = Console(file=StringIO(), width=300)
    found.show(console, {})
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    first = found.items[0]
    assert f"ranked by epoch {record.epoch} ({record.model_version})" in shown
    assert f"each slot is drawn from: ranker {first.arm_probabilities['ranker']:.3f}" in shown
    for name, rank in first.sources.items():
        assert f"{name} (its number {rank})" in shown
    loudest = max(first.contributions, key=lambda name: abs(first.contributions[name]))
    assert f"{loudest} {first.features[loudest]:.3g} ({first.contributions[loudest]:+.3f})" in shown
    assert f"slot 1: drew {first.draw:.3f}, which is the arm {first.slot_source}; propensity" in shown


def test_without_the_native_ranker_the_contributions_are_estimates_and_say_so(tmp_path: Path) -> None:
    plain = make_bundle(tmp_path / "7")
    assert TreeContributions.of(plain) is None
    why = explain(plain, SHOT, item_id(10), CatalogueView(plain), SETTINGS)
    assert why.base is None and why.contributions


def test_a_changed_native_ranker_is_refused_by_workers_and_by_the_command(bundle: Bundle) -> None:
    file = bundle.path / NATIVE_RANKER
    whole = file.read_bytes()
    try:
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(BundleRefused, match=NATIVE_RANKER):
            Bundle.open(bundle.path)
        with pytest.raises(ValueError, match="SHA-256"):
            TreeContributions.of(bundle)
    finally:
        file.write_bytes(whole)


@pytest.fixture
def settings(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A lake, and neither broker nor store."""

    def no_broker(*_: object) -> None:
        raise UserError("TR-300", "no broker")

    monkeypatch.setattr(served_lists, "find_served", no_broker)
    monkeypatch.setattr(explanation, "read_running", lambda _: RunningExperiments())
    monkeypatch.setattr(explanation, "_catalogue", lambda _, opened, mark: (CatalogueView(opened), True))
    monkeypatch.setattr(explanation, "_sessions", lambda *_: (LiveSessions(), True))
    return load(model={"root": bundle.path.parent}, lake={"root": tmp_path / "lake"})


def kept(settings: Settings, bundle: Bundle, variant: str = "default") -> ServedList:
    """A list in the lake, among others of the same user."""
    (ranked,) = rank_batch(bundle, [SHOT], CatalogueView(bundle), SETTINGS, LiveSessions())
    items = tuple(ServedItem(*item[:4]) for item in ranked.items)
    record = ServedList(ranked.rec_id, "default", "u1", SHOT.version, SHOT.at_ms, SHOT.at_ms, 7, "toy-7",
                        variant, 0, items, SHOT.state, 3)  # fmt: skip
    other = record._replace(rec_id="another")
    rows = [
        RawRecord(0, offset, SHOT.at_ms, SHOT.key.encode(), encode(one))
        for offset, one in enumerate([other, record, other])
    ]
    write_run(settings.lake.root, served_lists.SERVED, rows)
    return record


def test_a_list_that_only_the_lake_holds_is_explained_by_its_id(settings: Settings, bundle: Bundle) -> None:
    record = kept(settings, bundle)
    found = served_lists.stored_list(settings, SHOT.key, record.rec_id)
    assert found == record
    why = explanation.explain_record(settings, found, found.items)
    assert [item.item_id for item in why.items] == [item.item_id for item in record.items]
    for place, (item, was) in enumerate(zip(why.items, record.items, strict=True), 1):
        assert (item.slot, item.slot_source, item.score) == (place, was.source, was.score)
        assert item.propensity == was.propensity and item.base is not None
    told = why.as_dict()
    assert (told["session_mark"], told["variant"], told["same_settings"]) == (3, "default", True)
    console = Console(file=StringIO(), width=200)
    why.show(console, {})
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "variant default" in shown and "session mark 3" in shown


def test_a_list_of_an_experiment_that_is_over_says_so(settings: Settings, bundle: Bundle) -> None:
    record = kept(settings, bundle, "spread=b")
    assert not explanation.explain_record(settings, record, record.items).same_settings


def test_an_unknown_list_is_an_error_that_says_where_was_looked(settings: Settings, bundle: Bundle) -> None:
    kept(settings, bundle)
    with pytest.raises(UserError, match="not in the lake") as refused:
        served_lists.stored_list(settings, SHOT.key, "gone")
    assert refused.value.number == "TR-323"
    with pytest.raises(UserError):
        served_lists.stored_list(settings, "default/another", "another")

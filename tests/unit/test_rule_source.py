"""Sequential rules as a source: from a table to lists, through the bundle's checks, in training as in serving."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from bundles import assert_part_is_needed, item_id, make_bundle, snapshot, toy_items, toy_state, wrong_links
from test_train import SETTINGS as TRAINING
from test_train import UNTIL, data
from test_training_equals_serving import EPOCH, RANK, index, log, moments, replayed, served_features

from model_export.dataset import candidate_set
from model_export.interactions import ItemRows, interactions
from model_export.moments import Moment
from model_export.rules import RuleSettings, fit_rules
from model_export.session_replay import SessionClicks
from model_export.sources.event_log import EventLog
from model_export.train import train
from schemas.ids import item_hash
from udfs.model.bundle import Bundle, BundleRefused
from udfs.model.items import ItemArrays
from udfs.model.manifest import MANIFEST, RULE_FILES, RULE_SETTINGS, ModelSettings
from udfs.ranking.candidates import RETRIEVERS, RULES
from udfs.ranking.catalogue import CatalogueView
from udfs.ranking.explain import explain
from udfs.ranking.features import FEATURE_NAMES
from udfs.ranking.history import empty_history
from udfs.ranking.item_index import ItemIndex
from udfs.ranking.item_links import ItemLinks
from udfs.ranking.rank import RankSettings, prepare
from udfs.ranking.rule_source import find_by_rules

__all__ = ["data", "index", "log", "moments", "replayed"]

SETTINGS = ModelSettings(weight_rules=0.5, share_rules=0.1, share_embedding=0.2)


def rule_table(rules: dict[int, dict[int, float]], n: int) -> ItemLinks:
    """Rules by row as training writes them."""
    lists = [sorted(rules.get(row, {}).items(), key=lambda pair: (-pair[1], pair[0])) for row in range(n)]
    return ItemLinks(
        np.append(0, np.cumsum([len(one) for one in lists])).astype(np.int64),
        np.array([row for one in lists for row, _ in one], np.int32),
        np.array([score for one in lists for _, score in one], np.float32),
    )


def toy_rules(items: ItemArrays) -> ItemLinks:
    """After toy item k comes k + 1, and less often k + 2."""
    row = {name: at for at, name in enumerate(items.item_ids)}
    n = len(row)
    return rule_table(
        {
            row[item_id(k)]: {row[item_id((k + 1) % n)]: 0.5, row[item_id((k + 2) % n)]: 0.25}
            for k in range(n)
        },
        n,
    )


def reference(
    table: ItemLinks, recent: list[int], allowed: np.ndarray, limit: int
) -> list[tuple[int, float]]:
    """What `find_by_rules` gives for one user, slowly."""
    sums: dict[int, float] = {}
    for back, row in enumerate(recent, start=1):
        for at in range(table.offsets[row], table.offsets[row + 1]):
            after = int(table.rows[at])
            if allowed[after]:
                sums[after] = sums.get(after, 0.0) + float(table.scores[at]) / back
    return sorted(sums.items(), key=lambda pair: (-pair[1], pair[0]))[:limit]


def test_the_compiled_source_gives_what_the_readable_one_gives() -> None:
    rng = np.random.default_rng(5)
    n, users = 60, 40
    table = rule_table(
        {
            row: {
                int(k): float(rng.random())
                for k in rng.choice(n, rng.integers(0, 9), replace=False)
                if k != row
            }
            for row in range(n)
        },
        n,
    )
    history = empty_history(users)
    for user in range(users):
        count = int(rng.integers(0, 11))
        history.recent_rows[user, :count] = rng.choice(n, count, replace=False)
        history.n_recent[user] = count
    allowed = rng.random(n) < 0.8
    found = find_by_rules(table, history, allowed, 7)
    assert found.counts.max() == 7
    for user in range(users):
        wanted = reference(table, history.recent_rows[user, : history.n_recent[user]].tolist(), allowed, 7)
        count = found.counts[user]
        assert found.rows[user, :count].tolist() == [row for row, _ in wanted]
        np.testing.assert_allclose(found.score[user, :count], [score for _, score in wanted], rtol=1e-5)


def with_rules(path: Path) -> Bundle:
    items = toy_items()
    return make_bundle(path, items, settings=SETTINGS, rules=toy_rules(items))


def test_what_follows_the_last_items_is_a_candidate_and_is_named(tmp_path: Path) -> None:
    bundle = with_rules(tmp_path / "7")
    shot = snapshot(toy_state([40, 20, 7]))
    found = prepare(bundle.items, [shot], CatalogueView(bundle), RankSettings(candidates=100), 7)
    rank = found.candidates.rank[0, :, RULES]
    brought = {bundle.items.item_ids[row] for row in found.candidates.rows[0, rank > 0].tolist()}
    assert brought == {item_id(k) for k in (8, 9, 21, 22, 41, 42)}
    first = found.candidates.rows[0, rank == 1].tolist()
    assert [bundle.items.item_ids[row] for row in first] == [item_id(8)]
    place = found.finalists.rows[0].tolist().index(bundle.items.row(item_hash(item_id(21))))
    features = dict(zip(FEATURE_NAMES, found.features[place].tolist(), strict=True))
    assert features["rule_score"] == pytest.approx(0.25)  # the rule's half, one step back
    assert features["rule_rank"] == pytest.approx(1 / rank[found.finalists.slots[0, place]])
    told = explain(bundle, shot, item_id(9), CatalogueView(bundle), RankSettings(candidates=100))
    assert "rules" in told.sources and RETRIEVERS[RULES] == "rules"


def test_the_blend_counts_what_follows() -> None:
    items = toy_items()
    shot = snapshot(toy_state([40, 20, 7]))

    def blend(weight: float, name: str) -> float:
        chosen = ModelSettings(weight_rules=weight, share_rules=0.1, share_embedding=0.2)
        index = ItemIndex.build(items, chosen, rules=toy_rules(items))
        found = prepare(index, [shot], CatalogueView(index), RankSettings(), 7)
        place = found.finalists.rows[0].tolist().index(index.row(item_hash(name)))
        return float(found.finalists.score[0, place])

    assert blend(0.5, item_id(8)) - blend(0.0, item_id(8)) == pytest.approx(0.5, rel=1e-5)
    assert blend(0.5, item_id(9)) - blend(0.0, item_id(9)) == pytest.approx(0.25, rel=1e-5)


def test_a_bundle_without_rules_is_what_it_was_before(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "7")
    text = json.loads((tmp_path / "7" / MANIFEST).read_text())
    assert not set(RULE_SETTINGS) & set(text["settings"])
    assert not {name for name in text["files"] if name.startswith("rule")}
    assert bundle.items.rules is None
    found = prepare(bundle.items, [snapshot(toy_state([2]))], CatalogueView(bundle), RankSettings(), 7)
    assert not found.candidates.rank[:, :, RULES].any() and not found.candidates.rule_score.any()


@pytest.mark.parametrize("name", sorted(RULE_FILES))
def test_rules_that_are_not_all_there_or_were_changed_are_refused(tmp_path: Path, name: str) -> None:
    assert_part_is_needed(with_rules(tmp_path / "7").path, name)


def test_rules_with_wrong_content_are_refused(tmp_path: Path) -> None:
    items = toy_items()
    good = toy_rules(items)
    for bad, reason in wrong_links(good):
        with pytest.raises(BundleRefused) as refused:
            make_bundle(tmp_path / "7", items, settings=SETTINGS, rules=bad)
        assert refused.value.reason == reason


def test_training_writes_the_rules_of_its_sessions_into_the_bundle(data: Path, tmp_path: Path) -> None:
    report = train(TRAINING.with_rules(), data, UNTIL, 4, root=tmp_path / "models")
    bundle = Bundle.open(report.path, report.manifest_sha256)
    assert bundle.items.rules is not None
    assert len(bundle.items.rules.rows) > 100
    assert bundle.manifest.settings.share_rules == pytest.approx(0.1)
    assert bundle.manifest.data["settings"]["rules"]["steps"] == RuleSettings().steps
    assert set(bundle.manifest.files) >= RULE_FILES


def test_features_of_training_are_those_that_a_job_ranks_with(
    log: EventLog, index: ItemIndex, moments: list[Moment], replayed: tuple[list[Moment], SessionClicks]
) -> None:
    rows = ItemRows(tuple(index.item_ids), np.asarray(index.columns.hashes))
    rules = fit_rules(interactions(log, rows), RuleSettings())
    ruled = dataclasses.replace(index, settings=SETTINGS, rules=rules)
    features, _ = served_features(log, ruled, moments)
    trained = candidate_set(ruled, *replayed, RANK, EPOCH)
    wanted = trained.features.reshape(len(moments), RANK.finalists, -1)
    assert features.tobytes() == wanted.tobytes()
    assert (wanted[:, :, FEATURE_NAMES.index("rule_rank")] > 0).any(axis=1).mean() > 0.5

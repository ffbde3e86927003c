"""Which bundles a worker holds, and which it refuses while the old one keeps serving."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from flink_jobs.first_ranking import rank_nobody
from flink_jobs.list_columns import BundleTexts
from flink_jobs.model_store import ModelStore
from flink_jobs.settings import Model
from tailrace.model_epochs import bundles_on_disk
from tests.bundles import make_bundle, snapshot, toy_state, toy_trees
from udfs.model.bundle import Bundle, BundleLimits
from udfs.ranking.catalogue import CatalogueView
from udfs.ranking.features import FEATURE_NAMES
from udfs.ranking.rank import RankSettings, rank_batch


def test_a_bundle_of_another_epoch_than_its_folder_is_refused_and_the_old_one_serves_on(
    tmp_path: Path,
) -> None:
    make_bundle(tmp_path / "7", epoch=7)
    make_bundle(tmp_path / "8", epoch=9)
    store = ModelStore(Model(root=tmp_path))
    serving = store.bundle(7)
    assert serving is not None and store.refusal(7) is None
    assert store.bundle(8) is None and store.factors(8) is None
    refusal = store.refusal(8)
    assert refusal is not None
    assert f"{tmp_path}/8: wanted epoch 8" in refusal and "got 9" in refusal and f"{tmp_path}/9" in refusal
    assert store.held() == [7] and store.newest_held() is serving
    shown = bundles_on_disk(Model(root=tmp_path))
    assert [(bundle.epoch, bundle.refusal) for bundle in shown] == [(7, None), (8, refusal)]


def test_the_two_epochs_asked_for_last_are_held(tmp_path: Path) -> None:
    for epoch in (1, 2, 3):
        make_bundle(tmp_path / str(epoch), epoch=epoch)
    store = ModelStore(Model(root=tmp_path))
    for epoch in (1, 2, 1, 3):
        assert store.bundle(epoch) is not None
    assert store.held() == [1, 3]


def test_a_bundle_whose_scores_are_no_numbers_for_some_user_never_ranks_again_and_the_one_before_does(
    tmp_path: Path,
) -> None:
    make_bundle(tmp_path / "7", epoch=7)
    trees = toy_trees()
    features, thresholds, leaves = trees.features.copy(), trees.thresholds.copy(), trees.leaves.copy()
    features[0], thresholds[0] = FEATURE_NAMES.index("popularity_rank"), 3.5  # canary rows are below 3
    leaves[0, 4:] = np.nan
    make_bundle(
        tmp_path / "8", epoch=8, trees=replace(trees, features=features, thresholds=thresholds, leaves=leaves)
    )
    store = ModelStore(Model(root=tmp_path))
    shots = [snapshot(toy_state([1, 3]), "u1")]

    def rank(bundle: Bundle) -> int:
        return rank_batch(bundle, shots, CatalogueView(bundle), RankSettings())[0].epoch

    assert store.rank_with(7, rank) == 7
    assert store.bundle(8) is not None, "it opens: its known rows score as in training"
    assert store.rank_with(8, rank) == 7
    assert store.bundle(8) is None and store.held() == [7]
    assert "score" in store.unfit()[8] and store.refusal(8) == store.unfit()[8]
    store.bundle(4)
    assert list(store.unfit()) == [8], "a bundle that is missing may come"
    alone = ModelStore(Model(root=tmp_path))
    assert alone.rank_with(8, rank) is None, "without another nobody gets a list, and nothing ends"


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        (BundleLimits(canary_s=0.0), "too_slow"),
        (BundleLimits(total_bytes=1_000), "too_large"),
        (None, "hash"),
    ],
)
def test_a_slow_an_oversized_and_a_corrupt_bundle_never_rank_and_the_one_before_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: BundleLimits | None, says: str
) -> None:
    for epoch in (7, 8):
        make_bundle(tmp_path / str(epoch), epoch=epoch)
    store = ModelStore(Model(root=tmp_path))
    assert store.rank_with(7, lambda bundle: bundle.epoch) == 7
    if limits is None:
        file = tmp_path / "8" / "factors.npy"
        file.write_bytes(file.read_bytes()[:-1] + b"\1")
    else:
        strict = SimpleNamespace(open=partial(Bundle.open, limits=limits))
        monkeypatch.setattr("flink_jobs.model_store.Bundle", strict)
    for _ in range(3):
        assert store.rank_with(8, lambda bundle: bundle.epoch) == 7
    assert store.held() == [7] and says in (store.refusal(8) or "")


def test_a_missing_bundle_is_refused_with_its_folder(tmp_path: Path) -> None:
    store = ModelStore(Model(root=tmp_path))
    assert store.bundle(4) is None
    assert str(tmp_path / "4") in (store.refusal(4) or "")


def test_the_first_ranking_of_an_epoch_takes_the_texts_that_its_lists_will_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Bundle] = []
    gather = BundleTexts.of

    def counted(bundle: Bundle) -> BundleTexts:
        made.append(bundle)
        return gather(bundle)

    monkeypatch.setattr(BundleTexts, "of", counted)
    make_bundle(tmp_path / "7", epoch=7)
    store = ModelStore(Model(root=tmp_path))
    bundle = store.bundle(7)
    assert bundle is not None
    grown = replace(bundle, items=replace(bundle.items))  # as the catalogue's view gives it when items arrive
    view = CatalogueView(bundle)
    monkeypatch.setattr(view, "grown", lambda _: grown)
    rank_nobody(bundle, view, RankSettings(), store.texts)
    assert [id(one.items) for one in made] == [id(bundle.items), id(grown.items)]
    store.texts(bundle), store.texts(grown)
    assert len(made) == 2, "lists find both"

"""Two models on the same snapshots: measures against known values, and bundles that agree, or not."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from bundles import EPOCH, make_bundle, snapshot, toy_state, toy_trees
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from model_export.shadow import Ordered, Shadow, largest_gap, overlap_at, rank_biased_overlap, stability_index
from schemas.records import ServedList
from tailrace import model_shadow
from tailrace.cli import app
from tailrace.model_shadow import compare
from udfs.model.bundle import Bundle
from udfs.ranking.catalogue import CatalogueView
from udfs.ranking.model_order import model_order
from udfs.ranking.rank import RankSettings, prepare

SETTINGS = RankSettings()
RANKINGS = st.lists(st.integers(0, 15), unique=True, max_size=12)


def slow_overlap(one: list[int], other: list[int], p: float) -> float:
    """Equation 32, term by term."""
    short, long = sorted((one, other), key=len)
    s, n = len(short), len(long)
    x = [len(set(short[:d]) & set(long[:d])) for d in range(n + 1)]
    first = sum(x[d] / d * p**d for d in range(1, n + 1))
    second = sum(x[s] * (d - s) / (s * d) * p**d for d in range(s + 1, n + 1))
    return (1 - p) / p * (first + second) + ((x[n] - x[s]) / n + x[s] / s) * p**n


@given(RANKINGS.filter(bool), RANKINGS.filter(bool))
def test_rank_biased_overlap_is_that_of_the_paper(one: list[int], other: list[int]) -> None:
    got = rank_biased_overlap(one, other)
    assert got == pytest.approx(slow_overlap(one, other, 0.9), abs=1e-9)
    assert got == rank_biased_overlap(other, one)
    assert 0.0 <= got <= 1.0


def test_a_change_at_the_top_counts_more_than_one_at_the_end() -> None:
    top = rank_biased_overlap([2, 1, 3, 4, 5], [1, 2, 3, 4, 5])
    assert top < rank_biased_overlap([1, 2, 3, 5, 4], [1, 2, 3, 4, 5]) < 1.0


def test_overlap_does_not_look_at_the_order() -> None:
    assert overlap_at([1, 2, 3], [3, 2, 1], 3) == 1.0
    assert overlap_at([1, 2, 3, 9], [4, 5, 3, 9], 3) == pytest.approx(1 / 3)
    assert overlap_at([], [], 3) == 1.0


def test_drift_is_that_of_hand_made_samples() -> None:
    before = np.arange(100, dtype=np.float32)
    now = np.concatenate([before[:50], before[:50]])  # five bins twice as full, five empty
    empty = 1e-4
    wanted = 5 * (0.2 - 0.1) * math.log(2) + 5 * (empty - 0.1) * math.log(empty / 0.1)
    assert stability_index(before, now) == pytest.approx(wanted)
    assert largest_gap(before, now) == pytest.approx(0.5)
    assert stability_index(before, before) == largest_gap(before, before) == 0.0
    assert math.isnan(stability_index(before, before[:0]))


def test_a_report_is_the_mean_over_lists() -> None:
    shadow = Shadow(3)
    scores = np.array([3, 2, 1, 0], np.float32)
    shadow.add(Ordered("abcx", scores), Ordered("abcy", scores))
    shadow.add(Ordered("abcx", scores), Ordered("xyzw", scores))
    told = shadow.report()
    assert (told["lists"], told["rbo"], told["overlap_at_3"], told["first_item_changed"]) == (
        2,
        0.5,
        0.5,
        0.5,
    )
    assert (told["score_psi"], told["score_ks"]) == (0.0, 0.0)
    assert Shadow(3).report() == {"lists": 0}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Bundle, Bundle]:
    root, trees = tmp_path_factory.mktemp("models"), toy_trees()
    turned = dataclasses.replace(trees, leaves=-trees.leaves)
    return (
        make_bundle(root / "7"), make_bundle(root / "8", epoch=8), make_bundle(root / "9", epoch=9, trees=turned),
    )  # fmt: skip


def served(users: int) -> list[ServedList]:
    shots = [snapshot(toy_state([k, k + 2, k + 4]), f"u{k}") for k in range(users)]
    return [
        ServedList(f"r{k}", "default", f"u{k}", shot.version, shot.at_ms, shot.at_ms, EPOCH, "toy", "default", 0, (),
                   shot.state)
        for k, shot in enumerate(shots)
    ]  # fmt: skip


def beside(one: Bundle, other: Bundle, most: int = 50) -> dict[str, object]:
    lists = served(40)
    views = CatalogueView(one), CatalogueView(other)
    return compare(one, other, [[], lists[:25], lists[25:]], most, views, SETTINGS, None)


def test_the_order_is_that_of_the_scores(bundles: tuple[Bundle, Bundle, Bundle]) -> None:
    bundle = bundles[0]
    shots = [snapshot(toy_state([k, k + 2]), f"u{k}") for k in range(5)]
    orders = model_order(bundle, shots, CatalogueView(bundle), SETTINGS)
    found = prepare(bundle.items, shots, CatalogueView(bundle), SETTINGS, bundle.epoch)
    for user, (items, scores) in enumerate(orders):
        rows = found.finalists.rows[user, : found.finalists.counts[user]].tolist()
        assert sorted(items) == sorted(bundle.items.item_ids[row] for row in rows)
        assert (np.diff(scores) <= 0).all()


def test_equal_models_agree_though_their_epochs_draw_otherwise(
    bundles: tuple[Bundle, Bundle, Bundle],
) -> None:
    found = beside(bundles[0], bundles[1])
    assert found["lists"] == 40
    assert (found["rbo"], found["overlap_at_10"], found["first_item_changed"]) == (1.0, 1.0, 0.0)
    assert (found["score_psi"], found["score_ks"]) == (0.0, 0.0)
    costs = found["cpu_us_a_user"]
    assert isinstance(costs, dict) and min(costs.values()) > 0


def test_a_model_turned_round_agrees_with_little(bundles: tuple[Bundle, Bundle, Bundle]) -> None:
    found = beside(bundles[0], bundles[2], most=30)
    assert found["lists"] == 30
    assert float(str(found["rbo"])) < 0.5 and float(str(found["score_psi"])) > 1.0
    assert float(str(found["first_item_changed"])) > 0.9


def test_the_command_says_when_there_was_nothing_to_compare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_shadow, "run", lambda *_: {"serving": 1, "candidate": 2, "lists": 0})
    done = CliRunner().invoke(app, ["models", "shadow", "2"])
    assert done.exit_code == 1 and "--past" in done.output

"""The federated protocol: what leaves the devices adds up to the table, and noise does what its mode says."""

from __future__ import annotations

from math import inf, sqrt

import numpy as np
import pytest

from model_export.protocols import federated_table
from model_export.protocols.federated import FederatedReport, Problem, counts_of, curve
from model_export.protocols.federated_table import learn, scores
from model_export.protocols.list_quality import ListQuality, top_lists
from udfs.privacy.gaussian import mu_of
from udfs.privacy.terms import Mode

ITEMS, USERS = 12, 220


@pytest.fixture(autouse=True)
def few_pairs(monkeypatch):
    monkeypatch.setattr(federated_table, "PAIRED_ITEMS", 8)


def shop():
    """Even users take even items, odd ones odd items; the first items are the most popular."""
    rng = np.random.default_rng(3)
    weights = np.zeros((USERS, ITEMS))
    for user in range(USERS):
        likely = np.where(np.arange(ITEMS) % 2 == user % 2, 1.0, 0.03) / (1.0 + np.arange(ITEMS))
        weights[user, rng.choice(ITEMS, 4, replace=False, p=likely / likely.sum())] = 1.0
    return weights


def test_without_noise_the_table_is_the_sum_over_devices():
    weights = shop()
    table = learn(weights, Mode.CENTRAL, inf, 1e-5, 0)
    used = int(USERS * (1 - federated_table.LATE_SHARE))
    rows = weights[:used] / np.linalg.norm(weights[:used], axis=1, keepdims=True)
    assert table.popularity == pytest.approx(rows.sum(axis=0), abs=1e-3)
    chosen = weights[:used][:, table.top]
    chosen = chosen / np.maximum(np.linalg.norm(chosen, axis=1, keepdims=True), 1e-12)
    assert np.abs(table.pairs - chosen.T @ chosen).max() < 1e-3
    assert [record.epsilon for record in table.records] == [inf, inf]


@pytest.mark.parametrize("mode", [Mode.CENTRAL, Mode.DISTRIBUTED])
def test_the_noise_of_a_number_is_what_the_budget_says_and_both_parts_make_the_whole(mode):
    weights = shop()
    plain = learn(weights, mode, inf, 1e-5, 0)
    tables = [learn(weights, mode, 1.0, 1e-5, seed) for seed in range(30)]
    for table in tables:
        mus = [record.mu for record in table.records]
        assert sqrt(sum(mu * mu for mu in mus)) == pytest.approx(mu_of(1.0, 1e-5))
    popular = np.array([table.popularity for table in tables])
    wanted = 1.0 / (mu_of(1.0, 1e-5) * sqrt(federated_table.POPULARITY_SHARE))
    assert (popular - plain.popularity).std() == pytest.approx(wanted, rel=0.15)


def test_local_mode_spends_all_on_popularity_and_has_no_pairs():
    table = learn(shop(), Mode.LOCAL, 10.0, 1e-5, 0)
    assert not table.pairs.any()
    (record,) = table.records
    assert (record.mode, record.adjacency) == ("local", "replace")
    assert record.epsilon == pytest.approx(10.0, rel=1e-6)


def test_users_get_what_goes_with_what_they_have():
    weights = shop()
    history = np.zeros((2, ITEMS))
    history[0, 0] = history[1, 1] = 1.0
    found = top_lists(scores(learn(weights, Mode.CENTRAL, inf, 1e-5, 0), history), history > 0.0)
    assert set(found[0][:2] % 2) == {0}
    assert set(found[1][:2] % 2) == {1}


def test_a_report_has_every_mode_at_every_epsilon_beside_the_baselines():
    weights = shop()
    tested = np.arange(40)
    wanted = tuple(frozenset({int(user % 2), int(user % 2) + 2}) for user in tested)
    problem = Problem("toy", "sha", weights, weights, np.zeros(weights.shape, bool), tested, wanted)
    points = curve(problem, range(2))
    report = FederatedReport(tuple(points), {"toy": counts_of(problem)}, 2, 1.0, 1.0)
    (rows,) = report.tables().values()
    assert len(rows) == 1 + 3 + 3 * 4
    plain = next(point for point in points if point.mode == "devices, no noise")
    best = next(point for point in points if (point.mode, point.epsilon) == ("central", 10.0))
    assert best.ndcg > 0.6 * plain.ndcg
    assert report.to_dict()["points"][2]["of_no_noise"] == 0.0
    shown = top_lists(np.tile((weights > 0).sum(axis=0).astype(float), (40, 1)), problem.known[:40])
    assert points[0].ndcg == pytest.approx(
        ListQuality.of(shown, wanted, problem.known.sum(axis=0), USERS).to_dict()["ndcg"]
    )

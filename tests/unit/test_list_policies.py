"""List policies: drawn with exact probabilities, logged, repeated, learnt from lists, and nothing at all when off."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
from bundles import make_bundle, snapshot, toy_state

from benchmarks import list_policies
from flink_jobs.posterior_feed import Posteriors
from flink_jobs.rank_settings import rank_settings, varied
from flink_jobs.settings import SettingsError, load
from schemas.codec import Codec, encode
from schemas.records import ArmPosterior, Credit, Posterior
from udfs.bandits.credit_sums import CreditSums
from udfs.bandits.list_policy import ListPolicy
from udfs.bandits.policy import SERVED
from udfs.bandits.shared_posterior import SharedPosterior
from udfs.bandits.user_context import UNITS, context_units
from udfs.experiments.experiment import Experiment, Variant
from udfs.experiments.running import RunningExperiments
from udfs.model.bundle import Bundle
from udfs.ranking.catalogue import CatalogueView
from udfs.ranking.exploration import _NEW_ITEM_DRAW, _NEW_SLOT, uniform
from udfs.ranking.list_policies import draw_list_policies, draw_rows
from udfs.ranking.prepare import prepare
from udfs.ranking.rank import RankSettings, rank_batch, rank_columns
from udfs.ranking.snapshot import Snapshot, decode_states
from udfs.user_state import SOURCES

OFF = RankSettings(candidates=100)
POLICIES = (
    ListPolicy("plain"),
    ListPolicy("spread", diversity=0.6),
    ListPolicy("popular", sources=(0.0, 0.0, 0.0, 0.0, 1.0)),
)
NAMES = tuple(one.name for one in POLICIES)
ON = dataclasses.replace(OFF, list_policies=POLICIES)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "7")


def users(count: int = 80) -> list[Snapshot]:
    return [snapshot(toy_state([n % 7, n % 11 + 8]), f"u{n}", version=f"{n:032x}") for n in range(count)]


def taught(best: str, lists: int = 1_000, version: int = 5) -> Posterior:
    nothing = (0.0, 0.0)
    arms = [
        ArmPosterior(f"list:{name}", (float(lists), *nothing * 2, 0.0), (lists * earned, *nothing))
        for name, earned in sorted((name, 0.3 if name == best else 0.1) for name in NAMES)
    ]
    return Posterior("default", version, 3 * lists, 20_000, tuple(arms))


def followed(record: Posterior) -> dict[str, SharedPosterior]:
    feed = Posteriors(Codec({}))
    feed.take(record.tenant, encode(record))
    assert feed.refused == 0
    return feed.by_tenant


def test_without_list_policies_nothing_is_drawn_and_what_lists_taught_of_them_changes_nothing(bundle):
    view = CatalogueView(bundle)
    plain = rank_batch(bundle, users(), view, OFF)
    assert {(one.list_policy, one.list_shares) for one in plain} == {("", ())}
    after = rank_batch(bundle, users(), view, OFF, None, followed(taught("spread")))
    assert [one.items for one in after] == [one.items for one in plain]


def test_each_list_is_the_one_that_its_policys_settings_make_alone(bundle):
    view = CatalogueView(bundle)
    batch = rank_columns(bundle, users(), view, ON)
    lists = batch.lists()
    alone = {
        "plain": rank_batch(bundle, users(), view, OFF),
        "spread": rank_batch(bundle, users(), view, dataclasses.replace(OFF, diversity=0.6)),
    }
    for user, one in enumerate(lists):
        if one.list_policy in alone:
            assert one.items == alone[one.list_policy][user].items
        else:
            assert one.source_probabilities == pytest.approx((0.01, 0.01, 0.01, 0.01, 0.96))
    popular = [one for one in lists if one.list_policy == "popular"]
    assert sum(item.source == "popular" for one in popular for item in one.items) > 8 * len(popular)
    assert set(Counter(one.list_policy for one in lists)) == set(NAMES)
    changed = [one.rec_id != alone["plain"][user].rec_id for user, one in enumerate(lists)]
    assert all(changed), "the id of a list names its policy"


def test_the_features_that_a_list_is_scored_by_do_not_depend_on_its_policy(bundle):
    view = CatalogueView(bundle)
    found = [prepare(bundle.items, users(), view, how, bundle.epoch) for how in (OFF, ON)]
    assert found[0].features.tobytes() == found[1].features.tobytes()
    scores = [
        {
            (one.user_id, item.item_id): item.score
            for one in rank_batch(bundle, users(), view, how)
            for item in one.items
        }
        for how in (OFF, ON)
    ]
    both = scores[0].keys() & scores[1].keys()
    assert len(both) > 200 and all(scores[0][place] == scores[1][place] for place in both)


@pytest.mark.parametrize("rule", SERVED)
def test_probabilities_are_exact_keep_the_floor_and_are_those_that_lists_log(bundle, rule):
    how = dataclasses.replace(ON, list_rule=rule, list_floor=0.1)
    view, shared = CatalogueView(bundle), followed(taught("spread"))
    lists = rank_batch(bundle, users(), view, how, None, shared)
    for one in lists:
        assert tuple(share.policy for share in one.list_shares) == NAMES
        shares = [share.probability for share in one.list_shares]
        assert sum(shares) == sum(reversed(shares)) == 1.0 and min(shares) >= 0.1
        assert one.posterior_version == 5
    assert np.mean([one.list_shares[1].probability for one in lists]) > 0.6
    assert rank_batch(bundle, users()[7:9], view, how, None, shared) == lists[7:9], "a replay"


def test_policies_come_as_often_as_their_probabilities_say():
    shares = np.tile([0.2, 0.5, 0.3], (4_000, 1))
    seeds = np.random.default_rng(0).integers(0, 2**63, 4_000).astype(np.uint64)
    drawn = draw_rows(shares, seeds, 2_000)
    assert np.abs(np.bincount(drawn) / 4_000 - shares[0]).max() < 0.03
    for user in range(50):
        below = np.cumsum(shares[user])
        assert drawn[user] == np.searchsorted(below, uniform(seeds[user], 2_000), side="right")


def test_a_user_of_another_tenant_is_dealt_evenly(bundle):
    states, seeds = decode_states(users(30)), np.arange(30, dtype=np.uint64)
    shared = SharedPosterior.of(taught("spread"), SOURCES)
    both = [shared, None] * 15
    found = draw_list_policies(POLICIES, "thompson", 0.05, states, both, seeds).probabilities
    assert np.allclose(found[1::2], 1 / 3) and (found[::2, 1] > 0.85).all()


def test_a_list_s_policy_is_drawn_by_a_number_that_no_slot_and_no_new_item_uses():
    states, seeds = decode_states(users(40)), np.arange(40, dtype=np.uint64) * np.uint64(7_919)
    drawn = draw_list_policies(POLICIES, "thompson", 0.05, states, [], seeds).drawn
    assert drawn.tolist() == [int(3 * uniform(seed, 2_000)) for seed in seeds]
    assert 2_000 > _NEW_SLOT + 64 > _NEW_ITEM_DRAW, "a list has 50 slots at most"


@pytest.mark.parametrize("rule", ["linucb", "thompson_linear"])
def test_a_rule_with_contexts_gives_buyers_and_newcomers_their_own(rule):
    credits = []
    for number in range(4_000):
        buyer = number % 2
        context = tuple(context_units(40 * buyer, 30 * buyer).tolist())
        name = NAMES[number // 2 % 3]
        reward = {("spread", 0): 0.4, ("popular", 1): 0.4}.get((name, buyer), 0.1)
        credits.append(Credit("default", "u", "r", f"list:{name}", reward, 9, "c", context))
    record = Posterior("default", 1, 4_000, 0, CreditSums().add(credits).posterior(14.0))
    shared = SharedPosterior.of(record, SOURCES)
    newcomer, buyer = toy_state([]), toy_state(list(range(10)))._replace(n_events=40, n_purchases=30)
    states = decode_states([snapshot(newcomer, "a"), snapshot(buyer, "b")])
    found = draw_list_policies(POLICIES, rule, 0.05, states, [shared] * 2, np.zeros(2, np.uint64))
    assert found.probabilities.argmax(axis=1).tolist() == [1, 2]
    assert found.probabilities.max(axis=1).min() > 0.7


def test_what_lists_earned_is_summed_by_day_in_any_order_and_bounded():
    credits = [
        Credit("t", "u", "r", f"list:{'x' * 10}{n:03d}", n % 3 / 2, n % 5, "c", (UNITS, 3, 4)) for n in range(12)
    ]  # fmt: skip
    one, other = CreditSums().add(credits), CreditSums()
    for credit in reversed(credits):
        other = other.merge(CreditSums().add([credit]))
    assert one.encode() == other.encode()
    assert sorted(arm for _, arm in one.of_days) == sorted(credit.arm for credit in credits)[:8]
    too_long = credits[0]._replace(arm="list:" + "x" * 20)
    assert CreditSums().add([too_long, credits[0]._replace(arm="list:")]) == CreditSums()


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        ({"plain": {}}, "wanted 2 to 4"),
        ({name: {} for name in "abcde"}, "wanted 2 to 4"),
        ({"plain": {}, "Loud": {}}, "wanted names of 1 to 16"),
        ({"plain": {}, "b": {"sources": {"repeats": 1}}}, "wanted names of ranker"),
        ({"plain": {}, "b": {"sources": {"repeat": 0}}}, "wanted shares"),
        ({"plain": {}, "b": {"diversity": 2}}, "diversity"),
        ({"plain": {}, "b": {"spread": 2}}, "spread"),
    ],
)
def test_list_policies_that_could_not_be_drawn_are_refused_at_submission(tables, says):
    with pytest.raises(SettingsError, match=says):
        load(environment={}, model={"list_policies": tables})


def test_settings_name_them_in_a_file_or_as_json_in_a_variable():
    tables = '{"plain": {}, "loyal": {"sources": {"repeat": 1, "ranker": 3}}}'
    settings = load(environment={"TAILRACE_MODEL__LIST_POLICIES": tables})
    assert rank_settings(settings).list_policies == (
        ListPolicy("plain"), ListPolicy("loyal", None, (3.0, 0.0, 0.0, 1.0, 0.0)),
    )  # fmt: skip
    assert rank_settings(load(environment={})).list_policies == ()
    with pytest.raises(SettingsError, match="floor"):
        load(environment={"TAILRACE_MODEL__LIST_POLICIES": tables}, model={"list_floor": 0.5})


def test_a_variant_may_go_without_list_policies_and_sets_diversity_where_a_policy_does_not(bundle):
    order = RunningExperiments(
        (Experiment("x", "list", 0, 9, (Variant("a", 1, {}), Variant("b", 1, {"list_policies": 0}))),)
    )
    order.check()
    with pytest.raises(ValueError, match="list_policies: wanted 0 to 1"):
        order._replace(promoted={"list_policies": 2}).check()
    assert varied(ON, {"list_policies": 0}) == OFF and varied(ON, {"list_policies": 1}) == ON
    view, how = CatalogueView(bundle), varied(ON, {"diversity": 0.3})
    lists = rank_batch(bundle, users(), view, how)
    alone = rank_batch(bundle, users(), view, dataclasses.replace(OFF, diversity=0.3))
    plain = [user for user, one in enumerate(lists) if one.list_policy == "plain"]
    assert len(plain) > 10 and all(lists[user].items == alone[user].items for user in plain)


@pytest.mark.parametrize("rule", SERVED)
def test_the_policy_that_earns_more_wins_on_simulated_lists(rule):
    world = "one best for all"
    rates = np.array(list_policies.WORLDS[world])
    evenly = float(rates.mean(axis=0).max() - rates.mean())
    all_lists, last_third = list_policies.lost(rule, list_policies.WORLDS[world], 7)
    assert last_third < all_lists < 0.35 * evenly
    by_context = list_policies.lost(rule, list_policies.WORLDS["buyers like another"], 7)[1]
    assert (by_context < -0.05) == (rule in ("linucb", "thompson_linear")), "better than any fixed one"

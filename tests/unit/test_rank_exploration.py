"""Lists that follow a shared posterior, and those with new items: logged, repeated, and unchanged without them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from bundles import make_bundle, snapshot, toy_state

from flink_jobs.posterior_feed import Posteriors
from schemas.codec import Codec, encode
from schemas.ids import item_hash
from schemas.records import ArmPosterior, Item, Posterior
from udfs.bandits.policy import SERVED
from udfs.model.bundle import Bundle
from udfs.ranking.catalogue import CatalogueView
from udfs.ranking.explain import explain
from udfs.ranking.rank import RankSettings, rank_batch
from udfs.ranking.snapshot import Snapshot
from udfs.user_state import NEW

SETTINGS = RankSettings(candidates=100)
MANY_NEW = dataclasses.replace(SETTINGS, new_item_share=0.2, new_item_weight=1e9)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "7")


def users(count: int = 60) -> list[Snapshot]:
    return [snapshot(toy_state([n % 7, n % 11 + 8]), f"u{n}", version=f"{n:032x}") for n in range(count)]


def record(version: int, best: str) -> Posterior:
    arms = tuple(
        ArmPosterior(arm, (500.0, 0.0, 0.0, 0.0, 0.0, 0.0), (400.0 if arm == best else 1.0, 0.0, 0.0))
        for arm in ("popular", "ranker", "repeat")
    )
    return Posterior("default", version, 1_500, 20_000, arms)


@pytest.fixture
def followed() -> Posteriors:
    return Posteriors(Codec({}))


@pytest.mark.parametrize("policy", SERVED)
def test_lists_follow_what_was_published_log_its_version_and_are_repeated(
    bundle: Bundle, followed: Posteriors, policy: str
) -> None:
    how, view = dataclasses.replace(SETTINGS, exploration_policy=policy), CatalogueView(bundle)
    before = rank_batch(bundle, users(), view, how)
    assert rank_batch(bundle, users(), view, how, None, followed.by_tenant) == before, "nothing was published"
    followed.take("default", encode(record(5, "popular")))
    after = rank_batch(bundle, users(), view, how, None, followed.by_tenant)
    assert {one.posterior_version for one in before} == {0}
    assert {one.posterior_version for one in after} == {5}
    drawn = [
        sum(item.source == "popular" for one in lists for item in one.items) for lists in (before, after)
    ]
    assert drawn[1] > 2 * drawn[0]
    assert rank_batch(bundle, users()[7:9], view, how, None, followed.by_tenant) == after[7:9], "a replay"
    assert not {one.rec_id for one in before} & {one.rec_id for one in after}
    off = dataclasses.replace(how, shared_credits=0.0)
    assert rank_batch(bundle, users(), view, off, None, followed.by_tenant) == before


def test_a_record_that_cannot_be_used_leaves_the_version_before_it(followed: Posteriors) -> None:
    followed.take("default", encode(record(5, "popular")))
    followed.take("default", b"\x01junk")
    followed.take("default", encode(record(6, "popular")._replace(arms=(ArmPosterior("ranker", (), ()),))))
    assert followed.by_tenant["default"].version == 5 and followed.refused == 2
    followed.take("default", None)
    assert followed.by_tenant == {}, "a tombstone"


def test_another_tenants_users_are_ranked_without_it(bundle: Bundle, followed: Posteriors) -> None:
    followed.take("acme", encode(record(5, "popular")._replace(tenant="acme")))
    view = CatalogueView(bundle)
    plain = rank_batch(bundle, users(9), view, SETTINGS)
    assert rank_batch(bundle, users(9), view, SETTINGS, None, followed.by_tenant) == plain


def test_new_items_keep_to_the_rules_and_lists_are_those_of_any_batch(bundle: Bundle) -> None:
    view = CatalogueView(bundle)
    blocked = set(bundle.items.item_ids[::3])
    for item in blocked:
        view.apply(Item(item, "default", "", "", None, None, False, False, {}, 0))
    lists = rank_batch(bundle, users(), view, MANY_NEW)
    new = [item for one in lists for item in one.items if item.source == NEW]
    assert len(new) > 30
    assert not {item.item_id for item in new} & blocked
    assert all(len({item.item_id for item in one.items}) == 10 for one in lists)
    assert all(0 < item.propensity < 0.2 for item in new)
    assert rank_batch(bundle, users()[3:5], view, MANY_NEW) == lists[3:5]


def test_only_items_of_which_the_model_knows_little_are_new(bundle: Bundle) -> None:
    popularity = np.expm1(bundle.items.columns.popularity.astype(np.float64))
    weight = float(np.quantile(popularity, 0.3))
    how = dataclasses.replace(MANY_NEW, new_item_weight=weight)
    lists = rank_batch(bundle, users(), CatalogueView(bundle), how)
    rows = [
        bundle.items.row(item_hash(item.item_id)) for one in lists for item in one.items if item.source == NEW
    ]
    assert rows and all(popularity[row] <= weight * 1.001 for row in rows)


def test_a_list_is_explained_with_the_posterior_that_made_it(bundle: Bundle, followed: Posteriors) -> None:
    followed.take("default", encode(record(5, "popular")))
    view, (asked,) = CatalogueView(bundle), users(1)
    (made,) = rank_batch(bundle, [asked], view, SETTINGS, None, followed.by_tenant)
    for slot, item in enumerate(made.items, 1):
        told = explain(bundle, asked, item.item_id, view, SETTINGS, posteriors=followed.by_tenant)
        assert (told.slot, told.slot_source, told.propensity) == (slot, item.source, item.propensity)

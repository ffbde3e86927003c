"""The catalogue as the rules and features see it."""

from __future__ import annotations

from math import log1p
from pathlib import Path

import numpy as np
import pytest
from bundles import item_id, make_bundle, toy_items

from schemas.ids import item_hash
from schemas.records import Item
from udfs.ranking.catalogue import CatalogueView
from udfs.ranking.item_index import ItemIndex


@pytest.fixture
def view() -> CatalogueView:
    return CatalogueView(ItemIndex.build(toy_items(40)))


def item(number: int, **fields: object) -> Item:
    record = Item(item_id(number), "default", "title", "category-1", None, 5.0, True, False, {}, 1)
    return record._replace(**fields)


def row_of(view: CatalogueView, number: int) -> int:
    return view.index.row(item_hash(item_id(number)))


def test_it_starts_with_everything_in_stock_at_the_bundle_s_prices(view: CatalogueView) -> None:
    assert view.allowed.all()
    assert view.mark == 0
    np.testing.assert_array_equal(view.price, view.index.prices)
    known = ~np.isnan(view.price)
    np.testing.assert_allclose(
        view.price_log[known], np.log1p(view.price[known].astype(np.float64)), rtol=1e-6
    )
    assert (view.price_log[~known] == -1).all()
    assert (~known).any()


@pytest.mark.parametrize(
    ("in_stock", "blocked", "allowed"), [(True, False, True), (False, False, False), (True, True, False)]
)
def test_an_item_is_allowed_when_it_is_in_stock_and_not_blocked(
    view: CatalogueView, in_stock: bool, blocked: bool, allowed: bool
) -> None:
    assert view.apply(item(3, in_stock=in_stock, blocked=blocked))
    row = row_of(view, 3)
    assert (view.in_stock[row], view.blocked[row], view.allowed[row]) == (in_stock, blocked, allowed)
    assert view.allowed.sum() == 39 + allowed
    view.apply(item(3))
    assert view.allowed.all()


@pytest.mark.parametrize("price", [None, -1.0, float("nan"), float("inf"), 1e300])
def test_a_price_that_cannot_be_one_is_not_known(view: CatalogueView, price: float | None) -> None:
    view.apply(item(3, price=price))
    row = row_of(view, 3)
    assert np.isnan(view.price[row])
    assert view.price_log[row] == -1


def test_a_new_price_is_taken(view: CatalogueView) -> None:
    view.apply(item(3, price=0.0))
    assert view.price_log[row_of(view, 3)] == 0
    view.apply(item(3, price=12.5))
    assert view.price[row_of(view, 3)] == 12.5
    assert view.price_log[row_of(view, 3)] == np.float32(log1p(12.5))


def test_an_item_that_the_epoch_does_not_know_is_counted_and_changes_nothing(view: CatalogueView) -> None:
    assert not view.apply(item(999, in_stock=False))
    assert view.unknown == 1
    assert view.allowed.all()


def test_a_view_does_not_change_the_bundle_or_another_view(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "7", toy_items(40))
    one, other = CatalogueView(bundle), CatalogueView(bundle)
    before = bundle.items.prices.copy()
    one.apply(item(3, price=1234.0, in_stock=False))
    np.testing.assert_array_equal(bundle.items.prices, before)
    assert other.allowed.all()
    assert one.bundle_sha256 == bundle.manifest_sha256

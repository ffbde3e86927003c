"""The simulated shop: tastes that show only in clicks, the same luck for every policy, and what the loop brings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest

from model_export.line_chart import line_chart
from schemas.ids import user_key
from tailrace.hidden_tastes import HiddenTastes, Taste
from tailrace.loop_story import POLICIES, RULES, Hour, play
from tailrace.loop_trial import planted, run_trial
from tests.bundles import make_bundle, toy_items
from udfs.experiments.assignment import variant_of
from udfs.model.bundle import Bundle
from udfs.ranking.rank import RankSettings

MINUTES, USERS = 24, 60


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("models") / "7", toy_items(400))


@pytest.fixture(scope="module")
def hours(bundle: Bundle) -> dict[str, Hour]:
    return play(bundle, USERS, MINUTES, 0, RankSettings())


def test_what_users_do_makes_the_lists_better_than_popular_ones(hours: dict[str, Hour]) -> None:
    assert hours["the loop"].rate(MINUTES // 2, MINUTES) > 1.05 * hours["popular"].rate(MINUTES // 2, MINUTES)


def test_every_policy_sees_the_same_users_at_the_same_time(hours: dict[str, Hour]) -> None:
    assert len({tuple(hour.shown) for hour in hours.values()}) == 1
    assert set(hours) == {policy.name for policy in POLICIES}


def test_every_list_that_is_old_enough_has_its_example_and_credits(hours: dict[str, Hour]) -> None:
    settled = MINUTES - 1 - (RULES.longest_ms + RULES.lateness_ms) // 60_000
    for hour in hours.values():
        assert sum(hour.shown[: settled - 1]) <= hour.examples <= sum(hour.shown[: settled + 1])
        assert hour.credits >= hour.examples


def test_the_same_seed_plays_the_same_hour_and_another_another(
    bundle: Bundle, hours: dict[str, Hour]
) -> None:
    assert play(bundle, USERS, MINUTES, 0, RankSettings()) == hours
    assert play(bundle, USERS, MINUTES, 1, RankSettings()) != hours


def test_a_user_answers_the_same_item_at_the_same_place_alike_whoever_made_the_list(bundle: Bundle) -> None:
    tastes = HiddenTastes(bundle, 40, 0)
    items = bundle.items.item_ids[:10]
    liked = 0
    for user in tastes.users:
        whole = tastes.clicks(user, 3, items)
        assert tastes.clicks(user, 3, items[:5]) == [place for place in whole if place < 5]
        liked += len(whole)
    assert liked > 5


def test_a_catalogue_without_categories_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="more than 2 categories of 20 items"):
        HiddenTastes(make_bundle(tmp_path / "7", toy_items(40)), 5, 0)


def test_an_experiment_deals_users_in_the_shop_and_stops_what_harms(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    tastes = HiddenTastes(bundle, 400, 0)
    trial = run_trial(bundle, tastes, {"diversity": 0.15}, RankSettings(), 6)
    assert (trial.word, trial.minute) == ("running", None), "the same twice: nothing to find"
    clicks = HiddenTastes.clicks

    def hates_the_change(self: HiddenTastes, user: Taste, minute: int, items: Sequence[str]) -> list[int]:
        changed = variant_of(planted({}), user_key("default", user.user_id)).name == "changed"  # type: ignore[union-attr]
        return [] if changed and minute % 3 else clicks(self, user, minute, items)

    monkeypatch.setattr(HiddenTastes, "clicks", hates_the_change)
    harmed = run_trial(bundle, tastes, {"diversity": 0.15}, RankSettings(), 20)
    assert (harmed.word, harmed.variant, harmed.promoted) == ("harmful", "changed", {})
    assert harmed.minute is not None and harmed.minute < 19


def test_the_chart_has_a_line_and_a_name_for_each_series_within_its_frame() -> None:
    series = {"one & two": [0.0, 0.5, 1.0], "three": [0.2, 0.2]}
    text = line_chart("Title", [5, 10, 15], series, across="minutes", from_zero=True)
    root = ElementTree.fromstring(text)
    lines = root.findall("{*}polyline")
    assert [len((line.get("points") or "").split()) for line in lines] == [3, 2]
    places = [point.split(",") for line in lines for point in (line.get("points") or "").split()]
    width, height = map(float, (root.get("viewBox") or "").split()[2:])
    assert all(0 <= float(x) <= width and 0 <= float(y) <= height for x, y in places)
    assert "one & two" in [node.text for node in root.findall("{*}text")]

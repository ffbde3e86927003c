"""The simulated shop: tastes that show only in what users do, the same luck for every variant, and what is told."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from flink_jobs.settings import load
from model_export.line_chart import line_chart
from model_export.reversed_ranker import write_reversed
from schemas.ids import category_hash
from schemas.records import Example
from tailrace.demo_loop import MODEL, STACK, STORY, shown_all
from tailrace.hidden_tastes import MINUTE_MS, HiddenTastes, Taste
from tailrace.loop_figures import clicks_by_variant, share_kept_up
from tailrace.loop_stack import LoopStack
from tailrace.loop_story import LoopDemo
from tests.bundles import make_bundle, toy_items
from tests.loop_in_memory import RULES, ShopInMemory, play
from udfs.experiments.experiment import BUCKETS, Experiment, Variant
from udfs.experiments.running import RunningExperiments
from udfs.model.bundle import Bundle
from udfs.ranking.features import N_FEATURES

MINUTES, USERS = 24, 120


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("models") / "7", toy_items(400))


def groups(tastes: HiddenTastes) -> RunningExperiments:
    frozen = {"history_until_s": tastes.start_ms // 1_000, "exploration_floor": 0}
    variants = (
        Variant("loop", 1, {}), Variant("frozen", 1, frozen), Variant("popular", 1, {"history_until_s": 0}),
    )  # fmt: skip
    return RunningExperiments((Experiment("groups", "list", 0, BUCKETS, variants),))


class EvenAndOdd(HiddenTastes):
    """Every other user likes even categories, the others odd ones, which is what the toy model knows of items."""

    def __init__(self, bundle: Bundle, users: int) -> None:
        super().__init__(bundle, users, 0)
        halves = [
            frozenset(category_hash(f"category-{number}") for number in range(odd, 8, 2)) for odd in (0, 1)
        ]
        self.users = [Taste(user.user_id, halves[number % 2]) for number, user in enumerate(self.users)]
        column = bundle.items.columns.category
        self._liked = {user: np.flatnonzero(np.isin(column, [*user.categories])) for user in self.users}


@pytest.fixture(scope="module")
def tastes(bundle: Bundle) -> HiddenTastes:
    return EvenAndOdd(bundle, USERS)


@pytest.fixture(scope="module")
def shop(bundle: Bundle, tastes: HiddenTastes) -> ShopInMemory:
    return play(bundle, tastes, MINUTES, groups(tastes))


def test_lists_that_learn_from_users_become_better_than_those_of_users_who_are_held_out(
    shop: ShopInMemory, tastes: HiddenTastes
) -> None:
    found = clicks_by_variant(shop.examples, "groups", tastes.start_ms, MINUTES, MINUTES // 2)
    assert found["loop"].rate(1, 2) > 1.2 * found["frozen"].rate(1, 2) > 0.1
    assert set(found) == {"loop", "frozen", "popular"}


def test_every_list_that_is_old_enough_has_its_example_and_credits(shop: ShopInMemory) -> None:
    settled_ms = MINUTE_MS * (MINUTES - 2) - RULES.longest_ms - RULES.lateness_ms
    old = [one for one in shop.examples if one.shown_time - shop.tastes.start_ms < settled_ms]
    came = sum(len(shop.tastes.visits(minute)) for minute in range(settled_ms // MINUTE_MS))
    assert len(old) == came > 100
    assert len(shop.credits) >= len(shop.examples)


def test_the_same_seed_gives_the_same_users_who_come_at_the_same_time_and_another_others(
    bundle: Bundle,
) -> None:
    one, same, other = (HiddenTastes(bundle, USERS, seed) for seed in (3, 3, 4))
    assert one.users == same.users != other.users
    assert one.visits(5) == same.visits(5) != other.visits(5)
    assert [one.browsed_before(user) for user in one.users] == [
        same.browsed_before(user) for user in same.users
    ]
    assert [visit.at_ms for visit in one.visits(5)] == sorted(visit.at_ms for visit in one.visits(5))


def test_a_user_answers_the_same_item_at_the_same_place_alike_whoever_made_the_list(
    bundle: Bundle, tastes: HiddenTastes
) -> None:
    items = bundle.items.item_ids[:10]
    liked = 0
    for user in tastes.users:
        whole = tastes.clicks(user, 3, items)
        assert tastes.clicks(user, 3, items[:5]) == [place for place in whole if place < 5]
        liked += len(whole)
    assert liked > 5


def test_an_answer_shows_the_list_clicks_on_it_and_goes_on(bundle: Bundle, tastes: HiddenTastes) -> None:
    items, ends = bundle.items.item_ids[:10], set()
    for visit in tastes.visits(2):
        first, *clicks, last = tastes.answer(visit, "r", items)
        assert [one.item_id for one in first.items] == list(items) and first.event_type == "impression"
        assert [one.item_id for one in clicks] == [
            items[place] for place in tastes.clicks(visit.user, 2, items)
        ]
        assert {one.rec_id for one in (first, *clicks)} == {"r"} and last.rec_id is None
        ends.add(last.event_type)
    assert ends == {"search", "view"}


def test_a_catalogue_without_categories_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="more than 2 categories of 20 items"):
        HiddenTastes(make_bundle(tmp_path / "7", toy_items(40)), 5, 0)


def example(user: str, minute: int, made_minute: int, clicked: bool, variant: str = "groups=loop") -> Example:
    from schemas.records import ExampleItem

    item = ExampleItem("a", 0, 0, "ranker", 1.0, 0.9, "click", 0.2, clicked, False, False, 0.0, 0.0)
    at_ms, made_ms = minute * MINUTE_MS, made_minute * MINUTE_MS
    return Example(
        f"{user}-{minute}", "default", user, "v", made_ms, at_ms, at_ms, 1, "m", variant, 0, (item,), b""
    )


def test_clicks_count_for_the_variant_and_the_time_at_which_a_list_was_shown() -> None:
    log = [example("u", 0, 0, True), example("u", 4, 3, False), example("v", 5, 1, True, "groups=popular"),
           example("w", 99, 1, True), example("x", 1, 1, True, "other=loop")]  # fmt: skip
    found = clicks_by_variant(log, "groups", 0, 10, 5)
    assert {name: (one.shown, one.rates()) for name, one in found.items()} == {
        "loop": ([2, 0], [0.5, 0.0]), "popular": ([0, 1], [0.0, 1.0]),
    }  # fmt: skip


def test_a_list_has_kept_up_if_it_was_made_after_the_click_on_the_one_before() -> None:
    log = [example("u", 9, 6, False), example("u", 5, 1, True), example("u", 12, 8, False)]
    assert share_kept_up(log) == 1.0
    assert share_kept_up([*log, example("v", 5, 1, True), example("v", 9, 4, True)]) == 0.5
    assert share_kept_up(log[:1]) is None


def test_a_reversed_bundle_is_one_that_a_worker_takes_and_ranks_the_worst_first(
    bundle: Bundle, tmp_path: Path
) -> None:
    write_reversed(bundle.path, tmp_path / "8", 8)
    other = Bundle.open(tmp_path / "8")
    rows = np.random.default_rng(0).uniform(-1, 3, (64, N_FEATURES)).astype(np.float32)
    assert (other.epoch, other.model_version) == (8, f"{bundle.model_version}-reversed")
    np.testing.assert_allclose(other.ranker.score(rows, 8), -bundle.ranker.score(rows, 8), atol=1e-5)
    with pytest.raises(FileExistsError):
        write_reversed(bundle.path, tmp_path / "8", 8)


def test_its_stack_is_apart_from_the_callers_and_its_settings_are_read_back_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("TAILRACE_")]:
        monkeypatch.setenv(name, os.environ[name])  # comes back afterwards
    monkeypatch.setenv("TAILRACE_KAFKA__BOOTSTRAP_SERVERS", "elsewhere:1")
    base = load(stack={"home": str(tmp_path)}, environment={})
    made = LoopStack(base)
    made.config.parent.mkdir(parents=True)
    from tailrace.toml_text import settings_toml

    made.config.write_text(settings_toml(made.settings), encoding="utf-8")
    assert load(made.config) == made.settings, "no variable stands above the file"
    ports = {made.settings.stack.kafka_port, made.settings.stack.redis_port, made.settings.stack.flink_port}
    assert len(ports) == 3 and not ports & {
        base.stack.kafka_port,
        base.stack.redis_port,
        base.stack.flink_port,
    }
    assert made.settings.feedback.rules == RULES


def test_every_step_of_the_loop_is_there() -> None:
    names = [name for name, _ in (*STACK, *MODEL, *STORY)]
    assert len(names) == len(set(names))
    made = LoopDemo.__init__.__code__.co_names
    assert all(hasattr(LoopDemo, name) or name in made for name in names)


def test_a_command_that_runs_ends_with_the_shop_that_it_is_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, started, ended = (tmp_path / name for name in ("program", "started", "ended"))
    program.write_text(f"#!/bin/sh\ntouch {started}\nsleep 20\ntouch {ended}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setattr("tailrace.loop_story.sys", SimpleNamespace(executable=str(program)))
    demo = object.__new__(LoopDemo)
    demo._stack = SimpleNamespace(config=tmp_path / "tailrace.toml")  # type: ignore[assignment]

    def shop_is_late() -> None:
        if started.exists():
            raise TimeoutError("visits are late")

    with pytest.raises(TimeoutError):
        demo._run("models", "canary", "2", meanwhile=shop_is_late)
    assert not ended.exists(), "it was waited for until it ended by itself"


def test_it_succeeds_only_where_all_three_were_seen() -> None:
    good: dict[str, Any] = json.loads(
        '{"groups": {"verdict": "better", "variant": "loop"}, "planted": {"verdict": "better", "variant": "narrow"},'
        ' "canary": {"ended": "revert", "share_of_lists_after": 0.0}}'
    )
    assert shown_all(good)
    for name, field, bad in (
        ("groups", "variant", "frozen"), ("planted", "verdict", "running"), ("canary", "ended", "promote"),
        ("canary", "share_of_lists_after", 0.1),
    ):  # fmt: skip
        assert not shown_all({**good, name: {**good[name], field: bad}})


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

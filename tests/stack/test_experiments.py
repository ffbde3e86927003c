"""`tailrace ab` on a job that runs: users are dealt, exposure is logged, and a promotion changes what all get."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from schemas.codec import encode
from schemas.ids import user_key
from schemas.records import Example, ExampleItem, ServedList
from schemas.topics import EXAMPLES
from tailrace.cli import app
from tailrace.experiment_orders import read_running
from tests.stack.running_shop import RunningShop
from udfs.experiments.running import RunningExperiments

pytestmark = pytest.mark.stack
VISITORS = 320
"""A hundred in each of the first two variants, and thirty lists with a click: less is not looked at."""
RATES = {"spread=same": 0.4, "spread=varied": 0.8, "spread=stranger": 0.4}


@pytest.fixture
def without_experiments(shop: RunningShop) -> Iterator[RunningShop]:
    """The shop, which has no experiment and no promotion afterwards."""
    ranking = shop.rank_settings
    yield shop
    shop.deployment.order("set_experiments", experiments=RunningExperiments().to_json())
    shop.rank_settings = ranking
    shop.republish()  # else the lists of the promotion stand until each user's next event


def ab(shop: RunningShop, *words: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["ab", *words, "--config", str(shop.deployment.config), "--json"])
    assert done.exit_code == 0, (done.output, done.exception)
    return dict(json.loads(done.stdout))


def example(served: ServedList, clicked: bool) -> Example:
    slot = served.items[0]
    item = ExampleItem(slot.item_id, 0, 0, slot.source, slot.score, slot.propensity, "click" if clicked else "none",
                       0.2 * clicked, clicked, False, False, 0.0, 0.0)  # fmt: skip
    at_ms = served.event_time
    return Example(
        served.rec_id, served.tenant, served.user_id, served.version, at_ms, at_ms, at_ms, served.epoch,
        served.model_version, served.variant, served.index_mark, (item,), served.snapshot,
    )  # fmt: skip


def test_an_experiment_deals_users_logs_it_and_its_promotion_changes_what_all_get(
    without_experiments: RunningShop,
) -> None:
    shop = without_experiments
    shop.deployment.produce([shop.event("search", f"visitor-{number}") for number in range(VISITORS)])
    shop.catch_up()
    varied = {"diversity": 0.9, "exploration_floor": 0.0}
    ab(shop, "start", "spread", "--variant", "same*2", "--variant", "varied*2:diversity=0.9,exploration_floor=0",
       "--variant", "stranger:history_until_s=0", "--expected-effect", "1.0")  # fmt: skip
    running = read_running(shop.deployment.settings)
    served, states = shop.republish(), shop.plain.state_bytes()
    labels = {key: one.variant for key, one in served.items()}
    assert labels == {key: running.of_user(key)[0] for key in states} and set(labels.values()) == set(RATES)
    for key, one in served.items():
        assert one.snapshot == (b"" if one.variant == "spread=stranger" else states[key]), key
    keys = [key for key in states if labels[key] == "spread=same"]
    shop.check_lists(keys)
    ranking = shop.rank_settings
    shop.rank_settings = replace(ranking, **varied)
    shop.check_lists([key for key in states if labels[key] == "spread=varied"])

    rng = np.random.default_rng(0)
    made = [example(one, bool(rng.random() < RATES[one.variant])) for _, one in sorted(served.items())]
    records = [(user_key(one.tenant, one.user_id).encode(), encode(one)) for one in made]
    shop.deployment.produce_raw(EXAMPLES.name, records, shop.now_ms)
    (found,) = ab(shop, "report", "spread")["experiments"]
    assert (found["verdict"], found["variant"]) == ("better", "varied")
    assert sum(one["lists"] for one in found["variants"].values()) == len(served)

    assert ab(shop, "promote", "spread")["promoted"] == varied
    promoted = shop.republish()
    assert {one.variant for one in promoted.values()} == {"default"}
    shop.check_lists()

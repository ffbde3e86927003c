"""An experiment in the simulated shop: a variant that is planted, found, and stopped or promoted by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from tailrace.experiment_orders import standing, sum_variants
from tailrace.hidden_tastes import HiddenTastes
from tailrace.loop_story import POLICIES, Hour, Shop
from udfs.experiments.experiment import BUCKETS, Experiment, Guardrail, Variant
from udfs.experiments.running import RunningExperiments
from udfs.experiments.verdict import BETTER, STOP
from udfs.model.bundle import Bundle
from udfs.ranking.rank import RankSettings

LOOK_EVERY: Final = 2
"""Minutes between two looks."""


class Trial(NamedTuple):
    """How an experiment went.

    `minute` is that of the decision; None: there was none. `hour` goes on after it, with what was decided.
    """

    word: str
    variant: str
    minute: int | None
    hour: Hour
    promoted: Mapping[str, Any]


def planted(changes: Mapping[str, Any]) -> Experiment:
    """Return the experiment: half of all users, and a guardrail on what they click."""
    return Experiment(
        "planted",
        "list",
        0,
        BUCKETS,
        (Variant("as-it-is", 1, {}), Variant("changed", 1, dict(changes))),
        expected_effect=0.3,
        guardrails=(Guardrail("ctr"),),
    )


def run_trial(
    bundle: Bundle, tastes: HiddenTastes, changes: Mapping[str, Any], settings: RankSettings, minutes: int
) -> Trial:
    """Give half of the users other settings until it is certain whether that is better or harmful.

    Parameters
    ----------
    changes
        Of the variant, names of `udfs.experiments.running.APPLIED`.
    """
    experiment = planted(changes)
    shop = Shop(bundle, tastes, POLICIES[0], settings)
    shop.running = RunningExperiments().start(experiment)
    word, variant, decided = "running", "", None
    for minute in range(minutes):
        shop.minute(minute)
        if decided is not None or minute % LOOK_EVERY:
            continue
        word, variant, _ = standing(experiment, sum_variants(shop.examples)).verdict
        if word in (BETTER, *STOP):
            decided = minute
            shop.running = shop.running.stop(experiment.name, variant if word == BETTER else None)
    return Trial(word, variant, decided, shop.hour, shop.running.promoted)

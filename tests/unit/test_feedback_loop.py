"""From lists and clicks to a decision: the parts of the loop, one behind the other."""

from __future__ import annotations

import numpy as np
from test_feedback_laws import served
from user_examples import DAY, MINUTE, T0, event, impression

from schemas.codec import decode, encode
from schemas.ids import user_key
from schemas.records import Credit, Example
from udfs.bandits.credit_sums import CreditSums
from udfs.experiments.assignment import assign
from udfs.experiments.experiment import BUCKETS, Experiment, Variant
from udfs.experiments.variant_sums import VariantSums, count
from udfs.experiments.verdict import look
from udfs.feedback.feedback_logic import FeedbackLogic

SPREAD = Experiment(
    "spread", "list", 0, BUCKETS, (Variant("a", 1, {}), Variant("b", 1, {})), expected_effect=0.3
)
LOGIC = FeedbackLogic()


def shop(users: int, rates: dict[str, float]) -> tuple[list[Example], list[Credit]]:
    """Each user sees one list and clicks on its first item, which the ranker put there, at the variant's rate."""
    rng = np.random.default_rng(0)
    examples, credits = [], []
    for number in range(users):
        user = f"u{number}"
        variant, _ = assign([SPREAD], user_key("default", user))
        shown = served(f"list-{number}", ("x", "y"), T0)._replace(user_id=user, variant=variant)
        state = LOGIC.on_list(None, shown, T0).state
        seen = impression(f"i{number}", ["x", "y"], f"list-{number}", T0)._replace(user_id=user)
        state = LOGIC.on_event(state, seen, T0, T0).state
        if rng.random() < rates[variant]:
            click = event(f"c{number}", "click", "x", T0 + MINUTE, user_id=user)
            state = LOGIC.on_event(state, click, T0 + MINUTE, T0).state
        step = LOGIC.on_wake(state, T0 + 2 * DAY)
        examples += step.examples
        credits += step.credits
    return examples, credits


def summed(examples: list[Example]) -> dict[str, VariantSums]:
    sums: dict[str, VariantSums] = {}
    for example in examples:
        _, changes = count(decode("Example", encode(example)), {})
        for (_, variant), change in changes.items():
            sums[variant] = sums.get(variant, VariantSums()).merge(change)
    return sums


def test_the_better_of_two_planted_variants_is_found_from_the_records_alone() -> None:
    examples, credits = shop(3_000, {"spread=a": 0.10, "spread=b": 0.16})
    assert len(examples) == 3_000 and len({credit.credit_id for credit in credits}) == 6_000
    sums = summed(examples)
    assert (look(SPREAD, sums).word, look(SPREAD, sums).variant) == ("better", "b")
    shared = {one.arm: one for one in CreditSums().add(credits).posterior(14.0)}
    clicks = sum(one.gains[0] for one in sums.values())
    ranker = shared["ranker"]
    assert abs(ranker.rewards[0] / ranker.squares[0] - 0.2 * clicks / 3_000) < 1e-6
    assert shared["popular"].rewards[0] == 0.0 < shared["popular"].squares[0]


def test_of_two_equal_variants_none_is_preferred() -> None:
    examples, _ = shop(3_000, {"spread=a": 0.12, "spread=b": 0.12})
    assert look(SPREAD, summed(examples)).word == "running"

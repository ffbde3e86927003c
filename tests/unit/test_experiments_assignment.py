"""Who sees what: stable hashes, even shares, layers that do not collide; and experiments that are refused."""

from __future__ import annotations

import numpy as np
import pytest

from udfs.experiments.assignment import assign, layer_bucket, read_labels, variant_of
from udfs.experiments.experiment import BUCKETS, Experiment, Guardrail, Variant, check_together

A, B = Variant("a", 1, {}), Variant("b", 1, {"diversity": 0.3})
SPREAD = Experiment("spread", "list", 0, BUCKETS, (A, B), guardrails=(Guardrail("revenue", 0.02),))
KEYS = [f"default/u{number}" for number in range(20_000)]

GOLDEN = {  # key: bucket in layers list and model, variant in SPREAD
    "default/u1": (7297, 4176, "b"),
    "default/u2": (7219, 9766, "a"),
    "default/u3": (3507, 9095, "b"),
    "default/u4": (5733, 4538, "b"),
    "acme/u1": (530, 2022, "b"),
    "default/ä": (7487, 6369, "b"),
}


def named(experiment: Experiment, key: str) -> str | None:
    variant = variant_of(experiment, key)
    return None if variant is None else variant.name


@pytest.mark.parametrize(("key", "wanted"), GOLDEN.items())
def test_golden_users_see_what_they_saw_in_the_first_release(key, wanted):
    assert (layer_bucket("list", key), layer_bucket("model", key), named(SPREAD, key)) == wanted


def test_shares_are_those_of_the_weights():
    three = SPREAD._replace(variants=(Variant("a", 8, {}), Variant("b", 1, {}), Variant("c", 1, {})))
    counts = np.array([sum(named(three, key) == name for key in KEYS) for name in "abc"])
    assert np.abs(counts / len(KEYS) - [0.8, 0.1, 0.1]).max() < 4 * np.sqrt(0.16 / len(KEYS))


def test_a_layer_s_experiments_have_different_users_and_all_buckets_are_used():
    one = SPREAD._replace(name="one", first_bucket=0, buckets=3_000)
    two = SPREAD._replace(name="two", first_bucket=3_000, buckets=7_000)
    check_together([one, two])
    inside = [(named(one, key) is not None, named(two, key) is not None) for key in KEYS]
    assert all(first != second for first, second in inside)
    assert sum(first for first, _ in inside) / len(KEYS) == pytest.approx(0.3, abs=0.015)


def test_two_layers_and_two_experiments_in_turn_are_dealt_independently():
    other = SPREAD._replace(name="rules", layer="model", variants=(A, Variant("b", 1, {"rules": "strict"})))
    after = SPREAD._replace(name="spread-2")
    for second in (other, after):
        both = np.array([(named(SPREAD, key) == "b", named(second, key) == "b") for key in KEYS])
        assert np.abs(np.corrcoef(both.T)[0, 1]) < 4 / np.sqrt(len(KEYS))


def test_variant_and_settings_of_all_experiments_that_a_user_is_in():
    model = Experiment("epochs", "model", 0, BUCKETS, (A, Variant("new", 1_000, {"epoch": 7})))
    check_together([SPREAD, model])
    assert assign([SPREAD, model], "default/u1") == ("epochs=new,spread=b", {"epoch": 7, "diversity": 0.3})
    assert assign([model, SPREAD], "default/u1") == assign([SPREAD, model], "default/u1")
    assert read_labels("epochs=new,spread=b") == {"epochs": "new", "spread": "b"}
    assert assign([SPREAD._replace(buckets=1, first_bucket=9)], "default/u1") == ("", {})


def test_an_experiment_survives_the_way_through_json():
    assert Experiment.from_json(SPREAD.to_json()) == SPREAD


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": "Spread=1"}, "name: wanted 1 to 32"),
        ({"variants": (A,)}, "variants: wanted two or more"),
        ({"variants": (A, A)}, "variants: wanted two or more different"),
        ({"variants": (A, Variant("b", 0, {}))}, "weight: wanted 1 to"),
        ({"variants": (A, Variant("b", 1, {"colour": "red"}))}, "settings: wanted names of epoch"),
        ({"first_bucket": 9_999, "buckets": 2}, "buckets: wanted a range"),
        ({"buckets": 0}, "buckets: wanted a range"),
        ({"metric": "mood"}, "metric: wanted one of"),
        ({"method": "peeking"}, "method: wanted one of"),
        ({"days": 3}, "days: wanted 7 or more"),
        ({"alpha": 0.9}, "alpha: wanted"),
        ({"expected_effect": 0.0}, "expected_effect: wanted"),
        ({"guardrails": (Guardrail("ctr", 1.0),)}, "most_drop: wanted"),
    ],
)
def test_an_experiment_that_contradicts_itself_is_refused(change, says):
    with pytest.raises(ValueError, match=says):
        SPREAD._replace(**change).check()


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (SPREAD, "have one name"),
        (SPREAD._replace(name="two", first_bucket=500, buckets=10), "share buckets of layer list"),
        (SPREAD._replace(name="two", layer="other"), "both change diversity; put them into one layer"),
    ],
)
def test_experiments_that_would_collide_are_refused(other, says):
    with pytest.raises(ValueError, match=says):
        check_together([SPREAD, other])


@pytest.mark.parametrize("text", ["{}", "[]", '{"variants": [], "surprise": 1}'])
def test_a_text_that_is_no_experiment_is_refused(text):
    with pytest.raises(ValueError, match="experiment: "):
        Experiment.from_json(text)

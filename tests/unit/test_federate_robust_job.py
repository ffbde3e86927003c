"""Robust rules in both steps of the job: poisoned devices move the plain mean, and not a rule that is chosen."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from federate_examples import CENTRAL, LOCAL, SEED, units_of, updates
from test_federate_shells import HEAD, NOISE, Job, records, settings_of, store, update

from flink_jobs.federate_settings import model_lines
from flink_jobs.settings import SettingsError
from udfs.federate.audit import model_after
from udfs.federate.contribution import Contribution, pack_packet, unpack_packet
from udfs.federate.line import LineLogic
from udfs.federate.line_batch import on_batch
from udfs.federate.line_state import KeptRows, LineHead, LineState, first_state
from udfs.federate.release import Seed
from udfs.federate.robust import Rule, bounded_units
from udfs.privacy.fixed_point import UNIT

__all__ = ["store"]

HONEST, POISONED = 16, 4
CLEAR = {**HEAD, "noise_multiplier": 0.0, "cohort_size": HONEST + POISONED, "cohort_min": 10}
UNDER_NOISE = {**CLEAR, "mode": "local", "noise_multiplier": 8.0}
WANTED = np.linspace(-0.2, 0.2, 16)
"""What honest devices agree on; attackers send the opposite, as long as the checks let it be."""


def fleet(settings: Any) -> list[Any]:
    """Updates of honest devices, each a little different, and of attackers who agree on one direction."""
    rng = np.random.default_rng(5)
    line = model_lines(settings.federate)["head"]
    honest = [update(settings, f"h{n}", 0, WANTED + 0.02 * rng.standard_normal(16)) for n in range(HONEST)]
    attack = -WANTED / np.linalg.norm(WANTED)
    if line.mode == "local":  # as long as clip and noise may be, along one coordinate
        attack = np.zeros(16)
        attack[0] = 8.0 * 4.0
    bad = []
    for n in range(POISONED):
        one = update(settings, f"bad{n}", 0, attack)
        if line.mode == "local":
            width = {8: "<i1", 16: "<i2", 32: "<i4"}[one.bits]
            numbers = np.rint(attack / UNIT / one.step).astype(width)
            one = one._replace(payload=numbers.tobytes())
        bad.append(one)
    return [one for pair in zip(honest[:POISONED], bad, strict=True) for one in pair] + honest[POISONED:]


def moved(line: dict[str, Any], **rule: Any) -> np.ndarray:
    """The model after one release with attackers, through both steps of the job, its state in two parts."""
    settings = settings_of({**line, **rule}, budget_epsilon=None)
    arrivals = fleet(settings)
    job = Job(settings)
    job.read(records(arrivals[:9]))
    checkpoint = copy.deepcopy(job.states)
    job = Job(settings, checkpoint)
    job.read(records(arrivals[9:], 9))
    assert not job.letters, [letter.detail for letter in job.letters]
    (model,) = [model for model in job.models if model.version == 1]
    wanted = model_after(model_lines(settings.federate)["head"], arrivals, Seed("key-1", NOISE))
    assert model.weights == wanted.weights.tobytes(), "the job's version is that of the plain run"
    assert not any(state for state in job.lines.of("kept")), "nothing is kept of a cohort that is released"
    return np.frombuffer(model.weights, "<f8")


@pytest.mark.parametrize("rule", ["norm_bound", "trimmed_mean", "multi_krum"])
def test_attackers_move_the_plain_mean_and_not_a_robust_rule(rule: str) -> None:
    honest = WANTED
    plain = np.linalg.norm(moved(CLEAR) - honest)
    robust = np.linalg.norm(
        moved(CLEAR, robust_rule=rule, robust_share=0.25, robust_bound_clips=0.5) - honest
    )
    assert plain > 0.25, "a fifth of attackers, each of length one"
    assert robust < (0.7 if rule == "norm_bound" else 0.2) * plain
    if rule != "norm_bound":
        assert robust < 0.05


def test_under_local_noise_a_trimmed_mean_withstands_what_the_gate_lets_through() -> None:
    plain = moved(UNDER_NOISE)
    robust = moved(UNDER_NOISE, robust_rule="trimmed_mean", robust_share=0.25)
    assert plain[0] > 4.0, "four attackers of twenty sent 32 each"
    assert abs(robust[0]) < 0.8 * abs(plain[0])


def test_the_rule_does_not_depend_on_the_order_of_arrival() -> None:
    settings = settings_of({**CLEAR, "robust_rule": "trimmed_mean"}, budget_epsilon=None)
    arrivals = fleet(settings)
    found = set()
    for order in (arrivals, arrivals[::-1], arrivals[7:] + arrivals[:7]):
        job = Job(settings)
        for place, one in enumerate(order):
            job.read(records([one], place))
        found.add(job.models[-1].weights)
    assert len(found) == 1


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"mode": "distributed", "noise_multiplier": 4.0, "robust_rule": "norm_bound"}, "distributed mode"),
        (
            {"noise_multiplier": 4.0, "robust_rule": "trimmed_mean"},
            "central noise for a sum does not cover it",
        ),
        ({"noise_multiplier": 4.0, "robust_rule": "multi_krum"}, "central noise for a sum does not cover it"),
        ({"robust_rule": "trimmed_mean", "robust_share": 0.5}, "robust_share"),
        ({"robust_rule": "norm_bound", "robust_bound_clips": 0.0}, "robust_bound_clips"),
        ({"robust_rule": "multi_krum", "cohort_min": 3, "robust_share": 0.4}, "cohort_min"),
        ({"robust_rule": "trimmed_mean", "dimension": 60_000}, "keeps single contributions"),
        ({"robust_rule": "krum"}, "robust_rule"),
    ],
)
def test_a_rule_is_refused_where_the_mode_cannot_have_it(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        settings_of({**CLEAR, **wrong})


def test_a_bounded_contribution_keeps_its_direction_and_no_more_than_its_bound() -> None:
    rows = (np.random.default_rng(2).standard_normal((50, 6)) / UNIT).astype(np.int64)
    bounded = bounded_units(rows, 1.0)
    for row, made in zip(rows, bounded, strict=True):
        length = np.linalg.norm(made * UNIT)
        assert length <= 1.0
        if np.linalg.norm(row * UNIT) > 1.0:
            assert made @ row.astype(float) / np.linalg.norm(made) / np.linalg.norm(row) > 0.999999
        else:
            assert made.tolist() == row.tolist()


class Numbers:
    """A line's numbers in memory, with the single contributions."""

    def __init__(self, line: Any) -> None:
        self.model, self.sums = np.zeros(line.dimension), {}
        self.rows = KeptRows.empty(line.dimension)

    def weights(self) -> Any:
        return self.model

    def sum_of(self, base: int) -> Any:
        return self.sums.get(base)

    def kept(self, count: int) -> KeptRows:
        assert len(self.rows.bases) == count
        return self.rows

    def keep(self, step: Any) -> None:
        for base in step.dropped:
            self.sums.pop(base, None)
        self.sums.update(step.sums)
        if step.released:
            self.rows = KeptRows.empty(len(self.model))
        if step.kept is not None:
            self.rows = self.rows.added(KeptRows.decode(step.kept.encode()))
        self.model = self.model if step.weights is None else step.weights


@pytest.mark.parametrize("rule", list(Rule))
@pytest.mark.parametrize("size", [1, 4, 50])
def test_batches_under_a_rule_say_what_one_after_the_other_says(rule: Rule, size: int) -> None:
    line = (CENTRAL._replace(noise_multiplier=0.0) if rule is Rule.MULTI_KRUM else LOCAL)._replace(
        robust_rule=rule,
        cohort_size=8,
        cohort_min=5,
        timeout_ms=1_000,
        robust_share=0.25,
        robust_bound_clips=3.0,
    )
    logic = LineLogic(line, 10.0, SEED)
    state: LineState = first_state(np.zeros(line.dimension), line.first_clip_norm)
    arrivals = [one for base in range(3) for one in updates(line, 9, base, base, f"{base}-")]
    arrivals += updates(line, 6, 1, 7, "late-")
    numbers, head = Numbers(line), state.head
    released = []
    for start in range(0, len(arrivals), size):
        some = arrivals[start : start + size]
        packed = [Contribution.of(one, start + n, 0, start + n) for n, one in enumerate(some)]
        step = on_batch(
            logic, LineHead.decode(head.encode()), numbers, [unpack_packet(pack_packet("head", packed))]
        )
        numbers.keep(step)
        head = step.head
        released += step.released
    wanted = []
    for place, one in enumerate(arrivals):
        found = logic.on_contribution(state, one, units_of(line, one), place)
        state = found.state
        wanted += found.released
    assert released == wanted
    assert len(wanted) >= 3
    assert head == state.head
    assert numbers.model.tobytes() == state.weights.tobytes()
    kept = KeptRows.empty(line.dimension) if state.kept is None else state.kept
    assert numbers.rows.units.tolist() == kept.units.tolist()

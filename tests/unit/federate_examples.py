"""Model lines, updates and the slow way to do what the federate code does fast."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from schemas.ids import user_key
from udfs.federate.audit import device_update
from udfs.federate.line import LineLogic
from udfs.federate.line_settings import LineSettings
from udfs.federate.line_state import LineHead, LineState, decode_sum, encode_sum
from udfs.federate.release import Seed
from udfs.federate.update_check import check_update
from udfs.privacy.terms import Mode

KEY = bytes(range(32))
SEED = Seed("k1", b"seed of the tests" * 2)
LOCAL = LineSettings("head", 16, Mode.LOCAL, 4.0, 1e-5, 6, 3)
CENTRAL = LOCAL._replace(mode=Mode.CENTRAL)
DISTRIBUTED = LOCAL._replace(mode=Mode.DISTRIBUTED)
LINES = {Mode.LOCAL: LOCAL, Mode.CENTRAL: CENTRAL, Mode.DISTRIBUTED: DISTRIBUTED}


def updates(line, count, base_version=0, seed=0, prefix="u"):
    rng = np.random.default_rng(seed)
    return [
        device_update(line, f"{prefix}{n}", base_version, rng.standard_normal(line.dimension), KEY)
        for n in range(count)
    ]


def units_of(line, update):
    return check_update(update, user_key(update.tenant, update.user_id), {line.name: line})


def through_bytes(state):
    """A state as a restore finds it."""
    sums = {base: decode_sum(encode_sum(partial)) for base, partial in state.sums.items()}
    weights = np.frombuffer(state.weights.tobytes())
    return LineState(LineHead.decode(state.head.encode()), weights, sums)


def drive(line, state, arrivals, times=None, logic=None, seed=SEED):
    """Feed arrivals to a line; returns the state and all steps. The state goes through bytes every time."""
    logic = logic or LineLogic(line, 10.0, seed)
    steps = []
    for number, update in enumerate(arrivals):
        at_ms = number if times is None else times[number]
        step = logic.on_contribution(through_bytes(state), update, units_of(line, update), at_ms)
        state = step.state
        steps.append(step)
    return state, steps


def released(steps):
    return [record for step in steps for record in step.released]


def exact_mean(line, arrivals, version):
    """FedBuff's average in fractions: each contribution times its weight, over the number of them."""
    total = [Fraction(0)] * line.dimension
    for update in arrivals:
        weight = Fraction(1.0 / np.sqrt(1.0 + version - update.base_version))
        numbers = np.frombuffer(update.payload, f"<i{update.bits // 8}").tolist()
        for place, number in enumerate(numbers):
            total[place] += weight * number * update.step * Fraction(1, 1 << 24)
    return np.array([float(value / len(arrivals)) for value in total])

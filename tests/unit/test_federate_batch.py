"""Batches of contributions say what one after the other says, to the bit."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from federate_examples import CENTRAL, KEY, LINES, LOCAL, SEED, units_of, updates
from hypothesis import given, settings
from hypothesis import strategies as st

from udfs.federate.audit import device_update
from udfs.federate.contribution import Contribution, pack_packet, unpack_packet
from udfs.federate.line import LineLogic
from udfs.federate.line_batch import on_batch
from udfs.federate.line_state import LineHead, LineState, first_state
from udfs.federate.row_sum import rows_sum
from udfs.privacy.terms import Mode


class Numbers:
    """A line's numbers in memory; counts what is read."""

    def __init__(self, state):
        self.model, self.sums, self.reads = state.weights, dict(state.sums), 0

    def weights(self):
        self.reads += 1
        return self.model

    def sum_of(self, base_version):
        self.reads += 1
        return self.sums.get(base_version)

    def keep(self, step):
        for base in step.dropped:
            self.sums.pop(base, None)
        self.sums.update(step.sums)
        if step.weights is not None:
            self.model = step.weights


def arrivals_of(line, picks):
    """Updates of a few users from a few versions, some of them again, some to no version there is."""
    made = {}
    for user, base in picks:
        if (user, base) not in made:
            rng = np.random.default_rng(user * 100 + base)
            made[user, base] = device_update(
                line, f"u{user}", base, rng.standard_normal(line.dimension), KEY
            )._replace(update_id=f"{user}-{base}")
        yield made[user, base]


def same(state, head, numbers):
    assert head == state.head
    assert numbers.model.tobytes() == state.weights.tobytes()
    assert {base: (one.contributions, one.total.tolist()) for base, one in numbers.sums.items()} == {
        base: (one.contributions, one.total.tolist()) for base, one in state.sums.items()
    }


@pytest.mark.parametrize("mode", Mode)
@given(
    picks=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), min_size=1, max_size=40),
    cuts=st.lists(st.integers(1, 39), max_size=5),
    gaps=st.lists(st.sampled_from([0, 1, 30, 120]), min_size=40, max_size=40),
    wakes=st.lists(st.sampled_from([None, 0, 60]), min_size=6, max_size=6),
)
@settings(max_examples=60, deadline=None)
def test_batches_of_any_size_make_the_versions_sums_and_refusals_of_single_steps(
    mode, picks, cuts, gaps, wakes
):
    line = LINES[mode]._replace(timeout_ms=100, cohort_size=4, cohort_min=2, max_staleness=1)
    logic = LineLogic(line, 10.0, SEED)
    arrivals = list(arrivals_of(line, picks))
    times = np.cumsum(gaps).tolist()
    edges = sorted({0, len(arrivals), *(cut for cut in cuts if cut < len(arrivals))})
    state = first_state(np.zeros(line.dimension), line.first_clip_norm)
    head, numbers = state.head, Numbers(state)
    for number, (first, last) in enumerate(itertools.pairwise(edges)):
        wake = wakes[number]
        clock_ms = None if wake is None else times[last - 1] + wake
        records, refused, counts = [], [], {}
        for place in range(first, last):
            one = logic.on_contribution(state, arrivals[place], units_of(line, arrivals[place]), times[place])
            state = one.state
            records += one.released
            if one.refused is not None:
                refused.append((arrivals[place].update_id, one.refused.reason))
            for name in one.counts:
                counts[name] = counts.get(name, 0) + 1
        if clock_ms is not None:
            woken = logic.on_wake(state, clock_ms)
            state = woken.state
            records += woken.released
        many = [Contribution.of(arrivals[place], times[place], 0, place) for place in range(first, last)]
        parts = [many[::2], many[1::2]] if number % 2 else [many]
        packets = [unpack_packet(pack_packet(line.name, part)) for part in parts if part]
        step = on_batch(logic, head, numbers, packets, clock_ms)
        head = step.head
        numbers.keep(step)
        assert list(step.released) == records
        assert [(late.names[3], why.reason) for late, why in step.refused] == refused
        assert {name: step.counts.get(name, 0) for name in counts if name != "released"} == {
            name: count for name, count in counts.items() if name != "released"
        }
        same(state, head, numbers)


def test_a_batch_reads_each_sum_once_and_the_model_only_for_a_version():
    state = first_state(np.zeros(16), 1.0)
    logic = LineLogic(CENTRAL._replace(cohort_size=50), 10.0, SEED)
    numbers = Numbers(state)
    many = [Contribution.of(update, 5) for update in updates(CENTRAL, 40)]
    step = on_batch(logic, state.head, numbers, [unpack_packet(pack_packet("head", many))])
    assert (numbers.reads, step.weights, step.released) == (1, None, ())
    assert step.head.contributions == 40


def test_a_packet_keeps_every_field():
    update = updates(CENTRAL._replace(adapt_clip=True, cohort_size=60, cohort_min=60), 1, base_version=3)[0]
    one = Contribution.of(update, 17, 2, 99)
    other = one._replace(names=("a", "bb", "cçç", "d"), offset=100, base_version=4)
    packet = unpack_packet(pack_packet("tête", [one, other]))
    found = packet.contribution(0)
    assert (packet.line, found, packet.contribution(1)) == ("tête", one, other)
    assert found.within_clip is not None
    letter = found.without_numbers("head", "central", 4.0, 16)
    assert letter == update._replace(payload=b"", within_clip=None)
    with pytest.raises(ValueError, match="wanted format 1"):
        unpack_packet(b"\x02" + bytes(9))


@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("places", [list(range(300)), list(range(5, 90)), [0, 7, 8, 299]])
def test_a_sum_of_rows_is_that_of_python_whole_numbers(bits, places):
    rng = np.random.default_rng(bits)
    largest = (1 << (bits - 1)) - 1
    rows = rng.integers(-largest, largest, (300, 7), dtype=np.int64)
    rows[:, 0] = largest  # beyond the packed type, were it summed in it
    one = Contribution(0, 1.0, bits, 4, None, 0, bytes(16), bytes(32), 0, 0, ("t", "u", "c", "i"), b"")
    many = [one._replace(payload=row.astype(f"<i{bits // 8}").tobytes()) for row in rows]
    wanted = [4 * sum(column) for column in rows[places].T.tolist()]
    packet = unpack_packet(pack_packet("head", many))
    assert rows_sum(packet, np.array(places)).tolist() == wanted


def test_a_batch_leaves_the_head_that_it_was_given():
    state = LineState(LineHead(0, (1.0,)), np.zeros(16), {})
    before = state.head.encode()
    many = [Contribution.of(update, 5) for update in updates(LOCAL, 9)]
    packets = [unpack_packet(pack_packet("head", many))]
    on_batch(LineLogic(LOCAL, 10.0, SEED), state.head, Numbers(state), packets)
    assert state.head.encode() == before

"""What an edge update costs: to check and charge, and to add to its model line beside a plain NumPy sum.

    python -m benchmarks.federate --out benchmarks/results/federate.json

One process, one thread, state in dictionaries: the logic and the encoding of state, without broker, JVM and RocksDB.
"Decoding" is Avro, the checks of the numbers and the ledger; "adding" is all that the line does with packets: reading
them, judging each contribution, sums, and reading and writing its state once a batch. The plain sum adds the same
bytes, stacked, in 64 bits, and does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from flink_jobs.federate_numbers import BLOCK_NUMBERS, StoredNumbers
from schemas.codec import decode, encode
from schemas.ids import user_key
from schemas.records import EdgeUpdate
from udfs.federate.audit import device_update
from udfs.federate.contribution import Contribution, pack_packet, unpack_packet
from udfs.federate.ledger import BudgetLedger, BudgetLogic
from udfs.federate.line import LineLogic
from udfs.federate.line_batch import on_batch
from udfs.federate.line_settings import LineSettings
from udfs.federate.line_state import LineHead
from udfs.federate.release import Seed
from udfs.federate.update_check import check_update
from udfs.privacy.quantise import WIDTHS
from udfs.privacy.terms import Mode

KEY = bytes(range(32))
SIZES = ((64, Mode.LOCAL, 4_000, 500), (2_048, Mode.LOCAL, 2_000, 200), (320_000, Mode.CENTRAL, 48, 12))
"""Dimension, mode, updates, and how many a batch has."""


class States(dict[str, bytes]):
    """A map state."""

    def put(self, key: str, value: bytes) -> None:
        """Store a value."""
        self[key] = value

    def remove(self, key: str) -> None:
        """Forget a value."""
        self.pop(key, None)


def measure(dimension: int, mode: Mode, count: int, batch: int) -> dict[str, Any]:
    """Give the figures of one dimension; the cohort stays open, so that no release is in them."""
    line = LineSettings("bench", dimension, mode, 8.0, 1e-5, count + 1, 1)
    rng = np.random.default_rng(7)
    deltas = rng.standard_normal((min(count, 64), dimension))
    made = [device_update(line, f"{n}", 0, delta, KEY) for n, delta in enumerate(deltas)]
    values = [
        encode(made[n % len(made)]._replace(user_id=f"user-{n}", client_id=f"client-{n}", update_id=f"{n}"))
        for n in range(count)
    ]
    charged: list[Contribution] = []
    states = [States(), States()]
    decoding_s = best_of(3, lambda: charged.__setitem__(slice(None), charge(line, values)))
    packets = [pack_packet(line.name, charged[at : at + batch]) for at in range(0, count, batch)]
    adding_s = best_of(3, lambda: add(line, packets, count, states))
    width = WIDTHS[made[0].bits]
    payloads = [made[n % len(made)].payload for n in range(count)]
    plain_s = best_of(3, lambda: plain_sum(payloads, batch, dimension, width))
    return {
        "dimension": dimension,
        "mode": str(mode),
        "bits": made[0].bits,
        "bytes_per_update": round(sum(map(len, values)) / count),
        "decoding_cpu_us": round(decoding_s / count * 1e6, 2),
        "adding_cpu_us": round(adding_s / count * 1e6, 2),
        "plain_sum_cpu_us": round(plain_s / count * 1e6, 2),
        "adding_over_plain_sum": round(adding_s / plain_s, 2),
        "updates_per_cpu_s": round(count / (decoding_s + adding_s)),
        "cpu_s": round(decoding_s + adding_s, 3),
        "updates": count,
        "batch": batch,
        "largest_state_bytes": max(len(value) for state in states for value in state.values()),
    }


def charge(line: LineSettings, values: list[bytes]) -> list[Contribution]:
    """Do what the first step does with each update."""
    logic = BudgetLogic({line.name: line}, inf, line.delta, 1 << 40)
    charged = []
    for offset, value in enumerate(values):
        update = decode("EdgeUpdate", value)
        assert isinstance(update, EdgeUpdate)
        check_update(update, user_key(update.tenant, update.user_id), {line.name: line})
        step = logic.on_update(None, update, 0)
        assert step.ledger is not None
        BudgetLedger.decode(step.ledger.encode())
        charged.append(Contribution.of(update, 0, 0, offset))
    return charged


def add(line: LineSettings, packets: list[bytes], count: int, states: list[States]) -> None:
    """Do what the second step does with each batch: state is bytes before and after."""
    weights, sums = states
    weights.clear()
    sums.clear()
    logic = LineLogic(line, inf, Seed("bench", KEY))
    head = LineHead(0, (line.first_clip_norm,)).encode()
    numbers = StoredNumbers(line.name, line.dimension, weights, sums)
    numbers.put_weights(np.zeros(line.dimension))
    for packet in packets:
        step = on_batch(logic, LineHead.decode(head), numbers, [unpack_packet(packet)], 0)
        numbers.keep(step, LineHead.decode(head).contributions)
        head = step.head.encode()
    assert LineHead.decode(head).contributions == count


def plain_sum(payloads: list[bytes], batch: int, dimension: int, width: str) -> None:
    """Add the same numbers and do nothing else."""
    total = np.zeros(dimension, np.int64)
    for start in range(0, len(payloads), batch):
        some = payloads[start : start + batch]
        total += (
            np.frombuffer(b"".join(some), width).reshape(len(some), dimension).sum(axis=0, dtype=np.int64)
        )


def best_of(times: int, run: Callable[[], object]) -> float:
    """Give the least CPU seconds of several runs: what others do on the machine only adds to them."""
    found = []
    for _ in range(times):
        began_s = time.process_time()
        run()
        found.append(time.process_time() - began_s)
    return min(found)


def main() -> None:
    """Print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="write the figures to this file too")
    given = parser.parse_args()
    figures = {
        "bench": "federate",
        "sizes": [measure(*size) for size in SIZES],
        "block_bytes": 8 * BLOCK_NUMBERS,
        "cores": os.cpu_count(),
    }
    if given.out is not None:
        given.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

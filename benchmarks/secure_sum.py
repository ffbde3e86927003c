"""What a secure sum costs each member and the aggregator: time and bytes, by dimension, with members gone.

python -m benchmarks.secure_sum --out benchmarks/results/secure_sum.json
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from clients.edge import encrypted_sum
from udfs.federate.secure_sum import Member, unmask

LABEL = b"bench"
MEMBERS, THRESHOLD, GONE = 20, 14, 3


def measure(dimension: int) -> dict[str, Any]:
    """Run one cohort, some of whose members are gone after they shared."""
    rows = np.random.default_rng(1).integers(-(1 << 30), 1 << 30, (MEMBERS, dimension))
    members = [Member(number, THRESHOLD, bytes([number]) * 32, LABEL) for number in range(MEMBERS)]
    public = {member.number: member.public_keys() for member in members}
    began_s = time.process_time()
    sent = [(member.number, member.share(public)) for member in members]
    for sender, shares in sent:
        for other, sealed in shares.items():
            members[other].receive(sender, sealed)
    shared_s = time.process_time()
    masked = {number: members[number].mask(rows[number]) for number in range(MEMBERS - GONE)}
    masked_s = time.process_time()
    opened = {number: members[number].open(masked) for number in masked}
    opened_s = time.process_time()
    total = unmask(masked, opened, public, THRESHOLD, LABEL)
    ended_s = time.process_time()
    assert (total == rows[: MEMBERS - GONE].sum(axis=0)).all()
    return {
        "dimension": dimension,
        "share_cpu_ms_a_member": round((shared_s - began_s) / MEMBERS * 1e3, 2),
        "mask_cpu_ms_a_member": round((masked_s - shared_s) / len(masked) * 1e3, 2),
        "open_cpu_ms_a_member": round((opened_s - masked_s) / len(masked) * 1e3, 3),
        "unmask_cpu_ms": round((ended_s - opened_s) * 1e3, 1),
        "masked_bytes": masked[0].nbytes,
        "share_bytes_a_member": sum(map(len, sent[0][1].values())),
    }


def measure_encrypted(dimension: int, heads: int = 50) -> dict[str, Any]:
    """Encrypt heads, add them, open the sum."""
    rows = np.random.default_rng(1).standard_normal((heads, dimension))
    keys = encrypted_sum.make_keys()
    total = encrypted_sum.EncryptedSum(keys.public)
    began_s = time.process_time()
    sent = [encrypted_sum.encrypt(row, keys.public) for row in rows]
    encrypted_s = time.process_time()
    for ciphertext in sent:
        total.add(ciphertext)
    added_s = time.process_time()
    _, values = encrypted_sum.KeyHolder(keys.secret, heads).open(total.ciphertext())
    opened_s = time.process_time()
    return {
        "dimension": dimension,
        "heads": heads,
        "encrypt_cpu_ms": round((encrypted_s - began_s) / heads * 1e3, 2),
        "read_and_add_cpu_ms": round((added_s - encrypted_s) / heads * 1e3, 2),
        "open_cpu_ms": round((opened_s - added_s) * 1e3, 2),
        "ciphertext_bytes": len(sent[0]),
        "public_context_bytes": len(keys.public),
        "largest_error": float(np.abs(values - rows.sum(axis=0)).max()),
    }


def main() -> None:
    """Print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="write the figures to this file too")
    given = parser.parse_args()
    figures = {
        "bench": "secure_sum",
        "members": MEMBERS,
        "threshold": THRESHOLD,
        "gone": GONE,
        "sizes": [measure(dimension) for dimension in (64, 2_048, 320_000)],
        "encrypted": [measure_encrypted(dimension) for dimension in (64, 2_048)]
        if encrypted_sum.tenseal is not None
        else "TenSEAL is not installed",
        "cores": os.cpu_count(),
    }
    if given.out is not None:
        given.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

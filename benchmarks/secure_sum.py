"""What sums that nobody reads cost devices and aggregator: masks with members gone, and ciphertexts.

python -m benchmarks.secure_sum --out benchmarks/results/secure_sum.json
"""

from __future__ import annotations

import argparse
import json
import os
import time
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from clients.edge import ckks
from schemas.codec import decode, encode
from schemas.records import EdgeUpdate
from udfs.federate.audit import device_update
from udfs.federate.ciphertext import MAX_DIMENSION, Ciphertext, add_ciphertexts, read_ciphertext
from udfs.federate.encrypted_line import EncryptedLogic, EncryptedState
from udfs.federate.line import LineLogic
from udfs.federate.line_settings import LineSettings
from udfs.federate.line_state import LineHead
from udfs.federate.release import Seed
from udfs.federate.secure_member import Member
from udfs.federate.secure_sum import unmask
from udfs.federate.update_check import check_update
from udfs.privacy.terms import Mode

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
    tags = {number: members[number].echo(masked) for number in masked}
    for number in masked:
        members[number].agree(
            masked, {other: made[number] for other, made in tags.items() if other != number}
        )
    opened = {number: members[number].open(masked) for number in masked}
    opened_s = time.process_time()
    total = unmask(masked, opened, public, THRESHOLD, LABEL)
    ended_s = time.process_time()
    assert (total == rows[: MEMBERS - GONE].sum(axis=0)).all()
    return {
        "dimension": dimension,
        "share_cpu_ms_a_member": round((shared_s - began_s) / MEMBERS * 1e3, 2),
        "mask_cpu_ms_a_member": round((masked_s - shared_s) / len(masked) * 1e3, 2),
        "agree_and_open_cpu_ms_a_member": round((opened_s - masked_s) / len(masked) * 1e3, 3),
        "unmask_cpu_ms": round((ended_s - opened_s) * 1e3, 1),
        "masked_bytes": masked[0].nbytes,
        "share_bytes_a_member": sum(map(len, sent[0][1].values())),
    }


def measure_encrypted(dimension: int, heads: int = 200) -> dict[str, Any]:
    """Encrypt heads, add them as the job does, open the sum."""
    rows = np.random.default_rng(1).integers(-32_767, 32_768, (heads, dimension))
    keys = ckks.make_keys()
    device, opening = ckks.HeadEncryption(keys.public), ckks.SumOpening(keys.secret)
    began_s = time.process_time()
    sent = [device.encrypt(row) for row in rows]
    encrypted_s = time.process_time()
    total: Ciphertext | None = None
    for head in sent:
        total = add_ciphertexts(total, read_ciphertext(head))
    added_s = time.process_time()
    assert total is not None
    numbers = opening.open(total.astype("<u8").tobytes(), dimension)
    opened_s = time.process_time()
    assert numbers.tolist() == [*rows.sum(axis=0).tolist(), heads]
    line = LineSettings(
        "head", dimension, Mode.DISTRIBUTED, 4.0, 1e-5, heads, heads // 2, encryption_key=keys.name
    )
    logic = EncryptedLogic(LineLogic(line.checked(), inf, Seed("", b"")))
    updates = [
        device_update(line, f"{n}", 0, np.zeros(dimension), bytes(32), device.encrypt) for n in range(heads)
    ]
    values = [encode(update) for update in updates]
    state = EncryptedState(LineHead(0, (line.first_clip_norm,)))
    job_s = time.process_time()
    for update, value in zip(updates, values, strict=True):
        came = decode("EdgeUpdate", value)
        assert isinstance(came, EdgeUpdate)
        check_update(came, f"default/{update.user_id}", {"head": line})  # as the ledgers' step does
        state = logic.on_update(state, came, 0).state
    ended_s = time.process_time()
    return {
        "dimension": dimension,
        "heads": heads,
        "encrypt_cpu_ms": round((encrypted_s - began_s) / heads * 1e3, 2),
        "read_and_add_cpu_us": round((added_s - encrypted_s) / heads * 1e6, 1),
        "decode_check_and_take_cpu_us": round((ended_s - job_s) / heads * 1e6, 1),
        "open_cpu_ms": round((opened_s - added_s) * 1e3, 2),
        "ciphertext_bytes": len(sent[0]),
        "update_bytes": len(values[0]),
        "public_key_bytes": len(keys.public),
        "secret_key_bytes": len(keys.secret),
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
        "encrypted": [measure_encrypted(dimension) for dimension in (64, 256, MAX_DIMENSION)]
        if ckks.tenseal is not None
        else "TenSEAL is not installed",
        "cores": os.cpu_count(),
    }
    if given.out is not None:
        given.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

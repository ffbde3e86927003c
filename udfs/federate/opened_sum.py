"""From a sealed sum and its numbers to the version: what the key holder checks before it opens, and what it makes.

The key holder trusts the job with who is in a sum, and with nothing else: terms and least cohort are those of its own
settings, and the count that the heads carry must be that of the record. What it publishes follows from the sum, the
version before and the settings alone, so a sum that is opened again gives the same bytes.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from schemas.codec import decode
from schemas.records import EdgeCohort, EdgeModel
from udfs.federate.ciphertext import CIPHERTEXT_BYTES, number_quantiser
from udfs.federate.encrypted_line import SEALED
from udfs.federate.line_settings import LineSettings
from udfs.federate.release import signal_to_noise
from udfs.privacy.fixed_point import UNIT, from_units

NOT_OPENED: Final = "not_opened"
"""Trigger of a version that is its parent: what was in the sum cannot be a sum of that many heads."""
_SIGMAS: Final = 8.3


class SealedSumError(ValueError):
    """A sum that must not be opened, and why."""


def sealed_record(told: EdgeCohort, parent: EdgeModel | None, line: LineSettings) -> EdgeModel:
    """Read what a sealed sum says of its version, and check it before the key is used.

    Parameters
    ----------
    told
        From the job.
    parent
        The version that was published before; None: there is none.
    line
        Of the key holder's own settings.

    Raises
    ------
    SealedSumError
        Where the sum is not one that the line makes next, or of fewer heads than `cohort_min`.
    """
    if told.phase != SEALED or told.release is None or len(told.payload) != CIPHERTEXT_BYTES:
        raise SealedSumError(f"{told.model_line}/{told.cohort}: wanted a sealed sum with its record")
    record = decode("EdgeModel", told.release)
    assert isinstance(record, EdgeModel)
    if parent is None:
        raise SealedSumError(f"{line.name}: version {told.cohort - 1} is not published; open its sum first")
    terms = line.terms(line.first_clip_norm)
    for name, wanted, got in (
        ("line", line.name, (told.model_line, record.model_line)),
        ("version", parent.version + 1, (told.cohort, record.version)),
        ("parent", parent.version, (record.parent, record.parent)),
        ("dimension", line.dimension, (record.dimension, parent.dimension)),
        ("encryption key", line.encryption_key, (record.encryption, parent.encryption)),
        ("mode", str(line.mode), (record.mode, parent.mode)),
        ("noise", line.noise_multiplier, (record.noise_multiplier, parent.noise_multiplier)),
        ("delta", line.delta, (record.delta, parent.delta)),
        ("clip", terms.clip_norm, (record.next_clip_norm, parent.next_clip_norm)),
        ("mu", line.mu, (record.mu, parent.mu)),
        ("cohort_min", line.cohort_min, (told.threshold, record.cohort_min)),
    ):
        if any(one != wanted for one in got):
            raise SealedSumError(f"{line.name}/{told.cohort}: {name}: wanted {wanted} as set here, got {got}")
    if not line.cohort_min <= record.cohort_size <= line.cohort_size:
        raise SealedSumError(
            f"{line.name}/{told.cohort}: wanted {line.cohort_min} to {line.cohort_size} heads, "
            f"got {record.cohort_size}: not opened"
        )
    return record


def opened_version(
    record: EdgeModel, parent: EdgeModel, numbers: NDArray[np.int64], line: LineSettings
) -> EdgeModel:
    """Make the version of a sum that was opened.

    Parameters
    ----------
    record
        From `sealed_record`.
    numbers
        int64 (d + 1,): the sum of the heads' numbers, in steps of `number_quantiser`, and of their ones.

    Returns
    -------
    EdgeModel
        The version. One whose `trigger` is `NOT_OPENED` and whose weights are the parent's, where the numbers cannot
        be the sum of so many heads; then nothing is told of them.
    """
    terms = line.terms(line.first_clip_norm)
    total = numbers[:-1] * number_quantiser(terms).step
    reach = record.cohort_size * (terms.clip_norm + (_SIGMAS + 1.0) * terms.device_sigma) / UNIT
    if int(numbers[-1]) != record.cohort_size or int(np.abs(total).max(initial=0)) > reach:
        return record._replace(weights=parent.weights, trigger=NOT_OPENED)
    made = np.frombuffer(parent.weights, "<f8") + line.step_size * (from_units(total) / record.cohort_size)
    variance = record.cohort_size * terms.device_sigma**2
    return record._replace(
        weights=made.astype("<f8").tobytes(), signal_to_noise=signal_to_noise(from_units(total), variance)
    )

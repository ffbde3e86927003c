"""What a device does to its delta before anything leaves it: clip, noise, quantise, in this order."""

from __future__ import annotations

from math import sqrt
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from schemas.refusal import Refused
from udfs.privacy.clip import clip_delta
from udfs.privacy.fixed_point import UNIT, from_units, noise_units, to_units
from udfs.privacy.keyed_noise import keyed_below, keyed_gaussian
from udfs.privacy.noise_gate import noise_band
from udfs.privacy.quantise import Quantiser, quantiser
from udfs.privacy.terms import Mode, Terms

NORM_SLACK: Final = 1e-12  # what two ways to add up squares may differ by
DEVICE_BITS: Final = {Mode.LOCAL: 16, Mode.CENTRAL: 32, Mode.DISTRIBUTED: 32}
"""Bits a coordinate: noise hides rounding in local mode; elsewhere cutting must cost less than the noise."""
TABLE_DIMENSION: Final = 65_536
"""Above it a coordinate has 16 bits in every mode: half the bytes, and the cut of a coordinate, at most a 32,767th of
clip and noise, is still far below the noise of a sum."""


class PrivateUpdate(NamedTuple):
    """What may leave the device.

    Attributes
    ----------
    payload
        Whole numbers of `bits` bits, little endian, (d,).
    bits, step
        Of the quantiser.
    within_clip
        Whether nothing was cut, in central mode, where the job adds noise to it; else None.
    """

    payload: bytes
    bits: int
    step: int
    within_clip: bool | None


def device_quantiser(terms: Terms, dimension: int) -> Quantiser:
    """Return the quantiser that terms and dimension imply, on the device and in the job alike.

    Examples
    --------
    >>> terms = Terms(Mode.CENTRAL, 1.0, 8.0, 1e-5, 10)
    >>> device_quantiser(terms, 64).bits, device_quantiser(terms, 320_000).bits
    (32, 16)
    """
    bits = 16 if dimension > TABLE_DIMENSION else DEVICE_BITS[terms.mode]
    return quantiser(terms.clip_norm, terms.device_sigma, bits)


def privatise(
    delta: ArrayLike, terms: Terms, device_key: bytes, update_name: bytes, how: Quantiser | None = None
) -> PrivateUpdate:
    """Make a delta fit to leave the device under `terms`.

    **Protects** what the terms' `Mode` says: in local mode from everybody, in central mode from nobody on the
    way to the job, in distributed mode with a share of the noise only.

    Parameters
    ----------
    delta
        (d,): the whole change of all parameters.
    device_key
        Secret of the device, random; noise is drawn from it.
    update_name
        Names this one update; another delta under the same name would share noise with this one and reveal the
        difference, so the caller stores the bytes and never computes them twice.
    how
        Another quantiser than `device_quantiser`, from public terms alone: that of heads that are then encrypted.

    Raises
    ------
    Refused
        `bad_value` for a delta that is not finite.

    Examples
    --------
    >>> terms = Terms(Mode.LOCAL, 1.0, 8.0, 1e-5, 10)
    >>> made = privatise([3.0, 4.0, 0.0, 0.0], terms, bytes(32), b"update-1")
    >>> len(made.payload), made.bits, made.within_clip
    (8, 16, None)
    """
    clipped = clip_delta(delta, terms.clip_norm)
    units = to_units(clipped.values)
    how = how or device_quantiser(terms, units.size)
    if terms.mode is Mode.CENTRAL:
        return PrivateUpdate(how.pack(how.cut(units)), how.bits, how.step, clipped.within)
    sigma = terms.device_sigma
    noise = noise_units(keyed_gaussian(device_key, "device noise", update_name, units.size), sigma)
    chances = keyed_below(device_key, "device rounding", update_name, units.size, how.step)
    return PrivateUpdate(how.pack(how.round(units + noise, chances)), how.bits, how.step, None)


def open_update(payload: bytes, bits: int, step: int, terms: Terms, dimension: int) -> NDArray[np.int64]:
    """Read an update as it came into units, int64 (d,), or refuse it. Stateless: nothing but terms decides.

    Local mode: its norm must lie in the band of `noise_band`. Central mode: its norm must be within the clip.
    Distributed mode: its norm must not be above that of clip and share; single updates are opened here only
    where no secure sum hides them.

    Raises
    ------
    Refused
        `wrong_shape`, `wrong_terms` for another quantiser than the terms imply, `noise_missing` or
        `norm_too_large`. Whatever the reason, the payload must be destroyed, not kept in a dead letter.
    """
    how = device_quantiser(terms, dimension)
    if (bits, step) != how:
        raise Refused(
            "wrong_terms", f"quantiser: wanted {how.bits} bits of step {how.step}, got {bits} of {step}"
        )
    units = how.unpack(payload, dimension)
    values = from_units(units)
    if terms.mode is Mode.CENTRAL:
        if sqrt(float(values @ values)) > terms.clip_norm * (1.0 + NORM_SLACK):
            raise Refused("norm_too_large", f"norm: wanted at most the clip of {terms.clip_norm:g}")
        return units
    band = noise_band(dimension, terms.device_sigma, terms.clip_norm, how.step * UNIT)
    if terms.mode is Mode.DISTRIBUTED:
        band = band._replace(low=0.0)
    band.check(values)
    return units

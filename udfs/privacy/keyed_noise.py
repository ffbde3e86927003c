"""Gaussian noise as a keyed function of what it is added to: the same content, the same bytes.

Noise drawn anew at every retry averages away; noise that depends on a version alone cancels when the same
version is released with two cohorts. Here it is a pseudo-random function of (key, label, content digest): a
replay of the same cohort repeats it bit for bit, another cohort gets noise that has nothing to do with it.

The stream is SHAKE-256, so the noise is that of the Gaussian mechanism only against whoever cannot tell
SHAKE-256 under an unknown key from random bits. Each number is the inverse normal distribution of 52 of its
bits, made with additions, multiplications, divisions and square roots alone, which IEEE 754 rounds in one way:
any machine gives the same bits. It is cut at 8.2 standard deviations, which a draw passes once in 4e15.

Source: Wichura, "Algorithm AS241" (1988), for the inverse; FIPS 202 for SHAKE-256.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import shake_256
from typing import Final

import numpy as np
from numpy.typing import NDArray

MIN_KEY_BYTES: Final = 16
_HALF_STEP: Final = 2.0**-53
_LN_2: Final = 0.6931471805599453
_SQRT_HALF: Final = 0.7071067811865476
_ATANH_TERMS: Final = 13
_CENTRE: Final = 0.425

_CENTRE_OVER: Final = (
    2509.0809287301227, 33430.57558358813, 67265.7709270087, 45921.95393154987, 13731.69376550946,
    1971.5909503065513, 133.14166789178438, 3.3871328727963665,
)  # fmt: skip
_CENTRE_UNDER: Final = (
    5226.495278852854, 28729.085735721943, 39307.89580009271, 21213.794301586597, 5394.196021424751,
    687.1870074920579, 42.31333070160091, 1.0,
)  # fmt: skip
_TAIL_OVER: Final = (
    0.0007745450142783414, 0.022723844989269184, 0.2417807251774506, 1.2704582524523684, 3.6478483247632045,
    5.769497221460691, 4.630337846156546, 1.4234371107496835,
)  # fmt: skip
_TAIL_UNDER: Final = (
    1.0507500716444169e-09, 0.0005475938084995345, 0.015198666563616457, 0.14810397642748008,
    0.6897673349851, 1.6763848301838038, 2.053191626637759, 1.0,
)  # fmt: skip
_FAR_OVER: Final = (
    2.0103343992922881e-07, 2.7115555687434876e-05, 0.0012426609473880784, 0.026532189526576124,
    0.29656057182850487, 1.7848265399172913, 5.463784911164114, 6.657904643501103,
)  # fmt: skip
_FAR_UNDER: Final = (
    2.0442631033899397e-15, 1.421511758316446e-07, 1.8463183175100548e-05, 0.0007868691311456133,
    0.014875361290850615, 0.1369298809227358, 0.599832206555888, 1.0,
)  # fmt: skip


def keyed_bytes(key: bytes, label: str, content: bytes, size: int) -> bytes:
    """Bytes that only a holder of the key can tell, for one use and one content.

    Parameters
    ----------
    key
        At least `MIN_KEY_BYTES`, secret and random.
    label
        What the bytes are for; two uses never share bytes.
    content
        What they depend on, such as a digest.
    size
        Bytes wanted.

    Raises
    ------
    ValueError
        For a key that is too short.

    Examples
    --------
    >>> keyed_bytes(bytes(16), "a", b"x", 4).hex() == keyed_bytes(bytes(16), "a", b"x", 4).hex()
    True
    >>> keyed_bytes(bytes(16), "a", b"x", 4) == keyed_bytes(bytes(16), "b", b"x", 4)
    False
    """
    if len(key) < MIN_KEY_BYTES:
        raise ValueError(f"key: wanted at least {MIN_KEY_BYTES} secret bytes, got {len(key)}")
    # A sponge needs no HMAC; lengths in front keep two splits of the same bytes apart.
    name = label.encode()
    parts = (len(key).to_bytes(4, "big"), key, len(name).to_bytes(4, "big"), name, content)
    return shake_256(b"".join(parts)).digest(size)


def keyed_gaussian(key: bytes, label: str, content: bytes, count: int) -> NDArray[np.float64]:
    """Standard normal numbers, float64 (count,), as `keyed_bytes` names them.

    Examples
    --------
    >>> keyed_gaussian(bytes(16), "example", b"", 3).round(3).tolist()
    [1.102, -1.124, -0.288]
    """
    words = np.frombuffer(keyed_bytes(key, label, content, 8 * count), "<u8") >> np.uint64(12)
    # Odd multiples of 2^-53: exact, symmetric around a half, never 0 or 1.
    return normal_quantiles(words.astype(np.float64) * 2.0**-52 + _HALF_STEP)


def keyed_below(key: bytes, label: str, content: bytes, count: int, bound: int) -> NDArray[np.int64]:
    """Whole numbers from 0 to below `bound`, a power of two of at most 2^62, evenly: int64 (count,)."""
    if bound < 1 or bound & (bound - 1) or bound > 1 << 62:
        raise ValueError(f"bound: wanted a power of two up to 2^62, got {bound}")
    words = np.frombuffer(keyed_bytes(key, label, content, 8 * count), "<u8")
    return (words & np.uint64(bound - 1)).astype(np.int64)


def normal_quantiles(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inverse of the normal distribution for numbers above 0 and below 1, bit-equal on every machine.

    Examples
    --------
    >>> normal_quantiles(np.array([0.5, 0.975])).round(4).tolist()
    [0.0, 1.96]
    """
    q = probabilities - 0.5
    r = 0.180625 - q * q
    result = _polynomial(_CENTRE_OVER, r) * q / _polynomial(_CENTRE_UNDER, r)
    outer = np.flatnonzero(np.abs(q) > _CENTRE)
    if outer.size:
        p = probabilities[outer]
        root = np.sqrt(-_log(np.minimum(p, 1.0 - p)))
        near = root - 1.6
        far = root - 5.0
        size = np.where(
            root <= 5.0,
            _polynomial(_TAIL_OVER, near) / _polynomial(_TAIL_UNDER, near),
            _polynomial(_FAR_OVER, far) / _polynomial(_FAR_UNDER, far),
        )
        result[outer] = np.where(q[outer] < 0.0, -size, size)
    return result


def _polynomial(coefficients: Sequence[float], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Horner's scheme, highest power first."""
    total = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        total *= x
        total += coefficient
    return total


def _log(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Natural logarithm. NumPy's own may differ in the last bit from one machine to another."""
    mantissa, exponent = np.frexp(x)
    small = mantissa < _SQRT_HALF
    mantissa = np.where(small, 2.0 * mantissa, mantissa)
    power: NDArray[np.float64] = np.subtract(exponent, small, dtype=np.float64)
    ratio = (mantissa - 1.0) / (mantissa + 1.0)
    series = _polynomial([1.0 / (2 * term + 1) for term in reversed(range(_ATANH_TERMS))], ratio * ratio)
    return power * _LN_2 + 2.0 * ratio * series

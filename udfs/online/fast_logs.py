"""Natural logarithms of many numbers at once, in float32, the same bits on every machine."""

import numpy as np
from numpy.typing import NDArray

from udfs.kernel_cache import kernel

_ROOT_HALF = np.int32(0x3F3504F3)
"""The bits of the root of a half: mantissas are taken between it and its double."""
_LARGE, _SMALL = np.float32(0.693359375), np.float32(-2.12194440e-4)
"""Add up to the logarithm of 2; the product of the first with an exponent is exact."""
_P0, _P1, _P2 = np.float32(7.0376836292e-2), np.float32(-1.1514610310e-1), np.float32(1.1676998740e-1)
_P3, _P4, _P5 = np.float32(-1.2420140846e-1), np.float32(1.4249322787e-1), np.float32(-1.6668057665e-1)
_P6, _P7, _P8 = np.float32(2.0000714765e-1), np.float32(-2.4999993993e-1), np.float32(3.3333331174e-1)
_HALF, _ONE = np.float32(0.5), np.float32(1.0)


@kernel
def to_logs(values: NDArray[np.float32]) -> None:
    """Replace each value by its natural logarithm, to 2 units in the last place of the larger of it and 1.

    A loop without calls or branches, which the compiler turns into steps of many lanes; the library's logarithm takes
    one number a call.

    Parameters
    ----------
    values
        float32 (n,), contiguous: positive and not subnormal.

    Notes
    -----
    **Source**: the polynomial is that of logf in Moshier, "Cephes mathematical library".

    Examples
    --------
    >>> values = np.array([0.5, 1.0, 20.0], np.float32)
    >>> to_logs(values)
    >>> values.round(4).tolist() == np.log(np.array([0.5, 1.0, 20.0], np.float32)).round(4).tolist()
    True
    """
    bits = values.view(np.int32)
    for i in range(len(values)):
        exponent = np.int32(np.int32(bits[i] - _ROOT_HALF) >> 23)
        x = np.int32(bits[i] - (exponent << 23)).view(np.float32) - _ONE
        p = (((_P0 * x + _P1) * x + _P2) * x + _P3) * x + _P4
        p = (((p * x + _P5) * x + _P6) * x + _P7) * x + _P8
        power, square = np.float32(exponent), x * x
        values[i] = (x + (p * x * square + _SMALL * power - _HALF * square)) + _LARGE * power

"""Secrets in shares: any `threshold` of them give the secret, fewer nothing.

Source: Shamir, "How to Share a Secret" (1979).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

FIELD: Final = (1 << 521) - 1
"""A prime above every secret that is shared."""
FIELD_BYTES: Final = 66


def share_at(polynomial: Sequence[int], x: int) -> int:
    """Value of a polynomial, constant first: the share of whoever has the number `x`, above 0.

    Examples
    --------
    >>> share_at([5, 2], 3)
    11
    """
    total = 0
    for coefficient in reversed(polynomial):
        total = (total * x + coefficient) % FIELD
    return total


def secret_of(points: Mapping[int, int]) -> int:
    """Value at 0 of the polynomial through the points (Lagrange); of shares that do not belong together any number.

    Examples
    --------
    >>> secret_of({x: share_at([5, 2, 7], x) for x in (1, 4, 6)})
    5
    """
    total = 0
    for x, y in points.items():
        over = under = 1
        for other in points:
            if other != x:
                over = over * other % FIELD
                under = under * (other - x) % FIELD
        total = (total + y * over * pow(under, -1, FIELD)) % FIELD
    return total

"""One of few policies by which a whole list is made, and what such policies have to be."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import isfinite
from typing import Final, NamedTuple

from udfs.bandits.policy import SERVED
from udfs.bandits.shares import check_floor
from udfs.user_state import SOURCES

MOST: Final = 4
"""List policies that there may be."""
NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,15}")


class ListPolicy(NamedTuple):
    """One list policy.

    Attributes
    ----------
    name
        Matches `NAME`; what it earned is kept under it.
    diversity
        Weight of category repetition, in [0, 1]; None: as the settings say.
    sources
        Relative share of each of `udfs.user_state.SOURCES` at every slot, floor apart; empty: by the slots' policy.
    """

    name: str
    diversity: float | None = None
    sources: tuple[float, ...] = ()


def check_list_policies(policies: Sequence[ListPolicy], rule: str, floor: float) -> None:
    """Refuse list policies that could not be drawn.

    Raises
    ------
    ValueError
        For one alone, more than `MOST`, names that are no names or not different, a diversity outside [0, 1], shares
        that are none, another rule than `udfs.bandits.policy.SERVED`, a floor that cannot be kept.
    """
    if not policies:
        return
    names = [one.name for one in policies]
    if not 2 <= len(policies) <= MOST or len(set(names)) != len(names):
        raise ValueError(f"list_policies: wanted 2 to {MOST} of different names, got {names}")
    if rule not in SERVED:
        raise ValueError(f"list_rule: wanted one of {', '.join(SERVED)}, got {rule!r}")
    check_floor(floor, len(policies))
    for one in policies:
        if not NAME.fullmatch(one.name):
            raise ValueError(f"list_policies: wanted names of 1 to 16 of a-z, 0-9, - and _, got {one.name!r}")
        if one.diversity is not None and not 0.0 <= one.diversity <= 1.0:
            raise ValueError(f"list_policies.{one.name}.diversity: wanted 0 to 1, got {one.diversity}")
        shares = one.sources
        if shares and not (
            len(shares) == len(SOURCES) and min(shares) >= 0.0 < sum(shares) and isfinite(sum(shares))
        ):
            raise ValueError(f"list_policies.{one.name}.sources: wanted shares from 0, got {shares}")

"""What no list may hold, checked on the finished lists.

Retrieval leaves such items out; the check costs little and fails the batch, because a violation is a fault of
the code, and a shop would rather have yesterday's list than an item it has blocked.
"""

import numpy as np
from numpy.typing import NDArray

from udfs.kernel_cache import kernel

RULES = ("out of stock or blocked", "bought within the rebuy interval", "twice in one list")


class RuleBrokenError(RuntimeError):
    """A finished list that breaks a rule."""


def check_lists(
    rows: NDArray[np.int32],
    count: NDArray[np.int32],
    allowed: NDArray[np.bool_],
    bought_rows: NDArray[np.int32],
    bought_seconds: NDArray[np.uint32],
    at_ms: NDArray[np.int64],
    rebuy_after_ms: int,
) -> None:
    """Refuse lists that break a rule.

    Parameters
    ----------
    rows, count
        int32 (U, L) and (U,): the lists.
    allowed
        bool (n,): in stock and not blocked.
    bought_rows, bought_seconds
        (U, 64): what each user bought when; -1: not an item of this epoch.
    at_ms
        int64 (U,)
    rebuy_after_ms
        For how long a bought item is not shown.

    Raises
    ------
    RuleBrokenError
        Naming the rule, the user's place in the batch and the slot.
    """
    user, slot, rule = _first_broken(rows, count, allowed, bought_rows, bought_seconds, at_ms, rebuy_after_ms)
    if rule >= 0:
        raise RuleBrokenError(
            f"user {user} of the batch, slot {slot}: row {rows[user, slot]} is {RULES[rule]}"
        )


@kernel
def bought_recently(at_ms: int, bought_s: np.uint32, rebuy_after_ms: int) -> bool:
    """Whether an item bought at `bought_s` is still kept out."""
    return at_ms - int(bought_s) * 1000 < rebuy_after_ms


@kernel
def _first_broken(
    rows: NDArray[np.int32],
    count: NDArray[np.int32],
    allowed: NDArray[np.bool_],
    bought_rows: NDArray[np.int32],
    bought_seconds: NDArray[np.uint32],
    at_ms: NDArray[np.int64],
    rebuy_after_ms: int,
) -> tuple[int, int, int]:
    for user in range(len(count)):
        for slot in range(count[user]):
            row = rows[user, slot]
            if not allowed[row]:
                return user, slot, 0
            for other in range(slot):
                if rows[user, other] == row:
                    return user, slot, 2
            for k in range(bought_rows.shape[1]):
                if bought_rows[user, k] == row and bought_recently(
                    at_ms[user], bought_seconds[user, k], rebuy_after_ms
                ):
                    return user, slot, 1
    return -1, -1, -1

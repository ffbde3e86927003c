"""The numbers of the feedback loop: how long an outcome may take, what it is worth, how late a record may be."""

from __future__ import annotations

from typing import Final, NamedTuple

CLICK: Final = 0
DWELL: Final = 1
ADD_TO_CART: Final = 2
PURCHASE: Final = 3
REMOVE_FROM_CART: Final = 4
KINDS: Final = ("click", "dwell", "add_to_cart", "purchase", "remove_from_cart")
"""Kinds of outcomes, by weight; the last only undoes."""

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS


class FeedbackRules(NamedTuple):
    """What can be set.

    Attributes
    ----------
    click_ms, dwell_ms, add_to_cart_ms, purchase_ms
        How long after a list was first shown an outcome of this kind is credited to it.
    credit_ms
        How long after it the credits are made up: of outcomes until then. An example waits for the longest
        window.
    skew_ms
        How far an outcome's time may lie before that of its impression: two clocks, or one that is set.
    lateness_ms
        How long after its time a record is waited for, by the event-time clock. Later ones are counted and
        left out.
    superseded_ms
        How long a list that was not shown is kept once the user has a newer one: pages that stay open.
    list_ttl_ms
        How long the newest list is kept for an impression, and how long a settled list is remembered.
    click_reward, dwell_reward, add_to_cart_reward, purchase_reward
        In [0, 1]; of several outcomes the greatest counts. By default the implicit weights over that of a purchase.
    dwell_from_s
        A stay of this many seconds is an outcome; a shorter one is only noted.
    """

    click_ms: int = 30 * MINUTE_MS
    dwell_ms: int = 30 * MINUTE_MS
    add_to_cart_ms: int = 2 * HOUR_MS
    purchase_ms: int = DAY_MS
    credit_ms: int = 30 * MINUTE_MS
    skew_ms: int = MINUTE_MS
    lateness_ms: int = 5 * MINUTE_MS
    superseded_ms: int = 15 * MINUTE_MS
    list_ttl_ms: int = 30 * DAY_MS
    click_reward: float = 0.2
    dwell_reward: float = 0.4
    add_to_cart_reward: float = 0.6
    purchase_reward: float = 1.0
    dwell_from_s: float = 30.0

    @property
    def windows_ms(self) -> tuple[int, int, int, int, int]:
        """Window by kind; a removal reaches as far as what it undoes."""
        return self.click_ms, self.dwell_ms, self.add_to_cart_ms, self.purchase_ms, self.add_to_cart_ms

    @property
    def rewards(self) -> tuple[float, float, float, float]:
        """Reward by kind."""
        return self.click_reward, self.dwell_reward, self.add_to_cart_reward, self.purchase_reward

    @property
    def longest_ms(self) -> int:
        """The longest window."""
        return max(self.windows_ms)

    def check(self) -> None:
        """Refuse rules that contradict themselves.

        Raises
        ------
        ValueError
            For a negative duration, a reward outside [0, 1], or credits that wait longer than examples.
        """
        for name, value in self._asdict().items():
            if value < 0:
                raise ValueError(f"{name}: wanted 0 or more, got {value}")
            if name.endswith("_reward") and value > 1:
                raise ValueError(f"{name}: wanted 0 to 1, got {value}")
        if not 0 < self.credit_ms <= self.longest_ms:
            raise ValueError(
                f"credit_ms: wanted 1 to the longest window {self.longest_ms}, got {self.credit_ms}"
            )

"""Whether a bundle may serve: its figures beside those of the bundle that serves, each against a limit.

A bundle that opens is what training wrote; that says nothing of how good it is. The gate does, on events that neither
bundle has learnt from. Its verdict names the manifest by its hash, so it speaks of that bundle and no other.
"""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple

FORMAT = 1


class GateLimits(NamedTuple):
    """What a candidate must reach; the defaults are those of the settings.

    Attributes
    ----------
    least_lists
        Later sessions to measure on: fewer prove nothing.
    most_ndcg_drop
        Share of the serving bundle's NDCG@10 that may be lost.
    least_over_popularity
        NDCG@10 over that of the most popular items.
    most_value_drop
        Share of the serving bundle's value on logged examples that may be lost.
    most_calibration_error
        Of `model_export.gate.calibration`, as a share of how often a finalist is taken.
    least_coverage
        Different items in its lists, over those of the serving bundle's.
    most_cpu_us
        CPU microseconds to rank a user, on the machine of the gate.
    most_bytes
        Of all its files.
    """

    least_lists: int = 50
    most_ndcg_drop: float = 0.05
    least_over_popularity: float = 1.0
    most_value_drop: float = 0.1
    most_calibration_error: float = 0.3
    least_coverage: float = 0.7
    most_cpu_us: float = 1_000.0
    most_bytes: int = 2 << 30


class Figures(NamedTuple):
    """What was measured of one bundle, on lists as users would get them.

    Attributes
    ----------
    lists
        Sessions that the other figures are of.
    ndcg, hit_rate
        Of the first ten items.
    items_shown
        Different items in all lists.
    calibration_error, cpu_us, size_bytes
        See `GateLimits`.
    canary_difference
        The largest difference of its canary rows' scores from those of training.
    not_finite
        What the ranker said instead of numbers; '' for a ranker that gave numbers.
    value, value_error
        Reward a slot on logged examples and its standard error; None: no examples, or they tell too little.
    value_note
        How much the examples tell, or why there is no value.
    """

    lists: int
    ndcg: float
    hit_rate: float
    items_shown: int
    calibration_error: float
    cpu_us: float
    size_bytes: int
    canary_difference: float
    not_finite: str = ""
    value: float | None = None
    value_error: float = math.nan
    value_note: str = "no examples were given"


class Check(NamedTuple):
    """One check: the figure, its limit, whether it is passed. One without a figure was left out, with a note."""

    name: str
    value: float | None
    wanted: str
    limit: float | None
    passed: bool
    note: str = ""


class Verdict(NamedTuple):
    """What the gate says of one bundle.

    Attributes
    ----------
    epoch, manifest_sha256
        The bundle.
    against, against_sha256
        What it was compared with; None: nothing served.
    data, data_sha256
        What it was measured on.
    since_ms
        Neither bundle has learnt from events at or after it.
    made_ms
        When.
    checks
        All of them.
    """

    epoch: int
    manifest_sha256: str
    against: int | None
    against_sha256: str | None
    data: str
    data_sha256: str
    since_ms: int
    made_ms: int
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check is passed."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    def failures(self) -> list[str]:
        """Return a sentence for each check that is not passed.

        Examples
        --------
        >>> told = Check("cpu_us", 1200.0, "at most", 1000.0, False)
        >>> Verdict(2, "", None, None, "", "", 0, 0, (told,)).failures()
        ['cpu_us 1200: wanted at most 1000']
        """
        return [_sentence(check) for check in self.checks if not check.passed]

    def to_json(self) -> bytes:
        """Return the file's bytes."""
        tree = self._asdict() | {"format": FORMAT, "passed": self.passed}
        tree["checks"] = [
            check._asdict() | {"value": _finite(check.value), "limit": _finite(check.limit)}
            for check in self.checks
        ]
        return (json.dumps(tree, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()

    @classmethod
    def from_json(cls, text: bytes) -> Verdict:
        """Read what `to_json` wrote; that it is passed is seen from the checks.

        Raises
        ------
        ValueError
            For anything else.
        """
        try:
            tree: dict[str, Any] = json.loads(text)
            if tree.pop("format") != FORMAT:
                raise ValueError(f"verdict: this code reads format {FORMAT}")
            tree.pop("passed")
            checks = tuple(Check(**check) for check in tree.pop("checks"))
            return cls(checks=checks, **tree)
        except (TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"verdict: {error!r}") from error


def judge(
    candidate: Figures,
    serving: Figures | None,
    popular_ndcg: float,
    difference_error: float,
    limits: GateLimits,
) -> tuple[Check, ...]:
    """Compare figures with limits.

    Parameters
    ----------
    candidate, serving
        Measured on the same sessions; None: nothing serves. Then, and where what serves gives scores that are no
        numbers, what is relative to it is left out.
    popular_ndcg
        NDCG@10 of the most popular items on these sessions.
    difference_error
        Standard error of the difference of the two bundles' NDCG, session by session.
    limits
        What is wanted.

    Returns
    -------
    tuple[Check, ...]
        A figure that is not a number passes no check.
    """
    checks = [
        Check(
            "finite_scores",
            float(not candidate.not_finite),
            "at least",
            1.0,
            not candidate.not_finite,
            candidate.not_finite,
        ),
        _at_most("canary_difference", candidate.canary_difference, 1e-5),
        _at_most("bytes", candidate.size_bytes, limits.most_bytes),
        _at_most("cpu_us", candidate.cpu_us, limits.most_cpu_us),
        _at_least("lists", candidate.lists, limits.least_lists),
        _at_least(
            "ndcg_over_popularity",
            _ratio(candidate.ndcg, popular_ndcg),
            limits.least_over_popularity,
            f"{candidate.ndcg:.4f} and {popular_ndcg:.4f}",
        ),
        _at_most("calibration_error", candidate.calibration_error, limits.most_calibration_error),
    ]
    if serving is None or serving.not_finite:
        note = "nothing serves yet"
        if serving is not None:  # users have the epoch before it, and wait for a better one
            note = f"what serves cannot be measured: {serving.not_finite}"
        return (*checks, Check("against_serving", None, "at least", None, True, note))
    note = f"{candidate.ndcg:.4f} and {serving.ndcg:.4f}, the difference +-{1.96 * difference_error:.4f}"
    checks.append(
        _at_least("ndcg_over_serving", _ratio(candidate.ndcg, serving.ndcg), 1 - limits.most_ndcg_drop, note)
    )
    checks.append(
        _at_least(
            "coverage_over_serving",
            _ratio(candidate.items_shown, serving.items_shown),
            limits.least_coverage,
            f"{candidate.items_shown} and {serving.items_shown} items",
        )
    )
    return (*checks, _value_check(candidate, serving, limits))


def _value_check(candidate: Figures, serving: Figures, limits: GateLimits) -> Check:
    name = "value_over_serving"
    if candidate.value is None or serving.value is None:
        why = candidate.value_note if candidate.value is None else serving.value_note
        return Check(name, None, "at least", None, True, why)
    note = (
        f"{candidate.value:.5f} +-{1.96 * candidate.value_error:.5f} and "
        f"{serving.value:.5f} +-{1.96 * serving.value_error:.5f}; {candidate.value_note}"
    )
    return _at_least(name, _ratio(candidate.value, serving.value), 1 - limits.most_value_drop, note)


def _at_least(name: str, value: float, limit: float, note: str = "") -> Check:
    return Check(name, float(value), "at least", float(limit), bool(value >= limit), note)


def _at_most(name: str, value: float, limit: float, note: str = "") -> Check:
    return Check(name, float(value), "at most", float(limit), bool(value <= limit), note)


def _ratio(value: float, base: float) -> float:
    """Return value / base; against nothing anything is enough."""
    return value / base if base else math.inf if value > 0 else 1.0


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def _sentence(check: Check) -> str:
    shown = "not a number" if check.value is None or math.isnan(check.value) else f"{check.value:.6g}"
    told = "" if check.limit is None else f": wanted {check.wanted} {check.limit:.6g}"
    return f"{check.name} {shown}{told}" + (f" ({check.note})" if check.note else "")

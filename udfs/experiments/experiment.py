"""What an experiment is: variants with settings, a place in a layer, and the rule by which it is decided."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

BUCKETS: Final = 10_000
"""A layer's users are dealt to as many buckets; an experiment has a range of them."""
METRICS: Final = ("ctr", "add_to_cart", "conversion", "revenue")
SETTINGS: Final = (
    "epoch",
    "sources",
    "rules",
    "diversity",
    "candidates",
    "exploration_floor",
    "exploration_policy",
    "shared_credits",
    "new_item_share",
    "list_policies",
    "history_until_s",
)
METHODS: Final = ("sequential", "fixed")
LEAST_DAYS: Final = 7
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


class Variant(NamedTuple):
    """One variant.

    Attributes
    ----------
    name
        Lower case letters, digits, ``-`` and ``_``.
    weight
        Of the experiment's users, relative to the others' weights.
    settings
        What it changes, by names of `SETTINGS`; empty: nothing.
    """

    name: str
    weight: int
    settings: Mapping[str, Any]


class Guardrail(NamedTuple):
    """A metric that must not fall by more than a share of the control's, with certainty at any look."""

    metric: str
    most_drop: float = 0.0


class Experiment(NamedTuple):
    """One experiment.

    Attributes
    ----------
    name
        As a variant's; it decides who sees what, so a new name deals anew.
    layer
        Experiments of one layer have different users, those of two layers are dealt independently.
    first_bucket, buckets
        Which of the layer's `BUCKETS` take part.
    variants
        The first one is the control.
    metric
        The one of `METRICS` by which it is decided.
    method
        ``sequential``: may be decided at any look. ``fixed``: at its end, once.
    days
        Event time that it runs at least before a fixed decision, `LEAST_DAYS` or more.
    alpha
        Probability of a false alarm of the whole experiment.
    expected_effect
        Size of a difference worth finding, relative to the control's value; the sequential test is sharpest there.
    guardrails
        What stops it.
    """

    name: str
    layer: str
    first_bucket: int
    buckets: int
    variants: tuple[Variant, ...]
    metric: str = "ctr"
    method: str = "sequential"
    days: int = LEAST_DAYS
    alpha: float = 0.05
    expected_effect: float = 0.1
    guardrails: tuple[Guardrail, ...] = ()

    def check(self) -> None:
        """Refuse an experiment that contradicts itself.

        Raises
        ------
        ValueError
            Naming the field, what is wanted and what was found.
        """
        for name in (self.name, self.layer, *(variant.name for variant in self.variants)):
            _want(_NAME.fullmatch(name) is not None, "name", "1 to 32 of a-z, 0-9, - and _", name)
        names = [variant.name for variant in self.variants]
        _want(len(set(names)) == len(names) >= 2, "variants", "two or more different names", names)
        for variant in self.variants:
            _want(0 < variant.weight <= BUCKETS, "weight", f"1 to {BUCKETS}", variant.weight)
            unknown = sorted(set(variant.settings) - set(SETTINGS))
            _want(not unknown, "settings", f"names of {', '.join(SETTINGS)}", unknown)
        end = self.first_bucket + self.buckets
        _want(
            self.first_bucket >= 0 < self.buckets and end <= BUCKETS, "buckets", f"a range in {BUCKETS}", end
        )
        for metric in (self.metric, *(guardrail.metric for guardrail in self.guardrails)):
            _want(metric in METRICS, "metric", f"one of {', '.join(METRICS)}", metric)
        for guardrail in self.guardrails:
            _want(0.0 <= guardrail.most_drop < 1.0, "most_drop", "0 to 1", guardrail.most_drop)
        _want(self.method in METHODS, "method", f"one of {', '.join(METHODS)}", self.method)
        _want(self.days >= LEAST_DAYS, "days", f"{LEAST_DAYS} or more", self.days)
        _want(0.0 < self.alpha < 0.5, "alpha", "between 0 and .5", self.alpha)
        _want(
            0.0 < self.expected_effect <= 1.0, "expected_effect", "above 0, at most 1", self.expected_effect
        )

    def to_json(self) -> str:
        """Return it as one line of JSON, the same for equal experiments."""
        plain = self._asdict()
        plain["variants"] = [variant._asdict() for variant in self.variants]
        plain["guardrails"] = [guardrail._asdict() for guardrail in self.guardrails]
        return json.dumps(plain, sort_keys=True, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> Experiment:
        """Read what `to_json` wrote.

        Raises
        ------
        ValueError
            For a text that is none, a field that is not known, or an experiment that `check` refuses.

        Examples
        --------
        >>> new = Variant("b", 1, {"diversity": 0.3})
        >>> one = Experiment("spread", "list", 0, 500, (Variant("a", 1, {}), new))
        >>> Experiment.from_json(one.to_json()) == one
        True
        """
        try:
            plain = json.loads(text)
            plain["variants"] = tuple(Variant(**one) for one in plain["variants"])
            plain["guardrails"] = tuple(Guardrail(**one) for one in plain.get("guardrails", ()))
            experiment = Experiment(**plain)
            experiment.check()
        except (TypeError, KeyError) as error:
            raise ValueError(f"experiment: {error}") from error
        return experiment


def check_together(experiments: Iterable[Experiment]) -> None:
    """Refuse experiments that would collide.

    Raises
    ------
    ValueError
        For two of one name, two of one layer that share buckets, or two of different layers that change the same
        setting: a user may be in both.
    """
    seen: list[Experiment] = []
    for one in experiments:
        one.check()
        for other in seen:
            where = f"experiments {other.name} and {one.name}"
            if one.name == other.name:
                raise ValueError(f"{where}: have one name")
            if one.layer == other.layer:
                low, high = sorted((one, other), key=lambda each: each.first_bucket)
                if low.first_bucket + low.buckets > high.first_bucket:
                    raise ValueError(f"{where}: share buckets of layer {one.layer}")
            elif both := changed_settings(one) & changed_settings(other):
                raise ValueError(f"{where}: both change {', '.join(sorted(both))}; put them into one layer")
        seen.append(one)


def changed_settings(experiment: Experiment) -> set[str]:
    """Return the names of all settings that some variant changes."""
    return {name for variant in experiment.variants for name in variant.settings}


def _want(holds: bool, field: str, wanted: str, got: object) -> None:
    if not holds:
        raise ValueError(f"{field}: wanted {wanted}, got {got!r}")

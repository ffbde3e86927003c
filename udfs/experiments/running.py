"""Which experiments run, and what was promoted: one value, which an order replaces as a whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from udfs.bandits.policy import SERVED
from udfs.experiments.assignment import assign
from udfs.experiments.experiment import BUCKETS, Experiment, check_together

APPLIED: Final = {
    "epoch": (1, (1 << 32) - 1),
    "diversity": (0.0, 1.0),
    "candidates": (10, 1_000),
    "exploration_floor": (0.0, 0.18),
    "shared_credits": (0.0, 1_000.0),
    "new_item_share": (0.0, 0.2),
    "list_policies": (0, 1),
    "history_until_s": (0, (1 << 32) - 1),
}
"""Settings of variants that the recommend job applies, and from where to where."""
NAMED: Final = {"exploration_policy": SERVED}
"""Others that it applies, and what they may be."""
OF_THE_USER: Final = ("epoch", "history_until_s")
"""Those that say what a user is ranked with, and nothing of how."""
MAX_JSON_BYTES: Final = 65_536


class RunningExperiments(NamedTuple):
    """What decides how a user's list is made, beside the job's settings.

    Attributes
    ----------
    experiments
        Those that run.
    promoted
        Settings of variants that everybody has now; those of a user's variants go above them.
    """

    experiments: tuple[Experiment, ...] = ()
    promoted: Mapping[str, Any] = {}

    def check(self) -> None:
        """Refuse what the job could not apply.

        Raises
        ------
        ValueError
            For experiments that collide, and for settings unknown to the job or outside their range.
        """
        check_together(self.experiments)
        changes = [self.promoted, *(variant.settings for one in self.experiments for variant in one.variants)]
        for name, value in (pair for one in changes for pair in one.items()):
            if name in NAMED:
                if value not in NAMED[name]:
                    raise ValueError(f"{name}: wanted one of {', '.join(NAMED[name])}, got {value!r}")
                continue
            if name not in APPLIED:
                known = ", ".join((*APPLIED, *NAMED))
                raise ValueError(f"settings: wanted {known}, which the job applies, got {name!r}")
            low, high = APPLIED[name]
            whole = isinstance(low, int)
            if (
                isinstance(value, bool)
                or not isinstance(value, int if whole else int | float)
                or not low <= value <= high
            ):
                raise ValueError(f"{name}: wanted {low} to {high}, got {value!r}")

    def epochs(self) -> list[int]:
        """Return the model epochs that lists may come from beside the active one."""
        changes = [self.promoted, *(variant.settings for one in self.experiments for variant in one.variants)]
        return sorted({one["epoch"] for one in changes if "epoch" in one})

    def of_user(self, key: str) -> tuple[str, Mapping[str, Any]]:
        """Return what is logged with a user's list, and the settings to make it with.

        Parameters
        ----------
        key
            The user's Kafka key.

        Examples
        --------
        >>> RunningExperiments(promoted={"diversity": 0.3}).of_user("default/u1")
        ('', {'diversity': 0.3})
        """
        if not self.experiments:
            return "", self.promoted
        label, settings = assign(self.experiments, key)
        return label, {**self.promoted, **settings}

    def start(self, experiment: Experiment) -> RunningExperiments:
        """Return the value with an experiment more.

        Raises
        ------
        ValueError
            As `check`.
        """
        started = self._replace(experiments=(*self.experiments, experiment))
        started.check()
        return started

    def free_bucket(self, layer: str, wanted: int) -> int:
        """Return the first of `wanted` buckets of a layer that no experiment has.

        Raises
        ------
        ValueError
            Where the layer has no such room.
        """
        first = 0
        for one in sorted(self.experiments, key=lambda one: one.first_bucket):
            if one.layer == layer and one.first_bucket < first + wanted:
                first = one.first_bucket + one.buckets
        if first + wanted > BUCKETS:
            raise ValueError(
                f"share: layer {layer} has no {wanted / BUCKETS:.2%} of the users left; take another layer"
            )
        return first

    def without_epoch(self) -> RunningExperiments:
        """Return the value without a promoted model epoch: the activated one serves again."""
        return self.withdraw("epoch") if "epoch" in self.promoted else self

    def withdraw(self, name: str) -> RunningExperiments:
        """Return the value without a promoted setting: the deployment's own counts again.

        Raises
        ------
        ValueError
            For a setting that was not promoted.
        """
        if name not in self.promoted:
            known = ", ".join(self.promoted) or "none is"
            raise ValueError(f"setting: wanted one that is promoted ({known}), got {name!r}")
        return self._replace(promoted={one: value for one, value in self.promoted.items() if one != name})

    def stop(self, name: str, promote: str | None = None) -> RunningExperiments:
        """Return the value without an experiment.

        Parameters
        ----------
        promote
            The variant whose settings everybody gets; None: none.

        Raises
        ------
        ValueError
            For a name that does not run, or a variant that the experiment does not have.
        """
        found = self.find(name)
        promoted = dict(self.promoted)
        if promote is not None:
            variants = {variant.name: variant for variant in found.variants}
            if promote not in variants:
                raise ValueError(f"variant: wanted one of {', '.join(variants)}, got {promote!r}")
            promoted.update(variants[promote].settings)
        return RunningExperiments(tuple(one for one in self.experiments if one is not found), promoted)

    def find(self, name: str) -> Experiment:
        """Return an experiment by its name.

        Raises
        ------
        ValueError
            For a name that does not run.
        """
        for one in self.experiments:
            if one.name == name:
                return one
        running = ", ".join(one.name for one in self.experiments) or "none runs"
        raise ValueError(f"experiment: wanted one that runs ({running}), got {name!r}")

    def to_json(self) -> str:
        """Return it as one line of JSON, the same for equal values."""
        running = [json.loads(one.to_json()) for one in self.experiments]
        return json.dumps(
            {"running": running, "promoted": dict(self.promoted)}, sort_keys=True, separators=(",", ":")
        )

    @staticmethod
    def from_json(text: str) -> RunningExperiments:
        """Read what `to_json` wrote.

        Raises
        ------
        ValueError
            For a text that is none, or a value that `check` refuses.

        Examples
        --------
        >>> RunningExperiments.from_json(RunningExperiments().to_json())
        RunningExperiments(experiments=(), promoted={})
        """
        if len(text) > MAX_JSON_BYTES:
            raise ValueError(f"experiments: wanted at most {MAX_JSON_BYTES} bytes, got {len(text)}")
        try:
            plain = json.loads(text)
            running = tuple(Experiment.from_json(json.dumps(one)) for one in plain["running"])
            value = RunningExperiments(running, dict(plain["promoted"]))
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"experiments: {error!r}") from error
        value.check()
        return value

"""What a bundle's lists would have earned on the product's own examples.

Each slot is weighed by itself, by how likely the bundle would have shown what was shown there, given the slots
before. How likely each source was is taken as it was logged, what all users had taught included, and so is a list's
policy; the share for new items is the deployment's, of the items that are new to the bundle. What examples do not
hold is outside (`OUTSIDE`), for both bundles of a comparison alike.

Source: as `model_export.protocols.policy_value`, which judges policies over the sources of one bundle.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from model_export.dataset import BATCH
from model_export.protocols.off_policy import FEW_ROUNDS, Estimate, effective_rounds
from model_export.protocols.policy_value import by_user
from schemas.ids import item_hash, user_key
from schemas.records import Example
from udfs.model.bundle import Bundle
from udfs.ranking.catalogue import CatalogueView
from udfs.ranking.rank import RankSettings
from udfs.ranking.slot_shares import slot_shares
from udfs.ranking.snapshot import Snapshot
from udfs.user_state import SOURCES, StateError, UserState

OUTSIDE = "others' sessions, what the learn job taught, and changes of the catalogue are outside"
"""Of the value: the log says how far they had been read, not what they said."""


class ReplayedValue(NamedTuple):
    """Reward a slot by SNIPS, slots in all, how many equal ones would tell as much, and lists with logged sources."""

    reward: Estimate
    slots: int
    effective: float
    lists: int
    as_logged: int

    @property
    def tells(self) -> bool:
        """Whether the log and the bundle's lists overlap enough to say anything."""
        return self.effective >= FEW_ROUNDS

    @property
    def note(self) -> str:
        """What the figure rests on, and what is outside."""
        told = f"{self.slots:,} logged slots tell as much as {self.effective:,.0f}"
        if self.as_logged < self.lists:
            told += f"; {self.lists - self.as_logged:,} of {self.lists:,} lists did not log their sources"
        return f"{told}; {OUTSIDE}"


def readable(examples: Sequence[Example]) -> list[Example]:
    """Return the examples whose snapshot can be ranked again and whose slots have propensities.

    Slots behind one that was not shown are left out: what stood in between is not known.
    """
    kept = []
    for example in examples:
        try:
            UserState.decode(example.snapshot)
        except StateError:
            continue
        items = [item for place, item in enumerate(example.items) if item.slot == place]
        if items and all(item.propensity > 0 for item in items):
            kept.append(example if len(items) == len(example.items) else example._replace(items=items))
    return kept


def replayed_value(
    bundle: Bundle, examples: Sequence[Example], settings: RankSettings, rng: np.random.Generator
) -> ReplayedValue:
    """Return what a bundle would have earned.

    Parameters
    ----------
    bundle
        The candidate.
    examples
        As `readable` gives them, at least one.
    settings
        The deployment's.
    rng
        Draws users for the interval.
    """
    view, rows = CatalogueView(bundle), bundle.items
    shares = []
    for start in range(0, len(examples), BATCH):
        batch = examples[start : start + BATCH]
        logged = np.full((len(batch), max(len(one.items) for one in batch)), -1, np.int32)
        for at, one in enumerate(batch):
            logged[at, : len(one.items)] = [rows.row(item_hash(item.item_id)) for item in one.items]
        sources = np.array([_sources(one) for one in batch])
        policies = [one.list_policy for one in batch]
        found = slot_shares(
            bundle, [_snapshot(one) for one in batch], logged, view, settings, sources, policies
        )
        shares += [found[at, : len(one.items)] for at, one in enumerate(batch)]
    items = [item for one in examples for item in one.items]
    numbers: dict[str, int] = {}
    users = np.array(
        [
            numbers.setdefault(user_key(one.tenant, one.user_id), len(numbers))
            for one in examples
            for _ in one.items
        ]
    )
    weights = np.concatenate(shares) / np.array([item.propensity for item in items])
    gains = weights * np.array([item.reward for item in items])
    return ReplayedValue(
        by_user(gains, weights, users, rng),
        len(items),
        effective_rounds(weights),
        len(examples),
        sum(len(one.source_probabilities) == len(SOURCES) for one in examples),
    )


def _sources(one: Example) -> Sequence[float]:
    """Return how likely each source was; NaN where that was not logged."""
    known = len(one.source_probabilities) == len(SOURCES)
    return one.source_probabilities if known else (np.nan,) * len(SOURCES)


def _snapshot(one: Example) -> Snapshot:
    key = user_key(one.tenant, one.user_id)
    return Snapshot(key, one.tenant, one.user_id, one.version, one.list_time, one.epoch, one.snapshot)

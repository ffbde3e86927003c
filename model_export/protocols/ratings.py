"""The ratings protocol: what users will like next among everything they have not rated, on two splits by time.

By user: the first 80 % of each user's ratings are learnt, the rest is to be predicted. The other users' ratings reach
into the time that is predicted, so the same is done with one cut for all.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model_export.protocols.list_quality import NAMES, SHOWN, ListQuality, top_lists
from model_export.protocols.rating_baselines import BASELINES
from model_export.protocols.rating_log import (
    LEARN_SHARE,
    LEAST_KNOWN,
    LEAST_RATINGS,
    LEAST_WANTED,
    LIKED,
    RatingLog,
    RatingLogError,
    RatingSplit,
    split_at_time,
    split_by_user,
)
from model_export.protocols.rating_ranker import Tell, learned_ranking

OURS = "tailrace"
SPLITS = ("by user", "at one time")
FUTURE_CAUTION = (
    "By user: each user is cut at a time of their own, so what others did after it is known when they are predicted. "
    "At one time: nothing is; there are few users who rated before and after, and the errors are wide."
)
STREAM_CAUTION = (
    "Of ours, the session index (udfs/neighbours) is the code that streams. The other sources are made in one pass "
    "over the file, and the trees are learnt once: this measures what the sources are worth together, not a running "
    "job. What was chosen was chosen on each user's ratings between 64 % and 80 %: before the test of the split by "
    "user, while some of them lie behind the one time of the other split."
)


@dataclass(frozen=True)
class RatingOutcome:
    """What one model reached on one split."""

    model: str
    split: str
    quality: ListQuality
    cpu_s: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return self.quality.to_dict() | {"cpu_s": round(self.cpu_s, 1)}


def split(log: RatingLog, name: str) -> RatingSplit:
    """Return one of the protocol's `SPLITS`.

    Raises
    ------
    RatingLogError
        When it leaves nobody to test.
    """
    found = split_by_user(log) if name == "by user" else split_at_time(log)
    if not len(found.tested):
        raise RatingLogError(
            f"split {name}: wanted users with {LEAST_WANTED} ratings of {LIKED} or more behind the cut, got none"
        )
    return found


def evaluate(
    found: RatingSplit,
    genres: npt.NDArray[np.float32] | None,
    seed: int,
    *,
    with_ours: bool = True,
    tell: Tell | None = None,
) -> list[RatingOutcome]:
    """Run our model and the baselines on one split.

    Parameters
    ----------
    found
        The split.
    genres
        float32 (n_items, G), 0 or 1; None where nothing is known of the items.
    seed
        Of our model.
    with_ours
        Run it.
    tell
        Called with a phase and the share that is done.
    """
    outcomes = []
    if with_ours:
        cpu_s = time.process_time()
        scores = learned_ranking(found.learnt, found.tested, genres, seed, tell)
        outcomes.append(_outcome(OURS, found, scores, cpu_s))
    for number, (name, make) in enumerate(BASELINES.items(), start=1):
        cpu_s = time.process_time()
        outcomes.append(_outcome(name, found, make(found.learnt), cpu_s))
        if tell is not None:
            tell("baselines", number / len(BASELINES))
    return outcomes


def _outcome(
    name: str, found: RatingSplit, scores: npt.NDArray[np.float32], began_cpu_s: float
) -> RatingOutcome:
    shown = top_lists(scores[found.tested].astype(np.float64), found.learnt.rated()[found.tested])
    owners = np.bincount(found.learnt.items, minlength=found.learnt.n_items)
    users = len(np.unique(found.learnt.users))
    quality = ListQuality.of(shown, found.wanted, owners, users)
    return RatingOutcome(name, found.name, quality, time.process_time() - began_cpu_s)


@dataclass(frozen=True)
class RatingReport:
    """Outcomes of one run and what they were made from."""

    outcomes: tuple[RatingOutcome, ...]
    counts: Mapping[str, Mapping[str, float]]
    sha256: str
    seed: int
    wall_s: float
    cpu_s: float
    protocol: str = "ratings"

    def title(self) -> str:
        """Return the section's heading."""
        return "Ratings: what users like next"

    def intro(self) -> str:
        """Return what is predicted from what."""
        return (
            f"By user: users with at least {LEAST_RATINGS} ratings, the first {100 * LEARN_SHARE:g} % of each one's "
            f"by time are learnt; at one time: the first {100 * LEARN_SHARE:g} % of all ratings, users with "
            f"{LEAST_KNOWN} of them. Of the rest, an item counts when rated {LIKED} or more; users with "
            f"{LEAST_WANTED} of these get ten of all items that they have not rated."
        )

    def tables(self) -> Mapping[str, Sequence[Sequence[str]]]:
        """Return a table for each split."""
        tables = {}
        for name in self.counts:
            rows = [["model", *SHOWN, "CPU-s"]]
            rows += [
                [found.model, *found.quality.cells(NAMES), f"{found.cpu_s:.1f}"]
                for found in self.outcomes
                if found.split == name
            ]
            tables[f"Split {name}"] = rows
        return tables

    def remarks(self) -> Sequence[str]:
        """Return what is to be said with the figures."""
        sizes = "; ".join(
            f"{name}: {counts['learnt']:,.0f} ratings of {counts['learnt_users']:,.0f} users learnt, "
            f"{counts['tested']:,.0f} users tested on {counts['wanted']:,.0f} liked items"
            for name, counts in self.counts.items()
        )
        return [
            f"{sizes}; {next(iter(self.counts.values()))['items']:,.0f} items. Means over users ± standard errors; "
            "novelty in bits; similarity is the share of one user's list that is in another's, on average.",
            FUTURE_CAUTION,
            STREAM_CAUTION,
            f"Data SHA-256 {self.sha256}, seed {self.seed}; {self.wall_s:.0f} s, {self.cpu_s:.0f} CPU-s.",
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: split to model to figures."""
        splits: dict[str, Any] = {}
        for name, counts in self.counts.items():
            found = {one.model: one.to_dict() for one in self.outcomes if one.split == name}
            ours = found.pop(OURS, None)
            splits[name.replace(" ", "_")] = {"counts": dict(counts), OURS: ours, "baselines": found}
        return {
            "protocol": self.protocol,
            "data_sha256": self.sha256,
            "seed": self.seed,
            "wall_s": round(self.wall_s, 1),
            "cpu_s": round(self.cpu_s, 1),
            **splits,
        }


def counts_of(found: RatingSplit) -> dict[str, float]:
    """Return the split's sizes."""
    return {
        "learnt": len(found.learnt),
        "learnt_users": len(np.unique(found.learnt.users)),
        "items": found.learnt.n_items,
        "tested": len(found.tested),
        "wanted": sum(map(len, found.wanted)),
    }

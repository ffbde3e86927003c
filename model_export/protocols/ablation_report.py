"""What came of leaving out parts of the recommend job, as a table: first baskets, and the rest of sessions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model_export.popularity_balance import HEAD


@dataclass(frozen=True)
class Variant:
    """What one variant reached.

    Parameters
    ----------
    name
        Of what is left out.
    per_list
        float64 (u, 4): precision, recall, hit and NDCG of each user's first ten, the same users in each variant.
    new
        float64 (w, 4): the same of items new to the user, for those who took some.
    within
        float64 (s, 4): the same of what sessions took after one of their events, at that moment.
    head
        Share of what was listed that is popular.
    candidate_recall
        Share of what was taken that was among the candidates.
    """

    name: str
    per_list: npt.NDArray[np.float64]
    new: npt.NDArray[np.float64]
    within: npt.NDArray[np.float64]
    head: float
    candidate_recall: float


@dataclass(frozen=True)
class AblationReport:
    """Variants of one data set."""

    data: str
    sha256: str
    until: str
    seed: int
    variants: tuple[Variant, ...]
    head_taken: float
    wall_s: float
    cpu_s: float
    protocol: str = "baskets --ablation"

    def title(self) -> str:
        """Return the section's heading."""
        return "Purchases: what each source and group of features brings"

    def intro(self) -> str:
        """Return what is predicted from what."""
        return (
            "First baskets of the stretch before the cut, as predicted by what was learnt before it. Of new: of "
            "items new to the user. Within: what the rest of a session took, predicted after one of its events. "
            "Without a source: no candidates, no weight, no features of it. Without features: the ranker does not "
            "see them. Without ranker: the order of the first stage. Popular: share of the first ten among the "
            f"{HEAD:.0%} of items with the most interactions."
        )

    def tables(self) -> Mapping[str, Sequence[Sequence[str]]]:
        """Return one table."""
        head = ["variant", "P@10", "NDCG@10", "difference", "P@10 of new", "NDCG@10 of new", "difference"]
        head += ["NDCG@10 within"]
        head += ["difference", "candidates", "popular"]
        whole = self.variants[0]
        rows = [
            [
                found.name,
                _mean(found.per_list[:, 0]),
                _mean(found.per_list[:, 3]),
                "" if found is whole else _mean(found.per_list[:, 3] - whole.per_list[:, 3], sign=True),
                _mean(found.new[:, 0]),
                _mean(found.new[:, 3]),
                "" if found is whole else _mean(found.new[:, 3] - whole.new[:, 3], sign=True),
                _mean(found.within[:, 3]),
                "" if found is whole else _mean(found.within[:, 3] - whole.within[:, 3], sign=True),
                f"{found.candidate_recall:.3f}",
                f"{found.head:.3f}",
            ]
            for found in self.variants
        ]
        return {f"{self.data}, before {self.until}": [head, *rows]}

    def remarks(self) -> Sequence[str]:
        """Return what is to be said with the figures."""
        return [
            f"{len(self.variants[0].per_list):,} baskets, {len(self.variants[0].new):,} of them with new items; "
            f"{len(self.variants[0].within):,} moments within sessions. "
            "Means ± standard errors; differences from all of it, of the same users. Candidates: share of what was "
            f"taken that is among them. Of what was taken, {self.head_taken:.3f} is popular: lists that hold more of "
            "it lean to what is popular. The treatment is to let what was taken beyond the popular count more when "
            "the ranker learns (`tailrace train --tail-grades`, 0 by default).",
            "No list led to these purchases, so there is no position that could mislead the ranker. Where lists did, "
            "positions and exact propensities are logged, and values are weighted by them (`tailrace eval policy`, "
            "`tailrace models gate`).",
            f"Seed {self.seed}. SHA-256 {self.sha256}; {self.wall_s:.0f} s, {self.cpu_s:.0f} CPU-s.",
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: variant to figures."""
        found = {
            one.name: {
                "precision": round(float(one.per_list[:, 0].mean()), 5),
                "ndcg": round(float(one.per_list[:, 3].mean()), 5),
                "new_items_precision": round(float(one.new[:, 0].mean()), 5),
                "new_items_ndcg": round(float(one.new[:, 3].mean()), 5),
                "within_ndcg": round(float(one.within[:, 3].mean()), 5),
                "candidate_recall": round(one.candidate_recall, 5),
                "popular": round(one.head, 5),
            }
            for one in self.variants
        }
        return {
            "protocol": self.protocol,
            "data": self.data,
            "data_sha256": self.sha256,
            "until": self.until,
            "seed": self.seed,
            "popular_taken": round(self.head_taken, 5),
            "variants": found,
            "wall_s": round(self.wall_s, 1),
            "cpu_s": round(self.cpu_s, 1),
        }


def _mean(values: npt.NDArray[np.float64], *, sign: bool = False) -> str:
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return f"{values.mean():+.4f} ± {error:.4f}" if sign else f"{values.mean():.4f} ± {error:.4f}"

"""The learned ranker: gradient-boosted trees on the features that serving computes, one group a snapshot.

LambdaMART (Burges, *From RankNet to LambdaRank to LambdaMART*, MSR-TR-2010-82) by XGBoost's ``rank:ndcg``.
Sixty trees of depth 4 cost 1.1 CPU-us a row in ONNX Runtime, so a user's 40 finalists cost about 45 us. Depth 5, at
52 us, orders the six weeks before 2011-09-20 of Online Retail no better (NDCG@10 .352 and .354).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xgboost

THREADS = 1  # two save a fifth of the wall time on an idle machine, and spin where a job runs beside them


@dataclass(frozen=True)
class RankerSettings:
    """Size and learning of the trees."""

    trees: int = 60
    depth: int = 4
    learning_rate: float = 0.12
    least_child_weight: float = 2.0
    row_share: float = 0.8  # of each tree's rows
    column_share: float = 0.6  # of each tree's features
    l2: float = 2.0
    pairs: int = 10  # rank:ndcg looks at the top this many of a group
    tail_grades: int = 0  # what taken items beyond the popular count more (`model_export.popularity_balance`)

    def __post_init__(self) -> None:
        if self.trees < 1 or not 1 <= self.depth <= 10:
            raise ValueError(f"trees at least 1 and depth 1 to 10, got {self.trees} and {self.depth}")
        if not 0 <= self.tail_grades <= 10:
            raise ValueError(f"tail_grades: wanted 0 to 10, got {self.tail_grades}")


@dataclass(frozen=True)
class RankingExamples:
    """Groups of candidates with what became of them, n rows in g groups.

    Parameters
    ----------
    features
        float32 (n, F), as the rank UDF computes them.
    labels
        int32 (n,), 0 for not taken, more for more.
    groups
        int64 (g,), rows of each group, in order.
    """

    features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]
    groups: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        if int(self.groups.sum()) != len(self.features) or len(self.labels) != len(self.features):
            raise ValueError(
                f"groups hold {int(self.groups.sum())} rows, features {len(self.features)}, "
                f"labels {len(self.labels)}"
            )

    def __len__(self) -> int:
        return len(self.groups)

    def rankable(self) -> RankingExamples:
        """Return the groups whose labels differ: the others teach no order."""
        ends = np.cumsum(self.groups)
        keep = [
            bool(self.labels[end - size : end].min() != self.labels[end - size : end].max())
            for end, size in zip(ends.tolist(), self.groups.tolist(), strict=True)
            if size
        ]
        sizes = self.groups[self.groups > 0]
        kept = np.array(keep, np.bool_)
        rows = np.repeat(kept, sizes)
        return RankingExamples(self.features[rows], self.labels[rows], sizes[kept])

    @classmethod
    def joined(cls, parts: list[RankingExamples]) -> RankingExamples:
        """Return the groups of all parts, in order."""
        return cls(
            np.concatenate([part.features for part in parts]),
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.groups for part in parts]),
        )


class _Told(xgboost.callback.TrainingCallback):
    def __init__(self, tell: Callable[[int, float], None]) -> None:
        super().__init__()
        self._tell = tell

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        (metric,) = evals_log["learn"].values()
        self._tell(epoch + 1, float(metric[-1]))
        return False


def fit_ranker(
    examples: RankingExamples,
    settings: RankerSettings,
    rng: np.random.Generator,
    tell: Callable[[int, float], None] | None = None,
) -> xgboost.Booster:
    """Learn trees.

    Equal examples, settings and seed give equal trees: one thread sums every histogram in one order.

    Parameters
    ----------
    examples
        At least one group with two different labels.
    settings
        Size and learning of the trees.
    rng
        Of the rows and columns that each tree sees.
    tell
        Called after every tree with its number and NDCG@10 on the examples, to show progress.

    Raises
    ------
    ValueError
        When no group teaches an order.
    """
    examples = examples.rankable()
    if not len(examples):
        raise ValueError(
            "no group holds both a taken and a passed-over candidate: use more data or a longer window"
        )
    table = xgboost.DMatrix(examples.features, label=examples.labels, nthread=THREADS)
    table.set_group(examples.groups)
    parameters = {
        "objective": "rank:ndcg",
        "eval_metric": "ndcg@10",
        "tree_method": "hist",
        "max_bin": 128,
        "max_depth": settings.depth,
        "eta": settings.learning_rate,
        "min_child_weight": settings.least_child_weight,
        "subsample": settings.row_share,
        "colsample_bytree": settings.column_share,
        "lambda": settings.l2,
        "lambdarank_pair_method": "topk",
        "lambdarank_num_pair_per_sample": settings.pairs,
        "seed": int(rng.integers(2**31)),
        "nthread": THREADS,
    }
    evaluated = [(table, "learn")] if tell is not None else []
    callbacks = [_Told(tell)] if tell is not None else []
    return xgboost.train(
        parameters, table, settings.trees, evals=evaluated, verbose_eval=False, callbacks=callbacks
    )


def predict(ranker: xgboost.Booster, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return float32 (n,): XGBoost's own scores of float32 (n, F) features."""
    scores: npt.NDArray[np.float32] = ranker.inplace_predict(features, predict_type="margin")
    return scores


def importances(ranker: xgboost.Booster, names: tuple[str, ...]) -> dict[str, float]:
    """Return each feature's share of the total gain, largest first; unused ones are left out."""
    scores: dict[str, Any] = ranker.get_score(importance_type="total_gain")
    gains = {names[int(key[1:])]: float(gain) for key, gain in scores.items()}
    total = sum(gains.values()) or 1.0
    return {name: round(gain / total, 4) for name, gain in sorted(gains.items(), key=lambda pair: -pair[1])}

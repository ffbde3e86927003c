"""Against a lean to what is popular: what was taken beyond the popular items counts more when the ranker learns.

A log shows what was popular to everybody, so a ranker that learns from it lists popular items more often than they
are taken. Raising the grade of taken items outside the head moves the order towards them; the gain of a grade is
exponential, so one more about triples what such an item is worth.

Source: after Steck, "Item popularity and recommendation accuracy", RecSys 2011, who weighs by popularity; steps of a
grade in place of weights are ours, since LambdaMART takes weights by list alone.
"""

from __future__ import annotations

from dataclasses import replace
from math import log2

import numpy as np

from model_export.ranker import RankingExamples
from udfs.ranking.features import FEATURE_NAMES

HEAD = 0.1
"""Share of the items, those with the most interactions, that count as popular."""


def raise_tail(examples: RankingExamples, items: int, grades: int) -> RankingExamples:
    """Return examples whose taken candidates outside the head have some grades more.

    Parameters
    ----------
    examples
        With all features.
    items
        Number of items that the popularity ranks are of.
    grades
        Added; 0 changes nothing.
    """
    if not grades:
        return examples
    rank = examples.features[:, FEATURE_NAMES.index("popularity_rank")]
    tail = rank > np.float32(log2(1.0 + max(int(HEAD * items), 1)))
    raised = np.where((examples.labels > 0) & tail, examples.labels + grades, examples.labels)
    return replace(examples, labels=raised.astype(np.int32))

"""How the settings of a deployment rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flink_jobs.model_settings import list_policies
from flink_jobs.settings import Settings
from udfs.ranking.rank_settings import RankSettings


def rank_settings(settings: Settings) -> RankSettings:
    """Return what ranking takes of the settings."""
    model = settings.model
    return RankSettings(
        candidates=model.candidates,
        finalists=model.finalists,
        list_size=settings.redis.list_size,
        diversity=model.diversity,
        exploration_floor=model.exploration_floor,
        rebuy_after_ms=model.rebuy_after_ms,
        exploration_policy=model.exploration_policy,
        shared_credits=model.shared_credits,
        new_item_share=model.new_item_share,
        new_item_weight=model.new_item_weight,
        list_policies=list_policies(model.list_policies),
        list_rule=model.list_rule,
        list_floor=model.list_floor,
    )


def varied(settings: RankSettings, changes: Mapping[str, Any]) -> RankSettings:
    """Return how users are ranked for whom a variant of an experiment changes something.

    Parameters
    ----------
    changes
        Of `udfs.experiments.running.APPLIED` and `NAMED`, but for what is the user's and not the ranking's. List
        policies of 0 are none, of 1 those of the deployment.

    Examples
    --------
    >>> varied(RankSettings(), {"candidates": 10, "diversity": 0.3, "list_policies": 0}).candidates
    40
    """
    given = dict(changes)
    if "candidates" in given:
        given["candidates"] = max(given["candidates"], settings.finalists)
    if given.pop("list_policies", 1) == 0:
        given["list_policies"] = ()
    return replace(settings, **given)

"""Candidates to fill slots, by name, and with which probability each would draw an arm for each list of a log.

A candidate that learns is run over the log in order of time: it has learnt from a list when that list's outcomes were
known, not before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from model_export.protocols.logged_slots import CONTEXT, LoggedSlots
from udfs.bandits.epsilon_greedy import EpsilonGreedy
from udfs.bandits.evidence import Evidence, EvidencePolicy
from udfs.bandits.linucb import LinUcb
from udfs.bandits.thompson_beta import ThompsonBeta
from udfs.bandits.thompson_linear import ThompsonLinear
from udfs.bandits.ucb1 import Ucb1
from udfs.user_state import SOURCES

LEARNING: Final[Mapping[str, Callable[..., Any]]] = {
    "epsilon-greedy": EpsilonGreedy,
    "ucb1": Ucb1,
    "thompson-beta": ThompsonBeta,
    "linucb": lambda arms, **given: LinUcb(arms, CONTEXT, **given),
    "thompson-linear": lambda arms, **given: ThompsonLinear(arms, CONTEXT, **given),
}
NAMES: Final = ("logged", "uniform", *SOURCES, *LEARNING)
EVIDENCE: Final = ("all", "user")


def candidate_probabilities(
    candidate: str, log: LoggedSlots, evidence: str = "all", arms: Sequence[str] = SOURCES
) -> npt.NDArray[np.float64]:
    """Return with which probability a candidate draws each arm for each list, float64 (L, K).

    Parameters
    ----------
    candidate
        ``logged``, ``uniform``, an arm, or one of `LEARNING` with its parameters, e.g. ``ucb1:width=0.3,floor=0.02``.
    evidence
        ``all``: it learns from everybody's lists. ``user``: it knows each user's own credits, as the job does;
        only of policies without contexts.
    arms
        Names of the log's K arms.

    Raises
    ------
    ValueError
        For a name, a parameter or a value that does not exist.
    """
    name, _, words = candidate.partition(":")
    lists = len(log.users)
    if name not in LEARNING:
        known = ("logged", "uniform", *arms, *LEARNING)
        if words or name not in known:
            raise ValueError(f"candidate: wanted one of {', '.join(known)}, got {candidate!r}")
        if name == "logged":
            return log.plays
        if name == "uniform":
            return np.full((lists, len(arms)), 1.0 / len(arms))
        return np.tile(np.eye(len(arms))[arms.index(name)], (lists, 1))
    try:
        given = {key: float(value) for key, value in (word.split("=") for word in words.split(",") if word)}
        policy = LEARNING[name](len(arms), **given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"candidate {candidate!r}: {error}") from error
    if evidence == "user":
        if not isinstance(policy, EvidencePolicy):
            raise ValueError(f"candidate {candidate!r}: a policy with contexts has no evidence of one user")
        return np.stack([policy.probabilities(Evidence(*own), log.contexts[0]) for own in log.evidence])
    return _learning(policy, log)


def _learning(policy: Any, log: LoggedSlots) -> npt.NDArray[np.float64]:
    bounds = np.searchsorted(log.lists, np.arange(len(log.users) + 1))
    known = np.argsort(log.settled_ms, kind="stable").tolist()
    settled_ms, list_ms = log.settled_ms.tolist(), log.list_ms.tolist()
    found = np.empty(log.plays.shape)
    state, learnt = policy.start(), 0
    for row in range(len(log.users)):
        while learnt < len(known) and settled_ms[known[learnt]] <= list_ms[row]:
            of = known[learnt]
            for slot in range(bounds[of], bounds[of + 1]):
                state = policy.update(state, int(log.arms[slot]), float(log.rewards[slot]), log.contexts[of])
            learnt += 1
        found[row] = policy.probabilities(state, log.contexts[row])
    return found

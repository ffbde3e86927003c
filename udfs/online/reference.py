"""The online models in plain Python: slow, written to be read; tests compare the fast forms with them."""

from collections.abc import Mapping, Sequence
from math import exp, log, log1p, sqrt

from udfs.neighbours.scan_arrays import SOURCES
from udfs.online.candidate_features import FEATURES, SHARED

_LITTLE = 1e-3


def plain_features(
    session: Sequence[int], candidates: Sequence[int], scores: Sequence[Mapping[str, float]]
) -> list[list[float]]:
    """Return each candidate's `FEATURES`.

    Parameters
    ----------
    session
        Item rows, oldest first.
    candidates
        Item rows, best first.
    scores
        Of each candidate, by the names of `SOURCES`.
    """
    shared = [SOURCES[source] for source in SHARED]
    most = {name: max(score[name] for score in scores) for name in shared}
    about_session = {
        "log_session_clicks": log1p(len(session)) / 3,
        "session_repeat_share": 1 - len(set(session)) / len(session),
        "log_neighbour_mass": log1p(sum(score["vmis"] for score in scores)) / 5,
        "log_candidates": log1p(len(candidates)) / 5,
        "last_two_equal": float(len(session) > 1 and session[-1] == session[-2]),
        "one": 1.0,
    }
    result = []
    for rank, (item, score) in enumerate(zip(candidates, scores, strict=True)):
        back = session[::-1].index(item) + 1 if item in session else 0
        named = about_session | {
            "log_first": log(_LITTLE + score["first"]),
            "reciprocal_rank": 1 / (1 + rank / 3),
            "log_rank": log1p(rank) / 5,
            "log_now": log1p(score["now"]) / 3,
            "log_lately": log1p(score["lately"]) / 4,
            "log_long": log1p(score["long"]) / 5,
            "log_age": log1p(score["age"]) / 12,
            "log_sessions": log1p(score["sessions"]) / 5,
            "trend": log((score["now"] + 0.05) * 8 / (score["lately"] + 0.4)),
            "is_last": float(back == 1),
            "is_second_last": float(back == 2),
            "is_third_last": float(back == 3),
            "is_older": float(back > 3),
            "recency_older": 1 / back if back > 3 else 0.0,
            "log_repeats": log(max(list(session).count(item), 1)),
            "is_new": float(item not in session),
        }
        for name in shared:
            share = score[name] / most[name] if most[name] > 0 else 0.0
            named[f"log_{name}"] = log(_LITTLE + share) / 7 + 1
            named[f"share_{name}"] = share
        result.append([named[name] for name in FEATURES])
    return result


def plain_embedding_loss(
    vectors: Mapping[int, Sequence[float]],
    place_weights: Sequence[Sequence[float]],
    examples: Sequence[tuple[Sequence[int], int]],
    negatives: Sequence[int],
    temperature: float,
) -> float:
    """Return the summed cross entropy of clicks, each told from the other clicks and the negatives.

    Parameters
    ----------
    vectors
        By item row.
    place_weights
        Row n - 1: the weights in a session of n items, newest first.
    examples
        Distinct items of a session, newest first, and what it clicked next.
    negatives
        Item rows.
    temperature
        Divides the cosines.
    """
    total = 0.0
    clicked = [item for _, item in examples]
    for number, (session, item) in enumerate(examples):
        weights = place_weights[len(session) - 1][: len(session)]
        columns = list(zip(*(vectors[row] for row in session), strict=True))
        mean = [sum(w * x for w, x in zip(weights, xs, strict=True)) / sum(weights) for xs in columns]
        others = [row for at, row in enumerate(clicked) if at != number and row != item]
        others += [row for row in negatives if row != item]
        scores = [_cosine(mean, vectors[row]) / temperature for row in (item, *others)]
        total += log(sum(exp(score - scores[0]) for score in scores))
    return total


def _cosine(left: Sequence[float], right: Sequence[float]) -> float:
    inner = sum(x * y for x, y in zip(left, right, strict=True))
    return inner / sqrt(sum(x * x for x in left) * sum(y * y for y in right))

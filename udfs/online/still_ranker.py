"""Lists from an index that stands still, and what they teach the weights that rank the next ones."""

import numpy as np
from numpy.typing import NDArray

from udfs.neighbours.scan_arrays import Queries
from udfs.online.ranker_learning import Lists, click_probabilities, scored_gradient
from udfs.online.session_ranker import Ranked, SessionRanker, places_of, some_queries


class StillRanker:
    """Ranks with a session ranker that learns nothing meanwhile.

    Weights learnt on lists of a live index, where what is popular now is known, order those of a still one worse. So
    they are learnt on its own lists, and rank from the next `publish` on.

    Parameters
    ----------
    ranker
        Whose index, vectors and lifts are used. Its weights are where this one starts.
    """

    def __init__(self, ranker: SessionRanker) -> None:
        self._ranker = ranker
        self._published = ranker.learner.weights
        self._learner = ranker.learner.fork()

    def predict_and_note(
        self,
        queries: Queries,
        items: NDArray[np.int32],
        allowed: NDArray[np.bool_] | None = None,
        limit: int = 20,
    ) -> NDArray[np.int32]:
        """Return what `SessionRanker.predict` does, by what was published last, and note what was clicked."""
        found = np.full((len(queries.start), limit), -1, np.int32)
        batch = self._ranker.settings.batch
        for at in range(0, len(found), batch):
            of = slice(at, at + batch)
            ranked = self.rank(some_queries(queries, of), allowed, limit)
            self.note(ranked, items[of])
            found[of] = ranked.found
        return found

    def rank(self, queries: Queries, allowed: NDArray[np.bool_] | None = None, limit: int = 20) -> Ranked:
        """Rank at most a batch of sessions; learn nothing."""
        return self._ranker.rank(queries, self._published, allowed, limit)

    def note(self, ranked: Ranked, clicked: NDArray[np.int32]) -> None:
        """Learn from what followed lists of `rank`, for the next `publish`: int32 (Q,) item rows."""
        candidates, weights = ranked.candidates, self._learner.weights
        scores, hidden = weights.scores_and_hidden(ranked.features, ranked.hidden)
        probabilities = click_probabilities(scores, candidates.counts)
        lists = Lists(ranked.features, candidates.counts, places_of(candidates, clicked))
        self._learner.apply(scored_gradient(weights, lists, hidden, scores, probabilities))

    def publish(self) -> None:
        """Rank by what was learnt until now."""
        self._published = self._learner.weights

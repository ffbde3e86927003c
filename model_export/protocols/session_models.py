"""What the sessions protocol can evaluate: one small interface, and our models behind it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import numpy.typing as npt

from model_export.protocols.rank_metrics import DEEPEST
from model_export.protocols.session_log import Clicks
from udfs.neighbours.index_arrays import IndexLimits
from udfs.neighbours.scan_arrays import Queries, ScanSettings
from udfs.neighbours.session_index import SessionIndex
from udfs.online.published_ranker import PublishedRanker
from udfs.online.publisher import Publisher, PublisherSettings
from udfs.online.session_ranker import Scorer, SessionRanker, SessionRankerSettings, some_queries
from udfs.online.still_ranker import StillRanker

PLAIN_VMIS = ScanSettings(
    neighbours=100,
    length_power=0.0,
    half_age_clicks=1e12,
    gap_clicks=1e12,
    backward=1.0,
    hop_items=0,
    repeat_share=0.0,
    popular_share=0.0,
)
"""VMIS-kNN as published: no ages, gaps or second hop, k = 100."""


REHEARSALS = 3
"""How often item vectors go over a period's clicks again before the next, where they stood still during it."""


class SessionModel(Protocol):
    """A model that predicts next clicks and learns from them.

    Attributes
    ----------
    learning_s
        CPU seconds that `predict` and `predict_and_learn` have spent on learning, as far as it can be told apart.
    """

    learning_s: float

    def learn(self, clicks: Clicks) -> None:
        """Learn clicks in their order."""

    def predict(self, clicks: Clicks, known: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
        """Return the best `DEEPEST` known items for each predicted click; learn nothing.

        Returns
        -------
        int32 (P, DEEPEST): item rows, best first, -1 where there are no more.
        """

    def predict_and_learn(self, clicks: Clicks, known: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
        """Return the same, each click learnt right after its prediction."""

    def end_period(self) -> None:
        """Take in what may be learnt only between periods."""


class NeighbourModel:
    """The session index alone, in the order of its first stage.

    Parameters
    ----------
    settings
        How neighbours are weighed.
    items
        Rows to make room for.
    """

    def __init__(self, settings: ScanSettings, items: int, limits: IndexLimits | None = None) -> None:
        self.index = SessionIndex(limits, settings, items)
        self.learning_s = 0.0  # the index learns a click within its answer to the next

    def learn(self, clicks: Clicks) -> None:
        """Learn clicks in their order."""
        self.index.observe_all(clicks.queries.keys, clicks.items)

    def predict(self, clicks: Clicks, known: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
        """Return the best items for each predicted click."""
        return self.index.query(clicks.queries, DEEPEST, known).rows[clicks.predicted]

    def predict_and_learn(self, clicks: Clicks, known: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
        """Return the same, learning."""
        found = self.index.query_and_observe(clicks.queries, clicks.items, known, DEEPEST)
        return found.rows[clicks.predicted]

    def end_period(self) -> None:
        """Nothing waits for the end of a period."""


class LearntModel:
    """What serves: candidates by the session index, ordered by the ranker that learns from every click.

    Parameters
    ----------
    items
        Rows to make room for.
    seed
        Of everything that is drawn.
    settings
        How it finds, ranks and learns.
    """

    def __init__(self, items: int, seed: int, settings: SessionRankerSettings | None = None) -> None:
        self.ranker = SessionRanker(items, settings, seed)
        self.learning_s = 0.0
        self._still: StillRanker | None = None
        self._stood_still, self._learnt = False, 0

    def learn(self, clicks: Clicks) -> None:
        """Learn clicks in their order."""
        self.ranker.learn(clicks.queries, clicks.items)
        self._learnt += int(clicks.predicted.sum())

    def predict(self, clicks: Clicks, known: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
        """Return the best items for each predicted click, by weights of before the period."""
        if self._still is None:
            self._still = StillRanker(self.ranker)
        self._stood_still = True
        found = []
        for queries, items in self._batches(clicks):
            ranked = self._still.rank(queries, known, DEEPEST)
            with self._learning():
                self._still.note(ranked, items)
            found.append(ranked.found)
        return np.concatenate(found)[clicks.predicted]

    def predict_and_learn(self, clicks: Clicks, known: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
        """Return the same, learning."""
        return self._play(clicks, known)

    def _play(
        self, clicks: Clicks, known: npt.NDArray[np.bool_] | None, scorer: Scorer | None = None
    ) -> npt.NDArray[np.int32]:
        found = []
        for queries, items in self._batches(clicks):
            ranked = self.ranker.rank_and_observe(queries, items, known, DEEPEST, scorer)
            with self._learning():
                self.ranker.teach(ranked, items[queries.stop > queries.start])
                self._taught()
            found.append(ranked.found)
        return np.concatenate(found)

    def _taught(self) -> None:
        """Nothing else hangs on what was learnt."""

    def _batches(self, clicks: Clicks) -> Iterator[tuple[Queries, npt.NDArray[np.int32]]]:
        batch = self.ranker.settings.batch
        for at in range(0, len(clicks.items), batch):
            of = slice(at, at + batch)
            yield some_queries(clicks.queries, of), clicks.items[of]

    @contextmanager
    def _learning(self) -> Iterator[None]:
        began_s = time.process_time()
        yield
        self.learning_s += time.process_time() - began_s

    def end_period(self) -> None:
        """After a period without learning, publish what its lists taught and go over its clicks again."""
        if self._stood_still and self._still is not None:
            self._still.publish()
            embeddings = self.ranker.embeddings
            embeddings.rehearse(REHEARSALS * self._learnt // embeddings.settings.batch)
        self._stood_still, self._learnt = False, 0


class PublishedModel(LearntModel):
    """The same, ordered by what was published last, as rank workers do while the learn job learns.

    Parameters
    ----------
    items, seed, settings
        As `LearntModel`.
    publisher
        How often and how much is published.
    """

    def __init__(
        self,
        items: int,
        seed: int,
        publisher: PublisherSettings,
        settings: SessionRankerSettings | None = None,
    ) -> None:
        super().__init__(items, seed, settings)
        self._names = np.arange(items, dtype=np.uint64)
        self._publisher = Publisher(self.ranker, publisher)
        self._served = PublishedRanker(lambda names: names.astype(np.int32))

    def learn(self, clicks: Clicks) -> None:
        """Learn clicks in their order."""
        self._play(clicks, None, self._served.probabilities)

    def predict_and_learn(self, clicks: Clicks, known: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
        """Return the best items by the newest version, learning."""
        return self._play(clicks, known, self._served.probabilities)

    def _taught(self) -> None:
        for part in self._publisher.parts(self._names):
            self._served.take(part)

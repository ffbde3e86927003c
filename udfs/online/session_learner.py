"""The session ranker over a log of interactions: what the learn job runs, and training with it.

It needs nothing but the clicks in their order: sessions so far come from its own index, and versions by clicks. So
equal logs give equal versions, bit for bit, however the log is cut into calls, stopped and restored.
"""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.records import LearntPart
from udfs.neighbours.index_arrays import IndexArrays, IndexLimits
from udfs.neighbours.item_table import ItemTable
from udfs.neighbours.scan_arrays import ScanSettings
from udfs.neighbours.session_contexts import contexts
from udfs.online.publisher import Publisher, PublisherSettings
from udfs.online.session_ranker import RANKER_FEATURES, SessionRanker, SessionRankerSettings

CANDIDATES = 30
"""That a worker ranks for a session, and the learner learns on."""
LIMITS = IndexLimits(sessions_per_item=128)
SCAN = ScanSettings(query_items=5, neighbours=80, hop_items=5, hop_sessions=8)
"""A lighter scan than the session protocol's, at half the cost: other sources and the learned ranker stand beside."""


class LearnerSettings(NamedTuple):
    """How it learns. Index, scan and candidates are those of the workers that use what it learns."""

    ranker: SessionRankerSettings = SessionRankerSettings(candidates=CANDIDATES, limits=LIMITS, scan=SCAN)
    publisher: PublisherSettings = PublisherSettings()
    most_items: int = 1 << 18
    """Different items that have vectors; clicks on later ones teach nothing."""
    seed: int = 0

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that two different ways to learn do not share."""
        return sha256(repr((self, RANKER_FEATURES)).encode()).hexdigest()[:16]


class SessionLearner:
    """Learns interactions in their order, and gives out versions.

    Parameters
    ----------
    settings
        How.

    Notes
    -----
    **State**: `state`, mostly the index's arrays, 272 bytes an item, and the clicks that item vectors replay.
    **Forgets**: as `SessionIndex` does; vectors and weights only by learning. **Order**: clicks of one session in
    their order; those that wait for a whole batch are part of the state. A click that comes twice counts twice.

    Examples
    --------
    >>> quick = LearnerSettings(publisher=PublisherSettings(clicks=128))
    >>> clicks = np.arange(256, dtype=np.uint64)
    >>> parts = SessionLearner(quick).learn(clicks // 2, clicks % 2)
    >>> [(part.part, part.version, part.clicks) for part in parts]
    [('ranker', 1, 128), ('items/0', 2, 256), ('ranker', 2, 256)]
    """

    def __init__(self, settings: LearnerSettings | None = None) -> None:
        self.settings = chosen = settings or LearnerSettings()
        self.items = ItemTable(chosen.most_items)
        self.ranker = SessionRanker(_FIRST_ITEMS, chosen.ranker, chosen.seed)
        self.publisher = Publisher(self.ranker, chosen.publisher)
        self._keys, self._hashes = np.zeros((2, 0), np.uint64)

    def learn(self, session_keys: NDArray[np.uint64], item_hashes: NDArray[np.uint64]) -> list[LearntPart]:
        """Learn interactions, and return the parts of the versions that came due, in order.

        Parameters
        ----------
        session_keys, item_hashes
            uint64 (B,).
        """
        keys = np.concatenate([self._keys, session_keys])
        hashes = np.concatenate([self._hashes, item_hashes])
        batch = self.settings.ranker.batch
        whole = len(keys) - len(keys) % batch
        found: list[LearntPart] = []
        for at in range(0, whole, batch):
            rows = self.items.add(hashes[at : at + batch])
            known = rows >= 0
            some, rows = keys[at : at + batch][known], rows[known]
            if len(rows):
                self.ranker.learn(contexts(self.ranker.index.arrays, some, rows), rows)
                found += self.publisher.parts(self.items.hashes)
        self._keys, self._hashes = keys[whole:].copy(), hashes[whole:].copy()
        return found

    @property
    def waiting(self) -> int:
        """Interactions that wait for a whole batch."""
        return len(self._keys)

    def counts(self) -> dict[str, int]:
        """Return how far it is, for people."""
        learner = self.ranker.learner
        return {
            "clicks": self.ranker.index.clicks,
            "items": len(self.items),
            "steps": learner.weights.version,
            "versions": self.publisher.version,
            "fallbacks": learner.fallbacks,
            "gradients_refused": learner.refused,
        }

    def state(self) -> dict[str, NDArray[Any]]:
        """Return all that decides what it does next, by name; the arrays themselves, to be read at once."""
        ranker = self.ranker
        parts: dict[str, Mapping[str, NDArray[Any]]] = {
            "index": ranker.index.arrays._asdict(),
            "embeddings": ranker.embeddings.state(),
            "lift": ranker.lift.state(),
            "learner": ranker.learner.state(),
            "log": {
                "items": self.items.hashes,
                "keys": self._keys,
                "hashes": self._hashes,
                "versions": np.array([self.publisher.version, self.publisher.clicks], np.int64),
            },
        }
        return {f"{part}.{name}": array for part, arrays in parts.items() for name, array in arrays.items()}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from what `state` gave, under the same settings; the arrays become its own."""

        def of(part: str) -> dict[str, NDArray[Any]]:
            return {
                name.partition(".")[2]: array for name, array in state.items() if name.startswith(part + ".")
            }

        ranker, log = self.ranker, of("log")
        ranker.index.arrays = IndexArrays(**of("index"))
        ranker.embeddings.restore(of("embeddings"))
        ranker.lift.restore(of("lift"))
        ranker.learner.restore(of("learner"))
        self.items = ItemTable(self.settings.most_items)
        self.items.add(log["items"])
        self._keys, self._hashes = log["keys"], log["hashes"]
        self.publisher.version, self.publisher.clicks = log["versions"].tolist()


_FIRST_ITEMS = 1_024

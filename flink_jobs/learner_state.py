"""A session learner whose state stands in Flink's: a copy of its arrays in blocks, and the clicks since.

The arrays are large and change a little with every click, so they are not written with every batch. What is written
then is the batch; a restart takes the copy and learns the batches since again, which gives the same learner bit for
bit. Every `copy_clicks` the blocks that have changed are written, and the log of batches begins anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from schemas.records import LearntPart
from udfs.online.session_learner import LearnerSettings, SessionLearner

BLOCK_BYTES = 256 * 1024
"""RocksDB reads and writes values whole."""
FORMAT = 1


class LearnerMismatchError(RuntimeError):
    """The state was learnt in another way; going on would score by it wrongly."""


class KeptLearner:
    """The learner, made from the state when it is opened.

    Parameters
    ----------
    settings
        How it learns.
    copy_clicks
        Clicks between two copies.
    head
        Value state: what there is.
    blocks
        Map state, texts to bytes: the copy.
    log
        Map state, numbers to bytes: batches since the copy.

    Raises
    ------
    LearnerMismatchError
        For state of another format, or of other settings of the learner.
    """

    def __init__(self, settings: LearnerSettings, copy_clicks: int, head: Any, blocks: Any, log: Any) -> None:
        self.learner = SessionLearner(settings)
        self.restored = self.relearnt = 0
        self._copy_clicks = copy_clicks
        self._head, self._blocks, self._log = head, blocks, log
        self._fingerprint = settings.fingerprint()
        self._digests: dict[str, int] = {}  # of the blocks in the state
        self._arrays: dict[str, tuple[str, list[int]]] = {}
        self._batches, self._clicks = 0, 0
        if head.value() is not None:
            self._open(head.value())

    def learn(self, keys: NDArray[np.uint64], hashes: NDArray[np.uint64]) -> list[LearntPart]:
        """Learn a batch, as `SessionLearner.learn`, and keep it."""
        parts = self.learner.learn(keys, hashes)
        self._clicks += len(keys)
        if self._clicks >= self._copy_clicks:
            self._copy()
        else:
            self._log.put(self._batches, keys.tobytes() + hashes.tobytes())
            self._batches += 1
        head = [FORMAT, self._fingerprint, self._arrays, self._batches]
        self._head.update(json.dumps(head).encode())
        return parts

    def _open(self, head: bytes) -> None:
        form, fingerprint, arrays, self._batches = json.loads(head)
        if (form, fingerprint) != (FORMAT, self._fingerprint):
            raise LearnerMismatchError(
                f"state has format {form} and learner {fingerprint}, this job has format {FORMAT} and learner "
                f"{self._fingerprint}. Set [learn] as it was, or submit without the state: it learns anew from the "
                "records that the topic still has"
            )
        self._arrays = {name: (kind, shape) for name, (kind, shape) in arrays.items()}
        if self._arrays:
            self.learner.restore({name: self._array(name, *how) for name, how in self._arrays.items()})
        for number in range(self._batches):
            batch = np.frombuffer(self._log.get(number), np.uint64).reshape(2, -1)
            self.learner.learn(batch[0], batch[1])
            self._clicks += batch.shape[1]
        self.restored, self.relearnt = self.learner.counts()["clicks"], self._clicks

    def _array(self, name: str, kind: str, shape: list[int]) -> NDArray[Any]:
        found = np.empty(shape, kind)
        data = _as_bytes(found)
        for start, key in _blocks_of(name, len(data)):
            block = self._blocks.get(key)
            self._digests[key] = xxh3_64_intdigest(block)
            data[start : start + BLOCK_BYTES] = np.frombuffer(block, np.uint8)
        return found

    def _copy(self) -> None:
        for name, array in self.learner.state().items():
            data = _as_bytes(np.ascontiguousarray(array))
            self._arrays[name] = (array.dtype.str, list(array.shape))
            for start, key in _blocks_of(name, len(data)):
                block = data[start : start + BLOCK_BYTES].tobytes()
                digest = xxh3_64_intdigest(block)
                if self._digests.get(key) != digest:
                    self._blocks.put(key, block)
                    self._digests[key] = digest
        for number in range(self._batches):
            self._log.remove(number)
        self._batches, self._clicks = 0, 0


def _as_bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    return array.reshape(-1).view(np.uint8)


def _blocks_of(name: str, size_bytes: int) -> Iterator[tuple[int, str]]:
    """Give where each block of an array starts, and its key."""
    for number, start in enumerate(range(0, size_bytes, BLOCK_BYTES)):
        yield start, f"{name}/{number}"

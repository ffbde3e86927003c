"""What a shard keeps beside its users: how it was hashed, the active epoch, the experiments, and its counts."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache

from flink_jobs.shards import SHARD_FUNCTION_VERSION
from udfs.experiments.running import RunningExperiments

_FORMAT = 2
_READ = (1, 2)  # the first had no experiments


@lru_cache(maxsize=8)
def read_experiments(text: str) -> RunningExperiments:
    """Read an order's experiments, once; every shard has the same.

    Raises
    ------
    ValueError
        As `RunningExperiments.from_json`.
    """
    return RunningExperiments.from_json(text) if text else RunningExperiments()


class ShardMismatchError(RuntimeError):
    """State was written under another shard function or count; going on would lose users' states."""


@dataclass(slots=True)
class ShardRecord:
    """One shard's record.

    Attributes
    ----------
    index
        In [0, shards).
    epoch
        Model epoch that new snapshots name; 0 until one is activated.
    control_seq
        1 + offset of the newest control record that changed what lists are made of.
    experiments
        JSON of `udfs.experiments.running`; empty: none.
    counts
        Exactly-once totals since the first event, by name.
    counts_seq
        Version of the published counts.
    pending
        User keys owed a ranking, longest owed first: the memory copy of the job's `pending` state, not
        encoded here.
    tick_ms, counts_sent_ms, counts_changed
        Wall-clock bookkeeping of this process, not encoded.
    """

    index: int
    shards: int
    epoch: int = 0
    control_seq: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    counts_seq: int = 0
    pending: dict[str, None] = field(default_factory=dict)
    experiments: str = ""
    tick_ms: int = 0
    counts_sent_ms: int = 0
    counts_changed: bool = True

    @property
    def running(self) -> RunningExperiments:
        """The experiments that run."""
        return read_experiments(self.experiments)

    def count(self, name: str) -> None:
        """Add one to a total."""
        self.counts[name] = self.counts.get(name, 0) + 1
        self.counts_changed = True

    def encode_counts(self) -> bytes:
        """Give the totals as JSON, keys sorted."""
        return json.dumps(self.counts, sort_keys=True).encode()

    def encode(self) -> bytes:
        """Give what must survive a restart, as versioned bytes."""
        return json.dumps(
            [
                _FORMAT,
                SHARD_FUNCTION_VERSION,
                self.shards,
                self.epoch,
                self.control_seq,
                self.counts_seq,
                self.counts,
                self.experiments,
            ]
        ).encode()

    @classmethod
    def decode(cls, data: bytes | None, index: int, shards: int) -> ShardRecord:
        """Read the record of shard `index`, or make a new one where there is none.

        Raises
        ------
        ShardMismatchError
            When the state was written under another shard function, count or format.
        """
        if data is None:
            return cls(index, shards)
        written, function, count, epoch, control_seq, counts_seq, counts, *rest = json.loads(data)
        if written not in _READ or (function, count) != (SHARD_FUNCTION_VERSION, shards):
            raise ShardMismatchError(
                f"state has format {written}, shard function {function}, {count} shards; this job has format "
                f"{_FORMAT}, function {SHARD_FUNCTION_VERSION}, {shards} shards. Set job.shards = {count}, or "
                "replay the topics under a new job.generation"
            )
        return cls(index, shards, epoch, control_seq, counts, counts_seq, experiments="".join(rest))

"""Sends a simulated fleet through a running federate job, kills TaskManagers meanwhile, and checks every version."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from typing import Any

from confluent_kafka import Producer

from benchmarks.edge_fleet import Arrival, Fleet
from clients.edge.model_feed import ModelFeed
from flink_jobs.settings import Settings
from schemas.codec import encode
from schemas.records import EdgeModel
from schemas.redis_keys import edge_budget_key, stats_key
from schemas.topics import EDGE_UPDATES
from tailrace.connections import QUIET, store
from tailrace.errors import UserError
from tailrace.job_counts import sum_counts
from tailrace.stack.local import LocalStack

JOB = "federate"
KILL_AFTER_S = 0.8
"""Something of the wave is in state by then, and not all of it in a checkpoint."""
_ANSWER_S = 30.0


class FederatedRun:
    """One fleet against one job.

    Parameters
    ----------
    settings
        Of the running stack and job.
    stack
        Whose TaskManagers are killed; None: none is.
    fleet
        Of a line of the job that no version but the first was released of.
    progress
        Takes a line of text.
    patience_s
        How long a version may take, restarts included.
    """

    def __init__(
        self,
        settings: Settings,
        stack: LocalStack | None,
        fleet: Fleet,
        progress: Callable[[str], None] = lambda line: None,
        patience_s: float = 150.0,
    ) -> None:
        self.settings = settings
        self.fleet = fleet
        self.models: list[EdgeModel] = []
        self.kills = 0
        self._stack = stack
        self._progress = progress
        self._patience_s = patience_s
        self._producer = Producer(
            {
                "bootstrap.servers": settings.kafka.bootstrap_servers,
                "partitioner": "murmur2_random",
                "message.max.bytes": int(EDGE_UPDATES.config["max.message.bytes"]),
                "linger.ms": 20,
                **QUIET,
            }
        )

    def run(self, releases: int, kill_in: Sequence[int] = ()) -> None:
        """Let the fleet fill so many cohorts.

        Parameters
        ----------
        kill_in
            Waves, from 0, in which a TaskManager is killed: the first time in the middle, the next when the version
            is written and as a rule not committed, and so on in turn.

        Raises
        ------
        UserError
            TR-750 where a version does not come, TR-751 where it is not that of the plain run.
        """
        with self._feed() as feed:
            model = self._wait_for(feed, 0)
            for wave in range(releases):
                began_s = time.monotonic()
                arrivals, wanted = self.fleet.wave(model)
                half = len(arrivals) // 2
                late = self.kills % 2 == 1
                self.send(arrivals if late else arrivals[:half])
                if wave in kill_in:
                    if late:
                        self._wait_until_written(wave + 1)
                    else:
                        time.sleep(KILL_AFTER_S)
                    self.kill()
                self.send([] if late else arrivals[half:])
                model = self._wait_for(feed, wave + 1)
                self._check(model, wanted)
                self._progress(
                    f"version {model.version}: {model.cohort_size} of {len(arrivals)} arrivals, "
                    f"accuracy {self.fleet.accuracy(model):.3f}, {time.monotonic() - began_s:.1f} s"
                )

    def send(self, arrivals: Sequence[Arrival]) -> None:
        """Hand arrivals to the brokers, and wait until they have them."""
        topic = self.settings.kafka.topic_prefix + EDGE_UPDATES.name
        for arrival in arrivals:
            while True:
                try:
                    self._producer.produce(topic, key=arrival.key, value=arrival.value)
                    break
                except BufferError:
                    self._producer.poll(0.1)
        if self._producer.flush(60.0):
            raise UserError("TR-300", "edge updates: the broker did not take them within 60 s")

    def kill(self) -> None:
        """Kill a TaskManager without a warning; the stack starts another."""
        if self._stack is None:
            return
        name = f"taskmanager-{1 + self.kills % self.settings.stack.taskmanagers}"
        os.kill(self._stack.pids()[name], signal.SIGKILL)
        self.kills += 1
        self._progress(f"killed {name}")

    def counts(self) -> dict[str, int]:
        """Give the job's totals."""
        with store(self.settings) as client:
            return sum_counts(client.hgetall(stats_key(JOB, self.settings.kafka.topic_prefix))).total

    def wait_for_counts(self, refused: dict[str, int]) -> None:
        """Wait until the job has counted every refusal that the plain runs say; TR-752 where it does not."""
        deadline_s = time.monotonic() + self._patience_s
        while True:
            found = self.counts()
            told = {reason: found.get(f"refused_{reason}", 0) for reason in refused}
            if told == refused:
                return
            if time.monotonic() > deadline_s:
                raise UserError("TR-752", f"refusals: wanted {refused}, the job counts {told}")
            time.sleep(0.3)

    def spent_less_than_told(self) -> tuple[int, float]:
        """Compare each user's budget with the oracle's; TR-753 where one is below it or above the limit.

        Returns
        -------
        users
            How many were compared.
        worst
            Largest epsilon of the oracle over that of the ledger.
        """
        worst, oracle = 0.0, self.fleet.oracle_epsilon
        keys = list(self.fleet.counts.spent)
        prefix, tags = self.settings.kafka.topic_prefix, self.settings.redis.hash_tags
        with store(self.settings) as client, client.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.hget(edge_budget_key(key, prefix, tags), "epsilon")
            told = [float(value or 0.0) for value in pipeline.execute()]
        for key, epsilon in zip(keys, told, strict=True):
            wanted = oracle(key)
            if not wanted <= epsilon <= 1.01 * self.fleet.budget_epsilon:
                raise UserError("TR-753", f"{key}: the ledger says {epsilon}, the oracle {wanted}")
            worst = max(worst, wanted / epsilon)
        return len(keys), worst

    def byte_strings(self) -> dict[str, Any]:
        """Count distinct records a cohort, aborted ones included; TR-754 where a cohort has two."""
        strings: dict[str, set[bytes]] = {}
        records = 0
        with self._feed(committed=False) as feed:
            for model in feed.read(_ANSWER_S):
                if model.model_line == self.fleet.line.name:
                    records += 1
                    strings.setdefault(model.cohort_digest, set()).add(encode(model))
        if any(len(found) > 1 for found in strings.values()):
            raise UserError("TR-754", "a cohort was released with two byte strings")
        return {"cohorts": len(strings), "records": records}

    def report(self) -> dict[str, Any]:
        """Give what happened, for people and programs."""
        last = self.models[-1]
        users, worst = self.spent_less_than_told()
        return {
            "line": self.fleet.line.name,
            "mode": last.mode,
            "dimension": last.dimension,
            "releases": last.version,
            "contributions": sum(model.cohort_size for model in self.models),
            "kills": self.kills,
            "sent": dict(self.fleet.counts.sent),
            "refused": dict(self.fleet.counts.refused),
            "equal_to_plain_run": True,
            "model_sha256": sha256(last.weights).hexdigest(),
            "users": users,
            "oracle_over_ledger": round(worst, 6),
            "read_uncommitted": self.byte_strings(),
            "epsilon_per_contribution": round(last.epsilon, 4),
            "budget_epsilon": round(last.budget_epsilon, 4),
            "delta": last.delta,
            "signal_to_noise": None if last.signal_to_noise is None else round(last.signal_to_noise, 3),
            "mean_staleness": round(last.mean_staleness, 3),
            "accuracy": [round(self.fleet.accuracy(model), 4) for model in self.models],
        }

    def _feed(self, committed: bool = True) -> ModelFeed:
        kafka = self.settings.kafka
        return ModelFeed(
            kafka.bootstrap_servers,
            topic_prefix=kafka.topic_prefix,
            schema_ids=kafka.schema_ids,
            committed=committed,
            config=QUIET,
        )

    def _wait_for(self, feed: ModelFeed, version: int) -> EdgeModel:
        deadline_s = time.monotonic() + self._patience_s
        while time.monotonic() < deadline_s:
            for model in _there(feed):
                if model.model_line == self.fleet.line.name:
                    self.models.append(model)
            if self.models and self.models[-1].version >= version:
                return self.models[-1]
            time.sleep(0.05)
        raise UserError(
            "TR-750",
            f"version {version} of {self.fleet.line.name} did not come within {self._patience_s:.0f} s; "
            f"the job counts {self.counts()}",
            "the job does not run, or lost contributions",
            "tailrace logs taskmanager-1",
        )

    def _wait_until_written(self, version: int) -> None:
        """Wait until a version is in the topic, committed or not."""
        deadline_s = time.monotonic() + self._patience_s
        name = self.fleet.line.name
        with self._feed(committed=False) as feed:
            while time.monotonic() < deadline_s:
                if any((model.model_line, model.version) == (name, version) for model in _there(feed)):
                    return
                time.sleep(0.01)

    def _check(self, model: EdgeModel, wanted: EdgeModel) -> None:
        """Compare all but the time, which is the broker's."""
        if model._replace(released_time=0) != wanted._replace(released_time=0):
            told = [
                f"{name}: wanted {getattr(wanted, name)!r:.60}, got {getattr(model, name)!r:.60}"
                for name in model._fields
                if name != "released_time" and getattr(model, name) != getattr(wanted, name)
            ]
            raise UserError("TR-751", f"version {model.version} is not the plain run's: " + "; ".join(told))


def _there(feed: ModelFeed) -> Iterator[EdgeModel]:
    """Versions up to the end of the topic; none while a killed job's open transaction keeps it silent."""
    try:
        yield from feed.read(_ANSWER_S)
    except ConnectionError:
        return

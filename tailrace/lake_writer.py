"""Copies topics to the lake: from where its files end, to where the topics end, and on as records come."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from flink_jobs.settings import Settings
from model_export.lake.files import RawRecord, next_offsets, write_run
from tailrace.errors import ExitCode, UserError
from tailrace.topic_scan import broker_unreachable

BATCH = 5_000
AGAIN_S = 5.0
UNWRITABLE = "TR-392"
_ANSWER_S = 10.0


class Written(NamedTuple):
    """Records and files of one topic that a run has added."""

    records: int
    files: int


class LakeWriter:
    """Reads partitions of topics, committed records only, and writes them in runs.

    Parameters
    ----------
    settings
        The broker, and the prefix of the topics; the lake names them without it.
    root
        The lake.
    topics
        Without the prefix; those that the broker does not have are left out.
    rows_a_file
        A partition is written when so many of its records wait, or after `flush_s`.
    """

    def __init__(
        self,
        settings: Settings,
        root: Path,
        topics: Iterable[str],
        rows_a_file: int = 200_000,
        flush_s: float = 60.0,
    ) -> None:
        self.written: dict[str, Written] = {}
        self._root = root
        self._rows, self._flush_s = rows_a_file, flush_s
        self._servers, prefix = settings.kafka.bootstrap_servers, settings.kafka.topic_prefix
        self._consumer = Consumer(
            {
                "bootstrap.servers": self._servers,
                "group.id": "tailrace-lake",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "fetch.max.bytes": 20 << 20,
                "log_level": 2,
                "error_cb": lambda error: None,
            }
        )
        try:
            known = self._consumer.list_topics(timeout=_ANSWER_S).topics
        except KafkaException as error:
            raise broker_unreachable(self._servers, str(error.args[0].str())) from error
        places = []
        self._topic_of: dict[str, str] = {}
        for topic in topics:
            name = prefix + topic
            if name in known:
                self._topic_of[name] = topic
                ends = next_offsets(root, topic)
                places += [
                    TopicPartition(name, number, ends.get(number, OFFSET_BEGINNING))
                    for number in known[name].partitions
                ]
        if not places:
            raise UserError(
                "TR-342",
                f"none of these topics is there: {', '.join(prefix + topic for topic in topics)}",
                "topics are made by the first `tailrace submit`; or kafka.topic_prefix is another",
                "tailrace submit recommend",
                ExitCode.NOT_RUNNING,
            )
        self._open = {(place.topic, place.partition) for place in places}
        self._waiting: dict[tuple[str, int], list[RawRecord]] = {place: [] for place in self._open}
        self._written_s = dict.fromkeys(self._open, time.monotonic())
        self._consumer.assign(places)

    @property
    def at_end(self) -> bool:
        """Whether every partition was read to where it ended."""
        return not self._open

    def step(self, timeout_s: float = 0.5) -> int:
        """Take what has come and write what is due; return the number of records taken.

        What could not be written is tried again before more is read, so that no more waits than a step takes.

        Raises
        ------
        UserError
            TR-300 when the broker says that it cannot go on, TR-392 when the lake's disk does not take a file.
        """
        taken = 0
        self._write_due()
        for message in self._consumer.consume(BATCH, timeout_s):
            place = (message.topic(), message.partition())
            error = message.error()
            if error is None:
                self._waiting[place].append(
                    RawRecord(
                        message.partition(),
                        message.offset(),
                        message.timestamp()[1],
                        message.key(),
                        message.value(),
                    )
                )
                taken += 1
            elif error.code() == KafkaError._PARTITION_EOF:
                self._open.discard(place)
            elif not error.retriable():
                raise broker_unreachable(self._servers, error.str())
        self._write_due()
        return taken

    def _write_due(self) -> None:
        now_s = time.monotonic()
        for place, records in self._waiting.items():
            if len(records) >= self._rows or (records and now_s - self._written_s[place] >= self._flush_s):
                self._write(place)

    def follow(
        self,
        tell: Callable[[int], None],
        say: Callable[[str], None],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Copy until interrupted; a disk that is full or away is told of once, and tried again until it is back."""
        away = False
        while True:
            try:
                tell(self.step())
                if away:
                    say("the lake's disk takes files again")
                away = False
            except UserError as error:
                if error.number != UNWRITABLE:
                    raise
                if not away:
                    say(f"{error.number}: {error.what}; trying again every {AGAIN_S:g} s")
                away = True
                sleep(AGAIN_S)

    def run_to_end(self, tell: Callable[[int], None] = lambda taken: None) -> None:
        """Read what the topics hold now, and write all of it."""
        while not self.at_end:
            tell(self.step())
        self.flush()

    def flush(self) -> None:
        """Write everything that waits."""
        for place in self._waiting:
            self._write(place)

    def close(self) -> None:
        """Leave the broker; what waits was not written, and is read again next time."""
        self._consumer.close()

    def _write(self, place: tuple[str, int]) -> None:
        records = self._waiting[place]
        if not records:
            return
        topic = self._topic_of[place[0]]
        try:
            files = write_run(self._root, topic, records)
        except OSError as error:
            raise UserError(
                UNWRITABLE,
                f"the lake {self._root} does not take a file of {topic}: {error}",
                "its disk is full or away, or the folder is not writable; nothing is lost while the broker keeps it",
                "free space or mount it; tailrace lake run goes on behind the last file",
            ) from error
        self._written_s[place] = time.monotonic()
        before = self.written.get(topic, Written(0, 0))
        self.written[topic] = Written(before.records + len(records), before.files + len(files))
        self._waiting[place] = []

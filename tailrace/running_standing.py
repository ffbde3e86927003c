"""How experiments stand, look after look: each reads only what the topic of examples has gained since the last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from flink_jobs.settings import Settings
from schemas.codec import Codec
from schemas.records import Example
from schemas.refusal import Refused
from schemas.topics import EXAMPLES
from tailrace.counted_examples import CountedExamples
from tailrace.experiment_orders import Standing, standing
from tailrace.topic_scan import TopicReader
from udfs.experiments.experiment import Experiment

MOST_USERS = 500_000
"""So many decide what is worth it."""
MOST_IDS = 500_000


class RunningStanding:
    """Offsets of the topic, and what its examples made of the experiments' variants.

    Within `most_users` and `most_ids`, see `CountedExamples`, a look says what a read of the whole topic would.

    Parameters
    ----------
    reader
        Opens a topic.
    """

    def __init__(
        self,
        settings: Settings,
        experiments: Sequence[Experiment],
        *,
        reader: Callable[[Settings, str], TopicReader] = TopicReader,
        most_users: int | None = MOST_USERS,
        most_ids: int | None = MOST_IDS,
    ) -> None:
        self._settings, self._experiments, self._reader = settings, experiments, reader
        self._codec = Codec(settings.kafka.schema_ids)
        self._next: dict[int, int] = {}
        names = [one.name for one in experiments]
        self._named = [name.encode() for name in names]
        self._counted = CountedExamples(names, most_users, most_ids)

    def look(self) -> list[Standing]:
        """Count what is new, and judge each experiment.

        Raises
        ------
        UserError
            TR-300 or TR-342 where there is no broker or topic; what was counted until then stays counted, once.
        """
        with self._reader(self._settings, EXAMPLES.name) as topic:
            for partition in topic.partitions():
                low, high = topic.bounds(partition)
                known = self._next.get(partition, low)
                start = low if known > high else max(low, known)
                for record in topic.read(partition, start, high):
                    if record.value is not None:
                        self._take(record.value)
                    # Not `high`: an open transaction below it is read when it is committed.
                    self._next[partition] = record.offset + 1
        return [standing(one, self._counted.sums) for one in self._experiments]

    def _take(self, value: bytes) -> None:
        # Avro holds texts as they are: a record without a name in its bytes need not be read.
        if not any(name in value for name in self._named):
            return
        try:
            self._counted.take(cast(Example, self._codec.decode("Example", value)))
        except Refused:
            return

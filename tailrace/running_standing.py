"""How an experiment stands, look after look: each reads only what the topic of examples has gained since the last."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import cast

from xxhash import xxh3_64_intdigest

from flink_jobs.settings import Settings
from schemas.codec import Codec
from schemas.ids import user_key
from schemas.records import Example
from schemas.refusal import Refused
from schemas.topics import EXAMPLES
from tailrace.experiment_orders import Standing, standing
from tailrace.topic_scan import TopicReader
from udfs.experiments.experiment import Experiment
from udfs.experiments.variant_sums import Label, UserTotals, VariantSums, count

MOST_USERS = 500_000
"""Some 250 bytes each. Users who come later are not taken in, of any variant: so many decide what is worth it."""
MOST_IDS = 500_000
"""Lists that are known to be counted, the newest: a repeat behind as many others counts again."""


class RunningStanding:
    """Offsets of the topic, each user's totals in one experiment, and the sums of its variants.

    Within `MOST_USERS` and `MOST_IDS` a look says what a read of the whole topic would.

    Parameters
    ----------
    reader
        Opens a topic.
    """

    def __init__(
        self,
        settings: Settings,
        experiment: Experiment,
        *,
        reader: Callable[[Settings, str], TopicReader] = TopicReader,
        most_users: int = MOST_USERS,
        most_ids: int = MOST_IDS,
    ) -> None:
        self._settings, self._experiment, self._reader = settings, experiment, reader
        self._codec = Codec(settings.kafka.schema_ids)
        self._next: dict[int, int] = {}
        self._users: dict[int, dict[Label, UserTotals]] = {}
        self._sums: dict[Label, VariantSums] = {}
        self._seen: set[int] = set()
        self._order: deque[int] = deque()
        self._most_users, self._most_ids = most_users, most_ids

    def look(self) -> Standing:
        """Count what is new, and judge.

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
        return standing(self._experiment, self._sums)

    def _take(self, value: bytes) -> None:
        try:
            example = cast(Example, self._codec.decode("Example", value))
        except Refused:
            return
        if self._experiment.name not in example.variant:  # of no other is anything kept
            return
        if not self._is_new(xxh3_64_intdigest(example.rec_id)):
            return
        user = xxh3_64_intdigest(user_key(example.tenant, example.user_id))
        if user not in self._users and len(self._users) >= self._most_users:
            return
        totals, changes = count(example, self._users.get(user, {}))
        own = {label: one for label, one in totals.items() if label[0] == self._experiment.name}
        if own:
            self._users[user] = own
        for label in own.keys() & changes.keys():
            self._sums[label] = self._sums.get(label, VariantSums()).merge(changes[label])

    def _is_new(self, rec_id: int) -> bool:
        if rec_id in self._seen:
            return False
        self._seen.add(rec_id)
        self._order.append(rec_id)
        if len(self._order) > self._most_ids:
            self._seen.discard(self._order.popleft())
        return True

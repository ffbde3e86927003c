"""What the learn job has published, inside a rank worker: `recs.weights.v1` from its start, then followed.

No thread: the client library fetches in the background, and the worker takes what has come before it ranks.
"""

from __future__ import annotations

from flink_jobs.followed_topic import FollowedTopic
from flink_jobs.settings import Kafka
from schemas.codec import Codec
from schemas.records import LearntPart
from schemas.refusal import Refused
from schemas.topics import WEIGHTS
from udfs.online.published_ranker import PublishedRanker
from udfs.online.ranker_weights import WeightsError

PER_BATCH = 200  # a version's parts, some milliseconds


class WeightsFeed:
    """Keeps a published ranker up to date with what the broker has sent.

    Parameters
    ----------
    settings
        How to reach the broker. Without the topic there is nothing to follow.
    codec
        Reads the records.
    ranker
        Takes the parts.

    Attributes
    ----------
    refused
        Number of records that could not be used: the version before them serves on.
    """

    def __init__(self, settings: Kafka, codec: Codec, ranker: PublishedRanker) -> None:
        self.refused = 0
        self._codec = codec
        self._ranker = ranker
        self._topic = FollowedTopic(settings, WEIGHTS, self._take, PER_BATCH)

    def follow(self, timeout_s: float = 0.0) -> int:
        """Take in what has come, at most `PER_BATCH` records, and return how many messages that were."""
        return self._topic.follow(timeout_s)

    def close(self) -> None:
        """Leave the broker."""
        self._topic.close()

    def _take(self, key: str, value: bytes | None, offset: int) -> None:
        try:
            part = self._codec.decode("LearntPart", value or b"")
            assert isinstance(part, LearntPart)
            self._ranker.take(part)
        except (Refused, WeightsError):
            self.refused += 1

"""What all users taught about the arms, inside a rank worker: `recs.posteriors.v1` as last committed."""

from __future__ import annotations

from flink_jobs.followed_topic import FollowedTopic
from flink_jobs.settings import Kafka
from schemas.codec import Codec
from schemas.records import Posterior
from schemas.refusal import Refused
from schemas.topics import POSTERIORS
from udfs.bandits.shared_posterior import SharedPosterior
from udfs.user_state import SOURCES


class Posteriors:
    """The newest posterior of each tenant.

    Parameters
    ----------
    codec
        Reads the records.

    Attributes
    ----------
    by_tenant
        What ranking takes.
    refused
        Number of records that could not be used: the version before them serves on.
    """

    def __init__(self, codec: Codec) -> None:
        self.by_tenant: dict[str, SharedPosterior] = {}
        self.refused = 0
        self._codec = codec

    def take(self, key: str, value: bytes | None, offset: int = 0) -> None:
        """Take a record."""
        if value is None:
            self.by_tenant.pop(key, None)
            return
        try:
            record = self._codec.decode("Posterior", value)
            assert isinstance(record, Posterior)
            self.by_tenant[record.tenant] = SharedPosterior.of(record, SOURCES)
        except (Refused, ValueError):
            self.refused += 1

    def state(self) -> dict[str, object]:
        """Return what a worker tells of it."""
        return {
            "versions": {name: one.version for name, one in self.by_tenant.items()},
            "refused": self.refused,
        }


class PosteriorFeed(Posteriors):
    """Keeps them up to date with what the broker has sent.

    Parameters
    ----------
    settings
        How to reach the broker.
    codec
        Reads the records.
    """

    def __init__(self, settings: Kafka, codec: Codec) -> None:
        super().__init__(codec)
        self._topic = FollowedTopic(settings, POSTERIORS, self.take)

    def follow(self) -> None:
        """Take in what has come."""
        self._topic.follow()

    def close(self) -> None:
        """Leave the broker."""
        self._topic.close()

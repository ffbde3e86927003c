"""Why a user's list is as it is: the logged snapshot ranked again, item by item."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from clients.reader import Recommendations
from flink_jobs.session_feed import SessionFeed
from flink_jobs.settings import Settings
from schemas import topics
from schemas.codec import Codec
from schemas.ids import user_key
from schemas.records import Item, ServedList
from schemas.refusal import Refused
from tailrace.errors import UserError
from tailrace.list_view import UNKNOWN, Titled
from tailrace.model_epochs import ITEMS, open_bundle
from tailrace.topic_scan import TopicReader, partition_of
from udfs.model.bundle import Bundle
from udfs.ranking.catalogue import CatalogueView
from udfs.ranking.explain import Explanation, explain
from udfs.ranking.live_sessions import LiveSessions
from udfs.ranking.rank import RankSettings
from udfs.ranking.snapshot import Snapshot

SERVED = topics.SERVED.name
SCAN = 50_000
SHOWN_FEATURES = 4


@dataclass(frozen=True)
class ListExplained:
    """A list, explained.

    Parameters
    ----------
    record
        The record of recs.served.v1 that holds the snapshot.
    items
        One explanation an item, in the list's order.
    same_list
        The record is of the list that was asked for; else of the user's newest logged one.
    same_catalogue
        The catalogue could be read back to the mark that the list was made with.
    same_sessions
        Nobody's session has grown since, and their records have one order; else those of now were asked.
    """

    record: ServedList
    items: tuple[Explanation, ...]
    same_list: bool
    same_catalogue: bool
    same_sessions: bool

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "rec_id": self.record.rec_id,
            "version": self.record.version,
            "epoch": self.record.epoch,
            "model_version": self.record.model_version,
            "index_mark": self.record.index_mark,
            "session_mark": self.record.session_mark,
            "same_list": self.same_list,
            "same_catalogue": self.same_catalogue,
            "same_sessions": self.same_sessions,
            "items": [dataclasses.asdict(item) for item in self.items],
        }

    def show(self, console: Console, titles: dict[str, Titled]) -> None:
        """Print it for people."""
        record = self.record

        def line(text: str, style: str = "") -> None:
            console.print(text, style=style, markup=False, soft_wrap=True)

        line("")
        line(
            f"ranked by epoch {record.epoch} ({record.model_version}), catalogue mark {record.index_mark}, "
            f"from the state at version {record.version}"
        )
        if not self.same_list:
            line(f"note: the log holds no record of this list any more; this is of {record.rec_id}", "yellow")
        if not self.same_catalogue:
            line("note: the catalogue has moved on since; ranked again with today's", "yellow")
        if not self.same_sessions:
            line("note: others' sessions have moved on since; ranked again with those of now", "yellow")
        if self.items:
            shares = ", ".join(
                f"{arm} {chance:.3f}" for arm, chance in self.items[0].arm_probabilities.items()
            )
            line(f"each slot is drawn from: {shares}")
        for place, item in enumerate(self.items, 1):
            line(f"\n{place:>2}  {item.item_id} {titles.get(item.item_id, UNKNOWN).title}", "bold")
            for text in sentences(item):
                line(f"    {text}")


def sentences(item: Explanation) -> list[str]:
    """Give the lines that explain one item: how it was found, scored, drawn, and which rules it meets."""
    if not item.known:
        return ["this epoch does not know the item"]
    found = ", ".join(f"{source} (its number {rank})" for source, rank in item.sources.items())
    lines = [f"found by {found}" if found else "found by no source"]
    if item.score is not None:
        best = sorted(item.contributions.items(), key=lambda pair: -abs(pair[1]))[:SHOWN_FEATURES]
        why = ", ".join(f"{name} {item.features[name]:.3g} ({by:+.3f})" for name, by in best if by)
        lines.append(f"score {item.score:.3f}, number {item.finalist_place} of the first stage; {why}")
    if item.slot is not None and item.propensity is not None and item.draw is not None:
        lines.append(
            f"slot {item.slot}: drew {item.draw:.3f}, which is the arm {item.slot_source}; "
            f"propensity {item.propensity:.3f}"
        )
    if item.rules_hit:
        lines.append("today kept out by: " + ", ".join(item.rules_hit))
    return lines


def explain_list(settings: Settings, tenant: str, user_id: str, found: Recommendations) -> ListExplained:
    """Explain the list that a reader got.

    Raises
    ------
    UserError
        TR-322 when the log holds no list of the user, TR-350 or TR-351 when the epoch is not here.
    """
    key = user_key(tenant, user_id)
    record = find_served(settings, key, found.rec_id)
    if record is None:
        raise UserError(
            "TR-322",
            f"user {user_id!r}: no list of theirs among the last {SCAN:,} records of {SERVED}",
            "the list is popular, not personal, or older than the log's reach",
            f"tailrace recs {user_id}, and again after the user's next event",
        )
    bundle = open_bundle(settings, record.epoch)
    view, exact = _catalogue(settings, bundle, record.index_mark)
    model = settings.model
    rank_settings = RankSettings(
        model.candidates,
        model.finalists,
        settings.redis.list_size,
        model.diversity,
        model.exploration_floor,
        model.rebuy_after_ms,
    )
    snapshot = Snapshot(
        key, tenant, user_id, record.version, record.event_time, record.epoch, record.snapshot
    )
    sessions, same_sessions = _sessions(settings, record.session_mark)
    same = record.rec_id == found.rec_id
    shown = found.items if same else record.items
    return ListExplained(
        record,
        tuple(explain(bundle, snapshot, item.item_id, view, rank_settings, sessions) for item in shown),
        same,
        exact,
        same_sessions,
    )


def find_served(settings: Settings, key: str, rec_id: str) -> ServedList | None:
    """Give the record of a list, else the newest of the user, from the end of the user's partition."""
    codec, newest = Codec(settings.kafka.schema_ids), None
    with TopicReader(settings, SERVED) as reader:
        partition = partition_of(key.encode(), len(reader.partitions()))
        for record in reader.read_backwards(partition, SCAN):
            if record.key != key.encode():
                continue
            try:
                served = codec.decode("ServedList", record.value)
            except Refused:
                continue
            assert isinstance(served, ServedList)
            if served.rec_id == rec_id:
                return served
            newest = newest or served
    return newest


def _catalogue(settings: Settings, bundle: Bundle, mark: int) -> tuple[CatalogueView, bool]:
    """Give the catalogue as the list saw it; False when compaction has dropped what it saw."""
    view, codec, seen = CatalogueView(bundle), Codec(settings.kafka.schema_ids), 0
    with TopicReader(settings, ITEMS) as reader:
        low, high = reader.bounds(0)
        for record in reader.read(0, low, min(mark, high)):
            seen += 1
            try:
                item = codec.decode("Item", record.value)
            except Refused:
                continue
            assert isinstance(item, Item)
            view.apply(item)
    view.mark = mark
    return view, high >= mark and seen == mark


def _sessions(settings: Settings, mark: int) -> tuple[LiveSessions | None, bool]:
    """Give the sessions as a worker that starts now reads them; False unless that is what the list was made with."""
    if not mark or not settings.model.session_tail:
        return None, not mark
    feed = SessionFeed(settings.kafka, Codec(settings.kafka.schema_ids), settings.model.session_tail)
    feed.close()
    return feed.live, feed.live.mark == mark and feed.partitions == 1

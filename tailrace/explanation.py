"""Why a user's list is as it is: the logged snapshot ranked again, item by item."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from clients.reader import Recommendations, Recommended
from flink_jobs.posterior_feed import PosteriorFeed
from flink_jobs.rank_settings import rank_settings, varied
from flink_jobs.session_feed import SessionFeed
from flink_jobs.settings import Settings
from flink_jobs.weights_feed import WeightsFeed
from schemas.codec import Codec
from schemas.ids import user_key
from schemas.records import Item, ServedItem, ServedList
from schemas.refusal import Refused
from tailrace.errors import UserError
from tailrace.experiment_orders import read_running
from tailrace.list_view import UNKNOWN, Titled
from tailrace.model_epochs import ITEMS, open_bundle
from tailrace.served_lists import SCAN, SERVED, find_served
from tailrace.topic_scan import TopicReader
from udfs.bandits.shared_posterior import SharedPosterior
from udfs.experiments.running import OF_THE_USER
from udfs.model.bundle import Bundle
from udfs.ranking.catalogue import CatalogueView
from udfs.ranking.explain import Contribute, Explanation, explain
from udfs.ranking.live_sessions import LiveSessions
from udfs.ranking.snapshot import Snapshot
from udfs.user_state import NEW

SHOWN_FEATURES = 4
VARIANT = "default"  # what the job logs for users of no experiment


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
        Nobody's session has grown since, and their records have one order, and no shared posterior was published
        since; else those of now were asked.
    same_settings
        What its variant of an experiment changes is known; else it was ranked as everybody is.
    """

    record: ServedList
    items: tuple[Explanation, ...]
    same_list: bool
    same_catalogue: bool
    same_sessions: bool
    same_settings: bool

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "rec_id": self.record.rec_id,
            "version": self.record.version,
            "epoch": self.record.epoch,
            "model_version": self.record.model_version,
            "index_mark": self.record.index_mark,
            "session_mark": self.record.session_mark,
            "weights_version": self.record.weights_version,
            "variant": self.record.variant,
            "list_policy": self.record.list_policy,
            "list_shares": {share.policy: share.probability for share in self.record.list_shares},
            "same_list": self.same_list,
            "same_catalogue": self.same_catalogue,
            "same_sessions": self.same_sessions,
            "same_settings": self.same_settings,
            "items": [dataclasses.asdict(item) for item in self.items],
        }

    def show(self, console: Console, titles: dict[str, Titled]) -> None:
        """Print it for people."""
        record = self.record

        def line(text: str, style: str = "") -> None:
            console.print(text, style=style, markup=False, soft_wrap=True)

        line("")
        line(
            f"list {record.rec_id}, variant {record.variant or 'none'}: ranked by epoch {record.epoch} "
            f"({record.model_version}), catalogue mark {record.index_mark}, session mark {record.session_mark}, "
            f"from the state at version {record.version}"
        )
        if record.list_policy:
            shares = ", ".join(f"{share.policy} {share.probability:.3f}" for share in record.list_shares)
            line(f"list policy {record.list_policy}, drawn with the probabilities {shares}")
        if not self.same_list:
            line(f"note: the log holds no record of this list any more; this is of {record.rec_id}", "yellow")
        if not self.same_catalogue:
            line("note: the catalogue has moved on since; ranked again with today's", "yellow")
        if not self.same_sessions:
            line("note: others' sessions have moved on since; ranked again with those of now", "yellow")
        if not self.same_settings:
            line("note: its experiment no longer runs; ranked again as everybody is", "yellow")
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
        if item.base is not None:
            rest = item.score - item.base - sum(by for _, by in best)
            why = f"base {item.base:+.3f}, {why}, all others {rest:+.3f}"
        lines.append(f"score {item.score:.3f}, number {item.finalist_place} of the first stage; {why}")
    if item.slot is not None and item.propensity is not None and item.draw is not None:
        drawn = "within the share for new items" if item.slot_source == NEW else f"the arm {item.slot_source}"
        lines.append(
            f"slot {item.slot}: drew {item.draw:.3f}, which is {drawn}; propensity {item.propensity:.3g}"
        )
    if item.rules_hit:
        lines.append("kept out by: " + ", ".join(item.rules_hit))
    elif item.slot is None:
        lines.append("no rule keeps it out")
    return lines


def explain_list(
    settings: Settings, tenant: str, user_id: str, found: Recommendations, also: Sequence[str] = ()
) -> ListExplained:
    """Explain the list that a reader got, and other items behind it: why they are not there.

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
    same = record.rec_id == found.rec_id
    return explain_record(settings, record, found.items if same else record.items, same, also)


def explain_record(
    settings: Settings,
    record: ServedList,
    shown: Sequence[Recommended | ServedItem],
    same_list: bool = True,
    also: Sequence[str] = (),
) -> ListExplained:
    """Explain items of the list that a record of recs.served.v1 is of, and other items behind them.

    Raises
    ------
    UserError
        TR-350 or TR-351 when its epoch is not here.
    """
    bundle = open_bundle(settings, record.epoch)
    key = user_key(record.tenant, record.user_id)
    view, exact = _catalogue(settings, bundle, record.index_mark)
    changes = _variant_settings(settings, key, record.variant)
    snapshot = Snapshot(
        key,
        record.tenant,
        record.user_id,
        record.version,
        record.event_time,
        record.epoch,
        record.snapshot,
    )
    sessions, same_sessions = _sessions(settings, record)
    contribute = _contributions(bundle)
    how = varied(rank_settings(settings), changes or {})
    posteriors, same_posterior = _posteriors(settings, record)
    return ListExplained(
        record,
        tuple(
            explain(bundle, snapshot, item_id, view, how, sessions, contribute, posteriors)
            for item_id in (*(item.item_id for item in shown), *also)
        ),
        same_list,
        exact,
        same_sessions and same_posterior,
        changes is not None,
    )


def _contributions(bundle: Bundle) -> Contribute | None:
    """Give the exact contributions of a bundle's trees; None without its native ranker or without XGBoost."""
    try:
        from model_export.tree_contributions import TreeContributions
    except ImportError:  # the extra `training` is not on every machine that reads lists
        return None
    try:
        return TreeContributions.of(bundle)
    except ValueError as error:
        raise UserError(
            "TR-351",
            f"epoch {bundle.epoch}: refused: {error}",
            "the file was changed after the bundle was opened",
            "copy the bundle again from where it was trained",
        ) from error


def _variant_settings(settings: Settings, key: str, variant: str) -> dict[str, Any] | None:
    """Give what the user's experiments change of a ranking; None when the list was made by others than run now."""
    label, changes = read_running(settings).of_user(key)
    if (label or VARIANT) != variant:
        return {} if variant == VARIANT else None
    return {name: value for name, value in changes.items() if name not in OF_THE_USER}


def _catalogue(settings: Settings, bundle: Bundle, mark: int) -> tuple[CatalogueView, bool]:
    """Give the catalogue as the list saw it; False when compaction has dropped what it saw."""
    codec, seen = Codec(settings.kafka.schema_ids), 0
    view = CatalogueView(bundle, settings.model.arrivals)
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


def _sessions(settings: Settings, record: ServedList) -> tuple[LiveSessions | None, bool]:
    """Give the sessions as a worker that starts now reads them; False unless that is what the list was made with."""
    mark = record.session_mark
    if not mark or not settings.model.session_tail:
        return None, not mark
    codec = Codec(settings.kafka.schema_ids)
    feed = SessionFeed(settings.kafka, codec, settings.model.session_tail)
    feed.close()
    same = feed.live.mark == mark and feed.partitions == 1
    if record.weights_version:
        WeightsFeed(settings.kafka, codec, feed.live.learnt).close()
        same &= feed.live.weights_version == record.weights_version
    return feed.live, same


def _posteriors(settings: Settings, record: ServedList) -> tuple[Mapping[str, SharedPosterior], bool]:
    """Give the shared posteriors as they are today; False unless that is what the list was made with."""
    if not record.posterior_version:
        return {}, True
    feed = PosteriorFeed(settings.kafka, Codec(settings.kafka.schema_ids))
    feed.close()
    found = feed.by_tenant.get(record.tenant)
    return feed.by_tenant, found is not None and found.version == record.posterior_version

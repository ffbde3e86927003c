"""A candidate beside what serves, on the snapshots of lists as they are served; nobody is shown what it says."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from flink_jobs.settings import Settings
from schemas.codec import Codec
from schemas.ids import user_key
from schemas.records import ServedList
from schemas.refusal import Refused
from tailrace import model_epochs
from tailrace.errors import ExitCode, UserError
from tailrace.served_lists import SERVED
from tailrace.topic_scan import TopicReader

if TYPE_CHECKING:
    from udfs.model.bundle import Bundle
    from udfs.ranking.catalogue import CatalogueView
    from udfs.ranking.rank import RankSettings, SessionSource

BATCH = 100
POLL_S = 0.5
Tell = Callable[[int], None]


def follow(settings: Settings, past: int, seconds: float, batch: int = BATCH) -> Iterator[list[ServedList]]:
    """Yield what recs.served.v1 gains, in batches, for so many seconds; before that the newest `past` records.

    Raises
    ------
    UserError
        TR-300 or TR-342 where there is no broker or topic.
    """
    codec, deadline_s = Codec(settings.kafka.schema_ids), time.monotonic() + seconds
    with TopicReader(settings, SERVED) as reader:
        partitions = reader.partitions()
        share = -(-past // len(partitions))
        places = {}
        for partition in partitions:
            low, high = reader.bounds(partition)
            places[partition] = max(low, high - share)
        while True:
            held: list[ServedList] = []
            for partition in partitions:
                _, high = reader.bounds(partition)
                for record in reader.read(partition, places[partition], high):
                    try:
                        found = codec.decode("ServedList", record.value or b"")
                    except Refused:
                        continue
                    assert isinstance(found, ServedList)
                    if found.snapshot:
                        held.append(found)
                    if len(held) >= batch:
                        yield held
                        held = []
                places[partition] = high
            yield held
            if time.monotonic() > deadline_s:
                return
            time.sleep(POLL_S)


def compare(
    serving: Bundle,
    candidate: Bundle,
    batches: Iterable[Sequence[ServedList]],
    most: int,
    views: tuple[CatalogueView, CatalogueView],
    rank: RankSettings,
    sessions: SessionSource | None,
    tell: Tell = lambda lists: None,
) -> dict[str, Any]:
    """Rank the snapshots of lists with both bundles, and return how alike they are and what each costs.

    Parameters
    ----------
    batches
        Of served lists; those beyond `most` are left.
    views
        The catalogue for each bundle.
    sessions
        As both see them.
    tell
        Called with the number of lists done.
    """
    from model_export.shadow import Ordered, Shadow
    from udfs.ranking.model_order import model_order
    from udfs.ranking.snapshot import Snapshot

    shadow, cpu_s = Shadow(rank.list_size), [0.0, 0.0]
    for batch in batches:
        lists = list(islice(batch, most - len(shadow)))
        shots = [
            Snapshot(
                user_key(one.tenant, one.user_id),
                one.tenant,
                one.user_id,
                one.version,
                one.event_time,
                one.epoch,
                one.snapshot,
            )
            for one in lists
        ]
        if shots:
            orders = []
            for at, (bundle, view) in enumerate(zip((serving, candidate), views, strict=True)):
                if not len(shadow):
                    model_order(bundle, shots[:1], view, rank, sessions)  # kernels are loaded, not counted
                began_s = time.process_time()
                orders.append(model_order(bundle, shots, view, rank, sessions))
                cpu_s[at] += time.process_time() - began_s
            for one, other in zip(*orders, strict=True):
                shadow.add(Ordered(*one), Ordered(*other))
        tell(len(shadow))
        if len(shadow) >= most:
            break
    costs = [round(1e6 * spent / max(len(shadow), 1), 1) for spent in cpu_s]
    return shadow.report() | {"cpu_us_a_user": {"serving": costs[0], "candidate": costs[1]}}


def run(
    settings: Settings,
    epoch: int,
    against: int | None,
    most: int,
    seconds: float,
    past: bool,
    tell: Tell = lambda lists: None,
) -> dict[str, Any]:
    """Follow what is served, and compare; see `tailrace models shadow`.

    Raises
    ------
    UserError
        TR-350 or TR-351 for a bundle that is not here or refused, TR-385 where nothing serves.
    """
    from flink_jobs.session_feed import SessionFeed
    from tailrace.commands.train import train_settings
    from udfs.ranking.catalogue import CatalogueView

    beside = model_epochs.serving_epoch(settings) if against is None else against
    if beside is None:
        raise UserError(
            "TR-385",
            f"epoch {epoch}: nothing serves that it could be compared with",
            fix="tailrace models ls; or --against EPOCH",
            exit_code=ExitCode.USAGE,
        )
    serving, candidate = (model_epochs.open_bundle(settings, one) for one in (beside, epoch))
    views = CatalogueView(serving), CatalogueView(candidate)
    for item in model_epochs.read_catalogue(settings):
        for view in views:
            view.apply(item)
    feed = None
    if settings.model.session_tail:
        feed = SessionFeed(settings.kafka, Codec(settings.kafka.schema_ids), settings.model.session_tail)

    def batches() -> Iterator[Sequence[ServedList]]:
        for batch in follow(settings, most if past else 0, seconds):
            if feed is not None:
                feed.follow()
            yield batch

    try:
        live = None if feed is None else feed.live
        found = compare(serving, candidate, batches(), most, views, train_settings(settings).rank, live, tell)
    finally:
        if feed is not None:
            feed.close()
    return {"serving": beside, "candidate": epoch} | found

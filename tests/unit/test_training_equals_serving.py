"""The vectors that training learns from are, bit for bit, those that a job would rank with.

One side is the dataset builder. The other is written here from the pieces of a job: every event through Avro,
`UserLogic` alone, the state through its bytes after every event, an index of the sessions that it gave out, one
snapshot at a time, and the features caught where `rank_batch` hands them to the ranker.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

from model_export.als import AlsSettings
from model_export.arrivals import PLACED, Arrivals
from model_export.content import ContentSettings, fit_content
from model_export.dataset import CandidateSet, candidate_set, ranking_examples
from model_export.item_side import ItemSideSettings, fit_items
from model_export.moments import Moment, MomentSettings, collect_moments
from model_export.session_replay import SessionClicks
from model_export.sources.event_log import EventLog, columns_of
from schemas.codec import decode, decode_event, encode
from schemas.ids import item_hash, user_key
from schemas.records import Event, EventItem, Item, SessionDelta
from schemas.validation import effective_time
from udfs.item_factors import ItemFactors
from udfs.model.bundle import Bundle
from udfs.model.manifest import ModelSettings
from udfs.online.publisher import PublisherSettings
from udfs.online.session_learner import LearnerSettings, SessionLearner
from udfs.ranking.catalogue import CatalogueView
from udfs.ranking.click_records import session_key
from udfs.ranking.features import FEATURE_NAMES
from udfs.ranking.item_index import ItemIndex
from udfs.ranking.live_sessions import LiveSessions
from udfs.ranking.rank import RankSettings, rank_batch
from udfs.ranking.rank_settings import ARRIVALS
from udfs.ranking.snapshot import Snapshot
from udfs.user_logic import LogicSettings, Position, UserLogic
from udfs.user_state import UserState

DAY_MS = 86_400_000
START_MS = 1_600_000_000_000
CUT_MS = START_MS + 40 * DAY_MS
EPOCH = 7
LOGIC = LogicSettings(forget_after_ms=12 * DAY_MS)
RANK = RankSettings(candidates=60, finalists=20)
KINDS = (
    "view",
    "view",
    "view",
    "click",
    "add_to_cart",
    "purchase",
    "search",
    "impression",
    "remove_from_cart",
)


def random_log(seed: int, n: int = 6_000, n_users: int = 60, n_items: int = 80) -> EventLog:
    """Sessions of all event types over sixty days, with duplicates of event ids among them."""
    rng = np.random.default_rng(seed)
    bases = START_MS + rng.integers(0, 60 * DAY_MS, n // 6)
    picked = rng.integers(0, len(bases), n)
    times = np.sort(bases[picked] + rng.integers(0, 20 * 60_000, n))
    users = [f"u{user}" for user in rng.integers(0, n_users, n).tolist()]
    kinds = [KINDS[kind] for kind in rng.integers(0, len(KINDS), n).tolist()]
    items = [f"item-{int(item)}" for item in np.minimum(rng.exponential(15, n), n_items - 1)]
    ids = [f"e{number if rng.random() > 0.05 else number - 1}" for number in range(n)]
    shown = [
        tuple(EventItem(f"item-{int(k)}", place) for place, k in enumerate(rng.integers(0, n_items, 4)))
        if kind == "impression"
        else ()
        for kind in kinds
    ]
    columns = columns_of(
        n,
        event_id=ids,
        event_type=kinds,
        user_id=users,
        item_id=[
            None if kind in ("search", "impression") else item
            for kind, item in zip(kinds, items, strict=True)
        ],
        event_time=times.tolist(),
        rec_id=[f"r{k % 50}" if kind in ("impression", "click") else None for k, kind in enumerate(kinds)],
        items=shown,
        value=[9.5 if kind == "purchase" else None for kind in kinds],
    )
    return EventLog("random", times, columns)


@pytest.fixture(scope="module")
def log() -> EventLog:
    return random_log(11)


@pytest.fixture(scope="module")
def index(log: EventLog) -> ItemIndex:
    catalogue = [
        Item(f"item-{k}", "default", f"item {k}", f"category {k % 7}", None, 1.0 + k, True, False, {}, 1)
        for k in range(0, 80, 2)
    ]
    settings = ItemSideSettings(AlsSettings(dimension=16))
    return ItemIndex.build(fit_items(log, catalogue, CUT_MS, settings, np.random.default_rng(3)))


@pytest.fixture(scope="module")
def replayed(log: EventLog, index: ItemIndex) -> tuple[list[Moment], SessionClicks]:
    (found,), clicks = collect_moments(
        log,
        [(CUT_MS, CUT_MS + 30 * DAY_MS)],
        [MomentSettings(sessions=400)],
        index.factors,
        LOGIC,
        np.random.default_rng(0),
    )
    assert {moment.kind for moment in found} == {"opening", "within"}
    assert len(found) > 200
    return found, clicks


@pytest.fixture(scope="module")
def moments(replayed: tuple[list[Moment], SessionClicks]) -> list[Moment]:
    return replayed[0]


@pytest.fixture(scope="module")
def trained(index: ItemIndex, replayed: tuple[list[Moment], SessionClicks]) -> CandidateSet:
    return candidate_set(index, *replayed, RANK, EPOCH)


class _Catching:
    """Stands for the ranker and keeps what it is asked to score."""

    def __init__(self) -> None:
        self.features: list[npt.NDArray[np.float32]] = []

    def score(self, features: npt.NDArray[np.float32], rows_a_user: int) -> npt.NDArray[np.float32]:
        self.features.append(features.reshape(-1, rows_a_user, features.shape[1]).copy())
        return np.zeros(len(features), np.float32)


@dataclasses.dataclass(frozen=True)
class _AsServed:
    """A bundle as `rank_batch` uses one."""

    items: ItemIndex
    ranker: _Catching = dataclasses.field(default_factory=_Catching)
    epoch: int = EPOCH
    model_version: str = "test"
    manifest_sha256: str = ""


def states_of_a_job(
    log: EventLog, factors: ItemFactors
) -> Iterator[tuple[str, int, bytes | None, bytes, tuple[SessionDelta, ...]]]:
    """Yield for every event its user, time, the bytes of the state before and after it, and the session records."""
    keyed = UserLogic(LOGIC, {1: factors})
    held: dict[str, bytes] = {}
    for row, event in enumerate(log):
        received = decode_event(encode(event), 65_536)
        key = user_key(received.tenant, received.user_id)
        before = held.get(key)
        state = None if before is None else UserState.decode(before)
        at_ms, _ = effective_time(received)
        step = keyed.on_event(state, received, at_ms, Position(0, row), 1)
        assert step.state is not None
        held[key] = step.state.encode()
        yield key, at_ms, before, held[key], step.deltas


def served_features(
    log: EventLog,
    index: ItemIndex,
    moments: list[Moment],
    learner: SessionLearner | None = None,
    arrivals: Arrivals | None = None,
) -> tuple[npt.NDArray[np.float32], LiveSessions]:
    """Rank each moment as a worker does that has read all sessions before it, and all that a learner published.

    Of what arrived it knows the records of before the moment.
    """
    openings = {(m.key, m.at_ms): number for number, m in enumerate(moments) if m.kind == "opening"}
    withins = {(m.key, m.at_ms): number for number, m in enumerate(moments) if m.kind == "within"}
    snapshots: dict[int, Snapshot] = {}
    published: list[SessionDelta] = []
    keyed = UserLogic(LOGIC, {EPOCH: index.factors})
    for key, at_ms, before, after, deltas in states_of_a_job(log, index.factors):
        published += deltas
        for number, held in ((openings.get((key, at_ms)), before), (withins.get((key, at_ms)), after)):
            if number is not None and held is not None:
                state = keyed.refresh_embedding(UserState.decode(held), EPOCH)
                snapshots[number] = Snapshot(key, *key.split("/"), "", at_ms, EPOCH, state.encode())
    assert sorted(snapshots) == list(range(len(moments)))
    served = _AsServed(index)
    view = CatalogueView(index, 100)
    sessions = LiveSessions()
    waiting = [] if arrivals is None else list(zip(arrivals.times_ms.tolist(), arrivals.items, strict=True))
    for number in range(len(moments)):
        while waiting and waiting[0][0] < moments[number].at_ms + (moments[number].kind == "within"):
            view.apply(waiting.pop(0)[1])
        while published and published[0].event_time < snapshots[number].at_ms:
            delta = published.pop(0)
            name = session_key(user_key(delta.tenant, delta.user_id), delta.session_ordinal)
            click = np.array([name], np.uint64), np.array([item_hash(delta.item_id)], np.uint64)
            sessions.observe(*click)
            for part in [] if learner is None else learner.learn(*click):
                sessions.learnt.take(decode("LearntPart", encode(part)))
        rank_batch(served, [snapshots[number]], view, RANK, sessions)  # type: ignore[arg-type]
    return np.concatenate(served.ranker.features), sessions


def test_features_of_training_are_those_that_a_job_ranks_with(
    log: EventLog, index: ItemIndex, moments: list[Moment], trained: CandidateSet
) -> None:
    features, _ = served_features(log, index, moments)
    wanted = trained.features.reshape(len(moments), RANK.finalists, -1)
    assert features.tobytes() == wanted.tobytes()
    assert (wanted[:, :, FEATURE_NAMES.index("session_rank")] > 0).any(axis=1).mean() > 0.5
    assert len(np.unique(wanted.reshape(-1, wanted.shape[-1]), axis=0)) > len(moments)


def test_so_they_are_for_items_that_come_while_the_model_serves(log: EventLog) -> None:
    catalogue = [
        Item(f"item-{k}", "default", f"word{k % 9} word{k % 5} word{k % 3}", f"category {k % 7}", None, 2.0, True,
             False, {}, 1)
        for k in range(80)
    ]  # fmt: skip
    young = {f"item-{k}" for k in range(3, 80, 4)}
    rows = [
        row
        for row, (name, at_ms) in enumerate(zip(log.columns["item_id"], log.times_ms, strict=True))
        if name not in young or at_ms >= CUT_MS + int(name[5:]) % 20 * DAY_MS
    ]
    log = EventLog(
        "young",
        log.times_ms[rows],
        {name: [column[row] for row in rows] for name, column in log.columns.items()},
    )
    known = [item for item in catalogue if item.item_id not in young]
    items = fit_items(
        log, known, CUT_MS, ItemSideSettings(AlsSettings(dimension=16)), np.random.default_rng(3)
    )
    content = fit_content(items, known, ContentSettings(dimension=8), np.random.default_rng(3))
    how = ModelSettings(weight_content=0.3, share_content=0.1, share_embedding=0.2)
    index = ItemIndex.build(items, how, content=content)
    arrivals = Arrivals.of(log, catalogue, items.item_ids, CUT_MS)
    (moments,), clicks = collect_moments(
        log,
        [(CUT_MS, CUT_MS + 30 * DAY_MS)],
        [MomentSettings(sessions=80)],
        index.factors,
        LOGIC,
        np.random.default_rng(0),
    )
    assert len(arrivals.items) > 10
    assert (arrivals.came, arrivals.given_way) == (len(arrivals.items), 0)
    wanted = candidate_set(index, moments, clicks, RANK, EPOCH, arrivals=arrivals)
    features, _ = served_features(log, index, moments, arrivals=arrivals)
    assert features.tobytes() == wanted.features.reshape(features.shape).tobytes()
    new = wanted.rows >= len(index)
    assert new[: len(moments) // 4].sum() < new[-len(moments) // 4 :].sum()
    names = [wanted.items.ids[row] for row in np.unique(wanted.rows[new])]
    assert len(names) > 5
    assert set(names) <= young
    # Rows and labels are of the same items.
    examples = ranking_examples(wanted)
    assert (examples.labels[new[np.arange(RANK.finalists) < wanted.count[:, None]]] > 0).any()
    # Workers that rank six new items at once rank the newest six, and so does training.
    few = Arrivals.of(log, catalogue, items.item_ids, CUT_MS, 6)
    assert few.given_way == len(few.items) - 6 > 5
    capped = candidate_set(index, moments, clicks, RANK, EPOCH, arrivals=few)
    number_of = {item.item_id: number for number, item in enumerate(few.items)}
    seen = set()
    for rows, count, known in zip(capped.rows, capped.count, few.known_at(moments), strict=True):
        listed = {number_of[capped.items.ids[row]] for row in rows[:count] if row >= len(index)}
        assert all(known - 6 <= number < known for number in listed)
        seen |= listed
    assert len(seen) > 6


def test_of_a_hundred_thousand_items_that_came_training_places_the_newest_few_and_counts_all() -> None:
    count = 100_000
    catalogue = [Item(f"new-{k}", "default", "t", "", None, 1.0, True, False, {}, 1) for k in range(count)]
    columns = dict.fromkeys(Event._fields, [None] * count) | {"item_id": [item.item_id for item in catalogue]}
    log = EventLog("many", np.arange(count, dtype=np.int64), columns)
    came = Arrivals.of(log, catalogue, ["new-7"], 0)
    assert (came.came, came.given_way, came.at_once) == (count - 1, count - 1 - ARRIVALS, ARRIVALS)
    assert [item.item_id for item in came.items] == [f"new-{k}" for k in range(count - PLACED, count)]
    standing = came.standing(PLACED - 10)
    assert standing.sum() == ARRIVALS and standing[PLACED - 11] and not standing[PLACED - 10]
    assert len(Arrivals.of(log, catalogue, (), 0, 20_000).items) == 20_000
    assert not Arrivals.of(log, catalogue, (), 0, 0).items


def test_so_they_are_with_the_ranker_that_learns_in_the_stream(
    log: EventLog,
    index: ItemIndex,
    replayed: tuple[list[Moment], SessionClicks],
    trained: CandidateSet,
) -> None:
    moments, clicks = replayed
    learning = dataclasses.replace(index, settings=dataclasses.replace(index.settings, learnt_sessions=1))
    how = LearnerSettings(publisher=PublisherSettings(clicks=256))
    wanted = candidate_set(learning, moments, dataclasses.replace(clicks, learner=how), RANK, EPOCH).features
    features, sessions = served_features(log, learning, moments, SessionLearner(how))
    assert sessions.weights_version > 5
    assert features.tobytes() == wanted.tobytes()
    assert wanted.tobytes() != trained.features.tobytes()


def test_features_survive_the_states_bytes(
    index: ItemIndex, replayed: tuple[list[Moment], SessionClicks], trained: CandidateSet
) -> None:
    moments, clicks = replayed
    decoded = [
        moment._replace(state=None if moment.state is None else UserState.decode(moment.state.encode()))
        for moment in moments
    ]
    again = candidate_set(index, decoded, clicks, RANK, EPOCH)
    assert again.features.tobytes() == trained.features.tobytes()
    assert again.rows.tobytes() == trained.rows.tobytes()


def test_a_moments_state_knows_nothing_of_what_was_taken_after_it(
    log: EventLog, moments: list[Moment]
) -> None:
    for moment in moments:
        assert moment.state is not None
        assert moment.state.last_ms <= moment.at_ms
        if moment.kind == "opening":
            assert moment.state.last_ms < moment.at_ms
    assert all(moment.taken for moment in moments)


def test_labels_are_the_grades_of_what_the_session_did(
    index: ItemIndex, moments: list[Moment], trained: CandidateSet
) -> None:
    examples = ranking_examples(trained)
    at = 0
    for number, moment in enumerate(moments):
        for row in trained.rows[number, : trained.count[number]].tolist():
            assert examples.labels[at] == moment.taken.get(index.item_ids[row], 0)
            at += 1
    assert at == len(examples.labels)
    assert set(examples.labels.tolist()) == {0, 1, 2, 3}


def test_the_bundle_that_a_job_holds_has_these_parts() -> None:
    assert {"items", "ranker", "manifest_sha256"} <= {field.name for field in dataclasses.fields(Bundle)}

"""The steps of a training, with their clocks and their random numbers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import xgboost

from model_export.arrivals import Arrivals
from model_export.content import fit_content
from model_export.dataset import CandidateSet, candidate_set
from model_export.interactions import interactions
from model_export.item_side import fit_items, item_rows
from model_export.moments import Moment, MomentSettings, collect_moments
from model_export.ranker import RankingExamples, fit_ranker
from model_export.rules import fit_rules
from model_export.sequence_training import FittedSequence, fit_sequence
from model_export.session_replay import SessionClicks
from model_export.sources.event_log import EventLog
from model_export.train_settings import TrainSettings
from schemas.records import Item
from udfs.federate.pair_table import PairTable
from udfs.model.items import ItemArrays
from udfs.ranking.content_table import ItemContent
from udfs.ranking.device_table import device_table
from udfs.ranking.item_index import ItemIndex
from udfs.ranking.item_links import ItemLinks

ITEM_PHASES = ("items at T1", "items at T2", "items at the cut")
PHASES = ("read", *ITEM_PHASES, "replay", "candidates", "measure", "ranker", "export", "after the cut")
Tell = Callable[[str, float], None]
"""Called with a phase of `PHASES` and the share of it that is done, in [0, 1]."""


class TrainingSteps:
    """One training: its settings, what it has learnt so far, and how long each phase took."""

    def __init__(
        self, settings: TrainSettings, epoch: int, seed: int, tell: Tell | None, federated: PairTable | None
    ) -> None:
        self.settings = settings
        self._federated = federated
        self.epoch = epoch
        self.seed = seed
        self.seconds: dict[str, tuple[float, float]] = {}
        self._tell = tell
        self._content: dict[int, ItemContent | None] = {}
        self._networks: dict[int, FittedSequence] = {}
        self._rules: dict[int, ItemLinks] = {}
        self._phase = ""
        self._began = time.perf_counter(), time.process_time()

    def rng(self, number: int) -> np.random.Generator:
        """Return the generator of one step: none depends on how many numbers another took."""
        return np.random.default_rng([self.seed, number])

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a phase of `PHASES`, and tell of its begin and end."""
        self._phase = name
        self.say(0.0)
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.seconds[name] = (time.perf_counter() - wall, time.process_time() - cpu)
        self.say(1.0)

    def say(self, share: float) -> None:
        """Tell how much of the phase is done, in [0, 1]."""
        if self._tell is not None:
            self._tell(self._phase, min(share, 1.0))

    def elapsed(self) -> tuple[float, float]:
        """Return wall and CPU seconds since the start."""
        return time.perf_counter() - self._began[0], time.process_time() - self._began[1]

    def items(
        self, name: str, number: int, log: EventLog, catalogue: Sequence[Item], at_ms: int
    ) -> ItemArrays:
        """Learn what ships of items from what lies before a time: a phase of its own."""
        parts = {"factors": 0.1, "neighbours": 0.6, "popularity": 0.9}
        with self.phase(name):
            items = fit_items(
                log,
                catalogue,
                at_ms,
                self.settings.items,
                self.rng(10 + number),
                lambda part: self.say(parts[part]),
            )
            self._content[id(items)] = fit_content(
                items, catalogue, self.settings.content, self.rng(30 + number)
            )
            network, rules = self.settings.sequence, self.settings.rules
            if network is None and rules is None:
                return items
            before = log.before(at_ms)
            data = interactions(before, item_rows(before, catalogue))
            if network is not None:
                self._networks[id(items)] = fit_sequence(data, network, self.seed, self.say)
            if rules is not None:
                self._rules[id(items)] = fit_rules(data, rules)
            return items

    def moments(
        self, log: EventLog, edges: list[int], items: ItemArrays
    ) -> tuple[list[list[Moment]], SessionClicks]:
        """Return moments and sessions; moments to learn from in both stretches, to measure on, and behind the cut."""
        first, second, cut = edges
        chosen = self.settings.moments
        measured = MomentSettings(sessions=len(log), within=False, first_only=True, forgotten=True)
        behind = int(log.times_ms[-1]) + 1
        return collect_moments(
            log,
            [(first, second), (second, cut), (second, cut), (cut, max(behind, cut))],
            [chosen, chosen, measured, measured],
            self.index(items).factors,
            self.settings.logic,
            self.rng(3),
            lambda row: self.say(row / len(log)),
        )

    def candidates(
        self,
        items: ItemArrays,
        moments: list[Moment],
        clicks: SessionClicks,
        arrivals: Arrivals | None = None,
    ) -> CandidateSet:
        """Find candidates and features at moments, as a worker with these items does."""
        total = max(len(moments), 1)
        return candidate_set(
            self.index(items),
            moments,
            clicks,
            self.settings.rank,
            self.epoch,
            lambda done: self.say(done / total),
            arrivals,
        )

    def index(self, items: ItemArrays) -> ItemIndex:
        """Return the index that a worker makes of these items and what was learnt beside them."""
        network = self.network(items)
        return ItemIndex.build(
            items,
            self.settings.served(),
            devices=self.devices(items),
            content=self.content(items),
            sequence=None if network is None else network.network(len(items.item_ids)),
            rules=self.rules(items),
        )

    def network(self, items: ItemArrays) -> FittedSequence | None:
        """Return the sequential network learnt with these items; None: it was not asked for."""
        return self._networks.get(id(items))

    def rules(self, items: ItemArrays) -> ItemLinks | None:
        """Return what followed each of these items; None: it was not asked for."""
        return self._rules.get(id(items))

    def content(self, items: ItemArrays) -> ItemContent | None:
        """Return what is said of these items; None where nothing is."""
        return self._content[id(items)]

    def devices(self, items: ItemArrays) -> ItemLinks | None:
        """Return what devices have learnt of these items; None: they were not asked."""
        return None if self._federated is None else device_table(self._federated, items.item_ids)

    def ranker(self, examples: list[RankingExamples], number: int) -> xgboost.Booster:
        """Fit the ranker; `number` is that of its random numbers."""
        trees = self.settings.ranker.trees
        return fit_ranker(
            RankingExamples.joined(examples),
            self.settings.ranker,
            self.rng(number),
            lambda done, _: self.say(done / trees),
        )

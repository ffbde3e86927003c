"""What decides a training, and what it reports."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model_export.content import ContentSettings
from model_export.item_side import ItemSideSettings
from model_export.moments import MomentSettings
from model_export.ranker import RankerSettings
from model_export.rules import RuleSettings
from model_export.sequence_training import SequenceSettings
from udfs.model.manifest import ModelSettings
from udfs.ranking.rank import RankSettings
from udfs.ranking.rank_settings import ARRIVALS
from udfs.user_logic import LogicSettings

WEIGHT_CONTENT = 0.10
SHARE_CONTENT = 0.04
WEIGHT_DEVICES = 0.20
SHARE_DEVICES = 0.10
"""Weight in the blend and share of the candidates of what devices have learnt: those of the neighbours, or less."""


WEIGHT_SEQUENCE = 0.20
SHARE_SEQUENCE = 0.10
"""The same of what a sequential network expects."""
WEIGHT_RULES = 0.20
SHARE_RULES = 0.10
"""The same of sequential rules."""


def first_stage() -> ModelSettings:
    """Return the blend that kept most of what was taken among the 40 finalists of Online Retail.

    Chosen on the six weeks before 2011-11-01, which the published figures do not use; the weight of repeats on those
    before 2011-09-20 and, with The Complete Journey, before 2017-10-01. Places for items new to the user: as many as
    cost the lists nothing on the six weeks before 2011-11-01 (docs/quality.md has the curve).
    """
    return ModelSettings(
        weight_embedding=0.40,
        weight_neighbours=0.20,
        weight_repeat=4.00,
        weight_sessions=0.10,
        weight_trending=0.20,
        weight_popular=0.04,
        share_embedding=0.30,
        share_neighbours=0.15,
        share_repeat=0.25,
        share_sessions=0.15,
        share_trending=0.10,
        weight_content=WEIGHT_CONTENT,
        share_content=SHARE_CONTENT,
        reserve=2,
        reserve_new=16,
    )


@dataclass(frozen=True)
class TrainSettings:
    """How a bundle is trained; written into its manifest.

    `logic`, `rank` and `arrivals` are the job's own: the replay keeps users as the job does, and candidates are found
    as its workers find them.
    """

    logic: LogicSettings = field(default_factory=LogicSettings)
    rank: RankSettings = field(default_factory=RankSettings)
    model: ModelSettings = field(default_factory=first_stage)
    items: ItemSideSettings = field(default_factory=ItemSideSettings)
    content: ContentSettings = field(default_factory=ContentSettings)
    arrivals: int = ARRIVALS  # items unknown to an epoch that its workers rank at most
    sequence: SequenceSettings | None = None  # None: no network
    rules: RuleSettings | None = None  # None: none
    moments: MomentSettings = field(default_factory=MomentSettings)
    ranker: RankerSettings = field(default_factory=RankerSettings)
    stretch_share: float = 0.15  # of the time before the cut: T1..T2 and T2..cut
    stretch_days: float = 42.0  # at most

    def served(self) -> ModelSettings:
        """Return the settings that the bundle carries: the fold-in is that of the factors."""
        factors = self.items.factors
        return dataclasses.replace(
            self.model, fold_in_alpha=factors.alpha, fold_in_regularization=factors.regularization
        )

    def with_devices(self) -> TrainSettings:
        """Return the settings of a bundle with a table of devices: its share is taken from the embedding source."""
        return dataclasses.replace(self, model=self._with_source("devices", WEIGHT_DEVICES, SHARE_DEVICES))

    def with_sequence(self, network: SequenceSettings | None = None) -> TrainSettings:
        """Return the settings of a bundle with a sequential network: its share is taken from the embedding source."""
        model = self._with_source("sequence", WEIGHT_SEQUENCE, SHARE_SEQUENCE)
        return dataclasses.replace(self, model=model, sequence=network or SequenceSettings())

    def with_rules(self, rules: RuleSettings | None = None) -> TrainSettings:
        """Return the settings of a bundle with sequential rules: their share is taken from the embedding source."""
        model = self._with_source("rules", WEIGHT_RULES, SHARE_RULES)
        return dataclasses.replace(self, model=model, rules=rules or RuleSettings())

    def _with_source(self, name: str, weight: float, share: float) -> ModelSettings:
        left = max(self.model.share_embedding - share, 0.0)
        source = {f"weight_{name}": weight, f"share_{name}": share}
        return dataclasses.replace(self.model, share_embedding=left, **source)

    def with_learnt_sessions(self) -> TrainSettings:
        """Return the settings of a bundle whose session candidates are ordered by what the learn job learns."""
        return dataclasses.replace(self, model=dataclasses.replace(self.model, learnt_sessions=1))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return dataclasses.asdict(self) | {"logic": self.logic._asdict()}


@dataclass(frozen=True)
class TrainReport:
    """What came of a training.

    Parameters
    ----------
    path, epoch, model_version, manifest_sha256
        The bundle.
    data
        The file, its hash and the split.
    metrics
        As in the manifest, and ``after_cut`` if the file goes on behind the cut.
    phases
        Name to wall and CPU seconds.
    wall_s, cpu_s
        Of everything.
    """

    path: Path
    epoch: int
    model_version: str
    manifest_sha256: str
    data: Mapping[str, Any]
    metrics: Mapping[str, Any]
    phases: Mapping[str, tuple[float, float]]
    wall_s: float
    cpu_s: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        phases = {
            name: {"wall_s": round(wall, 2), "cpu_s": round(cpu, 2)}
            for name, (wall, cpu) in self.phases.items()
        }
        return {
            "path": str(self.path),
            "epoch": self.epoch,
            "model_version": self.model_version,
            "manifest_sha256": self.manifest_sha256,
            "data": self.data,
            "metrics": self.metrics,
            "phases": phases,
            "wall_s": round(self.wall_s, 2),
            "cpu_s": round(self.cpu_s, 2),
        }

"""The settings sections of the models: how bundles rank, and how the learn job learns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from flink_jobs.settings_section import Section
from udfs.bandits.list_policy import ListPolicy, check_list_policies
from udfs.ranking.rank_settings import ARRIVALS, MAX_NEW_ITEM_SHARE, RankSettings
from udfs.user_state import SOURCES

_RANKING = RankSettings()


class ListPolicyTable(Section):
    """One list policy: a table `[model.list_policies.NAME]`; what is not said is as everywhere else."""

    diversity: float | None = Field(None, ge=0, le=1, description="in place of model.diversity")
    sources: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict,
        description="source to its relative share of the slots, in place of the slots' policy",
    )

    def as_list_policy(self, name: str) -> ListPolicy:
        """Give it as ranking takes it."""
        unknown = sorted(set(self.sources) - set(SOURCES))
        if unknown:
            raise ValueError(
                f"list_policies.{name}.sources: wanted names of {', '.join(SOURCES)}, got {unknown}"
            )
        shares = tuple(self.sources.get(source, 0.0) for source in SOURCES) if self.sources else ()
        return ListPolicy(name, self.diversity, shares)


class Model(Section):
    """Where bundles stand and how they rank. A list policy is a table `[model.list_policies.NAME]`."""

    root: Path = Field(
        Path(".tailrace/models"), description="<root>/<epoch>/manifest.json; readable by every worker"
    )
    candidates: int = Field(_RANKING.candidates, ge=10, le=1_000)
    finalists: int = Field(
        _RANKING.finalists, ge=10, le=200, description="candidates that the learned ranker scores"
    )
    diversity: float = Field(_RANKING.diversity, ge=0, le=1, description="MMR: weight of category repetition")
    exploration_floor: float = Field(
        _RANKING.exploration_floor, ge=0, le=0.18, description="least probability of every source at a slot"
    )
    exploration_policy: Literal["thompson", "epsilon_greedy", "ucb1", "linucb", "thompson_linear"] = Field(
        _RANKING.exploration_policy, description="how a slot's source is drawn, see docs/bandits.md"
    )
    shared_credits: float = Field(
        _RANKING.shared_credits,
        ge=0,
        le=1_000,
        description="what all users' credits count for at a source, beside a user's own; 0 leaves them out",
    )
    new_item_share: float = Field(
        _RANKING.new_item_share,
        ge=0,
        le=MAX_NEW_ITEM_SHARE,
        description="of the slots, for items that the model knows little of; one a list at most",
    )
    arrivals: int = Field(
        ARRIVALS,
        ge=0,
        le=20_000,
        description="newest items unknown to the epoch that are ranked by what the catalogue says of them, where the "
        "bundle has a vocabulary; 0 leaves them out until the next model",
    )
    new_item_weight: float = Field(
        _RANKING.new_item_weight,
        ge=0,
        description="an item is new while its interactions in training weigh no more, 1 a view",
    )
    list_policies: dict[str, ListPolicyTable] = Field(
        default_factory=dict,
        description="name to what it changes of a list, two to four: each list has one, drawn by what lists have "
        "earned; empty: no list policies; as a variable: JSON",
    )
    list_rule: Literal["thompson", "epsilon_greedy", "ucb1", "linucb", "thompson_linear"] = Field(
        _RANKING.list_rule, description="how a list's policy is drawn, as `exploration_policy`"
    )
    list_floor: float = Field(
        _RANKING.list_floor, ge=0, le=0.22, description="least probability of every list policy"
    )
    rebuy_after_ms: int = Field(
        _RANKING.rebuy_after_ms, description="a bought item is not recommended for this long"
    )
    trusted_keys: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], ...] = Field(
        (),
        description="Ed25519 public keys as `tailrace models keygen` prints them: a bundle serves only if one of "
        "them has signed it; empty: unsigned bundles serve",
    )
    session_tail: int = Field(
        200_000,
        ge=0,
        description="newest records of recs.sessions.v1 that a rank worker reads when it starts; "
        "0 leaves the session source out",
    )
    learnt_sessions: bool = Field(
        True,
        description="rank workers follow recs.weights.v1, for epochs whose sessions are ordered by what the learn "
        "job has learnt; without it such epochs take the neighbours' order",
    )

    @model_validator(mode="after")
    def _check_list_policies(self) -> Model:
        check_list_policies(list_policies(self.list_policies), self.list_rule, self.list_floor)
        return self


def list_policies(tables: Mapping[str, ListPolicyTable]) -> tuple[ListPolicy, ...]:
    """Give list policies as ranking takes them, in the order of the settings."""
    return tuple(table.as_list_policy(name) for name, table in tables.items())


class Learn(Section):
    """The learn job, which takes one slot; checkpoints are those of `[job]`.

    Another value of `publish_clicks`, `publish_blocks` or `items` is another learner: it starts without state.
    """

    batch_ms: int = Field(1_000, ge=1, description="session records gathered in the JVM")
    publish_clicks: int = Field(2_048, ge=64, description="clicks of anybody from one version to the next")
    publish_blocks: int = Field(
        64, ge=1, description="of 128 item vectors each that go with a version at most"
    )
    items: int = Field(1 << 18, ge=1, description="different items that are learnt; clicks on others are not")
    copy_clicks: int = Field(
        50_000,
        ge=1,
        description="clicks between two copies of all that is learnt into the state; after a restart, so many at "
        "most are learnt again from the state's own log",
    )

"""The settings sections of the models: how bundles rank, and how the learn job learns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from flink_jobs.settings_section import Section


class Model(Section):
    """Where bundles stand and how they rank."""

    root: Path = Field(
        Path(".tailrace/models"), description="<root>/<epoch>/manifest.json; readable by every worker"
    )
    candidates: int = Field(200, ge=10, le=1_000)
    finalists: int = Field(40, ge=10, le=200, description="candidates that the learned ranker scores")
    diversity: float = Field(0.15, ge=0, le=1, description="MMR: weight of category repetition")
    exploration_floor: float = Field(
        0.01, ge=0, le=0.18, description="least probability of every source at a slot"
    )
    exploration_policy: Literal["thompson", "epsilon_greedy", "ucb1", "linucb", "thompson_linear"] = Field(
        "thompson", description="how a slot's source is drawn, see docs/bandits.md"
    )
    shared_credits: float = Field(
        100.0,
        ge=0,
        le=1_000,
        description="what all users' credits count for at a source, beside a user's own; 0 leaves them out",
    )
    new_item_share: float = Field(
        0.0,
        ge=0,
        le=0.2,
        description="of the slots, for items that the model knows little of; one a list at most",
    )
    new_item_weight: float = Field(
        20.0, ge=0, description="an item is new while its interactions in training weigh no more, 1 a view"
    )
    rebuy_after_ms: int = Field(86_400_000, description="a bought item is not recommended for this long")
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

    @field_validator("trusted_keys", mode="before")
    @classmethod
    def _read_json(cls, value: Any) -> Any:
        return json.loads(value) if isinstance(value, str) else value  # from a variable


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

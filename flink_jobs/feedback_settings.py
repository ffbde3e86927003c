"""The settings section of the feedback job."""

from __future__ import annotations

from pydantic import Field

from flink_jobs.settings_section import Section
from udfs.feedback.rules import FeedbackRules

_RULES = FeedbackRules()


class Feedback(Section):
    """The feedback job; shards, checkpoints and `max_event_bytes` are those of `[job]`.

    Windows count from a list's first impression; the meaning of each is in `udfs/feedback/rules.py`.
    """

    parallelism: int = Field(1, ge=1)
    batch_ms: int = Field(1_000, ge=1, description="records gathered by user shard in the JVM")
    idle_ms: int = Field(
        10_000, ge=100, description="a partition without a record for this long no longer holds the clock"
    )
    posterior_ms: int = Field(
        10_000, ge=100, description="credits gathered by tenant; a posterior is published once in it at most"
    )
    posterior_half_life_days: float = Field(
        14.0, ge=0.5, le=30, description="after so long a credit weighs half in the posterior"
    )
    click_ms: int = Field(_RULES.click_ms, ge=0, description="a click counts for so long")
    dwell_ms: int = Field(_RULES.dwell_ms, ge=0, description="a stay on an item's page")
    add_to_cart_ms: int = Field(_RULES.add_to_cart_ms, ge=0, description="what is put into the cart")
    purchase_ms: int = Field(_RULES.purchase_ms, ge=0, description="what is bought")
    credit_ms: int = Field(_RULES.credit_ms, ge=1, description="credits wait for so long, examples for all")
    skew_ms: int = Field(_RULES.skew_ms, ge=0, description="an outcome may lie so long before its impression")
    lateness_ms: int = Field(_RULES.lateness_ms, ge=0, description="how long a late record is waited for")
    superseded_ms: int = Field(
        _RULES.superseded_ms, ge=0, description="a list is kept for so long after a newer one"
    )
    list_ttl_ms: int = Field(_RULES.list_ttl_ms, ge=0, description="the newest list is kept for so long")
    click_reward: float = Field(_RULES.click_reward, ge=0, le=1)
    dwell_reward: float = Field(_RULES.dwell_reward, ge=0, le=1)
    add_to_cart_reward: float = Field(_RULES.add_to_cart_reward, ge=0, le=1)
    purchase_reward: float = Field(_RULES.purchase_reward, ge=0, le=1)
    dwell_from_s: float = Field(_RULES.dwell_from_s, ge=0, description="a shorter stay earns nothing")

    @property
    def rules(self) -> FeedbackRules:
        """What the logic takes."""
        return FeedbackRules(**{name: getattr(self, name) for name in FeedbackRules._fields})

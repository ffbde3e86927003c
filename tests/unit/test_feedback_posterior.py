"""The second step of the feedback job: sums of many batches and shards, published by version, over a restart."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from flink_jobs.settings import Settings, load
from schemas.codec import decode
from schemas.records import Credit, Posterior
from tests.state_in_memory import MapState
from udfs.bandits.credit_sums import DAY_MS, CreditSums

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # PyFlink's own, while it is imported
    from flink_jobs.feedback_posterior import PosteriorShell

CREDITS = [
    Credit(
        ("a", "b")[n % 2],
        f"u{n}",
        f"r{n}",
        ("ranker", "new")[n % 3 % 2],
        (n % 5) / 4,
        n * DAY_MS // 7,
        f"c{n}",
    )
    for n in range(120)
]


class _Step:
    """The step of one shard; its state outlives the function."""

    def __init__(self, settings: Settings) -> None:
        self.state = MapState()
        self._settings = settings
        self.start()

    def start(self) -> None:
        self._shell = PosteriorShell(self._settings)
        self._shell.open(self)  # type: ignore[arg-type]

    def get_map_state(self, descriptor: Any) -> MapState:
        return self.state

    def window(self, credits: list[Credit]) -> list[Posterior]:
        """Pass credits as packets of four, as if from so many shards."""
        packets = []
        for tenant in "ab":
            own = [credit for credit in credits if credit.tenant == tenant]
            packets += [(tenant, CreditSums().add(own[at::4]).encode()) for at in range(4) if own[at::4]]
        tenants, sums = zip(*packets, strict=True)
        rows = self._shell.process_element((tenants, sums), None)  # type: ignore[arg-type]
        made = [(row[0], decode("Posterior", row[1])) for row in rows]
        assert all(key == record.tenant for key, record in made)
        return [record for _, record in made]


@pytest.fixture
def step() -> _Step:
    return _Step(load(environment={}, feedback={"posterior_half_life_days": 3}))


def wanted(tenant: str, version: int, credits: list[Credit]) -> Posterior:
    sums = CreditSums().add([credit for credit in credits if credit.tenant == tenant])
    return Posterior(tenant, version, sums.credits, sums.newest_day, sums.posterior(3))


def test_each_window_publishes_a_version_a_tenant_with_all_credits_so_far(step: _Step) -> None:
    for version in range(1, 4):
        found = step.window(CREDITS[40 * (version - 1) : 40 * version])
        assert found == [wanted(tenant, version, CREDITS[: 40 * version]) for tenant in "ab"]


def test_a_window_is_made_again_after_a_restart_as_it_was(step: _Step) -> None:
    step.window(CREDITS[:40])
    checkpoint = dict(step.state.items())
    lost = step.window(CREDITS[40:80])
    for key, value in checkpoint.items():
        step.state.put(key, value)
    step.start()
    assert step.window(CREDITS[40:80]) == lost

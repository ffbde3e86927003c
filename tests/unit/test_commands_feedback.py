"""`tailrace counts --job feedback`: the join rate beside what became of lists, impressions and outcomes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from typer.testing import CliRunner

from schemas.redis_keys import stats_key
from tailrace.cli import app
from tailrace.commands import counts


class Store:
    """A store with the counts of two shards."""

    def hgetall(self, key: str) -> dict[str, str]:
        shards = (
            {"events": 900, "impression_joined": 600, "click_joined": 9},
            {"events": 100, "impression_joined": 398, "impression_unknown_rec_id": 1, "impression_late": 1},
        )
        known = {str(number): json.dumps({"counts": shard}) for number, shard in enumerate(shards)}
        return known if key == stats_key("feedback") else {"0": json.dumps({"counts": {"events": 1}})}


@pytest.fixture(autouse=True)
def _store(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def store(settings: Any) -> Iterator[Store]:
        yield Store()

    monkeypatch.setattr(counts, "store", store)


def test_the_join_rate_is_of_all_shards() -> None:
    done = CliRunner().invoke(app, ["counts", "--job", "feedback", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["join_rate"] == 998 / 1_000
    assert found["counts"]["impression_joined"] == 998
    text = CliRunner().invoke(app, ["counts", "--job", "feedback"]).output
    assert "99.800% of the lists that were shown" in text


def test_other_jobs_have_none() -> None:
    done = CliRunner().invoke(app, ["counts", "--json"])
    assert "join_rate" not in json.loads(done.stdout)
    assert "%" not in CliRunner().invoke(app, ["counts"]).output

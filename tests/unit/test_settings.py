"""Settings: who wins, what is refused, and that a default stands in one place."""

from __future__ import annotations

from pathlib import Path

import pytest

from flink_jobs.rank_settings import rank_settings
from flink_jobs.settings import Settings, SettingsError, load
from udfs.ranking.rank_settings import RankSettings
from udfs.user_logic import LogicSettings


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tailrace.toml"
    path.write_text("[job]\nshards = 64\nbatch_ms = 100\n[stack]\nredis_port = 7000\n", encoding="utf-8")
    return path


def test_the_file_wins_over_the_defaults(file: Path) -> None:
    settings = load(file, environment={})
    assert (settings.job.shards, settings.stack.redis_port) == (64, 7000)
    assert settings.job.bundle_size == Settings().job.bundle_size


def test_the_environment_wins_over_the_file_and_arguments_over_both(file: Path) -> None:
    variables = {"TAILRACE_JOB__SHARDS": "16", "TAILRACE_JOB__BATCH_MS": "20"}
    settings = load(file, environment=variables, job={"batch_ms": 70})
    assert (settings.job.shards, settings.job.batch_ms) == (16, 70)


def test_variables_of_others_are_left_alone() -> None:
    assert load(environment={"PATH": "/bin", "TAILRACE_RUN": "x", "OTHER_JOB__SHARDS": "1"}) == Settings()


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("[job]\nshard = 1\n", "'shards'"),
        ("[jobs]\nshards = 1\n", "'job'"),
        ("[redis]\nttl = 1\n", "'ttl_s'"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(tmp_path: Path, text: str, near: str) -> None:
    path = tmp_path / "t.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=f"did you mean {near}"):
        load(path, environment={})


def test_an_unknown_variable_is_refused() -> None:
    with pytest.raises(SettingsError, match="did you mean 'kafka_port'"):
        load(environment={"TAILRACE_STACK__KAFKAPORT": "1"})


@pytest.mark.parametrize(
    "text",
    ["[job]\nshards = 0\n", "[job]\nshards = 'many'\n", "job = 3\n", "[job\n", "[model]\ncandidates = 5\n"],
)
def test_a_bad_value_is_refused_and_the_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=r"broken\.toml"):
        load(path, environment={})


def test_a_file_that_was_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        load(tmp_path / "absent.toml", environment={})


def test_settings_cannot_be_changed_after_reading() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().job.shards = 5  # type: ignore[misc]


def test_a_password_does_not_appear_when_settings_are_printed() -> None:
    settings = load(environment={"TAILRACE_REDIS__PASSWORD": "kingfisher"})
    assert "kingfisher" not in f"{settings!r} {settings.model_dump()}"
    assert settings.redis.password.get_secret_value() == "kingfisher"


def test_the_job_and_the_logic_have_one_default_each_setting() -> None:
    job, logic = load(environment={}).job, LogicSettings()
    assert (job.session_gap_ms, job.forget_after_ms, job.shards) == logic


def test_a_deployment_that_sets_nothing_ranks_by_the_defaults_of_ranking() -> None:
    assert rank_settings(load(environment={})) == RankSettings()

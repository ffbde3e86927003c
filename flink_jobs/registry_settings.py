"""The settings section of the model registry."""

from __future__ import annotations

from pydantic import Field

from flink_jobs.settings_section import Section


class Registry(Section):
    """Where trainings, verdicts and switches are recorded, where the extra `registry` is installed."""

    uri: str = Field(
        "sqlite:///.tailrace/mlflow.db",
        description="of MLflow: a database here, or http://HOST:PORT; empty: nothing is recorded",
    )
    name: str = Field("tailrace", min_length=1, description="of the experiment and of the registered model")
    timeout_s: int = Field(5, ge=1, description="of one request to a server")

"""What happens to models, recorded in MLflow where it is installed; a record that fails stops nothing.

A bundle is one run, found by the hash of its manifest, and one version of the registered model. The alias `candidate`
is on the version that passed the gate last, `serving` on the one that was switched to, `former` on the one before.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flink_jobs.registry_settings import Registry
from udfs.model.gate import Verdict
from udfs.model.manifest import Manifest

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

CANDIDATE, SERVING, FORMER = "candidate", "serving", "former"
LONGEST_PARAMETER = 500
_SQLITE = "sqlite:///"


def record_training(settings: Registry, manifest: Manifest, sha256: str, folder: Path) -> bool:
    """Record a bundle: parameters, metrics and the hashes of its files; False where nothing was recorded."""

    def record(client: MlflowClient) -> None:
        run_id = _run_of(client, settings, sha256, manifest.epoch)
        known = client.get_run(run_id).data.params
        for name, value in flat({"data": manifest.data}):
            if name not in known:
                client.log_param(run_id, name, str(value)[:LONGEST_PARAMETER])
        for name, value in flat({"metrics": manifest.metrics}):
            if isinstance(value, int | float) and not isinstance(value, bool):
                client.log_metric(run_id, name.removeprefix("metrics."), float(value))
        for name, entry in manifest.files.items():
            client.set_tag(run_id, f"sha256.{name}", entry.sha256)
        client.set_tag(run_id, "model_version", manifest.model_version)
        client.set_tag(run_id, "folder", str(folder.resolve()))
        _version_of(client, settings, run_id, sha256)

    return _try(settings, record)


def record_verdict(settings: Registry, verdict: Verdict) -> bool:
    """Record what the gate said, and name the candidate if it passed."""

    def record(client: MlflowClient) -> None:
        run_id = _run_of(client, settings, verdict.manifest_sha256, verdict.epoch)
        for check in verdict.checks:
            if check.value is not None:
                client.log_metric(run_id, f"gate.{check.name}", check.value)
        client.set_tag(run_id, "gate", "passed" if verdict.passed else "; ".join(verdict.failures()))
        version = _version_of(client, settings, run_id, verdict.manifest_sha256)
        if verdict.passed:
            client.set_registered_model_alias(settings.name, CANDIDATE, version)

    return _try(settings, record)


def record_switch(settings: Registry, sha256: str, epoch: int, action: str) -> bool:
    """Record that a bundle serves now, by a promotion, a canary or a rollback."""

    def record(client: MlflowClient) -> None:
        run_id = _run_of(client, settings, sha256, epoch)
        version = _version_of(client, settings, run_id, sha256)
        client.set_tag(run_id, "switched_by", action)
        before = client.get_registered_model(settings.name).aliases.get(SERVING)
        if before is not None and str(before) != version:
            client.set_registered_model_alias(settings.name, FORMER, str(before))
        client.set_registered_model_alias(settings.name, SERVING, version)

    return _try(settings, record)


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted names and leaves.

    Examples
    --------
    >>> list(flat({"a": {"b": 1, "c": None}, "d": 2}))
    [('a.b', 1), ('d', 2)]
    """
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        elif value is not None:
            yield f"{prefix}{name}", value


def _try(settings: Registry, record: Callable[[MlflowClient], None]) -> bool:
    """Run a record; a registry that is down, full or not there is told in a line, and no more."""
    if not settings.uri:
        return False
    for name, value in _environment(settings).items():
        os.environ.setdefault(name, value)
    try:
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError:
        return False
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    try:
        if settings.uri.startswith(_SQLITE):
            Path(settings.uri.removeprefix(_SQLITE)).parent.mkdir(parents=True, exist_ok=True)
        record(MlflowClient(tracking_uri=settings.uri, registry_uri=settings.uri))
    except (MlflowException, SQLAlchemyError, OSError) as error:
        print(f"not recorded in {settings.uri}: {type(error).__name__}: {error!s:.200}", file=sys.stderr)
        return False
    return True


def _environment(settings: Registry) -> dict[str, str]:
    return {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(settings.timeout_s),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def _run_of(client: MlflowClient, settings: Registry, sha256: str, epoch: int) -> str:
    """Return the run of a bundle, made if there is none."""
    found = client.get_experiment_by_name(settings.name)
    if found is None:
        place = None
        if settings.uri.startswith(_SQLITE):  # else a folder `mlruns` in the working folder
            place = Path(settings.uri.removeprefix(_SQLITE)).with_suffix(".artifacts").resolve().as_uri()
        experiment = client.create_experiment(settings.name, artifact_location=place)
    else:
        experiment = found.experiment_id
    runs = client.search_runs([experiment], f"tags.manifest_sha256 = '{sha256}'", max_results=1)
    if runs:
        return str(runs[0].info.run_id)
    run = client.create_run(
        experiment, tags={"manifest_sha256": sha256, "epoch": str(epoch)}, run_name=f"epoch {epoch}"
    )
    client.set_terminated(run.info.run_id)
    return str(run.info.run_id)


def _version_of(client: MlflowClient, settings: Registry, run_id: str, sha256: str) -> str:
    """Return the version of the registered model that is a run's bundle, made if there is none."""
    if not client.search_registered_models(f"name = '{settings.name}'"):
        client.create_registered_model(settings.name)
    for version in client.search_model_versions(f"run_id = '{run_id}'"):
        if version.name == settings.name:
            return str(version.version)
    made = client.create_model_version(
        settings.name, f"runs:/{run_id}/bundle", run_id, tags={"manifest_sha256": sha256}
    )
    return str(made.version)

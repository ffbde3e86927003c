"""The one place that runs a job: `flink run -pym flink_jobs.submit -pyfs CODE ... recommend [SETTINGS.toml]`.

`package_code` gathers what a job ships: its own packages. Everything else is the documented environment of the
workers (deploy/README.md).
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from pyflink.datastream import StreamExecutionEnvironment

from flink_jobs import recommend
from flink_jobs.settings import Settings, load

JOBS: dict[str, Callable[[Settings], StreamExecutionEnvironment]] = {"recommend": recommend.build}
SHIPPED = ("schemas", "udfs", "flink_jobs")
SHIPPED_SUFFIXES = (".py", ".avsc", ".lua", ".uids", ".json")


def package_code(target: Path) -> Path:
    """Copy the packages that a job ships into `target/<content hash>/`.

    Returns
    -------
    Path
        The folder to give as `-pyfs`; the same content gives the same folder.
    """
    root = Path(__file__).resolve().parent.parent
    files = sorted(
        path
        for package in SHIPPED
        for path in (root / package).rglob("*")
        if path.suffix in SHIPPED_SUFFIXES and "__pycache__" not in path.parts
    )
    digest = hashlib.sha256()
    for path in files:
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    folder = target / digest.hexdigest()[:16]
    if not folder.is_dir():
        building = folder.with_suffix(".new")
        shutil.rmtree(building, ignore_errors=True)
        for path in files:
            copy = building / path.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        building.rename(folder)
    return folder


def shipped_settings(settings: Settings) -> Settings:
    """Give the settings that travel with the job: paths made absolute, secrets left to the workers' environment."""
    model = settings.model.model_copy(update={"root": settings.model.root.resolve()})
    redis = settings.redis.model_copy(update={"password": None})
    return settings.model_copy(update={"model": model, "redis": redis})


def main(arguments: Sequence[str] | None = None) -> None:
    """Build the named job and hand it to the cluster that `flink run` speaks to."""
    parser = argparse.ArgumentParser(prog="flink_jobs.submit", description=main.__doc__)
    # Positional: `flink run` takes an option like --job for the beginning of its own --jobmanager.
    parser.add_argument("job", choices=sorted(JOBS))
    parser.add_argument("settings", nargs="?", help="a tailrace.toml; else the defaults and the environment")
    given = parser.parse_args(arguments)
    JOBS[given.job](shipped_settings(load(given.settings))).execute(given.job)


if __name__ == "__main__":
    main()

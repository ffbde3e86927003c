"""The one place that runs a job: `flink run -pym flink_jobs.submit -pyfs CODE ... JOB [SETTINGS.toml] [KEY=VALUE]`.

CODE is made by `shipped_code.package_code`: our own packages. Everything else is the documented environment of the
workers (deploy/README.md).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from pyflink.datastream import StreamExecutionEnvironment

from flink_jobs import federate, feedback, learn, recommend, similarity
from flink_jobs.settings import Settings, load

JOBS: dict[str, Callable[[Settings], StreamExecutionEnvironment]] = {
    "recommend": recommend.build,
    "similarity": similarity.build,
    "federate": federate.build,
    "feedback": feedback.build,
    "learn": learn.build,
}


def shipped_settings(settings: Settings) -> Settings:
    """Give the settings that travel with the job: paths made absolute, secrets left to the workers' environment."""
    model = settings.model.model_copy(update={"root": settings.model.root.resolve()})
    redis = settings.redis.model_copy(update={"password": None})
    federated = settings.federate.model_copy(update={"noise_key": None})
    return settings.model_copy(update={"model": model, "redis": redis, "federate": federated})


def main(arguments: Sequence[str] | None = None) -> None:
    """Build the named job and hand it to the cluster that `flink run` speaks to."""
    parser = argparse.ArgumentParser(prog="flink_jobs.submit", description=main.__doc__)
    # Positional: `flink run` takes an option like --job for the beginning of its own --jobmanager.
    parser.add_argument("job", choices=sorted(JOBS))
    parser.add_argument(
        "settings",
        nargs="*",
        help="a tailrace.toml; else the defaults and the environment. section.key=value wins over both",
    )
    given = parser.parse_args(arguments)
    JOBS[given.job](shipped_settings(chosen_settings(given.settings))).execute(given.job)


def chosen_settings(words: Sequence[str]) -> Settings:
    """Read a file's settings, and `section.key=value` above them.

    Examples
    --------
    >>> chosen_settings(["feedback.parallelism=3"]).feedback.parallelism
    3
    """
    overrides: dict[str, dict[str, str]] = {}
    files = []
    for word in words:
        name, is_value, value = word.partition("=")
        section, _, key = name.partition(".")
        if is_value:
            overrides.setdefault(section, {})[key] = value
        else:
            files.append(word)
    return load(files[0] if files else None, **overrides)


if __name__ == "__main__":
    main()

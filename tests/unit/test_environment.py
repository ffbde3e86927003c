"""The installed set and the lock: what keeps PyFlink 2.3 whole."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import pytest

from tailrace.doctor.packages import LIMITS, check_packages, satisfies

LOCK = Path(__file__).parents[2] / "requirements.lock"


def locked_versions() -> dict[str, str]:
    return dict(
        re.findall(r"^([a-z0-9][a-z0-9._-]*)==([^\s;\\]+)", LOCK.read_text(encoding="utf-8"), re.MULTILINE)
    )


def test_beam_and_redis_are_installed_at_their_pins() -> None:
    assert version("apache-beam") == "2.61.0"
    assert satisfies(version("redis"), "<6")


@pytest.mark.parametrize("package", [name for name in LIMITS if name != "setuptools"])
def test_the_lock_keeps_each_limit(package: str) -> None:
    assert satisfies(locked_versions()[package], LIMITS[package])


def test_the_lock_has_hashes_and_no_addresses() -> None:
    text = LOCK.read_text(encoding="utf-8")
    assert text.count("--hash=sha256:") >= len(locked_versions())
    assert "://" not in text


def test_the_lock_has_one_onnxruntime() -> None:
    assert len({"onnxruntime", "onnxruntime-gpu"} & set(locked_versions())) == 1


def test_this_environment_has_no_package_error() -> None:
    assert [finding.what for finding in check_packages() if finding.severity == "error"] == []

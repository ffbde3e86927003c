"""The jars of the local stack: fetched once, each checked against the SHA-256 in `jars.lock`."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tailrace.errors import ExitCode, UserError

LOCK_FILE = Path(__file__).with_name("jars.lock")
JarSet = Literal["kafka", "flink"]
Progress = Callable[[str], None]
_ATTEMPTS = 3
_STREAMS = 6


@dataclass(frozen=True)
class Jar:
    """One jar and the bytes it must have.

    Parameters
    ----------
    group, artifact, version
        Its Maven coordinate.
    sha256
        Of the file, in hexadecimal.
    size_bytes
        Of the file.
    """

    group: str
    artifact: str
    version: str
    sha256: str
    size_bytes: int

    @property
    def coordinate(self) -> str:
        """`group:artifact:version`."""
        return f"{self.group}:{self.artifact}:{self.version}"

    @property
    def file_name(self) -> str:
        """As the repository and the cache name it."""
        return f"{self.artifact}-{self.version}.jar"


def locked_jars(jar_set: JarSet, lock_file: Path = LOCK_FILE) -> list[Jar]:
    """Read one set of the lock, in its order."""
    tree = tomllib.loads(lock_file.read_text(encoding="utf-8"))[jar_set]
    return [Jar(*coordinate.split(":"), **bytes_) for coordinate, bytes_ in tree.items()]


def jar_folder(cache: Path) -> Path:
    """Where the checked jars stand."""
    return cache / "jars"


def missing_jars(cache: Path, jars: Iterable[Jar]) -> list[Jar]:
    """Return the jars that the cache does not hold; a look at names and sizes, not at bytes."""
    folder = jar_folder(cache)
    return [jar for jar in jars if not _has_size(folder / jar.file_name, jar.size_bytes)]


def damaged_jars(cache: Path, jars: Iterable[Jar]) -> list[Jar]:
    """Return the jars in the cache whose bytes are not those of the lock."""
    folder = jar_folder(cache)
    return [
        jar
        for jar in jars
        if (folder / jar.file_name).is_file() and _sha256(folder / jar.file_name) != jar.sha256
    ]


def fetch_jars(cache: Path, jars: Iterable[Jar], progress: Progress = lambda line: None) -> list[Path]:
    """Return the paths of all jars, fetching those that the cache lacks.

    A jar enters the cache only after its bytes were checked, so a start with a full cache neither reads the
    bytes again nor uses the network.

    Raises
    ------
    UserError
        TR-110 where a jar cannot be fetched, TR-111 where its bytes are not those of the lock.
    """
    wanted = list(jars)
    absent = missing_jars(cache, wanted)
    folder = jar_folder(cache)
    if absent:
        folder.mkdir(parents=True, exist_ok=True)
        progress(f"fetching {len(absent)} jars, {sum(jar.size_bytes for jar in absent) / 1e6:.0f} MB")
        with (
            tempfile.TemporaryDirectory(prefix="fetch-", dir=cache) as staging,
            ThreadPoolExecutor(_STREAMS) as pool,
        ):
            fetched_bytes = 0
            shown = 0
            for jar in pool.map(lambda jar: _fetch(jar, Path(staging), folder), absent):
                fetched_bytes += jar.size_bytes
                if fetched_bytes - shown > 8e6:
                    shown = fetched_bytes
                    progress(f"fetched {fetched_bytes / 1e6:.0f} MB, last {jar.file_name}")
    return [folder / jar.file_name for jar in wanted]


def check_jar(jar: Jar, file: Path) -> None:
    """Compare a file's bytes with the lock.

    Raises
    ------
    UserError
        TR-111 where they differ.
    """
    got = _sha256(file)
    if got != jar.sha256:
        raise UserError(
            "TR-111",
            f"{jar.coordinate}: wanted SHA-256 {jar.sha256}, got {got} ({file.stat().st_size:,} bytes)",
            "a proxy or mirror served another file, or the download was cut; the file was not kept",
            "tailrace up   (it fetches again; if it persists, ask who runs the mirror)",
            ExitCode.ENVIRONMENT,
        )


def _fetch(jar: Jar, staging: Path, folder: Path) -> Jar:
    file = _local_copy(jar, staging) or _download(jar, staging)
    check_jar(jar, file)
    file.replace(folder / jar.file_name)
    return jar


def _local_copy(jar: Jar, staging: Path) -> Path | None:
    """Copy the jar from the user's own Maven repository if it is there with the right bytes."""
    path = (
        Path.home()
        / ".m2"
        / "repository"
        / Path(*jar.group.split("."))
        / jar.artifact
        / jar.version
        / jar.file_name
    )
    if not _has_size(path, jar.size_bytes) or _sha256(path) != jar.sha256:
        return None
    return Path(shutil.copy(path, staging / jar.file_name))


def _download(jar: Jar, staging: Path) -> Path:
    # Imported here: only a start with an incomplete cache needs them.
    import requests
    from jgo.maven import MavenContext

    for attempt in range(1, _ATTEMPTS + 1):
        context = MavenContext(repo_cache=staging / f"{jar.artifact}-{attempt}", local_repos=[], timeout=30)
        artifact = context.project(jar.group, jar.artifact).at_version(jar.version).artifact()
        try:
            return Path(artifact.resolve())
        except (requests.RequestException, RuntimeError, OSError) as error:
            failure = error
    raise UserError(
        "TR-110",
        f"{jar.coordinate}: cannot be fetched after {_ATTEMPTS} attempts: {failure}",
        "no way to the Maven repository from this machine, or a proxy in between",
        f"check the network, or put the file at {folder_hint(jar)}",
        ExitCode.ENVIRONMENT,
    )


def folder_hint(jar: Jar) -> str:
    """Where a user without network may put the jar."""
    return f"<stack.cache>/jars/{jar.file_name} (SHA-256 {jar.sha256})"


def _has_size(path: Path, size_bytes: int) -> bool:
    return path.is_file() and path.stat().st_size == size_bytes


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

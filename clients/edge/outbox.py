"""Updates on their way: the exact bytes, on disk before the first send, the same at every further one.

Noise that is drawn anew for each attempt averages away: an update that claims epsilon 1 and is sent ten times with
fresh noise costs 3.6. So nothing here is ever computed twice.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from clients.edge.device_state import write_whole


class Waiting(NamedTuple):
    """One update to send."""

    name: str
    value: bytes


class Outbox:
    """A folder of updates.

    Parameters
    ----------
    folder
        Made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def put(self, name: str, value: bytes) -> None:
        """Store an update.

        Raises
        ------
        FileExistsError
            If one of this name is there: it would have been computed twice.
        """
        path = self._path(name)
        if path.exists():
            raise FileExistsError(f"{path}: an update is stored once; send the one that is there")
        write_whole(path, value)

    def waiting(self) -> list[Waiting]:
        """What is to be sent, by name."""
        return [Waiting(path.stem, path.read_bytes()) for path in sorted(self._folder.glob("*.update"))]

    def delivered(self, name: str) -> None:
        """Forget an update that the brokers have."""
        self._path(name).unlink(missing_ok=True)

    def destroy(self) -> int:
        """Delete all that waits, as when consent is taken back. Returns how many."""
        found = [*self._folder.glob("*.update"), *self._folder.glob("*.new")]
        for path in found:
            path.unlink(missing_ok=True)
        return len(found)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.update"

"""What a line knows of its open cohort under masks, and what a step of it made."""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

from schemas.records import EdgeCohort, EdgeModel
from schemas.refusal import Refused
from udfs.federate.line_state import LineState
from udfs.federate.secure_message import JOIN

FORMAT: Final = 2
"""Format 1 had no echoes; it is read as a cohort that has none."""


class SecureCohort(NamedTuple):
    """What a line knows of its open cohort, beside the running sum and the head's users and digests.

    Attributes
    ----------
    number
        Counts the line's cohorts.
    awaits
        Which message is due, of `secure_message.PHASES`.
    since_ms
        Time of the phase's first message, or of its announcement; None: nobody has joined.
    members
        User keys in the order of joining.
    keys
        `secure_message.KEY_BYTES` of each: share key and mask key.
    shared, masked
        Numbers of the members that did.
    echoes
        Number to its tags of who remains: `TAG_BYTES` for each member.
    openings
        Number to what it opened: `FIELD_BYTES` for each member.
    """

    number: int = 0
    awaits: str = JOIN
    since_ms: int | None = None
    members: tuple[str, ...] = ()
    keys: tuple[bytes, ...] = ()
    shared: tuple[int, ...] = ()
    masked: tuple[int, ...] = ()
    openings: tuple[tuple[int, bytes], ...] = ()
    echoes: tuple[tuple[int, bytes], ...] = ()

    @property
    def threshold_of_members(self) -> int:
        """More than two thirds, so that two stories about who is gone cannot both be believed."""
        return 2 * len(self.members) // 3 + 1

    def encode(self) -> bytes:
        """Versioned bytes: JSON, at most 220 KiB for `MAX_SECURE_MEMBERS`.

        Examples
        --------
        >>> cohort = SecureCohort(3, "opening", 5, ("a/b",), (bytes(512),), (0,), (0,), ((0, b"x"),))
        >>> SecureCohort.decode(cohort.encode()) == cohort
        True
        """
        tree = {
            **self._asdict(),
            "format": FORMAT,
            "keys": [key.hex() for key in self.keys],
            "openings": [[number, opened.hex()] for number, opened in self.openings],
            "echoes": [[number, tags.hex()] for number, tags in self.echoes],
        }
        return json.dumps(tree, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, blob: bytes) -> SecureCohort:
        """Read a blob.

        Raises
        ------
        ValueError
            For another format.
        """
        tree: dict[str, Any] = json.loads(blob)
        if tree.pop("format", None) not in (1, FORMAT):
            raise ValueError(f"secure cohort: wanted format {FORMAT}")
        tree["keys"] = tuple(bytes.fromhex(key) for key in tree["keys"])
        for name in ("openings", "echoes"):
            tree[name] = tuple((number, bytes.fromhex(blob)) for number, blob in tree.get(name, ()))
        for name in ("members", "shared", "masked"):
            tree[name] = tuple(tree[name])
        return cls(**tree)


class SecureStep(NamedTuple):
    """What a message, or the passing of time, made.

    Attributes
    ----------
    cohort, state
        The next ones. `state.sums` has the running sum of the masked numbers, modulo 2^64.
    told
        What to tell the members, in order.
    released
        The version, if the cohort was opened.
    refused
        Why the message was not taken.
    counts
        Names of counters to raise by one.
    """

    cohort: SecureCohort
    state: LineState
    told: tuple[EdgeCohort, ...] = ()
    released: EdgeModel | None = None
    refused: Refused | None = None
    counts: tuple[str, ...] = ()

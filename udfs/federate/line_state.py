"""One model line between two releases: the cohort that gathers, its sums by base version, and the model."""

from __future__ import annotations

from hashlib import sha256
from struct import Struct
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from udfs.privacy.fixed_point import FixedPointSum

FORMAT: Final = 1
HEAD_FORMAT: Final = 2
"""Format 1 did not keep `newest_ms`; no job has ever written it."""
USER_BYTES: Final = 16
DIGEST_BYTES: Final = 32

_HEAD: Final = Struct("<BxHIqqqII")
_SUM: Final = Struct("<BxxxIII")


class LineHead(NamedTuple):
    """What is known of a line without its numbers.

    Attributes
    ----------
    version
        The newest released.
    clips
        Clips of the newest versions, oldest first, the last that of `version`.
    opened_ms
        Event time of the cohort's oldest contribution; None: it is empty.
    within
        Contributions that needed no clipping, in a line whose clip adapts. Private until noise is in it.
    bases
        Base version and how many of the cohort start from it, in order of version.
    users
        16-byte names of the cohort's users.
    digests
        32-byte names of its updates, in the same order.
    newest_ms
        Event time of the cohort's newest contribution: like `opened_ms` the same in whatever order they came.
    """

    version: int
    clips: tuple[float, ...]
    opened_ms: int | None = None
    within: int = 0
    bases: tuple[tuple[int, int], ...] = ()
    users: bytes = b""
    digests: bytes = b""
    newest_ms: int = 0

    @property
    def contributions(self) -> int:
        """Size of the cohort."""
        return len(self.digests) // DIGEST_BYTES

    @property
    def cohort_digest(self) -> bytes:
        """Name of the cohort, 32 bytes: the same in whatever order its updates came."""
        names = sorted(
            self.digests[at : at + DIGEST_BYTES] for at in range(0, len(self.digests), DIGEST_BYTES)
        )
        return sha256(b"".join(names)).digest()

    def clip_of(self, base_version: int) -> float | None:
        """Return the clip that contributions from a version have; None if it is not among those kept."""
        place = len(self.clips) - 1 - (self.version - base_version)
        return self.clips[place] if 0 <= place < len(self.clips) else None

    def joined(self, base_version: int, at_ms: int, user: bytes, digest: bytes) -> LineHead:
        """Give the head with one contribution more.

        Examples
        --------
        >>> head = LineHead(3, (1.0,)).joined(2, 17, bytes(16), bytes(32)).joined(3, 9, bytes(16), bytes(32))
        >>> head.opened_ms, head.newest_ms, head.bases, head.contributions
        (9, 17, ((2, 1), (3, 1)), 2)
        """
        counts = dict(self.bases)
        counts[base_version] = counts.get(base_version, 0) + 1
        return self._replace(
            opened_ms=at_ms if self.opened_ms is None else min(self.opened_ms, at_ms),
            newest_ms=at_ms if self.opened_ms is None else max(self.newest_ms, at_ms),
            bases=tuple(sorted(counts.items())),
            users=self.users + user,
            digests=self.digests + digest,
        )

    def encode(self) -> bytes:
        """Versioned bytes: 48 a contribution beside some 40.

        Examples
        --------
        >>> head = LineHead(3, (1.0, 0.5), 17, 1, ((2, 1),), bytes(16), bytes(32))
        >>> LineHead.decode(head.encode()) == head
        True
        """
        return b"".join(
            (
                _HEAD.pack(
                    HEAD_FORMAT,
                    len(self.clips),
                    self.contributions,
                    self.version,
                    -1 if self.opened_ms is None else self.opened_ms,
                    self.newest_ms,
                    self.within,
                    len(self.bases),
                ),
                np.array(self.clips, "<f8").tobytes(),
                np.array(self.bases, "<i8").tobytes(),
                self.users,
                self.digests,
            )
        )

    @classmethod
    def decode(cls, blob: bytes) -> LineHead:
        """Read a blob.

        Raises
        ------
        ValueError
            For bytes of another format, or of another length than they say.
        """
        _check_format("line head", blob, HEAD_FORMAT)
        _, n_clips, n, version, opened_ms, newest_ms, within, n_bases = _HEAD.unpack_from(blob)
        at_bases = _HEAD.size + 8 * n_clips
        at_users = at_bases + 16 * n_bases
        at_digests = at_users + USER_BYTES * n
        if len(blob) != at_digests + DIGEST_BYTES * n:
            raise ValueError(f"line head: wanted {at_digests + DIGEST_BYTES * n} bytes, got {len(blob)}")
        clips = np.frombuffer(blob, "<f8", n_clips, _HEAD.size).tolist()
        pairs = np.frombuffer(blob, "<i8", 2 * n_bases, at_bases).reshape(-1, 2).tolist()
        return cls(
            version,
            tuple(clips),
            None if opened_ms == -1 else opened_ms,
            within,
            tuple((base, count) for base, count in pairs),
            blob[at_users:at_digests],
            blob[at_digests:],
            newest_ms,
        )


class KeptRows(NamedTuple):
    """Single contributions of the cohort, in the order of the head's digests; only for rules that vote.

    Attributes
    ----------
    bases
        int64 (n,): base version of each.
    units
        int64 (n, d)
    """

    bases: NDArray[np.int64]
    units: NDArray[np.int64]

    @classmethod
    def empty(cls, dimension: int) -> KeptRows:
        """None of them."""
        return cls(np.zeros(0, np.int64), np.zeros((0, dimension), np.int64))

    def added(self, more: KeptRows) -> KeptRows:
        """These, then more."""
        return KeptRows(np.concatenate([self.bases, more.bases]), np.concatenate([self.units, more.units]))

    def encode(self) -> bytes:
        """Versioned bytes: 8 a number and a contribution beside 16.

        Examples
        --------
        >>> blob = KeptRows(np.array([3, 4]), np.array([[1, 2], [-3, 4]])).encode()
        >>> len(blob), KeptRows.decode(blob).units.tolist(), KeptRows.decode(blob).bases.tolist()
        (64, [[1, 2], [-3, 4]], [3, 4])
        """
        count, dimension = self.units.shape
        numbers = self.bases.astype("<i8").tobytes() + self.units.astype("<i8").tobytes()
        return _SUM.pack(FORMAT, count, dimension, 0) + numbers

    @classmethod
    def decode(cls, blob: bytes) -> KeptRows:
        """Read a blob.

        Raises
        ------
        ValueError
            For bytes of another format, or of another length than they say.
        """
        _check_format("kept contributions", blob)
        _, count, dimension, _ = _SUM.unpack_from(blob)
        wanted = _SUM.size + 8 * count * (1 + dimension)
        if len(blob) != wanted:
            raise ValueError(f"kept contributions: wanted {wanted} bytes, got {len(blob)}")
        numbers = np.frombuffer(blob, "<i8", offset=_SUM.size).astype(np.int64)
        return cls(numbers[:count], numbers[count:].reshape(count, dimension))


class LineState(NamedTuple):
    """A line with its numbers. A job keeps the parts apart: head, model, and a sum a base version.

    Attributes
    ----------
    head
        Without numbers.
    weights
        float64 (d,): the newest model.
    sums
        Base version to the sum of what starts from it. Stale ones are weighted at release, not before, so that
        sums of masked or encrypted contributions could be weighted as well.
    kept
        Single contributions, where the rule of the line votes on them; then there are no sums. None: none.
    """

    head: LineHead
    weights: NDArray[np.float64]
    sums: dict[int, FixedPointSum]
    kept: KeptRows | None = None


def first_state(weights: NDArray[np.float64], clip_norm: float) -> LineState:
    """Return version 0 of a line."""
    return LineState(LineHead(0, (clip_norm,)), np.asarray(weights, np.float64), {})


def encode_sum(partial: FixedPointSum) -> bytes:
    """Versioned bytes of a partial sum: 8 a number beside 16.

    Examples
    --------
    >>> blob = encode_sum(FixedPointSum(2, np.array([5, -7])))
    >>> decode_sum(blob).total.tolist(), decode_sum(blob).contributions
    ([5, -7], 2)
    """
    size = partial.total.size
    return _SUM.pack(FORMAT, partial.contributions, size, 0) + partial.total.astype("<i8").tobytes()


def decode_sum(blob: bytes) -> FixedPointSum:
    """Read `encode_sum`.

    Raises
    ------
    ValueError
        For bytes of another format, or of another length than they say.
    """
    _check_format("partial sum", blob)
    _, contributions, size, _ = _SUM.unpack_from(blob)
    if len(blob) != _SUM.size + 8 * size:
        raise ValueError(f"partial sum: wanted {_SUM.size + 8 * size} bytes, got {len(blob)}")
    return FixedPointSum(contributions, np.frombuffer(blob, "<i8", size, _SUM.size).astype(np.int64))


def _check_format(what: str, blob: bytes, wanted: int = FORMAT) -> None:
    if blob[:1] != bytes([wanted]):
        raise ValueError(f"{what}: wanted format {wanted}, got {blob[:1].hex() or 'nothing'}")

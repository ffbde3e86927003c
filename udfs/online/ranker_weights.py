"""The weights of the learnt ranker: a record that travels, and the scores that they give."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

_HEADER = struct.Struct(">4sB8sQHH")
_MAGIC, _FORMAT = b"TRWT", 1
_MOST_FEATURES, _MOST_HIDDEN = 1_024, 512


class WeightsError(ValueError):
    """Bytes that are no weights of this ranker; the text says what was wanted and what came."""


@dataclass(frozen=True)
class RankerWeights:
    """A linear score and a layer of H rectified units beside it, over F features.

    Parameters
    ----------
    version
        Rises with every step of the learner.
    values
        float32 (F + F·H + H,): linear, inner (F, H) row by row, outer.
    features, hidden
        F and H.
    fingerprint
        8 bytes of the feature list: weights of one list are never used with another.
    """

    version: int
    values: NDArray[np.float32]
    features: int
    hidden: int
    fingerprint: bytes

    @classmethod
    def fresh(cls, names: tuple[str, ...], hidden: int, seed: int = 0) -> RankerWeights:
        """Return the weights to begin with: every score is nearly 0."""
        random, features = np.random.default_rng(seed), len(names)
        inner = random.normal(0.0, (1.0 / features) ** 0.5, features * hidden)
        values = np.concatenate([np.zeros(features), inner, random.normal(0.0, 0.1, hidden)])
        return cls(0, values.astype(np.float32), features, hidden, fingerprint(names))

    def parts(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Return views of linear (F,), inner (F, H) and outer (H,)."""
        return split(self.values, self.features, self.hidden)

    def scores(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the scores of candidates: float32 (Q, N) from float32 (Q, N, F)."""
        return self.scores_and_hidden(features)[0]

    def scores_and_hidden(
        self, features: NDArray[np.float32], out: NDArray[np.float32] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the scores, and the hidden units (Q·N, H) that the gradient needs, in `out` if it is given."""
        linear, inner, outer = self.parts()
        flat = features.reshape(-1, self.features)
        hidden = np.matmul(flat, inner, out=out)
        np.maximum(hidden, 0.0, out=hidden)
        scores: NDArray[np.float32] = (flat @ linear + hidden @ outer).reshape(features.shape[:2])
        return scores, hidden

    def encode(self) -> bytes:
        """Return a header (magic, format, fingerprint, version, F, H) and little-endian float32 values."""
        header = _HEADER.pack(_MAGIC, _FORMAT, self.fingerprint, self.version, self.features, self.hidden)
        return header + self.values.astype("<f4").tobytes()

    @classmethod
    def decode(cls, data: bytes, names: tuple[str, ...]) -> RankerWeights:
        """Read what `encode` wrote, for the ranker with these features.

        Raises
        ------
        WeightsError
            If they are no weights, belong to another feature list, are cut, or are not finite.
        """
        if len(data) < _HEADER.size:
            raise WeightsError(f"weights: wanted at least {_HEADER.size} bytes, got {len(data)}")
        magic, form, mark, version, features, hidden = _HEADER.unpack_from(data)
        if (magic, form) != (_MAGIC, _FORMAT):
            raise WeightsError(f"weights: wanted {_MAGIC!r} format {_FORMAT}, got {magic!r} format {form}")
        if mark != fingerprint(names) or features != len(names):
            raise WeightsError("weights: learnt for another list of features")
        if features > _MOST_FEATURES or hidden > _MOST_HIDDEN:
            raise WeightsError(
                f"weights: {features} features and {hidden} hidden units are more than is allowed"
            )
        wanted = 4 * (features + features * hidden + hidden)
        if len(data) - _HEADER.size != wanted:
            raise WeightsError(f"weights: wanted {wanted} bytes of values, got {len(data) - _HEADER.size}")
        values = np.frombuffer(data, "<f4", offset=_HEADER.size).astype(np.float32)
        if not np.isfinite(values).all():
            raise WeightsError("weights: a value is not finite")
        return cls(version, values, features, hidden, mark)


def split(
    values: NDArray[np.float32], features: int, hidden: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return views of linear (F,), inner (F, H) and outer (H,) of one flat array."""
    inner_end = features + features * hidden
    return values[:features], values[features:inner_end].reshape(features, hidden), values[inner_end:]


def fingerprint(names: tuple[str, ...]) -> bytes:
    """Return 8 bytes that two different feature lists do not share.

    Examples
    --------
    >>> fingerprint(("a", "b")) == fingerprint(("a", "b")) != fingerprint(("b", "a"))
    True
    """
    return sha256("\n".join(names).encode()).digest()[:8]

"""Sums of encrypted heads: devices encrypt, an aggregator adds what it cannot read, a key holder opens sums alone.

**Threat model** The aggregator has the public context and learns nothing of a head. The key holder has the secret
key, must be somebody else, and sees sums: it opens none of fewer than `cohort_min` heads, which it counts by a number
that every head carries. An aggregator that does not follow the protocol could multiply one head and pass the count,
and the two together can read everything. A decrypted CKKS sum tells a little of the key's noise, so what is published
must hold noise of its own: shares of it are on the devices in distributed mode.

Wants TenSEAL (the extra `encryption`). A head has at most `MAX_DIMENSION` numbers: one ciphertext, some 128 KiB.

Source: Cheon et al., "Homomorphic Encryption for Arithmetic of Approximate Numbers" (2017); Li, Micciancio (2021) on
publishing decryptions.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

try:
    import tenseal
except ImportError:  # said where it is needed
    tenseal = None

SLOTS: Final = 4_096
MAX_DIMENSION: Final = SLOTS - 1
MODULUS_DEGREE: Final = 8_192
MODULUS_BITS: Final = (60, 60)
"""Two primes: sums need no multiplication, and a third would double a ciphertext."""
SCALE: Final = 2.0**40
ERROR: Final = 1e-5
"""How far a number of a sum of some hundred heads may lie from the exact one."""


class EncryptionError(ValueError):
    """What cannot be encrypted, added or opened, and why."""


class Keys(NamedTuple):
    """Both contexts.

    Attributes
    ----------
    public
        For devices and aggregator.
    secret
        For the key holder and nobody else.
    """

    public: bytes
    secret: bytes


def make_keys() -> Keys:
    """Draw new keys; one pair a model line, made by the key holder."""
    context = _library().context(_library().SCHEME_TYPE.CKKS, MODULUS_DEGREE, -1, list(MODULUS_BITS))
    context.global_scale = SCALE
    kept = {"save_galois_keys": False, "save_relin_keys": False}
    return Keys(
        context.serialize(save_public_key=True, save_secret_key=False, **kept),
        context.serialize(save_public_key=True, save_secret_key=True, **kept),
    )


def encrypt(values: NDArray[np.float64], public: bytes) -> bytes:
    """Encrypt one head, as the device sends it.

    Parameters
    ----------
    values
        float64 (d,), clipped and with the device's share of noise.
    public
        Context without the secret key.

    Raises
    ------
    EncryptionError
        For more numbers than a ciphertext has room for, or numbers that are not finite.
    """
    if values.ndim != 1 or not 1 <= values.size <= MAX_DIMENSION or not np.isfinite(values).all():
        raise EncryptionError(
            f"head: wanted 1 to {MAX_DIMENSION} finite numbers in a row, got shape {values.shape}"
        )
    counted = [*values.tolist(), 1.0]
    ciphertext: bytes = _library().ckks_vector(_open(public), counted).serialize()
    return ciphertext


class EncryptedSum:
    """What the aggregator keeps: a ciphertext.

    Parameters
    ----------
    public
        Context without the secret key.

    Raises
    ------
    EncryptionError
        For a context that could decrypt: an aggregator must not have one.
    """

    def __init__(self, public: bytes) -> None:
        self._context = _open(public)
        if self._context.is_private():
            raise EncryptionError("context: wanted the public one; the secret key is the key holder's alone")
        self._total: Any = None
        self._size = 0

    def add(self, ciphertext: bytes) -> None:
        """Add one head.

        Raises
        ------
        EncryptionError
            For bytes that are no ciphertext of this context, or of another number of numbers.
        """
        try:
            head = _library().ckks_vector_from(self._context, ciphertext)
        except (ValueError, RuntimeError) as error:
            raise EncryptionError(f"ciphertext: cannot be read: {error}") from error
        if self._total is not None and head.size() != self._size:
            raise EncryptionError(f"ciphertext: wanted {self._size - 1} numbers, got {head.size() - 1}")
        self._size = head.size()
        self._total = head if self._total is None else self._total + head

    def ciphertext(self) -> bytes:
        """The sum as the key holder gets it.

        Raises
        ------
        EncryptionError
            Where nothing was added.
        """
        if self._total is None:
            raise EncryptionError("sum: nothing was added")
        total: bytes = self._total.serialize()
        return total


class KeyHolder:
    """Opens sums, and no head.

    Parameters
    ----------
    secret
        Context with the secret key.
    cohort_min
        Fewest heads in a sum that is opened.
    """

    def __init__(self, secret: bytes, cohort_min: int) -> None:
        self._context = _open(secret)
        self._cohort_min = cohort_min

    def open(self, ciphertext: bytes) -> tuple[int, NDArray[np.float64]]:
        """Give how many heads are in a sum, and the sum, float64 (d,).

        Raises
        ------
        EncryptionError
            For fewer heads than `cohort_min`; nothing is told then.
        """
        values = np.array(_library().ckks_vector_from(self._context, ciphertext).decrypt())
        count = round(float(values[-1]))
        if count < self._cohort_min:
            raise EncryptionError(f"sum: wanted {self._cohort_min} heads or more, got {count}")
        return count, values[:-1]


def _open(context: bytes) -> Any:
    return _library().context_from(context)


def _library() -> Any:
    if tenseal is None:
        raise EncryptionError("TenSEAL is not installed: uv pip install 'tailrace[encryption]'")
    return tenseal

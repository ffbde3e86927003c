"""Ciphertexts that are added unread: their form, what can be checked of it, and their sum.

A CKKS ciphertext that nothing is ever multiplied with is two polynomials modulo one prime, and the sum of two is the
sum of their coefficients. So whoever adds needs neither a key nor the library that made them: `clients.edge.ckks`
encrypts and opens, here is what lies between. Coefficients stand as they are, 8 bytes each, uncompressed: they look
like random bits, and a reader of random bits should be simple.

**Exact.** What is encrypted are whole numbers of at most 2^15, and a one that counts the head. A sum of `MAX_HEADS`
is below 2^25, times `SCALE` below 2^50, and half the modulus is 2^53: nothing wraps around. The error of a slot after
as many sums has a deviation of about a thousandth, and rounding takes it away: the opened sum is that of the numbers,
the same whatever the order, and says nothing of the key's noise.

Source: Cheon, Kim, Kim, Song, "Homomorphic Encryption for Arithmetic of Approximate Numbers" (2017), section 3; Li,
Micciancio, "On the Security of Homomorphic Encryption on Approximate Numbers" (2021) on what inexact sums give away;
Albrecht et al., "Homomorphic Encryption Standard" (2018), table 1: 128 bits of security at degree 4,096 and 109 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from schemas.refusal import Refused
from udfs.privacy.client_update import PrivateUpdate
from udfs.privacy.quantise import WIDTHS, Quantiser, quantiser
from udfs.privacy.terms import Terms

DEGREE: Final = 4_096
PRIME_BITS: Final = (54, 54)
"""Two primes, the second for keys alone: sums need no multiplication, and each one more would double a ciphertext."""
MODULUS: Final = 18_014_398_509_293_569
"""The first of them."""
SCALE: Final = 2.0**25
MAX_DIMENSION: Final = DEGREE // 2 - 1
"""Numbers of a head: a slot each, and one for the count."""
MAX_HEADS: Final = 1_024
NUMBER_BITS: Final = 16
CIPHERTEXT_BYTES: Final = 2 * DEGREE * 8
BITS: Final = 64
"""Bits a coefficient, as an encrypted update says."""
LEAST_STEPS: Final = 16.0
"""Least noise of a device, in steps of its quantiser: rounding then does not show in the sum's noise."""

Ciphertext = NDArray[np.uint64]


def number_quantiser(terms: Terms) -> Quantiser:
    """How a device's numbers become whole ones before they are encrypted.

    Examples
    --------
    >>> from udfs.privacy.terms import Mode
    >>> number_quantiser(Terms(Mode.DISTRIBUTED, 1.0, 4.0, 1e-5, 16)).step
    8192
    """
    return quantiser(terms.clip_norm, terms.device_sigma, NUMBER_BITS)


def encrypted(
    made: PrivateUpdate, encrypt: Callable[[NDArray[np.signedinteger[Any]]], bytes]
) -> PrivateUpdate:
    """What may leave the device, with its numbers encrypted.

    Parameters
    ----------
    made
        Quantised as `number_quantiser` says.
    encrypt
        Of `clients.edge.ckks.HeadEncryption`.
    """
    return made._replace(payload=encrypt(np.frombuffer(made.payload, WIDTHS[made.bits])), bits=BITS)


def read_ciphertext(payload: bytes) -> Ciphertext:
    """Read a ciphertext without opening it, uint64 (2 `DEGREE`,).

    Raises
    ------
    Refused
        `wrong_shape` for another length; `bad_value` for a coefficient beyond the modulus.

    Examples
    --------
    >>> read_ciphertext(bytes(CIPHERTEXT_BYTES)).shape
    (8192,)
    """
    if len(payload) != CIPHERTEXT_BYTES:
        raise Refused(
            "wrong_shape", f"payload: wanted a ciphertext of {CIPHERTEXT_BYTES} bytes, got {len(payload)}"
        )
    coefficients = np.frombuffer(payload, "<u8")
    if int(coefficients.max()) >= MODULUS:
        raise Refused("bad_value", f"ciphertext: wanted coefficients below {MODULUS}")
    return coefficients


def add_ciphertexts(total: Ciphertext | None, more: Ciphertext) -> Ciphertext:
    """Return the sum of two ciphertexts; None: of nothing.

    Examples
    --------
    >>> one = np.full(2, MODULUS - 1, np.uint64)
    >>> (MODULUS - add_ciphertexts(one, one)).tolist(), add_ciphertexts(None, one) is one
    ([2, 2], True)
    """
    if total is None:
        return more
    summed = total + more  # below 2^55
    reduced: Ciphertext = np.minimum(
        summed, summed - np.uint64(MODULUS)
    )  # what is below it wraps to the far end
    return reduced

"""CKKS keys, heads that devices encrypt, and sums that the key holder opens, with TenSEAL.

Between the two nobody needs a key or this library: ciphertexts are added as `udfs.federate.ciphertext` says.

**Threat model** The job has no key at all and learns nothing of a head. The key holder has the secret key, must be
somebody else, and is given sums alone. Job and key holder together can read every head; what then still protects a
user is the noise that the device put in, all of it in local mode, a share in distributed mode. The public key must
come to devices from the key holder, not from the job: a job that hands out keys of its own reads everything. Anybody
may encrypt, so nothing here says who did.

Wants TenSEAL (the extra `encryption`).

Source: Benaissa, Retiat, Cebere, Belfedhal, "TenSEAL: A Library for Encrypted Tensor Operations Using Homomorphic
Encryption" (2021); the scheme's are in `udfs.federate.ciphertext`.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from struct import Struct, pack
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from udfs.federate.ciphertext import (
    CIPHERTEXT_BYTES,
    DEGREE,
    MAX_DIMENSION,
    MODULUS,
    NUMBER_BITS,
    PRIME_BITS,
    SCALE,
    read_ciphertext,
)

try:
    import tenseal
    from tenseal import sealapi
except ImportError:  # said where it is needed
    tenseal = None

_SIZE: Final = Struct("<I")
_LARGEST: Final = (1 << (NUMBER_BITS - 1)) - 1


class EncryptionError(ValueError):
    """A key, head or sum that cannot be used, and why."""


class Keys(NamedTuple):
    """Both keys of a line.

    Attributes
    ----------
    public
        For devices.
    secret
        For the key holder and nobody else; it has the public one in front.
    """

    public: bytes
    secret: bytes

    @property
    def name(self) -> str:
        """What settings and records call the pair."""
        return key_name(self.public)


def key_name(public: bytes) -> str:
    """SHA-256 of a public key in hexadecimal: as `encryption_key` of a line has it.

    Examples
    --------
    >>> key_name(b"key")[:8]
    '2c70e12b'
    """
    return sha256(public).hexdigest()


def make_keys() -> Keys:
    """Draw a new pair; one a model line, drawn by the key holder."""
    context = _library().context(_library().SCHEME_TYPE.CKKS, DEGREE, -1, list(PRIME_BITS))
    context.global_scale = SCALE
    public = _bytes(context, False)
    return Keys(public, _SIZE.pack(len(public)) + public + _bytes(context, True))


class HeadEncryption:
    """Encrypts heads on a device.

    Parameters
    ----------
    public
        Of the line, from the key holder.

    Attributes
    ----------
    name
        `key_name` of it.

    Raises
    ------
    EncryptionError
        For bytes that are no public key of ours.
    """

    def __init__(self, public: bytes) -> None:
        context = _context(public, False)
        self.name = key_name(public)
        parts = context.seal_context().data
        self._encoder = sealapi.CKKSEncoder(parts)
        self._encryptor = sealapi.Encryptor(parts, context.public_key().data)

    def encrypt(self, numbers: NDArray[np.integer]) -> bytes:
        """Encrypt one head; each time other bytes.

        Parameters
        ----------
        numbers
            Whole numbers of `udfs.federate.ciphertext.NUMBER_BITS` bits, (d,), clipped and noised.

        Returns
        -------
        bytes
            `udfs.federate.ciphertext.CIPHERTEXT_BYTES`.

        Raises
        ------
        EncryptionError
            For more or larger numbers than a ciphertext has room for.
        """
        if (
            numbers.ndim != 1
            or not 1 <= numbers.size <= MAX_DIMENSION
            or int(np.abs(numbers).max()) > _LARGEST
        ):
            raise EncryptionError(
                f"head: wanted 1 to {MAX_DIMENSION} whole numbers of at most {_LARGEST} in a row, "
                f"got shape {numbers.shape}"
            )
        plain, made = sealapi.Plaintext(), sealapi.Ciphertext()
        self._encoder.encode([*map(float, numbers.tolist()), 1.0], SCALE, plain)
        self._encryptor.encrypt(plain, made)
        coefficients = made.dyn_array()
        found = np.fromiter(map(coefficients.at, range(2 * DEGREE)), "<u8", 2 * DEGREE)
        return found.tobytes()


class SumOpening:
    """Opens sums of heads; whether one may be opened is `udfs.federate.opened_sum`'s.

    Parameters
    ----------
    secret
        Of the line.

    Attributes
    ----------
    name
        `key_name` of the pair.

    Raises
    ------
    EncryptionError
        For bytes that are no secret key of ours.
    """

    def __init__(self, secret: bytes) -> None:
        size = _SIZE.size + int.from_bytes(secret[: _SIZE.size], "little")
        context = _context(secret[size:], True)
        self.name = key_name(secret[_SIZE.size : size])
        self._parts = context.seal_context().data
        self._encoder = sealapi.CKKSEncoder(self._parts)
        self._decryptor = sealapi.Decryptor(self._parts, context.secret_key().data)

    def open(self, ciphertext: bytes, dimension: int) -> NDArray[np.int64]:
        """Give the sum of the heads' whole numbers and of their ones, int64 (d + 1,).

        Raises
        ------
        EncryptionError
            For bytes that are no ciphertext.
        """
        read_ciphertext(ciphertext)
        plain = sealapi.Plaintext()
        self._decryptor.decrypt(self._loaded(ciphertext), plain)
        slots = np.array(self._encoder.decode_double(plain)[: dimension + 1])
        return np.rint(slots).astype(np.int64)

    def _loaded(self, ciphertext: bytes) -> Any:
        """Give the coefficients to the library, which reads ciphertexts from files of its own form alone."""
        found = sealapi.Ciphertext()
        with TemporaryDirectory() as folder:
            path = Path(folder) / "sum"
            found.save(str(path))
            front = path.read_bytes()[:5]  # its mark and version
            numbers = _framed(front, pack("<Q", CIPHERTEXT_BYTES // 8) + ciphertext)
            form = pack("<4Q?QQQdQ", *self._parts.first_parms_id(), True, 2, DEGREE, 1, SCALE, 1)
            path.write_bytes(_framed(front, form + numbers))
            try:
                found.load(self._parts, str(path))
            except (ValueError, RuntimeError) as error:
                raise EncryptionError(f"ciphertext: cannot be read: {error}") from error
        return found


def _framed(front: bytes, body: bytes) -> bytes:
    """Bytes under a header that says that they are not compressed, and how many there are."""
    return front + bytes(3) + pack("<Q", 16 + len(body)) + body


def _context(key: bytes, is_secret: bool) -> Any:
    """Read a key.

    Raises
    ------
    EncryptionError
        For bytes that are none, the other key, or one of other parameters.
    """
    try:
        context = _library().context_from(key)
        primes = context.seal_context().data.first_context_data().parms().coeff_modulus()
    except (ValueError, RuntimeError, TypeError) as error:
        raise EncryptionError(f"key: cannot be read: {error}") from error
    if [prime.value() for prime in primes] != [MODULUS]:
        raise EncryptionError(f"key: wanted the modulus {MODULUS}; make a new pair: tailrace fed key new")
    if context.is_private() != is_secret:
        wanted = "secret" if is_secret else "public"
        raise EncryptionError(f"key: wanted the {wanted} one, got the other")
    return context


def _bytes(context: Any, is_secret: bool) -> bytes:
    made: bytes = context.serialize(
        save_public_key=True, save_secret_key=is_secret, save_galois_keys=False, save_relin_keys=False
    )
    return made


def _library() -> Any:
    if tenseal is None:
        raise EncryptionError("TenSEAL is not installed: uv pip install 'tailrace[encryption]'")
    return tenseal

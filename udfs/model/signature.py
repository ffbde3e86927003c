"""Who vouches for a bundle: an Ed25519 signature over its manifest, which names every other file by its hash.

Source: RFC 8032.
"""

from collections.abc import Sequence

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from udfs.model.refusal import BundleRefused

SIGNATURE = "manifest.sig"
SIGNATURE_BYTES = 64
_KEY_BYTES = 32
_CONTEXT = b"tailrace bundle manifest\0"  # a signature of anything else by the same key is none of a bundle
VERDICT_CONTEXT = b"tailrace gate verdict\0"


class KeyFormatError(ValueError):
    """A text or file that is no Ed25519 key; the text says what was wanted."""


def public_key_of(private_pem: bytes) -> str:
    """Return the public key that belongs to a private one, as 64 hexadecimal digits."""
    return _private(private_pem).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()


def sign(private_pem: bytes, manifest: bytes, context: bytes = _CONTEXT) -> bytes:
    """Return the signature of a manifest's bytes, or of a verdict's with its context, 64 bytes.

    Raises
    ------
    KeyFormatError
        For a file that holds no Ed25519 private key.
    """
    return _private(private_pem).sign(context + manifest)


def parse_public_key(text: str) -> bytes:
    """Return the 32 bytes of a public key written as `public_key_of` writes it.

    Raises
    ------
    KeyFormatError
    """
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != _KEY_BYTES:
        raise KeyFormatError(f"public key: wanted {2 * _KEY_BYTES} hexadecimal digits, got {text!r:.80}")
    return key


def check_signature(
    trusted_keys: Sequence[str], manifest: bytes, signature: bytes | None, context: bytes = _CONTEXT
) -> None:
    """Refuse a manifest, or a verdict, that none of the trusted keys has signed; with no keys, anything goes.

    Raises
    ------
    BundleRefused
        ``signature``.
    KeyFormatError
        For a trusted key that is none.
    """
    if not trusted_keys:
        return
    if signature is None:
        raise BundleRefused("signature", f"no {SIGNATURE}; sign it: tailrace models sign EPOCH --key FILE")
    for text in trusted_keys:
        try:
            Ed25519PublicKey.from_public_bytes(parse_public_key(text)).verify(signature, context + manifest)
        except InvalidSignature:
            continue
        return
    raise BundleRefused("signature", f"{SIGNATURE}: by none of the {len(trusted_keys)} trusted keys")


def _private(pem: bytes) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise KeyFormatError(
            f"private key: wanted an Ed25519 key as PEM without a password: {error}"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFormatError(f"private key: wanted Ed25519, got {type(key).__name__}")
    return key

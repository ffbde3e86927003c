"""Key files, and the signature that lies in a bundle's folder."""

from __future__ import annotations

import os
from pathlib import Path

from tailrace.errors import UserError
from udfs.model.manifest import MANIFEST


def new_private_key() -> bytes:
    """Give a new Ed25519 private key as PEM."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def write_new_key(file: Path) -> str:
    """Write a private key that only its owner can read; give the public one.

    Raises
    ------
    UserError
        TR-356 when the file exists: a key that is overwritten is lost.
    """
    from udfs.model.signature import public_key_of

    private = new_private_key()
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise UserError(
            "TR-356", f"{file} exists", "a key was made before", "give another name, or use that key"
        ) from error
    with os.fdopen(handle, "wb") as out:
        out.write(private)
    return public_key_of(private)


def sign_bundle(folder: Path, key_file: Path) -> str:
    """Write the signature of a bundle; give the public key it is checked with.

    Raises
    ------
    UserError
        TR-350 when there is no bundle, TR-357 when the file holds no key.
    """
    from udfs.model.signature import SIGNATURE, KeyFormatError, public_key_of, sign

    private = key_file.read_bytes()
    try:
        manifest = (folder / MANIFEST).read_bytes()
        signature, public = sign(private, manifest), public_key_of(private)
    except FileNotFoundError as error:
        raise UserError(
            "TR-350",
            f"there is no bundle {folder}",
            "it was not trained here",
            "tailrace models ls; tailrace train",
        ) from error
    except KeyFormatError as error:
        raise UserError(
            "TR-357",
            f"{key_file}: {error}",
            "the file is another key, or has a password",
            "tailrace models keygen FILE",
        ) from error
    building = folder.parent / f".{folder.name}-{SIGNATURE}"
    building.write_bytes(signature)
    building.rename(folder / SIGNATURE)
    return public

"""Ids: how tenant and user make a Kafka key, and how ids become the hashes that state keeps."""

from __future__ import annotations

import re
from typing import Final

from xxhash import xxh3_64_intdigest

from schemas.refusal import Refused

MAX_ID_BYTES: Final = 128

_ESCAPES: Final = {"%": "%25", "{": "%7B", "}": "%7D", "/": "%2F"}
_TO_ESCAPE: Final = re.compile(r"[%{}/]")
_ESCAPED: Final = re.compile(r"%(25|7B|7D|2F)")
_UNESCAPES: Final = {"25": "%", "7B": "{", "7D": "}", "2F": "/"}
_PERCENT_LEFT: Final = re.compile(r"%(?!25|7B|7D|2F)")
# Control characters of Unicode's category Cc, and halves of surrogate pairs, which UTF-8 cannot carry.
_FORBIDDEN: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
# Printable ASCII of a good length: nearly every id, told by one match.
plain_id: Final = re.compile(r"[ -~]{1,128}").fullmatch


def check_id(name: str, value: str) -> None:
    """Refuse an id that cannot stand in keys and logs.

    Parameters
    ----------
    name
        The field, for the message.
    value
        Wanted: 1 to 128 bytes of UTF-8 without control characters.

    Raises
    ------
    Refused
        `bad_id`.
    """
    if plain_id(value) is None:
        _check_id_slowly(name, value)


def _check_id_slowly(name: str, value: str) -> None:
    found = _FORBIDDEN.search(value)
    if found is not None:
        raise Refused(
            "bad_id", f"{name}: wanted no control characters, got U+{ord(found[0]):04X} at {found.start()}"
        )
    size = len(value.encode())
    if not 1 <= size <= MAX_ID_BYTES:
        raise Refused("bad_id", f"{name}: wanted 1 to {MAX_ID_BYTES} bytes of UTF-8, got {size}")


def escape_id(value: str) -> str:
    """Percent-encode what has a meaning in keys: ``%``, ``{``, ``}`` and ``/``.

    Examples
    --------
    >>> escape_id("a/{b}%")
    'a%2F%7Bb%7D%25'
    """
    return _TO_ESCAPE.sub(lambda found: _ESCAPES[found[0]], value)


def user_key(tenant: str, user_id: str) -> str:
    """Kafka key of a user's records: tenant, a slash, user, each percent-encoded.

    Examples
    --------
    >>> user_key("default", "u1"), user_key("default", "a/b")
    ('default/u1', 'default/a%2Fb')
    """
    return f"{escape_id(tenant)}/{escape_id(user_id)}"


def split_user_key(key: str) -> tuple[str, str]:
    """Tenant and user of a key made by `user_key`.

    Raises
    ------
    Refused
        `key_mismatch` for a text that `user_key` cannot make.

    Examples
    --------
    >>> split_user_key("default/a%2Fb")
    ('default', 'a/b')
    """
    parts = key.split("/")
    if len(parts) != 2 or "{" in key or "}" in key or ("%" in key and _PERCENT_LEFT.search(key)):
        raise Refused(
            "key_mismatch", f"key: wanted tenant/user with % {{ }} / percent-encoded, got {key[:300]!r}"
        )
    tenant, user_id = parts
    if "%" in key:
        tenant, user_id = (_ESCAPED.sub(lambda found: _UNESCAPES[found[1]], part) for part in parts)
    return tenant, user_id


def item_hash(item_id: str) -> int:
    """Hash by which state and bundles name an item: uint64, never 0.

    Examples
    --------
    >>> item_hash("item-1")
    12172481486005482930
    """
    return xxh3_64_intdigest(item_id) or 1


def category_hash(category: str) -> int:
    """Hash by which state and bundles name a category: uint32, never 0."""
    return (xxh3_64_intdigest(category) & 0xFFFF_FFFF) or 1


def event_hash(event_id: str) -> bytes:
    """Six bytes by which state remembers an event it has seen."""
    return (xxh3_64_intdigest(event_id) & 0xFFFF_FFFF_FFFF).to_bytes(6, "little")

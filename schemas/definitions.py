"""The .avsc files: today's and every released version, read once at import, found by fingerprint.

A schema never comes from a message or from the network, so a message cannot bring a recursive one or one
whose arrays have elements of no bytes; `tests/unit/test_codec.py` checks that none of ours is such.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any, Final, NamedTuple

from fastavro.schema import fingerprint, to_parsing_canonical_form

from schemas.records import MESSAGES

Node = Any  # a JSON value: name of a type, record, enum, array or map as dict, or union as list

CURRENT: Final = 0  # version of the files that this code is written for; releases count from 1


class Definition(NamedTuple):
    """One schema in one version.

    Parameters
    ----------
    name
        Of the record, e.g. ``Event``.
    version
        Release number, or `CURRENT`.
    schema
        The parsed JSON.
    fingerprint
        CRC-64-AVRO of the canonical form, little endian: 8 bytes as in the single-object header.
    """

    name: str
    version: int
    schema: Node
    fingerprint: bytes


def define(schema: Node, version: int = CURRENT) -> Definition:
    """A definition of a parsed .avsc."""
    mark = fingerprint(to_parsing_canonical_form(schema), "CRC-64-AVRO")
    return Definition(schema["name"], version, schema, bytes.fromhex(mark))


def _read_folder(folder: resources.abc.Traversable, version: int) -> list[Definition]:
    return [
        define(json.loads(file.read_text(encoding="utf-8")), version)
        for file in sorted(folder.iterdir(), key=lambda entry: entry.name)
        if file.name.endswith(".avsc")
    ]


def _read_all() -> tuple[dict[str, Definition], dict[int, dict[str, Definition]]]:
    folder = resources.files("schemas")
    current = {definition.name: definition for definition in _read_folder(folder, CURRENT)}
    if set(current) != set(MESSAGES):
        raise RuntimeError(
            f"schemas/*.avsc hold {sorted(current)}, schemas.records.MESSAGES {sorted(MESSAGES)}"
        )
    released = {
        int(entry.name): {definition.name: definition for definition in _read_folder(entry, int(entry.name))}
        for entry in (folder / "released").iterdir()
        if entry.name.isdigit()
    }
    return current, dict(sorted(released.items()))


# TODAY: record name -> definition. RELEASED: release -> record name -> definition.
TODAY, RELEASED = _read_all()


def by_fingerprint() -> dict[bytes, Definition]:
    """Every schema whose bytes are read, today's winning over a released one that is equal."""
    known = {entry.fingerprint: entry for release in RELEASED.values() for entry in release.values()}
    known.update({entry.fingerprint: entry for entry in TODAY.values()})
    return known

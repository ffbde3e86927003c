"""Whether today's schemas may be released: they read every released one, and it reads them.

Evolution is by defaults only. Both directions count: jobs read old topics, and jobs of the last release run
beside the new ones while a deployment rolls.
"""

from __future__ import annotations

from typing import Final

from schemas.definitions import RELEASED, TODAY, Node

_WIDER: Final = {
    "int": {"int", "long"},
    "float": {"float", "double"},
}


def check(reader: Node, writer: Node, where: str = "") -> list[str]:
    """Why `reader` cannot read all that `writer` writes; empty if it can.

    Avro's resolution rules, less the promotions that change the Python type; `schemas.decoder` does what
    passes here.

    Examples
    --------
    >>> check("long", "int"), check("int", "long", "Item.n")
    ([], ['Item.n: a reader of int cannot read long'])
    """
    if isinstance(writer, list):
        return [trouble for branch in writer for trouble in check(reader, branch, where)]
    if isinstance(reader, list):
        found = [check(branch, writer, where) for branch in reader]
        if any(not troubles for troubles in found):
            return []
        same = [
            troubles for branch, troubles in zip(reader, found, strict=True) if _kind(branch) == _kind(writer)
        ]
        return (
            same[0]
            if same
            else [f"{where}: no branch of {[_kind(node) for node in reader]} reads {_kind(writer)}"]
        )
    reader_kind, writer_kind = _kind(reader), _kind(writer)
    if reader_kind not in _WIDER.get(writer_kind, {writer_kind}):
        return [f"{where}: a reader of {reader_kind} cannot read {writer_kind}"]
    if reader_kind in ("record", "enum") and reader["name"] != writer["name"]:
        return [f"{where}: a reader of {reader['name']} cannot read {writer['name']}"]
    if reader_kind == "record":
        return _check_record(reader, writer)
    if reader_kind == "enum":
        lost = [symbol for symbol in writer["symbols"] if symbol not in reader["symbols"]]
        return (
            [f"{where}: symbols {lost} are unknown and {reader['name']} has no default"]
            if (lost and "default" not in reader)
            else []
        )
    if reader_kind in ("array", "map"):
        part = "items" if reader_kind == "array" else "values"
        return check(reader[part], writer[part], f"{where}.{part}")
    return []


def _check_record(reader: Node, writer: Node) -> list[str]:
    written = {field["name"]: field for field in writer["fields"]}
    troubles = []
    for field in reader["fields"]:
        where = f"{reader['name']}.{field['name']}"
        if field["name"] in written:
            troubles += check(field["type"], written[field["name"]]["type"], where)
        elif "default" not in field:
            troubles.append(f"{where}: has no default and is not in what is read")
    return troubles


def _kind(node: Node) -> str:
    return str(node["type"] if isinstance(node, dict) else node)


def check_release() -> list[str]:
    """Every trouble between today's schemas and all released ones, both ways; empty if there is none."""
    troubles = []
    for release, definitions in RELEASED.items():
        for name, old in definitions.items():
            if name not in TODAY:
                troubles.append(f"{name}: was released in {release} and is gone")
                continue
            new = TODAY[name]
            troubles += [
                f"release {release} read by today's: {text}" for text in check(new.schema, old.schema)
            ]
            troubles += [
                f"today's read by release {release}: {text}" for text in check(old.schema, new.schema)
            ]
    return troubles

"""Avro encoders written out per schema, the other direction of `schemas.decoder`.

The generated function is `encode(record) -> list of bytes`, the parts of the body. It is quick to fail and
says little; `explain` then finds the field.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from schemas.definitions import Definition, Node
from schemas.records import Record
from schemas.refusal import Refused

Encode = Callable[[Record], list[bytes]]

# What a generated function raises for a record whose fields are not of the schema's types.
ENCODE_ERRORS: Final = (AttributeError, TypeError, ValueError, KeyError, OverflowError, struct.error)

_INT_LIMIT: Final = 1 << 31
_LONG_LOW: Final = -(1 << 63)
_LONG_HIGH: Final = (1 << 63) - 1
_PYTHON_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "string": (str,),
    "bytes": (bytes, bytearray),
    "int": (int,),
    "long": (int,),
    "double": (int, float),
    "boolean": (bool,),
}
_SMALL: Final = tuple(bytes([2 * number]) for number in range(64))


def write_long(value: int) -> bytes:
    """A signed integer of at most 64 bits, zigzag-coded."""
    if not _LONG_LOW <= value <= _LONG_HIGH:
        raise OverflowError(f"{value} has more than 64 bits")
    rest = (value << 1) ^ (value >> 63)
    out = bytearray()
    while rest > 127:
        out.append(rest & 127 | 128)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def write_int(value: int) -> bytes:
    """A signed integer of at most 32 bits, zigzag-coded."""
    if not -_INT_LIMIT <= value < _INT_LIMIT:
        raise OverflowError(f"{value} has more than 32 bits")
    return write_long(value)


def write_bytes(value: bytes) -> bytes:
    """Length and content."""
    size = len(value)
    return (_SMALL[size] if size < 64 else write_long(size)) + value


def write_text(value: str) -> bytes:
    """Length in bytes and UTF-8."""
    return write_bytes(value.encode())


def compile_encoder(definition: Definition) -> Encode:
    """A function that writes today's record."""
    constants: dict[str, Any] = {
        "write_long": write_long,
        "write_int": write_int,
        "write_bytes": write_bytes,
        "write_text": write_text,
        "pack_double": struct.Struct("<d").pack,
        "small": _SMALL,
    }
    lines = ["def encode(record):", "    out = []", "    put = out.append"]
    _emit_record(lines, constants, 1, definition.schema, "record")
    lines.append("    return out")
    exec(compile("\n".join(lines), f"<encoder of {definition.name}>", "exec"), constants)
    encode: Encode = constants["encode"]
    return encode


def _emit_record(lines: list[str], constants: dict[str, Any], depth: int, schema: Node, source: str) -> None:
    names = [f"{source}_{number}" for number in range(len(schema["fields"]))]
    lines.append("    " * depth + f"{', '.join(names)}, = {source}")
    for field, name in zip(schema["fields"], names, strict=True):
        _emit_value(lines, constants, depth, field["type"], name)


def _emit_value(lines: list[str], constants: dict[str, Any], depth: int, node: Node, source: str) -> None:
    indent = "    " * depth
    kind = node["type"] if isinstance(node, dict) else node
    if isinstance(node, list):
        lines += [f"{indent}if {source} is None: put(b'\\0')", f"{indent}else:", f"{indent}    put(b'\\2')"]
        _emit_value(lines, constants, depth + 1, node[1], source)
    elif kind == "string":
        lines += [
            f"{indent}s = {source}.encode(); n = len(s)",
            f"{indent}if n < 64: put(small[n]); put(s)",
            f"{indent}else: put(write_bytes(s))",
        ]
    elif kind == "bytes":
        lines.append(f"{indent}put(write_bytes({source}))")
    elif kind in ("int", "long"):
        lines.append(f"{indent}put(small[{source}] if 0 <= {source} < 64 else write_{kind}({source}))")
    elif kind == "double":
        lines.append(f"{indent}put(pack_double({source}))")
    elif kind == "boolean":
        constants["boolean"] = {True: b"\1", False: b"\0"}
        lines.append(f"{indent}put(boolean[{source}])")
    elif kind == "enum":
        known = f"K{len(constants)}"
        constants[known] = {symbol: _SMALL[number] for number, symbol in enumerate(node["symbols"])}
        lines.append(f"{indent}put({known}[{source}])")
    elif kind == "record":
        _emit_record(lines, constants, depth, node, source)
    elif kind in ("array", "map"):
        lines += [f"{indent}if len({source}):", f"{indent}    put(write_long(len({source})))"]
        element = f"{source}_e"
        if kind == "array":
            lines.append(f"{indent}    for {element} in {source}:")
            _emit_value(lines, constants, depth + 2, node["items"], element)
        else:
            lines += [
                f"{indent}    for {source}_k, {element} in {source}.items():",
                f"{indent}        put(write_text({source}_k))",
            ]
            _emit_value(lines, constants, depth + 2, node["values"], element)
        lines.append(f"{indent}put(b'\\0')")
    else:
        raise ValueError(f"Avro type {kind!r} is not one that our schemas use")


def explain(schema: Node, record: Any) -> Refused:
    """Which field of a record is not what the schema wants."""
    for field, value in zip(schema["fields"], record, strict=False):
        trouble = _trouble(field["type"], value)
        if trouble is not None:
            return Refused("bad_value", f"{schema['name']}.{field['name']}: {trouble}")
    return Refused(
        "bad_value", f"{schema['name']}: wanted {len(schema['fields'])} fields, got {record!r:.200}"
    )


def _trouble(node: Node, value: Any) -> str | None:
    """What is wrong with a value, or None."""
    kind = node["type"] if isinstance(node, dict) else node
    if isinstance(node, list):
        return None if value is None else _trouble(node[1], value)
    if kind == "enum":
        return (
            None
            if value in node["symbols"]
            else f"wanted one of {', '.join(node['symbols'])}, got {value!r:.100}"
        )
    if kind == "record":
        try:
            fields = tuple(value)
        except TypeError:
            return f"wanted {node['name']}, got {value!r:.100}"
        if len(fields) != len(node["fields"]):
            return f"wanted {node['name']} of {len(node['fields'])} fields, got {value!r:.100}"
        refused = explain(node, fields)
        return None if refused.detail.startswith(f"{node['name']}: ") else refused.detail
    if kind == "array":
        if not isinstance(value, Sequence) or isinstance(value, str | bytes):
            return f"wanted a sequence, got {value!r:.100}"
        return next((text for entry in value if (text := _trouble(node["items"], entry)) is not None), None)
    if kind == "map":
        if not isinstance(value, Mapping):
            return f"wanted a mapping, got {value!r:.100}"
        parts = [(("string"), key) for key in value] + [(node["values"], entry) for entry in value.values()]
        return next((text for part, entry in parts if (text := _trouble(part, entry)) is not None), None)
    return _trouble_of_plain(str(kind), value)


def _trouble_of_plain(kind: str, value: Any) -> str | None:
    if not isinstance(value, _PYTHON_TYPES[kind]):
        return f"wanted {kind}, got {value!r:.100}"
    bits = {"int": 32, "long": 64}.get(kind)
    if bits is not None and isinstance(value, int) and not -(1 << bits - 1) <= value < 1 << bits - 1:
        return f"wanted {bits} bits, got {value}"
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            return f"wanted text that UTF-8 can carry, got {error.reason} at {error.start}"
    return None

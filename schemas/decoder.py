"""Avro decoders written out per schema, as Python source compiled once.

fastavro reads an event into a dictionary, takes a negative enum index for one counted from the end, and
believes a block count of ten million. The functions made here read straight into the record's tuple, at less
than half of its cost (docs/adr/0006 has the figures), and are strict. They rely on one fact: reading past the
end either raises IndexError or moves the position behind the end, which is checked once, at the end.

The generated function is `decode(b, i) -> record`: `b` bytes, `i` where the body starts. What the writer's
schema has and today's record has not is read and left out; what it lacks gets today's default.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

from schemas.definitions import Definition, Node
from schemas.records import MESSAGES, PARTS, Record
from schemas.refusal import Refused

Decode = Callable[[bytes, int], Record]

# What a generated function raises for bytes that are not of its schema.
DECODE_ERRORS: Final = (IndexError, KeyError, ValueError, OverflowError, MemoryError, struct.error)

_unpack_double = struct.Struct("<d").unpack_from
_unpack_float = struct.Struct("<f").unpack_from


def read_varint(b: bytes, i: int) -> tuple[int, int]:
    """A zigzag-coded varint of at most 64 bits, not yet unfolded, and where it ends."""
    value = shift = 0
    while True:
        byte = b[i]
        i += 1
        value |= (byte & 127) << shift
        if byte < 128:
            break
        shift += 7
        if shift > 63:
            raise ValueError(f"varint longer than 10 bytes at {i}")
    if value >> 64:
        raise ValueError(f"varint of more than 64 bits before {i}")
    return value, i


def read_long(b: bytes, i: int) -> tuple[int, int]:
    """A signed integer and where it ends."""
    value, i = read_varint(b, i)
    return (value >> 1) ^ -(value & 1), i


def read_length(b: bytes, i: int) -> tuple[int, int]:
    """Twice the length of a text or bytes of more than 63 bytes, and where the content starts."""
    value, i = read_varint(b, i)
    if value & 1:
        raise ValueError(f"negative length before {i}")
    return value, i


def read_block(b: bytes, i: int) -> tuple[int, int]:
    """How many elements the next block of an array or map has, 0 at its end, and where they start."""
    count, i = read_long(b, i)
    if count < 0:  # some writers put the block's size in bytes behind a negated count
        count = -count
        _, i = read_long(b, i)
    if count > len(b) - i:  # every element has at least one byte
        raise ValueError(f"block of {count} elements in {len(b) - i} bytes")
    return count, i


def refuse_end(i: int, size: int) -> Refused:
    """Why the record did not end where the bytes do."""
    if i < size:
        return Refused("trailing_bytes", f"wanted the record to end at byte {size}, it ends at {i}")
    return Refused("undecodable", f"the record wants {i} bytes, got {size}")


class _Source:
    """Lines of one function and the constants that they name."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.constants: dict[str, Any] = {
            "read_long": read_long,
            "read_length": read_length,
            "read_block": read_block,
            "refuse_end": refuse_end,
            "unpack_double": _unpack_double,
            "unpack_float": _unpack_float,
            "from_bytes": int.from_bytes,
            "new": tuple.__new__,
        }

    def add(self, depth: int, *lines: str) -> None:
        self.lines += ["    " * depth + line for line in lines]

    def constant(self, value: Any) -> str:
        name = f"K{len(self.constants)}"
        self.constants[name] = value
        return name


def compile_decoder(writer: Definition, reader: Definition) -> Decode:
    """A function that reads bytes of the writer's schema into today's record.

    Parameters
    ----------
    writer
        The schema that the bytes were written with: today's or a released one.
    reader
        Today's schema of the same record.
    """
    source = _Source()
    source.add(0, "def decode(b, i):")
    source.add(1, "size = len(b)")
    _emit_record(source, 1, writer.schema, reader.schema, "result")
    source.add(1, "if i != size: raise refuse_end(i, size)", "return result")
    code = compile("\n".join(source.lines), f"<decoder of {writer.name} {writer.version}>", "exec")
    exec(code, source.constants)
    decode: Decode = source.constants["decode"]
    return decode


def _emit_record(source: _Source, depth: int, writer: Node, reader: Node, target: str) -> None:
    """Lines that read a record at `i` into the variable `target`."""
    wanted = {field["name"]: field for field in reader["fields"]}
    variables = {}
    for number, field in enumerate(writer["fields"]):
        variable = f"{target}_{number}"
        reader_field = wanted.get(field["name"])
        if reader_field is not None:
            variables[field["name"]] = variable
        _emit_value(source, depth, field["type"], reader_field and reader_field["type"], variable)
    values = [
        variables.get(name) or _emit_default(source, field, reader["name"]) for name, field in wanted.items()
    ]
    record = source.constant(MESSAGES.get(reader["name"]) or PARTS.get(reader["name"]))
    source.add(depth, f"{target} = new({record}, ({', '.join(values)},))")


def _emit_default(source: _Source, field: Node, record: str) -> str:
    """Source of the value of a field that the writer did not know."""
    if "default" not in field:
        raise ValueError(f"{record}.{field['name']} was added without a default")
    default, kind = field["default"], field["type"]
    if kind == "bytes":
        return repr(default.encode("latin-1"))
    if isinstance(kind, dict) and kind["type"] == "array":
        return "()"
    return repr(default)  # of a map: a display, so that every record gets its own


def _emit_value(source: _Source, depth: int, writer: Node, reader: Node, target: str) -> None:
    """Lines that read one value at `i` into `target`. `reader` is None for a value that is left out."""
    if isinstance(writer, list):
        _emit_union(source, depth, writer, reader, target)
        return
    kind = writer["type"] if isinstance(writer, dict) else writer
    if isinstance(reader, list):
        reader = next((branch for branch in reader if _kind(branch) == kind), None)
    if kind in ("string", "bytes"):
        content = "b[i:j].decode()" if kind == "string" else "b[i:j]"
        source.add(
            depth,
            "n = b[i]; i += 1",
            "if n & 129: n, i = read_length(b, i - 1)",
            f"j = i + (n >> 1); {target} = {content}; i = j",
        )
    elif isinstance(writer, dict) and writer.get("logicalType") == "timestamp-millis":
        _emit_time(source, depth, target)
    elif kind in ("int", "long"):
        source.add(
            depth,
            "n = b[i]",
            f"if n < 128: {target} = (n >> 1) ^ -(n & 1); i += 1",
            f"else: {target}, i = read_long(b, i)",
        )
    elif kind in ("double", "float"):
        width = 8 if kind == "double" else 4
        source.add(depth, f"{target}, = unpack_{kind}(b, i); i += {width}")
    elif kind == "boolean":
        known = source.constant({0: False, 1: True})
        source.add(depth, f"{target} = {known}[b[i]]; i += 1")
    elif kind == "enum":
        known = source.constant(_symbols(writer, reader))
        source.add(depth, f"{target} = {known}[b[i]]; i += 1")
    elif kind == "array":
        _emit_array(source, depth, writer, reader, target)
    elif kind == "map":
        _emit_map(source, depth, writer, reader, target)
    elif kind == "record":
        _emit_record(source, depth, writer, reader or writer, target)
    else:
        raise ValueError(f"Avro type {kind!r} is not one that our schemas use")


def _kind(node: Node) -> str:
    return str(node["type"] if isinstance(node, dict) else node)


def _emit_time(source: _Source, depth: int, target: str) -> None:
    """A time: six bytes from 1970 to 2039, whose groups of 7 bits are pressed together in two steps."""
    source.add(
        depth,
        "n = from_bytes(b[i:i + 6], 'little')",
        "if n & 0x808080808081 == 0x008080808080:",
        "    n = (n & 0x7f007f007f) + ((n & 0x7f007f007f00) >> 1)",
        f"    {target} = ((n & 0x3fff) + (n >> 2 & 0xfffc000) + (n >> 4 & 0x3fff0000000)) >> 1",
        "    i += 6",
        f"else: {target}, i = read_long(b, i)",
    )


def _emit_union(source: _Source, depth: int, writer: Node, reader: Node, target: str) -> None:
    if len(writer) != 2 or writer[0] != "null":
        raise ValueError(f"our unions are null and one type, got {writer}")
    source.add(depth, "n = b[i]; i += 1", "if n == 2:")
    _emit_value(source, depth + 1, writer[1], reader, target)
    source.add(
        depth, f"elif n == 0: {target} = None", "else: raise ValueError(f'union branch {n} at {i - 1}')"
    )


def _emit_array(source: _Source, depth: int, writer: Node, reader: Node, target: str) -> None:
    count, element = f"{target}_n", f"{target}_e"
    source.add(depth, "if b[i] == 0:", f"    {target} = (); i += 1", "else:")
    depth += 1
    source.add(depth, f"{target} = []; {count}, i = read_block(b, i)", f"while {count}:")
    source.add(depth + 1, f"for _ in range({count}):")
    _emit_value(source, depth + 2, writer["items"], reader and reader["items"], element)
    source.add(depth + 2, f"{target}.append({element})")
    source.add(depth + 1, f"{count}, i = read_block(b, i)")
    source.add(depth, f"{target} = tuple({target})")


def _emit_map(source: _Source, depth: int, writer: Node, reader: Node, target: str) -> None:
    count, key, element = f"{target}_n", f"{target}_k", f"{target}_e"
    source.add(depth, f"{target} = {{}}; {count}, i = read_block(b, i)", f"while {count}:")
    source.add(depth + 1, f"for _ in range({count}):")
    _emit_value(source, depth + 2, "string", "string", key)
    _emit_value(source, depth + 2, writer["values"], reader and reader["values"], element)
    source.add(depth + 2, f"{target}[{key}] = {element}")
    source.add(depth + 1, f"{count}, i = read_block(b, i)")


def _symbols(writer: Node, reader: Node) -> dict[int, str]:
    """Byte of an enum -> symbol; one that the reader does not know becomes its default."""
    reader = writer if reader is None else reader
    if len(writer["symbols"]) > 64:
        raise ValueError(f"{writer['name']}: more symbols than one byte tells")
    return {
        2 * number: symbol if symbol in reader["symbols"] else reader["default"]
        for number, symbol in enumerate(writer["symbols"])
    }

"""Protocol Buffers' wire format, as far as reading an ONNX file needs it: a message is a list of (field, value)."""

from collections.abc import Iterator

from udfs.model.refusal import BundleRefused

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def wire_fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield (field number, value) of one message: an int for a varint, bytes for the rest.

    Raises
    ------
    BundleRefused
        ``ranker`` for bytes that are not a message.
    """
    at = 0
    while at < len(message):
        tag, at = read_varint(message, at)
        field, wire = tag >> 3, tag & 7
        if not 0 < field < 1 << 29:
            raise BundleRefused("ranker", f"ONNX: field number {field} at byte {at}")
        if wire == _VARINT:
            number, at = read_varint(message, at)
            yield field, number
            continue
        if wire == _BYTES:
            length, at = read_varint(message, at)
        elif wire in (_FIXED64, _FIXED32):
            length = 8 if wire == _FIXED64 else 4
        else:
            raise BundleRefused("ranker", f"ONNX: wire type {wire} at byte {at}")
        if at + length > len(message):
            raise BundleRefused("ranker", f"ONNX: cut short at byte {at}")
        yield field, message[at : at + length]
        at += length


def read_varint(message: memoryview, at: int) -> tuple[int, int]:
    """Return the number at a byte, unsigned, and where the next thing starts."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise BundleRefused("ranker", f"ONNX: a number cut short or too long at byte {at}")

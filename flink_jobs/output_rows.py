"""The one row type that leaves the keyed function; SQL splits it by `kind`."""

from __future__ import annotations

from pyflink.common import Types

DEAD_LETTER, SESSION, RANK, ERASE, COUNTS, PRELOAD = range(6)
"""Kinds. The first two go to topics as they are, the others to the rank UDF."""

OUTPUT_TYPE = Types.ROW_NAMED(
    ["kind", "key", "payload", "version", "at_ms", "epoch"],
    [
        Types.INT(),
        Types.STRING(),
        Types.PRIMITIVE_ARRAY(Types.BYTE()),
        Types.STRING(),
        Types.LONG(),
        Types.INT(),
    ],
)
"""kind; user key (for COUNTS topic prefix, a slash and the shard index); record or state blob; `_v`; event time
covered (ms); epoch."""

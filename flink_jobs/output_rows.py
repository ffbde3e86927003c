"""The one row type that leaves the keyed function; SQL splits it by `kind`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pyflink.common import Types

DEAD_LETTER, SESSION, RANK, ERASE, COUNTS, PRELOAD = range(6)
"""Kinds. The first two go to topics as they are, the others to the rank UDF."""

OUTPUT_TYPE = Types.ROW_NAMED(
    ["kind", "key", "payload", "version", "at_ms", "epoch", "variant"],
    [
        Types.INT(),
        Types.STRING(),
        Types.PRIMITIVE_ARRAY(Types.BYTE()),
        Types.STRING(),
        Types.LONG(),
        Types.INT(),
        Types.STRING(),
    ],
)
"""kind; user key (for COUNTS topic prefix, a slash and the shard index); record or state blob; `_v`; event time
covered (ms); epoch; `encode_variant` of a ranking, else empty."""


def encode_variant(label: str, settings: Mapping[str, Any]) -> str:
    """Give what a user's experiments change of a ranking; empty: nothing, and nothing to log.

    Examples
    --------
    >>> decode_variant(encode_variant("spread=b", {"diversity": 0.3}))
    ('spread=b', {'diversity': 0.3})
    >>> decode_variant(encode_variant("", {}))
    ('', {})
    """
    return json.dumps([label, dict(settings)], sort_keys=True) if label or settings else ""


def decode_variant(text: str) -> tuple[str, dict[str, Any]]:
    """Read what `encode_variant` gave."""
    if not text:
        return "", {}
    label, settings = json.loads(text)
    return label, settings

"""Which shard a user belongs to, in SQL and in Python, and the Flink key that gives each shard its own key group.

A shard is the unit of micro-batching: all users whose key falls into it are processed by one call. The number
of shards equals the job's max parallelism, and each shard's Flink key is chosen so that every key group holds
exactly one shard: no subtask is idle while another has two. Count and function version stand in the state and
are checked on restore, because a user who moves to another shard would lose their state.
"""

from __future__ import annotations

SHARD_FUNCTION_VERSION = 1

_MASK = 0xFFFF_FFFF
_BINARY_STRING_SEED = 42
_ROW_HASH_OFFSET = 62  # java hashCode of Row.of(INSERT, i) is 62 + i


def shard_sql(key: str, count: int) -> str:
    """Give the SQL expression of the shard index of string column `key`.

    `HASH_CODE` may be negative, and so may the absolute value of the smallest integer, hence two remainders.
    """
    return f"MOD(MOD(HASH_CODE({key}), {count}) + {count}, {count})"


def shard_of(key: str, count: int) -> int:
    """Give the shard index of a user key, as `shard_sql` does.

    Parameters
    ----------
    key
        `tenant/user`, see `schemas.ids.user_key`.
    count
        Number of shards, > 0.

    Returns
    -------
    int
        In [0, count).
    """
    return _binary_string_hash(key.encode()) % count


def shard_keys(count: int) -> list[int]:
    """Give for each shard the integer key whose Flink key group is the shard's index.

    Source: `KeyGroupRangeAssignment.assignToKeyGroup` of Flink 2.3: murmur of the key's Java hash code, modulo
    max parallelism. Pinned by golden values in the tests.
    """
    keys = [-1] * count
    missing, candidate = count, 0
    while missing:
        group = _java_murmur(_ROW_HASH_OFFSET + candidate) % count
        if keys[group] < 0:
            keys[group] = candidate
            missing -= 1
        candidate += 1
    return keys


def index_of_keys(count: int) -> dict[int, int]:
    """Return shard key → shard."""
    return {key: shard for shard, key in enumerate(shard_keys(count))}


def _signed(value: int) -> int:
    return value - 0x1_0000_0000 if value & 0x8000_0000 else value


def _rotate_left(value: int, by: int) -> int:
    return ((value << by) | (value >> (32 - by))) & _MASK


def _mix(hash_value: int, word: int) -> int:
    word = _rotate_left(word * 0xCC9E2D51 & _MASK, 15) * 0x1B873593 & _MASK
    return (_rotate_left(hash_value ^ word, 13) * 5 + 0xE6546B64) & _MASK


def _finish(hash_value: int, length: int) -> int:
    hash_value ^= length
    hash_value = (hash_value ^ (hash_value >> 16)) * 0x85EBCA6B & _MASK
    hash_value = (hash_value ^ (hash_value >> 13)) * 0xC2B2AE35 & _MASK
    return hash_value ^ (hash_value >> 16)


def _binary_string_hash(data: bytes) -> int:
    """Hash as Flink's `BinaryStringData.hashCode`: 4-byte words, then each left-over byte as a signed word."""
    aligned = len(data) - len(data) % 4
    value = _BINARY_STRING_SEED
    for start in range(0, aligned, 4):
        value = _mix(value, int.from_bytes(data[start : start + 4], "little"))
    for byte in data[aligned:]:
        value = _mix(value, byte if byte < 128 else (byte - 256) & _MASK)
    return _signed(_finish(value, len(data)))


def _java_murmur(code: int) -> int:
    """Hash as Flink's `MathUtils.murmurHash`; never negative."""
    code = _rotate_left(code * 0xCC9E2D51 & _MASK, 15) * 0x1B873593 & _MASK
    code = _rotate_left(code, 13)
    value = _signed(_finish((code * 5 + 0xE6546B64) & _MASK, 4))
    if value >= 0:
        return value
    return -value if value != -(2**31) else 0

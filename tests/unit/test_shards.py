import pytest
from hypothesis import given
from hypothesis import strategies as st

from flink_jobs.shard_record import ShardMismatchError, ShardRecord
from flink_jobs.shards import shard_keys, shard_of, shard_sql

# As Flink 2.3.0 computes them; tests/flink/test_plan.py asks the running JVM for the same.
GOLDEN_SHARDS_OF_128 = {
    "default/u1": -241981279 % 128,
    "default/12345": 1990579738 % 128,
    "a": 1485273170 % 128,
    "": 142593372 % 128,
    "tenant/ünïcode": 1593485478 % 128,
    "default/17850": 1178881880 % 128,
}


@pytest.mark.parametrize(("key", "shard"), GOLDEN_SHARDS_OF_128.items())
def test_a_user_key_has_the_shard_that_flink_gives_it(key: str, shard: int) -> None:
    assert shard_of(key, 128) == shard


def test_keys_of_shards_are_the_pinned_ones() -> None:
    assert shard_keys(8) == [3, 0, 12, 17, 1, 6, 36, 9]


@pytest.mark.parametrize("count", [1, 8, 32, 128, 1024])
def test_every_shard_has_a_key_of_its_own(count: int) -> None:
    keys = shard_keys(count)
    assert len(set(keys)) == count
    assert min(keys) >= 0


@given(st.text(max_size=40), st.integers(1, 1024))
def test_a_shard_lies_in_range(key: str, count: int) -> None:
    assert 0 <= shard_of(key, count) < count


def test_the_sql_takes_the_remainder_twice_because_a_hash_can_be_negative() -> None:
    assert shard_sql("k", 8) == "MOD(MOD(HASH_CODE(k), 8) + 8, 8)"


def test_a_shard_record_survives_its_bytes() -> None:
    record = ShardRecord(3, 32, epoch=2, control_seq=7, counts_seq=5)
    record.count("events")
    record.count("events")
    read = ShardRecord.decode(record.encode(), 3, 32)
    assert (read.epoch, read.control_seq, read.counts, read.counts_seq) == (2, 7, {"events": 2}, 5)


def test_state_of_another_shard_count_is_refused_with_both_numbers() -> None:
    with pytest.raises(ShardMismatchError, match=r"32 shards; this job has .* 64 shards"):
        ShardRecord.decode(ShardRecord(3, 32).encode(), 3, 64)

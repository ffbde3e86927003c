"""The copy to the lake while its disk is full: nothing ends, nothing is lost or doubled, and little waits."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from flink_jobs.settings import load
from model_export.lake.files import files_of, read
from schemas.topics import EVENTS
from tailrace import lake_writer
from tailrace.errors import ExitCode, UserError
from tailrace.lake_writer import AGAIN_S, LakeWriter

NOW_MS, DAY_MS, STEP = 1_760_000_000_000, 86_400_000, 10


class Message(NamedTuple):
    """A record as the client gives it."""

    number: int

    def topic(self) -> str:
        return EVENTS.name

    def partition(self) -> int:
        return 0

    def error(self) -> None:
        return None

    def offset(self) -> int:
        return self.number

    def timestamp(self) -> tuple[int, int]:
        return 1, NOW_MS + self.number * DAY_MS // 15  # a step's records are of two days

    def key(self) -> bytes:
        return b"default/u1"

    def value(self) -> bytes:
        return b"%d" % self.number


class Broker:
    """A consumer in memory that has ten more records whenever it is asked."""

    def __init__(self, _: dict[str, Any]) -> None:
        self.given = 0

    def list_topics(self, timeout: float) -> Any:
        partitions = type("Topic", (), {"partitions": {0: None}})()
        return type("Cluster", (), {"topics": {EVENTS.name: partitions}})()

    def assign(self, places: list[Any]) -> None:
        self.given = max(places[0].offset, 0)

    def consume(self, batch: int, timeout_s: float) -> list[Message]:
        self.given += STEP
        return [Message(number) for number in range(self.given - STEP, self.given)]

    def close(self) -> None:
        return


@pytest.fixture
def writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LakeWriter:
    monkeypatch.setattr(lake_writer, "Consumer", Broker)
    return LakeWriter(load(environment={}), tmp_path / "lake", [EVENTS.name], rows_a_file=STEP)


def test_a_full_disk_stops_the_reading_and_not_the_copy_and_every_record_is_there_once(
    writer: LakeWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, told, slept, calls = 0, list[str](), list[float](), 0
    write_table = lake_writer.write_run

    def write(root: Path, topic: str, records: list[Any]) -> list[Any]:
        nonlocal calls
        calls += 1
        if 3 <= calls <= 8:
            write_table(root, topic, records[:4])  # the disk is full in the middle of a run
            raise OSError(28, "No space left on device")
        return write_table(root, topic, records)

    monkeypatch.setattr(lake_writer, "write_run", write)

    def tell(records: int) -> None:
        nonlocal taken
        taken += records
        if taken >= 8 * STEP:
            raise KeyboardInterrupt

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        assert writer._consumer.given == 3 * STEP, "nothing is read while nothing can be written"
        assert max(map(len, writer._waiting.values())) <= STEP

    with pytest.raises(KeyboardInterrupt):
        writer.follow(tell, told.append, sleep)
    assert slept == [AGAIN_S] * 6
    assert [line.split(":")[0] for line in told] == ["TR-392", "the lake's disk takes files again"]
    assert "No space left" in told[0]
    writer.flush()
    kept = [record.value for record in read(files_of(tmp_path / "lake", EVENTS.name))]
    assert kept == [b"%d" % number for number in range(writer._consumer.given)]


def test_topics_of_which_there_is_none_are_named_and_not_followed_for_ever(
    writer: LakeWriter, tmp_path: Path
) -> None:
    other = load(environment={}, kafka={"topic_prefix": "shop."})
    with pytest.raises(UserError, match=f"none of these topics is there: shop.{EVENTS.name}") as failed:
        LakeWriter(other, tmp_path / "lake", [EVENTS.name])
    assert (failed.value.number, failed.value.exit_code) == ("TR-342", ExitCode.NOT_RUNNING)


def test_a_single_copy_ends_with_a_number_and_the_next_goes_on_behind_the_last_file(
    writer: LakeWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.step()
    root = tmp_path / "lake"
    away = root.rename(tmp_path / "away")
    root.write_text("not a folder")
    with pytest.raises(UserError, match="does not take a file") as failed:
        writer.run_to_end()
    assert failed.value.number == "TR-392"
    root.unlink()
    away.rename(root)
    again = LakeWriter(load(environment={}), root, [EVENTS.name], rows_a_file=STEP)
    again.step()
    kept = [record.offset for record in read(files_of(root, EVENTS.name))]
    assert kept == list(range(2 * STEP))

"""Two sources of one topology: at one place, the first one first, and each read only as far as it is wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer

from walstream.testing.readback import Readback
from walstream.testing.waiting import wait_until
from walstream.testing.worker import Worker

MakeTopic = Callable[..., str]
PARTITIONS = range(4)
OPEN, SHUT = PARTITIONS[2:], PARTITIONS[:2]
LARGE = 600_000  # bytes of a record, of which a gate lets in no more than a few


class Relayed:
    """The topics around workers that relay, and what was written."""

    def __init__(self, brokers: str, prefix: str, make_topic: MakeTopic) -> None:
        self.control, self.log, self.out, _ = (
            make_topic(name, len(PARTITIONS)) for name in ("control", "log", "out", "changelog")
        )
        self.group = f"{prefix}.relay"
        self.readback = Readback({"bootstrap.servers": brokers})
        self.written: dict[tuple[str, int], list[bytes]] = {
            (topic, number): [] for topic in (self.control, self.log) for number in PARTITIONS
        }
        self._producer = Producer({"bootstrap.servers": brokers, "linger.ms": 0, "batch.size": 1})

    def write(self, topic: str, numbers: range, *values: bytes) -> None:
        for number in numbers:
            self.written[topic, number] += values
            for value in values:
                self._producer.produce(topic, value, partition=number)
        assert self._producer.flush(20) == 0

    def relayed(self) -> dict[tuple[str, int], list[bytes]]:
        """What came out, by source and partition."""
        found: dict[tuple[str, int], list[bytes]] = {at: [] for at in self.written}
        for record in self.readback.records(self.out):
            assert record.key is not None and record.value is not None
            found[record.key.decode(), record.partition].append(record.value)
        return found

    def wait(self, expected: Callable[[], object], what: str) -> None:
        wait_until(
            expected, 40, lambda: f"{what}; committed: {self.committed(self.control)}, {self.committed(self.log)}"
        )

    def committed(self, topic: str) -> dict[int, int]:
        return self.readback.committed(self.group, topic)

    def is_done(self, topic: str, numbers: range = PARTITIONS) -> bool:
        committed = self.committed(topic)
        return all(committed.get(number, 0) == len(self.written[topic, number]) for number in numbers)

    def together(self, members: int) -> bool:
        """Whether so many members share all partitions. Those of one number are never at two of them."""
        assigned = self.readback.assigned(self.group, [self.control, self.log])
        for tps in assigned.values():
            numbers = [{number for topic, number in tps if topic == wanted} for wanted in (self.control, self.log)]
            assert numbers[0] == numbers[1], assigned
        return len([tps for tps in assigned.values() if tps]) == members and sum(map(len, assigned.values())) == 8


@pytest.fixture
def relayed(brokers: str, prefix: str, make_topic: MakeTopic) -> Relayed:
    return Relayed(brokers, prefix, make_topic)


@pytest.fixture
def workers(brokers: str, prefix: str, tmp_path: Path) -> Iterator[list[Worker]]:
    workers = []
    for name in ("one", "two"):
        environment = {"RELAY": prefix, "BROKERS": brokers, "DATADIR": str(tmp_path / name / "data")}
        workers.append(Worker("relay", tmp_path / name, environment | {"PYTHONPATH": str(Path(__file__).parent)}))
    yield workers
    for worker in workers:
        worker.stop()


def test_two_sources_of_one_number(relayed: Relayed, workers: list[Worker]) -> None:
    control, log, one, two = relayed.control, relayed.log, *workers
    relayed.write(log, PARTITIONS, *(b"%d" % number for number in range(20)))
    relayed.write(log, SHUT, *(bytes([number]) * LARGE for number in range(4)))
    relayed.write(control, PARTITIONS, *(b"%d" % number for number in range(20)))
    relayed.write(control, SHUT, b"shut")
    one.start()
    relayed.wait(lambda: relayed.is_done(control) and relayed.is_done(log, OPEN), "the controls, and the open logs")
    for number in OPEN:
        topics = [record.key for record in relayed.readback.records(relayed.out) if record.partition == number]
        assert topics == [control.encode()] * 20 + [log.encode()] * 20, "the controls came first"

    two.start()
    relayed.wait(lambda: relayed.together(2), "both workers have partitions")
    relayed.write(control, PARTITIONS, b"one more")
    relayed.wait(lambda: relayed.is_done(control), "controls go on beside a log that is not wanted")
    assert [relayed.committed(log).get(number, 0) for number in SHUT] == [0, 0], "and the log is left alone"

    one.kill()
    relayed.write(log, PARTITIONS, b"last")
    relayed.write(control, SHUT, b"open")
    one.start()
    relayed.wait(lambda: relayed.is_done(control) and relayed.is_done(log), "everything")
    relayed.wait(lambda: relayed.together(2), "both workers have partitions again")
    assert relayed.relayed() == relayed.written, "each once, in order"
    assert (one.terminate(), two.terminate()) == (0, 0), one.tail() + two.tail()

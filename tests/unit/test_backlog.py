"""What waits at a target, as people see it; and how a target does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from walstream import blocked, marks, schedule, stored, topics
from walstream.attempt import retry_message
from walstream.backlog import Backlog
from walstream.blocked import Blocked, State
from walstream.entry import Entry
from walstream.headers import Header, log_headers
from walstream.marks import Counts, Halted
from walstream.namespace import Namespace
from walstream.scan import Found
from walstream.status import Health
from walstream.testing.raw_batch import record_on_wire
from walstream.wire import plain

NAMESPACE = Namespace.model_validate(
    {"version": 1, "namespace": "n", "topics": {"partitions": 2}, "targets": {"t": {"sink": "kafka"}}}
)
NOW = 1_795_000_000_000  # ms


def own(id: str) -> list[Header]:
    return [("ce_specversion", b"1.0"), ("ce_id", id.encode()), ("ce_source", b"/s"), ("ce_type", b"x")]


class Changelogs:
    """Rows of a target's tables, by table and partition, in the order in which they were written."""

    def __init__(self, rows: dict[tuple[str, int], list[tuple[bytes, bytes]]]) -> None:
        names = {topic.name: table for table, topic in topics.target_changelogs(NAMESPACE, "t").items()}
        self._rows, self._names = rows, names
        self.read: list[int] = []

    def _of(self, partition: tuple[str, int]) -> list[tuple[bytes, bytes]]:
        return self._rows.get((self._names[partition[0]], partition[1]), [])

    def places(self, partition: tuple[str, int]) -> dict[bytes, int]:
        return {key: offset for offset, (key, _) in enumerate(self._of(partition))}

    def at(self, partition: tuple[str, int], offsets: Iterable[int]) -> Iterator[Found]:
        for offset in sorted(offsets):
            self.read.append(offset)
            key, value = self._of(partition)[offset]
            yield Found(partition[1], offset, NOW, key, value, [])


def backlog(rows: dict[tuple[str, int], list[tuple[bytes, bytes]]]) -> tuple[Backlog, Changelogs]:
    changelogs: Any = Changelogs(rows)
    return Backlog(changelogs, NAMESPACE, "t"), changelogs


def retry(due: int, key: bytes, id: str) -> tuple[bytes, bytes]:
    entry = Entry(0, 5, key, b"v", own(id), 1, 2, 3)
    message = retry_message(entry, target="n.t", count=2, age=7, due=due, reason="no", first=None, now=NOW)
    return schedule.key_of(due, 1), stored.store(record_on_wire(plain, message))


def parked(key: bytes, position: int, id: str) -> tuple[bytes, bytes]:
    record = record_on_wire(plain, (key, b"v", log_headers(own(id), time_us=1, position=2, timestamp_ms=3)))
    return blocked.parked_key(blocked.key_hash(key), position), stored.store(record)


RETRIES = {
    ("schedule", 0): [retry(30, b"a", "a30"), (schedule.MARK, b"\x01"), retry(10, b"b", "b10")],
    ("schedule", 1): [retry(40, b"c", "c40"), retry(20, b"a", "a20"), retry(15, b"c", "c15")],
}


def ids(rows: Iterable[dict[str, Any]]) -> list[str]:
    return [row["id"] for row in rows]


def test_what_is_due_first_comes_first_and_only_that_is_read() -> None:
    waiting, changelogs = backlog(RETRIES)
    assert ids(waiting.retrying(limit=3)) == ["b10", "c15", "a20"]
    assert changelogs.read == [2, 1, 2]
    (row,) = waiting.retrying(limit=1)
    assert row == {
        "partition": 0, "due": "1970-01-01T00:00:00.000010Z", "number": 1, "key": "b", "log_position": 5, "attempt": 2,
        "age": 7, "error": "no", "source": "/s", "id": "b10",
    }  # fmt: skip


def test_all_and_those_of_a_key() -> None:
    waiting, _ = backlog(RETRIES)
    assert sorted(ids(waiting.retrying())) == ["a20", "a30", "b10", "c15", "c40"]
    assert sorted(ids(waiting.retrying(key="a"))) == ["a20", "a30"]
    assert ids(waiting.retrying(key="a", limit=1)) == ["a30"]
    assert ids(waiting.retrying(key="nobody")) == []


def test_what_is_parked_is_in_the_order_of_its_key() -> None:
    rows = {("parked", 1): [parked(b"a", 300, "3"), parked(b"b", 1, "0"), parked(b"a", 2, "2"), parked(b"a", 1, "1")]}
    waiting, _ = backlog(rows)
    assert ids(waiting.parked(key="a", limit=9)) == ["1", "2", "3"]
    assert ids(waiting.parked(key="a", limit=2)) == ["1", "2"]
    assert sorted(ids(waiting.parked())) == ["0", "1", "2", "3"]


def test_keys_that_wait() -> None:
    key = b"\xff[k]"
    rows = {("blocked", 0): [(blocked.key_hash(key), Blocked(key, State.HELD, 3, 9, 2).encode())]}
    waiting, _ = backlog(rows)
    assert list(waiting.blocked(limit=5)) == [
        {"partition": 0, "key": "\\xff[k]", "state": "held", "head": 3, "tail": 9, "parked": 2}
    ]
    assert list(waiting.blocked(key="other")) == []


def test_the_health_of_a_target_is_that_of_its_partitions_together() -> None:
    rows = {
        (0, marks.COUNTS): marks.encode(Counts(1, 2, 3, 4)),
        (1, marks.COUNTS): marks.encode(Counts(10, 20, 30, 40)),
        (0, marks.PAUSED): marks.encode(Halted(NOW + 1, "later")),
        (1, marks.PAUSED): marks.encode(Halted(NOW, "first")),
        (1, marks.STOPPED): marks.encode_mark(True),
        (1, b"of a newer release"): b"\x09",
    }
    health = Health.of(rows)
    assert health == Health(Counts(11, 22, 33, 44), Halted(NOW, "first"), None)
    assert health.document() == {
        "retrying": 11, "parked": 22, "blocked": 33, "dead": 44,
        "paused": {"since": "2026-11-18T11:06:40Z", "reason": "first"}, "down": None,
    }  # fmt: skip
    assert Health.of({}) == Health(Counts(), None, None)

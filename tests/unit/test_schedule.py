"""A schedule against a plain model: dictionaries of rows, and sorting."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from walstream import schedule as module
from walstream.engine.store import Store
from walstream.engine.table_writer import TableWriter
from walstream.engine.topology import TableSpec
from walstream.errors import StateMismatch
from walstream.schedule import MARK, Schedule, decode_key, first_key, key_of

Rows = dict[bytes, bytes]


class Table:
    """A table as a checkpoint sees it: what is committed, what is being committed, and its own changes."""

    def __init__(self, *layers: dict[bytes, bytes | None]) -> None:
        self.layers = [*layers, {}]
        self.starts: list[bytes] = []

    @property
    def changes(self) -> dict[bytes, bytes | None]:
        return self.layers[-1]

    def rows(self) -> Rows:
        merged: dict[bytes, bytes | None] = {}
        for layer in self.layers:
            merged |= layer
        return {key: value for key, value in merged.items() if value is not None}

    def get(self, key: bytes) -> bytes | None:
        return self.rows().get(key)

    def range(self, start: bytes, stop: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        self.starts.append(start)
        return sorted((key, value) for key, value in self.rows().items() if start <= key < stop)[:limit]

    def put(self, key: bytes, value: bytes, timestamp: int) -> None:
        assert timestamp == NOW
        self.changes[key] = value

    def put_many(self, rows: Mapping[bytes, bytes], timestamp: int) -> None:
        for key, value in rows.items():
            self.put(key, value, timestamp)

    def delete_many(self, keys: list[bytes], timestamp: int) -> None:
        for key in keys:
            self.delete(key, timestamp)

    def delete(self, key: bytes, timestamp: int) -> None:
        assert timestamp == NOW
        self.changes[key] = None


NOW = 77
times = st.integers(0, 30) | st.just(2**63 - 1)
sequences = st.integers(0, 5) | st.just(2**64 - 1)
values = st.binary(max_size=3) | st.just(b"large" * 20)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little is held in memory."""
    monkeypatch.setattr(module, "_ROWS", 16)
    monkeypatch.setattr(module, "_BYTES", 100)


class Model(RuleBasedStateMachine):
    """Checkpoints of one partition; up to two are not committed. What was due is compared as it is taken."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(module, "_ROWS", 16)
        self.patch.setattr(module, "_BYTES", 100)
        self.committed: Rows = {}
        self.rows: dict[tuple[int, int], bytes] = {}  # with what is not committed
        self.rows_committed: dict[tuple[int, int], bytes] = {}

    def teardown(self) -> None:
        self.patch.undo()

    @initialize()
    def open(self) -> None:
        """Anew, by another owner: from what is committed."""
        self.rows = dict(self.rows_committed)
        self.table = Table(dict(self.committed))
        self.schedule = Schedule.open(self.table, NOW)
        assert self.table.changes.keys() == {MARK}

    @rule(due=times, sequence=sequences, value=values)
    def add(self, due: int, sequence: int, value: bytes) -> None:
        self.schedule.add(self.table, due, sequence, value, NOW)
        self.rows[due, sequence] = value

    @rule(first=st.integers(0, 30), count=st.integers(1, 60), value=values)
    def add_many(self, first: int, count: int, value: bytes) -> None:
        for number in range(count):
            self.add(first + number * 7 % count, 10 + number, value)

    @rule(due=times, sequence=sequences)
    def remove(self, due: int, sequence: int) -> None:
        self.schedule.remove(self.table, due, sequence, NOW)
        self.rows.pop((due, sequence), None)

    @rule(data=st.data(), to=times)
    def move(self, data: st.DataObject, to: int) -> None:
        if self.rows:
            due, sequence = data.draw(st.sampled_from(sorted(self.rows)))
            self.schedule.move(self.table, due, sequence, to, NOW)
            self.rows[to, sequence] = self.rows.pop((due, sequence))

    @rule(now=times, limit=st.integers(0, 40))
    def take(self, now: int, limit: int) -> None:
        taken = self.schedule.take_due(self.table, now, limit, NOW)
        due = sorted((due, sequence, value) for (due, sequence), value in self.rows.items() if due <= now)
        assert taken == due[: len(taken)]
        assert len(taken) <= limit
        assert bool(taken) == bool(due and limit)
        for time, sequence, _ in taken:
            del self.rows[time, sequence]

    @rule()
    def commit(self) -> None:
        self.schedule.finish(self.table, NOW)
        self.committed = self.table.rows()
        self.rows_committed = dict(self.rows)
        *before, changes = self.table.layers
        self.table = Table(Table(*before).rows(), changes)  # type: ignore[arg-type]
        first = min(self.rows, default=None)
        mark = first_key(self.committed[MARK])
        assert mark == (key_of(*first) if first else b"\x80"), "the mark is the first row, or the end"

    @rule()
    def forget_a_layer(self) -> None:
        """The checkpoint before is in the store."""
        self.table.layers = [dict(self.committed), self.table.changes]

    @rule()
    def abort(self) -> None:
        self.open()

    @invariant()
    def the_next_is_known(self) -> None:
        assert self.schedule.next_due() == min((due for due, _ in self.rows), default=None)
        assert {decode_key(key): value for key, value in self.table.rows().items() if key != MARK} == self.rows


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def drained(schedule: Schedule, table: Table, now: int) -> Iterator[tuple[int, int, bytes]]:
    while taken := schedule.take_due(table, now, 10, NOW):
        yield from taken


@pytest.mark.usefixtures("small")
def test_no_scan_starts_among_what_is_gone() -> None:
    """RocksDB would walk over the tombstones of all that was taken."""
    table = Table({})
    schedule = Schedule.open(table, NOW)
    for number in range(200):
        schedule.add(table, number, number, b"", NOW)
    assert len(list(drained(schedule, table, 99))) == 100
    schedule.finish(table, NOW)

    later = Table(table.rows())  # type: ignore[arg-type]
    schedule = Schedule.open(later, NOW)
    assert later.starts == [key_of(100, 100)]
    assert [due for due, _, _ in drained(schedule, later, 999)] == list(range(100, 200))
    assert later.starts == sorted(later.starts)
    schedule.finish(later, NOW)

    empty = Table(later.rows())  # type: ignore[arg-type]
    assert Schedule.open(empty, NOW).next_due() is None
    assert empty.starts == [], "where nothing waits there is nothing to scan"


@pytest.mark.usefixtures("small")
def test_another_value_for_the_last_row_that_was_read() -> None:
    table = Table({key_of(due, 0): b"old" for due in range(9)})
    schedule = Schedule.open(table, NOW)
    last = len(schedule._ahead) - 1
    assert last < 8
    schedule.add(table, last, 0, b"new", NOW)
    taken = [value for _, _, value in drained(schedule, table, 9)]
    assert taken == [b"new" if due == last else b"old" for due in range(9)]


@pytest.mark.usefixtures("small")
def test_what_is_held_in_memory_is_bounded() -> None:
    table = Table({})
    schedule = Schedule.open(table, NOW)
    for number in range(500):
        schedule.add(table, 1_000 - number, number, b"x" * (number % 50), NOW)
        assert len(schedule._ahead) <= 32
        assert sum(len(value) for _, value in schedule._ahead) <= 200
    assert len(list(drained(schedule, table, 2_000))) == 500


class Changelog:
    def append(self, timestamp: int, key: bytes, value: bytes | None) -> None:
        """Nobody reads it here."""

    def append_rows(self, timestamp: int, rows: list[tuple[bytes, bytes | None]], prefix: bytes = b"") -> None:
        """Nor this."""


def test_over_a_real_store(tmp_path: Path) -> None:
    """With a checkpoint that is being committed while the next one goes on, and another owner in the middle."""
    spec = TableSpec("schedule", "schedule.changelog", ordered=True)
    store = Store(tmp_path / "0", [spec])
    changelog: Any = Changelog()
    rng = random.Random(1)
    waiting = {(rng.randrange(50_000), sequence): b"%d" % sequence for sequence in range(5_000)}
    table, committing = TableWriter(spec, store, changelog, []), None
    schedule = Schedule.open(table, NOW)
    for (due, sequence), value in waiting.items():
        schedule.add(table, due, sequence, value, NOW)
    for now in range(0, 50_000, 2_500):
        schedule.finish(table, NOW)
        if committing is not None:
            store.write({"schedule": committing.writes}, {})
        committing, table = table, TableWriter(spec, store, changelog, [table.writes])
        if now == 25_000:
            store.write({"schedule": committing.writes}, {})
            store.close()
            store, committing = Store(tmp_path / "0", [spec]), None
            table = TableWriter(spec, store, changelog, [])
            schedule = Schedule.open(table, NOW)
        while taken := schedule.take_due(table, now, 300, NOW):
            assert taken == [(*key, waiting.pop(key)) for key in sorted(waiting)[: len(taken)]]
        assert schedule.next_due() == min(waiting)[0] > now
        for (due, sequence), value in list(waiting.items())[::10]:
            schedule.move(table, due, sequence, due // 2 + now // 2 + 1, NOW)
            waiting[due // 2 + now // 2 + 1, sequence] = waiting.pop((due, sequence))
            assert value
    store.close()


def test_the_mark_moves_only_where_the_first_row_does() -> None:
    table = Table({})
    schedule = Schedule.open(table, NOW)
    schedule.add(table, 5, 1, b"", NOW)
    schedule.finish(table, NOW)
    next_one = Table(table.rows())  # type: ignore[arg-type]
    schedule.add(next_one, 6, 2, b"", NOW)
    schedule.finish(next_one, NOW)
    assert MARK not in next_one.changes


def test_a_row_that_is_not_there_cannot_be_moved() -> None:
    table = Table({})
    with pytest.raises(StateMismatch, match="no row 3 that is due at 2"):
        Schedule.open(table, NOW).move(table, 2, 3, 4, NOW)


@pytest.mark.parametrize("due", [-1, 2**64])
def test_a_time_that_no_key_can_hold(due: int) -> None:
    table = Table({})
    schedule = Schedule.open(table, NOW)
    with pytest.raises(struct.error):
        schedule.add(table, due, 0, b"", NOW)
    assert table.changes.keys() == {MARK}


def test_a_mark_of_a_newer_format_is_refused() -> None:
    with pytest.raises(StateMismatch, match="has format 2; this version of walstream reads format 1"):
        Schedule.open(Table({MARK: b"\x02" + key_of(1)}), NOW)
    with pytest.raises(StateMismatch, match="has format None"):
        first_key(b"")
    assert first_key(None) == key_of(0)


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**64 - 1))
def test_keys_come_back(due: int, sequence: int) -> None:
    assert decode_key(key_of(due, sequence)) == (due, sequence)
    assert key_of(due) <= key_of(due, sequence) < b"\x80"
    assert decode_key(MARK) is None

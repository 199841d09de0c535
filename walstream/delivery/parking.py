"""Parking: what waits at a target, of one partition.

That is records which are to be tried again (a schedule of them), and those behind one of them that has the same key:
these are parked until it is done, and then go out in their order. All of it is in changelogged tables; in memory are
the blocked keys, which every record of the log is compared with.

It does what it is told; the delivery decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from walstream import delivery_tables, stored
from walstream.attempt import Attempt, read_attempt
from walstream.blocked import Blocked, State, decode, key_hash, parked_key, parked_position, parked_range
from walstream.delivery.order import order_key
from walstream.engine.checkpoint import Checkpoint
from walstream.entry import Entry
from walstream.errors import StateMismatch
from walstream.namespace import Namespace
from walstream.schedule import Schedule, key_of
from walstream.wire import Record as KafkaRecord

ADMITTED = 0  # µs; nothing else in a schedule is due then

_COUNTED_AT_ONCE = 10_000  # rows
_NOT_ADMITTED = key_of(ADMITTED + 1)


@dataclass(slots=True)
class Scheduled:
    """A record that is to be tried again, taken out of the schedule.

    Parameters
    ----------
    due, sequence, row
        Where it was, and what: µs since the epoch, its offset on the retry topic, its stored form.
    """

    due: int
    sequence: int
    row: bytes
    attempt: Attempt


class Parking:
    """What waits in one partition. `open` comes first.

    Parameters
    ----------
    namespace, target, partition
        Of what.

    Attributes
    ----------
    blocked
        The keys that wait.
    retrying, parked
        How many records are in the schedule, and how many parked.
    admitted
        How many of those in the schedule are (`admission`).
    """

    def __init__(self, namespace: Namespace, target: str, partition: int) -> None:
        self._partition = partition
        self._names = delivery_tables.schedule(namespace, target), delivery_tables.parked(namespace, target)
        self._blocked_table = delivery_tables.blocked(namespace, target)
        self._schedule: Schedule
        self.blocked: dict[bytes, Blocked] = {}
        self.retrying = self.parked = self.admitted = 0
        self._released: dict[bytes, Blocked] = {}
        self._changed: dict[bytes, Blocked | None] = {}  # blocked keys that are not in their table yet
        self._to_schedule: dict[bytes, bytes] = {}  # rows that are not in their tables yet
        self._to_park: dict[bytes, bytes] = {}
        self._to_unpark: list[bytes] = []

    def open(self, checkpoint: Checkpoint, now_ms: int) -> None:
        """Take up what the tables have. It always writes a row."""
        table = checkpoint.table(self._names[0])
        self._schedule = Schedule.open(table, now_ms)
        start, stop = key_of(0), key_of(1 << 63)
        while rows := table.range(start, stop, _COUNTED_AT_ONCE):
            self.retrying += len(rows)
            self.admitted += sum(key < _NOT_ADMITTED for key, _ in rows)
            start = rows[-1][0] + b"\0"
        for _hash, value in checkpoint.table(self._blocked_table).items():  # noqa: PERF102 - it is no dict
            row = decode(value)
            self.blocked[row.key] = row
            self.parked += row.count
            if row.state is State.RELEASED:
                self._released[row.key] = row

    @property
    def waiting(self) -> int:
        """How many records wait, or how many keys, if these are more: a dead record is none, though it may hold one."""
        return max(self.retrying + self.parked, len(self.blocked))

    def next_due(self) -> int | None:
        """When something is to be tried, µs since the epoch: 0 is at once, None is never."""
        return 0 if self._released else self._schedule.next_due()

    # Records to be tried again

    def schedule(self, record: KafkaRecord, due: int) -> None:
        """Keep a record of the retry topic until it is due (µs since the epoch)."""
        self._keep(due, record.offset, stored.store(record))

    def put_back(self, item: Scheduled, due: int | None = None) -> None:
        """Keep what was taken: it comes again, as if it had not been due yet; or when it is due now."""
        self._keep(item.due if due is None else due, item.sequence, item.row)

    def _keep(self, due: int, sequence: int, row: bytes) -> None:
        self._to_schedule[key_of(due, sequence)] = row
        self.retrying += 1
        self.admitted += due == ADMITTED

    def take_due(self, checkpoint: Checkpoint, now_us: int, limit: int, now_ms: int) -> list[Scheduled]:
        """Take what is due, the oldest first; at most so many."""
        taken = self._schedule.take_due(checkpoint.table(self._names[0]), now_us, limit, now_ms)
        self.retrying -= len(taken)
        self.admitted -= sum(due == ADMITTED for due, _, _ in taken)
        return [
            Scheduled(due, sequence, row, read_attempt(self._partition, stored.load(row, sequence)))
            for due, sequence, row in taken
        ]

    # Keys

    def blocked_by(self, entry: Entry) -> Blocked | None:
        """The row of an entry's key, if that waits."""
        key = order_key(entry) if self.blocked else None
        return None if key is None else self.blocked.get(key)

    def waits_for(self, attempt: Attempt) -> Blocked | None:
        """The row of the key that waits for this very record."""
        row = self.blocked_by(attempt.entry)
        return row if row is not None and row.state is State.RETRYING and row.head == attempt.front else None

    def block(self, key: bytes, position: int, state: State) -> None:
        """Let a key wait for its record at that position: what follows it is to be parked."""
        self.blocked[key] = self._changed[key] = Blocked(key, state, position, position)

    def turn(self, row: Blocked, state: State) -> None:
        """Let a key wait for something else."""
        row.state = state
        self._changed[row.key] = row
        if state is not State.RELEASED:
            self._released.pop(row.key, None)
        elif row.count:
            self._released[row.key] = row
        else:
            self._released.pop(row.key, None)
            del self.blocked[row.key]
            self._changed[row.key] = None

    def park(self, row: Blocked, entry: Entry) -> None:
        """Keep an entry of the log until its key is released."""
        assert entry.raw is not None
        self._to_park[parked_key(key_hash(row.key), entry.position)] = stored.store(entry.raw)
        row.tail = entry.position
        row.count += 1
        self.parked += 1
        self._changed[row.key] = row

    def unpark(self, row: Blocked, position: int) -> None:
        """A parked record has left: it is done, or tried again. It is the key's head now."""
        self._to_unpark.append(parked_key(key_hash(row.key), position))
        row.head = position
        row.count -= 1
        self.parked -= 1
        self._changed[row.key] = row

    def followers(self, checkpoint: Checkpoint, limit: int) -> Iterator[tuple[Blocked, KafkaRecord]]:
        """Parked records of released keys, each key's in order; at most so many."""
        table = checkpoint.table(self._names[1])
        for row in list(self._released.values()):
            if limit <= 0:
                break
            # The key goes to the end of the line: one that never ends must not keep the others waiting.
            self._released[row.key] = self._released.pop(row.key)
            found = table.range(*parked_range(key_hash(row.key), row.head), min(limit, row.count))
            if not found:
                raise StateMismatch(f"of a blocked key {row.count} records are parked, and none is found")
            limit -= len(found)
            for place, value in found:
                yield row, stored.load(value, parked_position(place))

    # Into the tables

    def settle(self, checkpoint: Checkpoint, now_ms: int) -> None:
        """Put what has changed into the tables of records; to be called before they are read again."""
        if self._to_schedule:
            self._schedule.add_many(checkpoint.table(self._names[0]), self._to_schedule, now_ms)
            self._to_schedule = {}
        if self._to_park or self._to_unpark:
            parked = checkpoint.table(self._names[1])
            parked.put_many(self._to_park, now_ms)
            if self._to_unpark:
                parked.delete_many(self._to_unpark, now_ms)
            self._to_park, self._to_unpark = {}, []

    def finish(self, checkpoint: Checkpoint, now_ms: int) -> None:
        """Write down what is kept once per checkpoint."""
        self._schedule.finish(checkpoint.table(self._names[0]), now_ms)
        if self._changed:
            table = checkpoint.table(self._blocked_table)
            table.put_many({key_hash(k): row.encode() for k, row in self._changed.items() if row is not None}, now_ms)
            if gone := [key_hash(key) for key, row in self._changed.items() if row is None]:
                table.delete_many(gone, now_ms)
            self._changed = {}

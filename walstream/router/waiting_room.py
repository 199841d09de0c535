"""The waiting room of a router: delayed writes until they are due, and actions until their writes come.

One partition of one namespace. It keeps the tables `schedule` and `pending` in step, applies the rules of
`walstream.pending`, and answers cancels and reschedules. What it has to say about an identity's dedup row goes into the
rows that the router writes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, Self

from walstream import topics
from walstream.answers import Answer
from walstream.dedup import CANCELLED, EXPIRED, encode_row, pending_until
from walstream.dedup import decode_row as decode_dedup_row
from walstream.engine.checkpoint import Checkpoint
from walstream.engine.clock import now_ms
from walstream.engine.output import Output
from walstream.headers import KIND_HEADER, LOCAL, PATH_HEADER
from walstream.identity import identity
from walstream.namespace import Namespace
from walstream.pending import (
    Change,
    Fate,
    Outcome,
    Pending,
    Step,
    Waiting,
    decide_action,
    decide_write,
    decode_row,
    due_time,
    encode_pending,
)
from walstream.pending import encode_row as encode_pending_row
from walstream.record import Record, parse
from walstream.replica import Replica
from walstream.router import tables
from walstream.router.delayed import (
    NEVER,
    WHEN_DUE,
    Kind,
    StoredRecord,
    decode_forget,
    encode_delayed,
    encode_forget,
    kind_of,
    store_record,
)
from walstream.router.effective_time import EffectiveTimes
from walstream.router.rate import Pace
from walstream.schedule import Schedule, key_of
from walstream.wire import Record as KafkaRecord

STRETCH = 1_000  # records sent at once; fetches wait meanwhile
_DESTINATIONS = {Fate.SEND: None, Fate.CANCELLED: CANCELLED, Fate.EXPIRED: EXPIRED}


class Terms(NamedTuple):
    """When a record is to be sent, and until when it may be.

    Parameters
    ----------
    due
        µs since the epoch; None where it is to be sent as it comes.
    expiry
        µs since the epoch, or None.
    """

    due: int | None
    expiry: int | None

    @classmethod
    def of(
        cls, written: int, name: bytes, delay: int | None, deliver_at: int | None, jitter: int | None,
        expiry: int | None,
    ) -> Self:  # fmt: skip
        """From what a record asks for; the parameters but the last are those of `walstream.pending.due_time`.

        Raises
        ------
        RecordRefused
            It is due after the year 9999.
        """
        if delay is None and deliver_at is None and jitter is None:
            return cls(None, expiry)
        return cls(due_time(written, name, delay, deliver_at, jitter), expiry)


class WaitingRoom:
    """What waits in one partition. `open` comes first.

    Parameters
    ----------
    namespace
        Whose records they are.
    times
        Gives the effective times of the partition.

    Attributes
    ----------
    tables
        The names of its two tables, schedule and pending.
    changed
        Identities for which something else waits than the last `look_up` said.
    answered
        How many answers were given since then, by outcome.
    """

    def __init__(self, namespace: Namespace, times: EffectiveTimes) -> None:
        self.tables = tables.waiting(namespace)
        self._answers = topics.answers(namespace).name
        self._window = namespace.dedup.window * 1000
        self._times = times
        self._time_when_due = namespace.delayed_time == "due"
        self._pace = Pace(namespace.schedule.overdue_rate / namespace.topics.partitions)
        self._schedule: Schedule
        self.changed: set[bytes] = set()
        self.answered: Counter[str] = Counter()
        self._scheduled: dict[bytes, bytes] = {}  # rows of both tables that are not in them yet
        self._pending: dict[bytes, bytes] = {}

    def open(self, checkpoint: Checkpoint) -> None:
        """Take up what the tables have."""
        self._schedule = Schedule.open(checkpoint.table(self.tables[0]), now_ms())

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits: every row of either table has one in the schedule."""
        return self._schedule.next_due() is None

    # Who comes

    def look_up(self, identities: Sequence[bytes], checkpoint: Checkpoint) -> list[bytes | None]:
        """What waits for each identity. It costs nothing where nothing waits at all."""
        self.changed.clear()
        self.answered.clear()
        if self.is_empty:
            return [None] * len(identities)
        return checkpoint.table(self.tables[1]).get_many(list(identities))

    def admit(
        self, raw: KafkaRecord, name: bytes, written: int, appended: int, terms: Terms | None, record: Record | None,
        stored: bytes | None, checkpoint: Checkpoint, replica: Replica | None = None, *, each: bool = False,
    ) -> int | None:  # fmt: skip
        """Decide about a write that the dedup table does not know.

        Parameters
        ----------
        raw, name
            The record of the ingress, and its identity.
        written, appended
            Its write time (µs), and when the broker got it (ms).
        terms
            Its own, if it has some.
        record
            What was parsed, if it was.
        stored
            What `look_up` found.
        replica
            What it says where another region sent it; it waits in each region then.
        each
            Whether what is written here does, too.

        Returns
        -------
        int or None
            The destination for its dedup row; None where it is to be sent now.

        Raises
        ------
        Known
            It is pending already: a duplicate.
        """
        row = self._row(name, stored, checkpoint)
        due, expiry = (None, None) if terms is None else terms
        if isinstance(row, Pending) and row.sequence != raw.offset:
            raise Known
        came = appended * 1000
        if raw.timestamp_type != 1:  # the producer's: it must make nothing early either
            came = min(came, checkpoint.clock.now())
        arrival = decide_write(written, raw.offset, due, expiry, came, row if isinstance(row, Waiting) else None)
        if row is not None:
            self._remove(name, row, checkpoint)  # it waited for this; or this is read again, and is what waited
        if arrival.outcome is not None:
            assert isinstance(row, Waiting)
            record = record or parse(raw.key, raw.value, raw.headers, raw.timestamp)
            until = row.change.due if arrival.outcome is Outcome.RESCHEDULED else None
            self._answer(row.change, record, record.id, arrival.outcome, checkpoint, due=until)
        if arrival.row is None:
            return _DESTINATIONS[arrival.fate]
        due = arrival.row.due
        if replica is not None:
            assert record is not None  # what has a kind is parsed
            self._scheduled[key_of(due, raw.offset)] = encode_delayed(
                replica.timestamp, replica.time, appended, expiry, name, raw.key, raw.value,
                [(PATH_HEADER, replica.path), (KIND_HEADER, LOCAL), *record.headers],
            )  # fmt: skip
        else:
            at = WHEN_DUE if self._time_when_due else self._times.assign(written, raw.offset)
            added = [(KIND_HEADER, LOCAL)] if each else []
            self._scheduled[key_of(due, raw.offset)] = store_record(raw, record, at, appended, expiry, name, added)
        self._pending[name] = encode_pending(arrival.row)
        self.changed.add(name)
        return pending_until(due)

    def pass_by(
        self, raw: KafkaRecord, name: bytes, record: Record | None, stored: bytes | None, checkpoint: Checkpoint,
        position: int | None,
    ) -> None:  # fmt: skip
        """Let a write by that another region sent when it was due: an action that waits for it here is too late.

        Parameters
        ----------
        raw, name, record, stored
            As for `admit`.
        position
            Where in the log it will stand.

        Raises
        ------
        Known
            It is pending here: a duplicate.
        """
        row = self._row(name, stored, checkpoint)
        if isinstance(row, Pending):
            raise Known
        if row is not None:
            self._remove(name, row, checkpoint)
            record = record or parse(raw.key, raw.value, raw.headers, raw.timestamp)
            self._answer(row.change, record, record.id, Outcome.SENT, checkpoint, position=position)

    def _row(self, name: bytes, stored: bytes | None, checkpoint: Checkpoint) -> Pending | Waiting | None:
        """What waits for an identity, if `look_up` found that."""
        if name in self.changed:
            self.settle(checkpoint)
            stored = checkpoint.table(self.tables[1]).get(name)
        return None if stored is None else decode_row(stored)

    def _remove(self, name: bytes, row: Pending | Waiting, checkpoint: Checkpoint) -> None:
        now = now_ms()
        schedule, pending = (checkpoint.table(table) for table in self.tables)
        self._schedule.remove(schedule, row.until if isinstance(row, Waiting) else row.due, row.sequence, now)
        pending.delete(name, now)
        self.changed.add(name)

    def settle(self, checkpoint: Checkpoint) -> None:
        """Put what was admitted into the tables; to be called before anything else than `admit` and `act`."""
        if self._pending:
            now = now_ms()
            schedule, pending = (checkpoint.table(table) for table in self.tables)
            self._schedule.add_many(schedule, self._scheduled, now)
            pending.put_many(self._pending, now)
            self._scheduled, self._pending = {}, {}

    def act(
        self, raw: KafkaRecord, written: int, appended: int, terms: Terms | None, record: Record,
        rows: dict[bytes, bytes], checkpoint: Checkpoint, dedup: str,
    ) -> None:  # fmt: skip
        """Do what a cancel or reschedule says, and answer it.

        Parameters
        ----------
        raw, record
            The action.
        written, appended
            Its write time (µs), and when the broker got it (ms).
        terms
            Of a reschedule, with the jitter drawn from the identity of its write.
        rows
            Dedup rows that are not in the table yet; what the action does to its write's row is put there.
        dedup
            The name of the dedup table.
        """
        assert record.ref is not None
        self.settle(checkpoint)
        now = now_ms()
        schedule, pending = (checkpoint.table(table) for table in self.tables)
        name = identity(record.key, record.source, record.ref)
        known = rows.get(name) or checkpoint.table(dedup).get(name)
        destination = None if known is None else decode_dedup_row(known).destination
        stored = pending.get(name)
        due = terms.due if terms is not None and record.action == "reschedule" else None
        change = Change(record.id, written, raw.offset, due)
        row = None if stored is None else decode_row(stored)
        reaction = decide_action(change, destination, row)
        match reaction.step:
            case Step.CANCEL:
                assert isinstance(row, Pending)
                self._schedule.remove(schedule, row.due, row.sequence, now)
                pending.delete(name, now)
                rows[name] = encode_row(row.sequence, CANCELLED)
            case Step.MOVE:
                assert isinstance(row, Pending) and reaction.row is not None
                self._schedule.move(schedule, row.due, row.sequence, reaction.row.due, now)
                pending.put(name, encode_pending_row(reaction.row), now)
                rows[name] = encode_row(row.sequence, pending_until(reaction.row.due))
            case Step.KEEP:
                if reaction.replaced is not None:
                    old = reaction.replaced
                    self._schedule.remove(schedule, old.until, old.sequence, now)
                    self._answer(old.change, record, record.ref, Outcome.SUPERSEDED, checkpoint)
                until = max(appended * 1000 + self._window, 0)  # an adopted topic may have any times
                self._schedule.add(schedule, until, raw.offset, encode_forget(name), now)
                pending.put(name, encode_pending_row(Waiting(until, change)), now)
        self.changed.add(name)
        self._answer(
            change, record, record.ref, reaction.outcome, checkpoint,
            due=due if reaction.outcome is Outcome.RESCHEDULED else None,
            position=destination if reaction.outcome is Outcome.SENT else None,
        )  # fmt: skip

    def _answer(
        self, change: Change, record: Record, ref: str, outcome: Outcome, checkpoint: Checkpoint, *,
        due: int | None = None, position: int | None = None,
    ) -> None:  # fmt: skip
        self.answered[outcome] += 1
        answer = Answer(change.action, change.id, record.source, ref, outcome, due, position)
        message = answer.encode(record.key)
        checkpoint.output(self._answers).append(now_ms(), message.key, message.value, message.headers)

    # Whose time has come

    def due_at(self, now: int) -> int | None:
        """When something may be sent next, µs; None where nothing waits."""
        return self._pace.due_at(self._schedule.next_due(), now)

    def send_due(self, checkpoint: Checkpoint, log: Output) -> tuple[dict[bytes, bytes], Counter[str]]:
        """Send a stretch of what is due to the log, oldest first.

        Returns
        -------
        tuple
            The dedup rows of what was sent or had expired; and how many were what.
        """
        rows: dict[bytes, bytes] = {}
        count: Counter[str] = Counter()
        now, timestamp = checkpoint.clock.now(), now_ms()
        first = self._schedule.next_due()
        if first is None or first > now:
            return rows, count
        until, limit = self._pace.admit(first, now, STRETCH)
        schedule, pending = (checkpoint.table(table) for table in self.tables)
        taken = self._schedule.take_due(schedule, until, limit, timestamp)
        self._pace.went(first, now, len(taken))
        names: list[bytes] = []
        for due, position, value in taken:
            if kind_of(value) is Kind.FORGET:
                name = decode_forget(value)
                count["forgotten"] += 1
            else:
                stored = StoredRecord(value)
                name = stored.identity
                destination: int | None = EXPIRED
                if stored.expiry == NEVER or stored.expiry > now:
                    at = self._times.assign(due, position) if stored.time == WHEN_DUE else stored.time
                    destination = log.append_entry(stored.record(position), at)
                assert destination is not None
                rows[name] = encode_row(position, destination)
                count["expired" if destination == EXPIRED else "sent"] += 1
            names.append(name)
        pending.delete_many(names, timestamp)
        return rows, count

    def finish(self, checkpoint: Checkpoint) -> None:
        """Write down what is kept once per checkpoint."""
        self._schedule.finish(checkpoint.table(self.tables[0]), now_ms())


class Known(Exception):
    """The write is pending already."""

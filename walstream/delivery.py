"""Delivery: log and retry topic -> sink, one worker (and one consumer group) per target.

A sink answers for every entry. Applied and skipped ones are finished; dead ones once they are in the target's DLQ; and
those that are to be tried again once they are on its retry topic, from where they come into a schedule (`parking`).
With ``ordering: key`` what follows one of them is parked until it is done. All of it is part of the checkpoint in which
the entry is finished, and only what lies below the first unfinished entry is: the rest is put back and comes again.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from prometheus_client import CollectorRegistry

from walstream import blocked, control, dead, delivery_tables, marks, topics
from walstream.admission import Admission
from walstream.attempt import Attempt, next_due, read_attempt, retry_message
from walstream.backoff import Backoff
from walstream.blocked import Blocked
from walstream.config import load_connections, load_namespaces, with_source
from walstream.connections import Connection
from walstream.control import Control, read_control
from walstream.dispatch import SINK_DEADLINE, STRETCH, Dispatcher, order_key, surely_lacks
from walstream.engine.app import App, make_app
from walstream.engine.checkpoint import Checkpoint
from walstream.engine.clock import Clock, now_ms
from walstream.engine.fetch import Fetch
from walstream.engine.topology import Topology
from walstream.entry import Entry
from walstream.errors import ConfigurationError, RecordRefused
from walstream.graveyard import Graveyard
from walstream.kafka import KafkaConnection
from walstream.marks import Counts
from walstream.metrics import DeliveryMetrics, TargetCollector, serve
from walstream.namespace import Namespace
from walstream.parking import ADMITTED, Parking, Scheduled
from walstream.preflight import preflight
from walstream.settings import Settings
from walstream.sinks.base import (
    SKIPPED,
    UNTRIED,
    Applied,
    Dead,
    Outcome,
    Retry,
    Sink,
    SinkContext,
    Skipped,
    Untried,
)
from walstream.sinks.registry import sink_class
from walstream.standing import Standing
from walstream.wire import Record as KafkaRecord

log = logging.getLogger(__name__)

AGAIN = 0.1  # s, at most, after which what is not finished comes again, if the target is not left alone
BLOCKED = 0.2  # s, after which a record from outside the log is looked at again whose key was blocked
GRAIN = 0.1  # s; where a rate bounds the target, what it allows in this time goes at once


@dataclass(slots=True, eq=False)
class _Item:
    """An entry that is attempted.

    Parameters
    ----------
    scheduled
        What it was in the schedule, if it comes from there.
    attempt
        What is known of earlier attempts, of one that is tried again.
    row
        Its key, if it comes from those that are parked.
    """

    entry: Entry
    attempt: Attempt | None = None
    scheduled: Scheduled | None = None
    row: Blocked | None = None


class DeliveryProcessor:
    """The delivery of one partition of the log to one target.

    Parameters
    ----------
    namespace, target, partition
        What it serves.
    dispatcher
        Calls the target's sink, for all partitions of the worker.
    metrics
        Where it counts.
    """

    def __init__(
        self, namespace: Namespace, target: str, partition: int, dispatcher: Dispatcher, metrics: DeliveryMetrics
    ) -> None:
        self._namespace, self._target, self._partition = namespace, target, partition
        self._name = f"{namespace.name}.{target}"
        options = namespace.targets[target]
        self._ordered, self._hold = options.ordering == "key", options.on_dead == "hold"
        self._retry = options.retry
        self._once = next_due(options.retry, 1, 0, None, 0, 0.0) is None  # whether the first attempt is the last
        partitions = namespace.topics.partitions
        self._most = max(options.limits.parked // partitions, 1)
        self._rate = None if options.limits.rate is None else options.limits.rate / partitions
        self._retries = topics.retry(namespace, target).name
        self._state_table = delivery_tables.state(namespace, target) if options.stateful else None
        self._dispatcher, self._metrics = dispatcher, metrics
        self._monotonic = dispatcher.monotonic
        self._parking = Parking(namespace, target, partition)
        self._graveyard = Graveyard(namespace, target)
        self._standing = Standing(namespace, target, partition)
        self._admission: Admission | None = None  # of a sink that must be given the same again in the same order
        self._has_begun = False  # nothing is due before the retry topic was read to where it ended at the opening
        self._clock: Clock
        self._acquired = False
        self._free_at = float("-inf")  # monotonic seconds; nothing is attempted before
        self._paced_until = float("-inf")  # the same, as far as only a rate says so: a moment, on which all may wait
        self._patience = Backoff(options.retry)  # with a sink that does what is in no table
        self._is_full = False
        self._state_rows: dict[bytes, bytes | None] = {}

    # The life of a partition

    async def open(self, checkpoint: Checkpoint) -> None:
        self._acquired = True
        self._clock = checkpoint.clock
        await self._dispatcher.acquire(self._partition, lambda: self.counts)
        self._parking.open(checkpoint, now_ms())
        if self._dispatcher.sink.replays_in_order:
            self._admission = Admission(self._parking, checkpoint)
        self._graveyard.open(checkpoint)
        on_its_way = self._standing.open(checkpoint)
        if not self._dispatcher.harmless:
            if on_its_way:
                # The former owner may have died with a request on its way, which must not overtake ours.
                await asyncio.sleep(SINK_DEADLINE)
            self._standing.stopped(checkpoint, in_order=False)

    async def close(self, checkpoint: Checkpoint | None) -> None:
        if checkpoint is not None:
            self._standing.close(checkpoint)
            if not self._dispatcher.harmless:
                self._standing.stopped(checkpoint, in_order=True)
        if self._acquired:
            self._acquired = False
            await self._dispatcher.release(self._partition)

    # When there is what to do

    def wants(self, topic: str) -> bool:
        if topic == self._retries:
            if self._standing.paused is not None:
                return True
            # What is to be tried at once would else go through the schedule.
            now = self._monotonic()
            if self._admission is not None and self._admission.is_full and now >= self._free_at and self._has_begun:
                return False
            return now >= self._paced_until
        if self._admission is not None and self._admission.is_turn:
            return False
        if self._standing.paused is not None or self._monotonic() < self._free_at:
            return False
        if self._parking.waiting >= self._most:
            if not self._is_full:
                self._is_full = True
                log.warning(
                    "%s-%d stops reading: %d records or keys wait, and no more may (limits.parked)",
                    self._name, self._partition, self._parking.waiting,
                )  # fmt: skip
            return False
        self._is_full = False
        # When a target is back, what waited goes before what is new.
        return not (self._dispatcher.breaker.is_ramping(self._monotonic()) and self._is_due())

    def _next_due(self) -> int | None:
        return self._parking.next_due() if self._admission is None else self._admission.next_due

    def _is_due(self) -> bool:
        due = self._next_due()
        return due is not None and due <= self._clock.now()

    def due_at(self) -> int | None:
        now, here = self._clock.now(), self._monotonic()
        times = []
        if (news := self._standing.news_at(self.counts, self._dispatcher.breaker, here)) is not None:
            times.append(now + math.ceil((news - here) * 1e6))
        if self._standing.paused is None:
            free = now + math.ceil((self._free_at - here) * 1e6) if self._free_at > here else now
            due = self._next_due()
            if due is not None:
                times.append(max(due, free))
            if free > now:
                times.append(free)  # `wants` answers otherwise then
        return min(times, default=None)

    def _size(self) -> int:
        """How many entries may be attempted now; 0 is none."""
        now = self._monotonic()
        if self._standing.paused is not None or now < self._free_at:
            return 0
        size = self._dispatcher.size(self._partition)
        if not size:
            self._free_at = self._dispatcher.breaker.look_at(now)
            return 0
        rate = self._allowed()
        return size if rate is None else max(1, min(size, int(rate * GRAIN)))

    def _allowed(self) -> float | None:
        """Records per second that this partition may send."""
        allowance = self._dispatcher.breaker.allowance(self._monotonic())
        if allowance is None:
            return self._rate
        share = allowance / self._dispatcher.partitions
        return share if self._rate is None else min(share, self._rate)

    # The log

    async def process(self, fetch: Fetch, checkpoint: Checkpoint) -> None:
        if fetch.topic == self._retries:
            await self._take_back(fetch, checkpoint)
            return
        size = self._size()
        if not size:
            return
        records = fetch.take(size)
        self._standing.name_suspect(records)
        refused: list[tuple[KafkaRecord, RecordRefused]] = []
        behind: list[tuple[Blocked, Entry]] = []
        items: list[_Item] = []
        keys, controls = self._parking.blocked, self._dispatcher.sink.takes_controls
        for record in records:
            try:
                entry = Entry.from_record(self._partition, record)
                if not entry.is_for(self._target, controls=controls):
                    continue
            except RecordRefused as refusal:
                refused.append((record, refusal))
                continue
            # Most have a key of their own, and are looked up in place.
            row = (keys.get(entry.key) if entry.key is not None else self._blocked_by(entry)) if keys else None
            if row is None:
                items.append(_Item(entry))
            else:
                behind.append((row, entry))
        outcomes = await self._attempt(items, checkpoint)
        until = next((item.entry.position for item, found in zip(items, outcomes, strict=True) if found is None), None)
        for record, reason in refused:
            if until is None or record.offset < until:
                self._graveyard.bury_foreign(record, reason, checkpoint)
        for row, entry in behind:
            if (until is None or entry.position < until) and row.place(entry.position) is blocked.Place.BEHIND:
                self._parking.park(row, entry)
        self._settle(items, outcomes, checkpoint)
        if until is not None:
            fetch.put_back([record for record in records if record.offset >= until])

    # What waited

    async def process_due(self, checkpoint: Checkpoint) -> None:
        self._has_begun = True
        self._standing.tell(self.counts, self._dispatcher.breaker, self._monotonic(), checkpoint)
        if not self._is_due():
            return
        size = self._size()
        if not size:
            return
        parking, now_us, now = self._parking, self._clock.now(), now_ms()
        is_turn = self._admission is not None and self._admission.is_turn
        items = [
            _Item(found.attempt.entry, found.attempt, found)
            for found in parking.take_due(checkpoint, ADMITTED if is_turn else now_us, size, now)
            if self._admission is None or self._may_go(self._admission, found)
        ]
        if is_turn:
            await self._go(items, checkpoint)
            return
        # The log has been read as far as this may be behind it: a key that never ends must be sent faster than parked.
        most = 2 * size if size >= STRETCH and self._allowed() is None else size
        items += [
            _Item(Entry.from_record(self._partition, record), row=row)
            for row, record in parking.followers(checkpoint, most - len(items))
        ]
        await self._go(items, checkpoint)

    async def _go(self, items: Sequence[_Item], checkpoint: Checkpoint) -> None:
        outcomes = await self._attempt(items, checkpoint)
        self._settle(items, outcomes, checkpoint)
        if self._admission is not None:
            self._admission.attempted()

    # What comes from outside the log, where that must have its place among the records of the log

    def _may_go(self, admission: Admission, found: Scheduled) -> bool:
        """Whether what was due may be attempted now; it is kept in the schedule where it may not."""
        row = self._blocked_by(found.attempt.entry)
        if found.due == ADMITTED if row is None else _is_head(row, found.attempt):
            return True
        self._parking.put_back(found, self._admit(admission, found.attempt))
        return False

    def _admit(self, admission: Admission, attempt: Attempt) -> int:
        """When a record that could be attempted now is to be due, so that it has a place among those of the log."""
        row = self._blocked_by(attempt.entry)
        if row is not None and not _is_head(row, attempt):
            return self._clock.now() + round(BLOCKED * 1e6)
        return self._clock.now() if admission.is_full else ADMITTED

    def _row_of(self, attempt: Attempt) -> Blocked | None:
        """The key that waits for this very record."""
        row = self._blocked_by(attempt.entry)
        return row if row is not None and _is_head(row, attempt) else None

    def _blocked_by(self, entry: Entry) -> Blocked | None:
        """The row of an entry's key, if that waits."""
        keys = self._parking.blocked
        key = order_key(entry) if keys else None
        return None if key is None else keys.get(key)

    async def _take_back(self, fetch: Fetch, checkpoint: Checkpoint) -> None:
        """Take what stands on the retry topic: do what it says, try it at once, or put it into the schedule."""
        at_once: list[tuple[KafkaRecord, Attempt]] = []
        now_us = self._clock.now()
        rate = self._allowed()
        for record in fetch.take(STRETCH if rate is None else max(1, min(STRETCH, int(rate * GRAIN)))):
            try:
                said = read_control(record)
                if said is not None and said.kind is not control.Kind.REDRIVE:
                    self._obey(said, record, checkpoint)
                    continue
                attempt = read_attempt(self._partition, record)
                if said is not None and not self._resurrect(said, record, checkpoint):
                    continue
            except RecordRefused as refusal:
                self._graveyard.bury_foreign(record, refusal, checkpoint)
                continue
            if attempt.due:
                self._parking.schedule(record, attempt.due)
            elif self._admission is not None:
                self._parking.schedule(record, self._admit(self._admission, attempt))
            else:
                at_once.append((record, attempt))
        size = self._size() if at_once else 0
        for record, _ in at_once[size:]:
            self._parking.schedule(record, now_us)
        if size:
            items = [_Item(attempt.entry, attempt) for _, attempt in at_once[:size]]
            outcomes = await self._attempt(items, checkpoint)
            for (record, _), found in zip(at_once, outcomes, strict=False):
                if found is None:
                    self._parking.schedule(record, now_us)
            self._settle(items, outcomes, checkpoint)
        else:
            self._parking.settle(checkpoint, now_ms())

    def _obey(self, said: Control, record: KafkaRecord, checkpoint: Checkpoint) -> None:
        """Do what people say."""
        match said.kind:
            case control.Kind.PAUSE:
                self._standing.pause(said.reason, checkpoint)
            case control.Kind.RESUME:
                self._standing.resume(checkpoint)
                self._free_at = float("-inf")
                self._dispatcher.breaker.reset(self._monotonic())
            case control.Kind.NOTE:
                self._standing.note(marks.NOTE, said.reason, checkpoint)
            case control.Kind.READY:
                self._standing.note(marks.READY, said.reason, checkpoint)
            case control.Kind.QUARANTINE:
                assert said.position is not None
                self._standing.quarantine(said.position, said.reason, checkpoint)
            case control.Kind.DROP:
                self._resurrect(said, record, checkpoint)

    def _resurrect(self, said: Control, record: KafkaRecord, checkpoint: Checkpoint) -> bool:
        """Let a dead record be tried again, or dropped, if it is dead still; answer whether it is to be tried."""
        redrive = said.kind is control.Kind.REDRIVE
        if said.position is None:
            return redrive  # it came from outside the log, and has no row
        state = dead.State.REDRIVEN if redrive else dead.State.DROPPED
        if not self._graveyard.change(said.position, said.when, state, checkpoint):
            return False
        rows = self._parking.blocked
        held = rows.get(record.key) if record.key is not None else _with_head(said.position, rows.values())
        if held is not None and held.state is blocked.State.HELD and held.head == said.position:
            self._parking.turn(held, blocked.State.RETRYING if redrive else blocked.State.RELEASED)
        return redrive

    # Attempts

    async def _attempt(self, items: Sequence[_Item], checkpoint: Checkpoint) -> list[Outcome | None]:
        """Give entries to the sink, but for those that it is not to have."""
        known: dict[int, Outcome] = {}
        has_quarantined = self._standing.has_quarantined
        for place, item in enumerate(items):
            if has_quarantined and (why := self._standing.quarantined(item.entry.position)) is not None:
                known[place] = Dead(why)
            elif (item.attempt is not None or item.row is not None) and self._has_expired(item.entry):
                known[place] = SKIPPED
            else:
                continue
            self._dispatcher.forget(self._partition, item.entry.position)
        entries = [item.entry for place, item in enumerate(items) if not known or place not in known]
        table = None if self._state_table is None else checkpoint.table(self._state_table)
        began, rate = self._monotonic(), self._allowed()
        answers = await self._dispatcher.attempt(self._partition, entries, checkpoint, table)
        if rate is not None:
            self._free_at = self._paced_until = max(self._free_at, began) + len(entries) / rate
        if answers.held is not None:
            self._patience.report(f"{self._name}-{self._partition} is held: {answers.held}")
            self._free_at = self._monotonic() + self._patience.next()
        elif entries:
            self._patience = Backoff(self._retry)
            if None in answers.outcomes or all(found is UNTRIED for found in answers.outcomes):
                self._free_at = max(self._free_at, self._monotonic() + random.uniform(0, AGAIN))
        kinds = Counter(map(type, answers.outcomes))
        for kind, number in kinds.items():
            if kind is not type(None):
                self._metrics.count(self._namespace.name, self._target, kind.__name__.lower(), number)
        outcomes = answers.outcomes
        if known:
            if expired := list(known.values()).count(SKIPPED):
                self._metrics.count(self._namespace.name, self._target, "expired", expired)
            found = iter(outcomes)
            outcomes = [known[place] if place in known else next(found) for place in range(len(items))]
        if Untried in kinds or (Retry in kinds and self._once):
            self._untangle(items, outcomes)
        return outcomes

    def _untangle(self, items: Sequence[_Item], outcomes: list[Outcome | None]) -> None:
        """Say which entries that were not tried are unfinished; in the log, those behind one that waits are parked.

        Where a record has but one attempt, nothing waits for another: what a sink then wants to have tried again behind
        such a one may be what it left out, and is not to die with it.
        """
        once = self._once
        waiting: set[bytes] = set()
        dying: set[bytes] = set()
        for place, (item, found) in enumerate(zip(items, outcomes, strict=True)):
            key = order_key(item.entry) if self._ordered else None
            if found is UNTRIED:
                is_new = item.attempt is None and item.row is None
                if not is_new or key not in waiting:
                    outcomes[place] = None
            elif key is None:
                continue
            elif isinstance(found, Retry) and once:
                if key in dying:
                    outcomes[place] = None
                dying.add(key)
            elif isinstance(found, Retry) or (self._hold and isinstance(found, Dead)):
                waiting.add(key)

    def _has_expired(self, entry: Entry) -> bool:
        assert entry.raw is not None
        if surely_lacks(entry, b"ce_expirytime"):
            return False
        try:
            expiry = entry.record.expiry
        except RecordRefused:
            return False
        return expiry is not None and expiry <= self._clock.now()

    def _settle(self, items: Sequence[_Item], outcomes: Sequence[Outcome | None], checkpoint: Checkpoint) -> None:
        """Do what follows from outcomes, in the order of the entries."""
        unfinished: set[bytes] = set()
        fresh: set[bytes | None] = set()  # keys that are blocked by one of these
        has_quarantined, keys = self._standing.has_quarantined, self._parking.blocked
        for item, found in zip(items, outcomes, strict=True):
            if (
                (found is SKIPPED or type(found) is Applied)
                and not has_quarantined
                and item.row is None
                and (item.entry.key not in fresh if item.attempt is None else not keys)
            ):
                if type(found) is Applied and found.rows:
                    self._state_rows.update(found.rows)
                continue  # nothing else follows, for most by far
            if found is None:
                if item.scheduled is not None:
                    self._parking.put_back(item.scheduled)
                elif item.row is not None:
                    unfinished.add(item.row.key)
                elif item.attempt is None:
                    break  # what is behind it in the log comes again
                continue
            if item.attempt is not None:
                self._settle_attempt(item.attempt, found, checkpoint)
            elif item.row is not None:
                if item.row.state is blocked.State.RELEASED and item.row.key not in unfinished:
                    self._settle_follower(item.entry, item.row, found, checkpoint)
            elif (key := self._settle_new(item.entry, found, checkpoint)) is not None:
                fresh |= {key, None}  # whose key is not the record's is looked at
        self._parking.settle(checkpoint, now_ms())
        if self._state_rows and self._state_table is not None:
            self._write_state(checkpoint)

    def _settle_new(self, entry: Entry, found: Outcome, checkpoint: Checkpoint) -> bytes | None:
        """Settle one that came from the log; answer with its key if that is blocked from now on."""
        if (row := self._blocked_by(entry)) is not None:
            self._parking.park(row, entry)  # if it is applied, that was ahead of one that it follows
            return None
        state = self._end(entry, Attempt(entry), found, checkpoint)
        if state is blocked.State.RELEASED or (key := order_key(entry)) is None:
            return None
        self._parking.block(key, entry.position, state)
        return key

    def _settle_follower(self, entry: Entry, row: Blocked, found: Outcome, checkpoint: Checkpoint) -> None:
        state = self._end(entry, Attempt(entry), found, checkpoint)
        self._parking.unpark(row, entry.position)
        if state is not blocked.State.RELEASED or not row.count:
            self._parking.turn(row, state)

    def _settle_attempt(self, attempt: Attempt, found: Outcome, checkpoint: Checkpoint) -> None:
        state = self._end(attempt.entry, attempt, found, checkpoint)
        if attempt.entry.position < 0 and state is blocked.State.HELD:
            state = blocked.State.RELEASED  # nobody could release it
        # The key waits no more where the same attempt came twice, since somebody copied it.
        if (row := self._row_of(attempt)) is not None:
            self._parking.turn(row, state)
        elif self._admission is not None and state is blocked.State.RETRYING:
            key = order_key(attempt.entry)
            if key is not None and key not in self._parking.blocked:
                self._parking.block(key, _front(attempt), state)

    def _end(self, entry: Entry, before: Attempt, found: Outcome, checkpoint: Checkpoint) -> blocked.State:
        """Write down what an outcome causes; answer what the entry's key waits for then, where it is at the front."""
        self._standing.ended(entry.position, checkpoint)
        match found:
            case Applied(rows):
                if rows:
                    self._state_rows.update(rows)
            case Skipped():
                pass
            case Untried():
                raise AssertionError("what was not tried has no end")
            case Retry(reason, after):
                count, first = before.count + 1, before.first
                again = next_due(self._retry, count, before.age, after, self._clock.now(), random.random())
                if again is None:
                    return self._bury(before, reason, count, checkpoint)
                due, age = again
                message = retry_message(
                    entry, target=self._name, count=count, age=age, due=due, reason=reason, first=first, now=now_ms()
                )
                output = checkpoint.output(self._retries)
                output.append(entry.timestamp, message.key, message.value, message.headers)
                return blocked.State.RETRYING if self._ordered else blocked.State.RELEASED
            case Dead(reason):
                return self._bury(before, reason, before.count + 1, checkpoint)
        return blocked.State.RELEASED

    def _bury(self, before: Attempt, reason: str, attempts: int, checkpoint: Checkpoint) -> blocked.State:
        self._graveyard.bury(before, reason, attempts, checkpoint)
        return blocked.State.HELD if self._hold else blocked.State.RELEASED

    def _write_state(self, checkpoint: Checkpoint) -> None:
        assert self._state_table is not None
        table, now = checkpoint.table(self._state_table), now_ms()
        rows, self._state_rows = self._state_rows, {}
        table.put_many({key: value for key, value in rows.items() if value is not None}, now)
        if gone := [key for key, value in rows.items() if value is None]:
            table.delete_many(gone, now)

    # What people can read

    @property
    def counts(self) -> Counts:
        """How much waits, and how much is dead."""
        parking = self._parking
        return Counts(parking.retrying, parking.parked, len(parking.blocked), self._graveyard.count)

    def finish(self, checkpoint: Checkpoint) -> None:
        self._parking.finish(checkpoint, now_ms())
        if self._admission is not None:
            self._admission.finish(checkpoint)
        self._standing.tell(self.counts, self._dispatcher.breaker, self._monotonic(), checkpoint)


def _is_head(row: Blocked, attempt: Attempt) -> bool:
    """Whether a key waits for this very record."""
    return row.state is blocked.State.RETRYING and row.head == _front(attempt)


def _front(attempt: Attempt) -> int:
    """What a key that waits for a record calls it: its log position; of one from outside a number below 0."""
    entry = attempt.entry
    if entry.position >= 0:
        return entry.position
    said = b"%d %b" % (entry.time, entry.value or b"")
    return -1 - int.from_bytes(blake2b(said, digest_size=7).digest())


def _with_head(position: int, rows: Iterable[Blocked]) -> Blocked | None:
    return next((row for row in rows if row.head == position), None)


def sink_context(
    namespace: Namespace, target: str, connection: Connection | None, settings: Settings
) -> tuple[type[Sink], SinkContext]:
    """The class of a target's sink, and what it is told."""
    description = namespace.targets[target]
    kind = sink_class(description.sink)
    return kind, SinkContext(
        namespace=namespace.name,
        target=target,
        options=kind.Options.model_validate(description.options),
        connection=connection,
        partitions=namespace.topics.partitions,
        key_template=namespace.key,
        max_record=namespace.topics.max_record,
        remember=namespace.remember(target),
        ordered=description.ordering == "key",
        hold=description.on_dead == "hold",
        extra={
            "kafka": KafkaConnection.from_settings(settings),
            "region": settings.region,
            "rank": settings.region_rank,
        },
    )


def topology(namespace: Namespace, target: str, dispatcher: Dispatcher, metrics: DeliveryMetrics) -> Topology:
    """What the delivery to a target does."""
    return Topology(
        name=f"{namespace.name}.{target}",
        # What people said and what is to be tried again comes before what is new.
        sources=(topics.retry(namespace, target).name, topics.log(namespace).name),
        partitions=namespace.topics.partitions,
        tables=delivery_tables.specs(namespace, target),
        processor=lambda partition: DeliveryProcessor(namespace, target, partition, dispatcher, metrics),
        latency=namespace.latency,
    )


def find_target(settings: Settings) -> tuple[Namespace, str]:
    """The namespace and the target that `WALSTREAM_TARGET` names.

    Raises
    ------
    ConfigurationError
        It names none, or one that does not exist.
    """
    namespaces = load_namespaces(settings.config)
    known = sorted(f"{name}.{target}" for name, namespace in namespaces.items() for target in namespace.targets)
    if settings.target not in known:
        said = "is not set" if settings.target is None else f"is {settings.target!r}, which does not exist"
        raise ConfigurationError(
            f"WALSTREAM_TARGET {said}", remedy=f"set it to one of: {', '.join(known) or '(there is no target)'}"
        )
    name, _, target = settings.target.partition(".")
    return namespaces[name], target


def make_delivery(settings: Settings) -> App:
    """The Faust app of the delivery to a target."""
    namespace, target = find_target(settings)
    kafka = KafkaConnection.from_settings(settings)
    connection_name = namespace.targets[target].connection
    connection = load_connections(settings.config)[connection_name] if connection_name is not None else None
    kind, context = sink_context(namespace, target, connection, settings)
    kind = with_source(kind, context, namespace.targets[target], settings.config)
    kind.for_context(context)  # refuses what cannot be before anything runs
    registry = CollectorRegistry()
    metrics = DeliveryMetrics(registry)
    dispatcher = Dispatcher(context, kind, namespace.targets[target], metrics)
    registry.register(TargetCollector(namespace.name, target, dispatcher))
    app = make_app(
        topics.delivery_app_id(namespace, target),
        [topology(namespace, target, dispatcher, metrics)],
        brokers=kafka.brokers,
        connection=kafka.aiokafka(),
        datadir=settings.datadir,
        preflight=preflight(kafka, [topics.log(namespace), *topics.target_topics(namespace, target)]),
    )
    serve(app, registry)
    return app

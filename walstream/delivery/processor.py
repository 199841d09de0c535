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

from walstream import blocked, control, dead, delivery_tables, marks, topics
from walstream.attempt import Attempt, next_due, read_attempt
from walstream.backoff import Backoff
from walstream.blocked import Blocked
from walstream.control import Control, read_control
from walstream.delivery.admission import MOST, Admission
from walstream.delivery.dispatch import SINK_DEADLINE, STRETCH, STRETCH_MOST, Dispatcher
from walstream.delivery.graveyard import Graveyard
from walstream.delivery.metrics import DeliveryMetrics
from walstream.delivery.order import order_key, surely_lacks
from walstream.delivery.parking import ADMITTED, Parking, Scheduled
from walstream.delivery.settlement import Item, Settlement
from walstream.delivery.standing import Standing
from walstream.delivery.underway import Stretch, Underway
from walstream.engine.checkpoint import Checkpoint
from walstream.engine.clock import Clock, now_ms
from walstream.engine.source import Source
from walstream.entry import Entry
from walstream.errors import RecordRefused, Unreadable
from walstream.marks import Counts
from walstream.namespace import Namespace
from walstream.sinks.base import (
    SKIPPED,
    UNTRIED,
    Dead,
    Outcome,
    Retry,
    Untried,
)
from walstream.wire import Record as KafkaRecord

log = logging.getLogger(__name__)

AGAIN = 0.1  # s, at most, after which what is not finished comes again, if the target is not left alone
BLOCKED = 200_000  # µs, after which a record from outside the log is looked at again whose key was blocked
GRAIN = 0.1  # s; where a rate bounds the target, what it allows in this time goes at once


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
        self._settlement = Settlement(namespace, target, self._parking, self._graveyard, self._standing)
        self._admission: Admission | None = None  # of a sink that must be given the same again in the same order
        self._underway = Underway(self._ordered, namespace.latency / 1000)
        self._follows = False  # whether a stretch may follow another that is not answered
        self._log_source: Source
        self._has_begun = False  # nothing is due before the retry topic was read to where it ended at the opening
        self._clock: Clock
        self._acquired = False
        self._free_at = float("-inf")  # monotonic seconds; nothing is attempted before
        self._paced_until = float("-inf")  # the same, as far as only a rate says so: a moment, on which all may wait
        self._patience = Backoff(options.retry)  # with a sink that does what is in no table
        self._is_full = False

    # The life of a partition

    async def open(self, checkpoint: Checkpoint) -> None:
        self._acquired = True
        self._clock = checkpoint.clock
        await self._dispatcher.acquire(self._partition, lambda: self.counts)
        self._parking.open(checkpoint, now_ms())
        self._graveyard.open(checkpoint)
        on_its_way = self._standing.open(checkpoint)
        if self._dispatcher.sink.replays_in_order:
            log_name, upto = topics.log(self._namespace).name, self._standing.admitted
            self._admission = Admission(self._parking, checkpoint, log_name, self._retries, upto)
            self._settlement.in_order = True
        self._follows = not self._dispatcher.is_staged and self._state_table is None and self._admission is None
        if not self._dispatcher.harmless:
            if on_its_way:
                # The former owner may have died with a request on its way, which must not overtake ours.
                await asyncio.sleep(SINK_DEADLINE)
            self._standing.stopped(checkpoint, in_order=False)

    async def close(self, checkpoint: Checkpoint | None) -> None:
        try:
            if checkpoint is not None:
                if self._underway:
                    await self._drain(checkpoint)
                    self.finish(checkpoint)
                self._standing.close(checkpoint)
                if not self._dispatcher.harmless:
                    self._standing.stopped(checkpoint, in_order=True)
        finally:
            try:
                await self._underway.give_up()
            finally:
                if self._acquired:
                    self._acquired = False
                    await self._dispatcher.release(self._partition)

    # When there is what to do

    def wants(self, topic: str) -> bool:
        if topic == self._retries:
            if self._standing.paused is not None:
                return True
            # What is to be tried at once would else go through the schedule.
            return self._monotonic() >= self._paced_until and self._may_read_on()
        admission = self._admission
        if not self._is_free() or not self._underway.has_room:
            return False
        if admission is not None and (admission.is_turn or admission.is_ahead):
            return False
        if admission is not None and not admission.has_caught_up:
            return True
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

    def _may_read_on(self) -> bool:
        """Whether more of the retry topic is to be read, where what was admitted goes first."""
        if self._admission is None or not self._is_free():
            return True  # nothing is attempted, and people must be heard
        if self._admission.is_promised:
            return self._admission.is_sure
        return not (self._admission.is_turn and self._has_begun)

    def _is_free(self) -> bool:
        """Whether people and the breaker let the target be called."""
        return self._standing.paused is None and self._monotonic() >= self._free_at

    def _next_due(self) -> int | None:
        return self._parking.next_due() if self._admission is None else self._admission.next_due

    def _is_due(self) -> bool:
        due = self._next_due()
        return due is not None and due <= self._clock.now()

    def due_at(self) -> int | None:
        now, here = self._clock.now(), self._monotonic()
        times = [now] if self._underway else []
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
        if not self._is_free():
            return 0
        size = self._dispatcher.size(self._partition)
        if not size:
            self._free_at = self._dispatcher.breaker.look_at(self._monotonic())
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

    async def process(self, source: Source, checkpoint: Checkpoint) -> None:
        if source.topic == self._retries:
            await self._drain(checkpoint)
            await self._take_back(source, checkpoint)
            return
        self._log_source = source
        if not self._underway or self._allowed() is None:
            try:
                await self._deliver(source, self._size(), checkpoint)
            except Unreadable:
                if not self._underway:
                    raise
                await self._drain(checkpoint)  # all that is before it; then it is met again
        await self._advance(checkpoint)

    async def _deliver(self, source: Source, size: int, checkpoint: Checkpoint) -> None:
        """Take a stretch of the log and attempt it, or let it follow what is on its way if that may be."""
        if not size:
            return
        underway = self._underway
        records = source.take(size)
        # A large one has the target to itself: there is more where it comes from, and large calls are best. Where
        # calls hold more than STRETCH, that is more than comes in a round trip; else one may be large as the last was.
        small = len(records) < min(size, STRETCH_MOST)
        follows = self._follows and size >= STRETCH and small and self._allowed() is None
        if underway and not follows:
            source.put_back(records)
            underway.close()
            return
        if self._admission is not None and records and records[-1].offset >= self._admission.limit:
            within = [record for record in records if record.offset < self._admission.limit]
            source.put_back(records[len(within) :])
            records = within
        self._standing.name_suspect(records)
        stretch = self._read(source, records)
        if not follows or not (stretch.items or underway):
            await self._settle(stretch, await self._attempt(stretch.items, checkpoint), checkpoint)
        elif stretch.records:
            underway.start(stretch, self._follow(stretch.items, checkpoint), checkpoint.news)
            source.unfinished = underway.first_offset
        if self._admission is not None:
            self._admission.read_log(source.position)

    def _read(self, source: Source, records: list[KafkaRecord]) -> Stretch:
        """See what records are; they end where one has a key that is on its way."""
        refused: list[tuple[KafkaRecord, RecordRefused]] = []
        behind: list[tuple[Blocked, Entry]] = []
        items: list[Item] = []
        keys, controls = self._parking.blocked, self._dispatcher.sink.takes_controls
        on_its_way = self._underway.keys
        for place, record in enumerate(records):
            try:
                entry = Entry.from_record(self._partition, record)
                if not entry.is_for(self._target, controls=controls):
                    continue
            except RecordRefused as refusal:
                refused.append((record, refusal))
                continue
            # Most have a key of their own, and are looked up in place.
            row = (keys.get(entry.key) if entry.key is not None else self._parking.blocked_by(entry)) if keys else None
            if row is not None:
                behind.append((row, entry))
            elif on_its_way and order_key(entry) in on_its_way:
                source.put_back(records[place:])
                self._underway.close()
                return Stretch(records[:place], items, refused, behind)
            else:
                items.append(Item(entry))
        return Stretch(records, items, refused, behind)

    async def _follow(self, items: Sequence[Item], checkpoint: Checkpoint) -> list[Outcome | None]:
        """Attempt what is not alone on its way, unless the target is left alone by now."""
        if self._allowed() is not None:
            return [None] * len(items)
        return await self._attempt(items, checkpoint)

    async def _settle(self, stretch: Stretch, outcomes: Sequence[Outcome | None], checkpoint: Checkpoint) -> None:
        """Do what follows from the outcomes of a stretch that has nothing in front of it."""
        items, source = stretch.items, self._log_source
        until = next((item.entry.position for item, found in zip(items, outcomes, strict=True) if found is None), None)
        for record, reason in stretch.refused:
            if until is None or record.offset < until:
                self._graveyard.bury_foreign(record, reason, checkpoint)
        for row, entry in stretch.behind:
            if (until is None or entry.position < until) and row.place(entry.position) is blocked.Place.BEHIND:
                self._parking.park(row, entry)
        self._settlement.settle(items, outcomes, checkpoint)
        if until is not None:
            rest = [record for record in stretch.records if record.offset >= until]
            source.put_back(rest + await self._underway.recall())
        source.unfinished = self._underway.first_offset

    async def _advance(self, checkpoint: Checkpoint) -> None:
        """Settle what has come to its end; wait for that, unless there may be more to take meanwhile."""
        if self._underway and not self._underway.is_answered:
            await checkpoint.news.wait()
        while self._underway.is_answered:
            await self._settle(*await self._underway.end(), checkpoint)

    async def _drain(self, checkpoint: Checkpoint) -> None:
        """Settle all that is on its way."""
        while self._underway:
            await self._settle(*await self._underway.end(), checkpoint)

    # What waited

    async def process_due(self, checkpoint: Checkpoint) -> None:
        self._has_begun = True
        await self._advance(checkpoint)
        self._standing.tell(self.counts, self._dispatcher.breaker, self._monotonic(), checkpoint)
        if not self._is_due():
            return
        await self._drain(checkpoint)
        size = self._size()
        if not size:
            return
        parking, now_us, now = self._parking, self._clock.now(), now_ms()
        is_turn = self._admission is not None and self._admission.is_turn
        items = [
            Item(found.attempt.entry, found.attempt, found)
            for found in parking.take_due(checkpoint, ADMITTED if is_turn else now_us, size, now)
            if self._admission is None or self._may_go(self._admission, found)
        ]
        if is_turn:
            await self._go(items, checkpoint)
            return
        # The log has been read as far as this may be behind it: a key that never ends must be sent faster than parked.
        most = 2 * size if size >= STRETCH and self._allowed() is None else size
        items += [
            Item(Entry.from_record(self._partition, record), row=row)
            for row, record in parking.followers(checkpoint, most - len(items))
        ]
        await self._go(items, checkpoint)

    async def _go(self, items: Sequence[Item], checkpoint: Checkpoint) -> None:
        outcomes = await self._attempt(items, checkpoint)
        self._settlement.settle(items, outcomes, checkpoint)
        if self._admission is not None:
            self._admission.attempted()

    # What comes from outside the log, where that must have its place among the records of the log

    def _may_go(self, admission: Admission, found: Scheduled) -> bool:
        """Whether what was due may be attempted now; it is kept in the schedule where it may not."""
        waits = self._waits(found.attempt)
        if not waits and (found.due == ADMITTED or self._parking.waits_for(found.attempt) is not None):
            return True
        later = self._clock.now() + BLOCKED
        self._parking.put_back(found, later if waits or not admission.has_caught_up else ADMITTED)
        return False

    def _waits(self, attempt: Attempt) -> bool:
        """Whether the key of what comes from outside the log waits for another record."""
        return self._parking.blocked_by(attempt.entry) is not None and self._parking.waits_for(attempt) is None

    def _has_to_wait(self, admission: Admission, offset: int) -> bool:
        """Whether a record of the retry topic has to wait there to be admitted: others are, or it is to be now."""
        may_be = admission.is_promised or (admission.has_caught_up and not admission.is_turn)
        return may_be and not admission.has(offset) and self._is_free()

    async def _take_back(self, source: Source, checkpoint: Checkpoint) -> None:
        """Take what stands on the retry topic: do what it says, try it at once, or put it into the schedule."""
        at_once: list[tuple[KafkaRecord, Attempt]] = []
        admission, now_us, rate = self._admission, self._clock.now(), self._allowed()
        most = STRETCH if admission is None or admission.is_turn else MOST
        records = source.take(most if rate is None else max(1, min(most, int(rate * GRAIN))))
        for place, record in enumerate(records):
            try:
                said = read_control(record)
                if said is not None and said.kind is not control.Kind.REDRIVE:
                    self._obey(said, record, checkpoint)
                    continue
                attempt = read_attempt(self._partition, record)
                if attempt.due:
                    self._parking.schedule(record, attempt.due)
                    continue
                if admission is not None and self._has_to_wait(admission, record.offset):
                    if not admission.is_turn:
                        admission.promise(records[-1].offset + 1)
                        self._standing.admit(records[-1].offset + 1, checkpoint)
                    source.put_back(records[place:])
                    break
                if said is not None and not self._resurrect(said, record, checkpoint):
                    continue
            except RecordRefused as refusal:
                self._graveyard.bury_foreign(record, refusal, checkpoint)
                continue
            if admission is not None and self._waits(attempt):
                self._parking.schedule(record, now_us + BLOCKED)
            elif admission is not None and not admission.has(record.offset):
                self._parking.schedule(record, now_us)
            else:
                at_once.append((record, attempt))
        await self._try_at_once(at_once, checkpoint)
        if admission is not None:
            admission.passed(source.position)

    async def _try_at_once(self, found: Sequence[tuple[KafkaRecord, Attempt]], checkpoint: Checkpoint) -> None:
        """Try what stood on the retry topic, as much as the target takes; the rest goes through the schedule."""
        admission = self._admission
        due = self._clock.now() if admission is None else ADMITTED
        # One of the admitted that was not finished goes first: it may have the key of these.
        may_go = admission is None or (admission.is_sure and not self._parking.admitted)
        size = self._size() if found and may_go else 0
        items = [Item(attempt.entry, attempt) for _, attempt in found[:size]]
        outcomes = await self._attempt(items, checkpoint) if items else []
        for number, (record, _) in enumerate(found):
            if number >= len(outcomes) or outcomes[number] is None:
                self._parking.schedule(record, due)
        self._settlement.settle(items, outcomes, checkpoint)

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

    async def _attempt(self, items: Sequence[Item], checkpoint: Checkpoint) -> list[Outcome | None]:
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

    def _untangle(self, items: Sequence[Item], outcomes: list[Outcome | None]) -> None:
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


def _with_head(position: int, rows: Iterable[Blocked]) -> Blocked | None:
    return next((row for row in rows if row.head == position), None)

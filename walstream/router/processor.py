"""The router: ingress -> dedup -> log. It decides once what a record is, and when it takes effect.

One worker serves any number of namespaces; each partition of each namespace is a task of its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from walstream import deadletter, topics
from walstream.dedup import ANSWERED, CANCELLED, DUPLICATE, EXPIRED, decide, decode_row, encode_row, segment_of
from walstream.engine.checkpoint import Checkpoint
from walstream.engine.clock import Clock, now_ms
from walstream.engine.output import Output
from walstream.engine.source import Source
from walstream.entry import refuse_misnamed
from walstream.errors import RecordRefused
from walstream.headers import SCHEDULED, log_headers, strip_headers
from walstream.identity import identity
from walstream.murmur2 import partition_for
from walstream.mutation import TYPE, KeyTemplate, key_mismatch, mutation_parts
from walstream.namespace import Namespace
from walstream.record import Record, parse
from walstream.replica import Replica, read_replica, regions_of
from walstream.router import tables
from walstream.router.effective_time import EffectiveTimes, check_ahead
from walstream.router.metrics import RouterMetrics
from walstream.router.waiting_room import Known, Terms, WaitingRoom
from walstream.wire import Record as KafkaRecord
from walstream.wire import plain_event, plain_key, plain_replica

log = logging.getLogger(__name__)

CHUNK = 64  # records decoded at once: enough to pay for one look into the table, few enough for the cache
CHUNKS = 128  # of a stretch
SAMPLE = 1_000  # records between two looks at a producer's partitioner
Accepted = tuple[KafkaRecord, bytes, int, int, Terms | None, Record | None, Replica | None]
"""A record, its identity, append time (ms) and write time (µs), its terms, if it may have some, what was parsed where
it is of no common kind, and what it says where another region sent it."""
MUTATION_TYPE = TYPE.encode()
_ENDS = {EXPIRED: "expired", CANCELLED: "cancelled"}


class RouterProcessor:
    """The router's work on one partition of one namespace.

    Parameters
    ----------
    namespace, partition
        What it serves.
    rank
        The region's rank, the last digit of every effective time that is given here.
    metrics
        Where it counts.
    region
        The region's name. Without one there are no others, and nothing is taken for a record of theirs.
    """

    def __init__(
        self, namespace: Namespace, partition: int, rank: int, metrics: RouterMetrics, region: str | None = None
    ) -> None:
        self._namespace, self._partition = namespace, partition
        self._region, self._rank = region, rank
        self._replicates = region is not None and namespace.replicates
        self._each = self._replicates and namespace.schedule.where == "each"
        self._metrics = metrics
        self._log = topics.log(namespace).name
        self._dlq = topics.dlq(namespace).name
        self._dedup, self._times_table = tables.dedup(namespace), tables.times(namespace)
        self._targets = frozenset(namespace.targets)
        self._template = KeyTemplate(namespace.key) if namespace.key is not None else None
        self._limit = namespace.topics.max_record
        self._window = namespace.dedup.window
        self._times = EffectiveTimes(rank)
        self._room = WaitingRoom(namespace, self._times)
        self._clock: Clock
        self._segment = 0
        self._until_sample = 1
        self._warned: set[bytes] = set()

    async def open(self, checkpoint: Checkpoint) -> None:
        self._times.restore(checkpoint.table(self._times_table).items())
        self._segment = checkpoint.table(self._dedup).newest_segment()
        self._room.open(checkpoint)
        self._clock = checkpoint.clock

    async def process(self, source: Source, checkpoint: Checkpoint) -> None:
        for _ in range(CHUNKS):
            if not (chunk := source.take(CHUNK)):
                break
            self._route(chunk, checkpoint)
            await asyncio.sleep(0)  # a commit is a dozen turns of the loop; each would wait for the rest of these

    def wants(self, topic: str) -> bool:
        """All of the ingress, at any time."""
        return True

    def due_at(self) -> int | None:
        return self._room.due_at(self._clock.now())

    async def process_due(self, checkpoint: Checkpoint) -> None:
        rows, count = self._room.send_due(checkpoint, checkpoint.output(self._log))
        # Into the segment of what was read last, however long ago that came: if the window went on by the time that it
        # is, whatever was written in a long stop of the router, and is yet to be read, would find it empty.
        checkpoint.table(self._dedup).put_many(rows, now_ms(), self._segment)
        self._metrics.due(self._namespace.name, count)

    def _route(self, chunk: list[KafkaRecord], checkpoint: Checkpoint) -> None:
        now = now_ms()
        accepted: list[Accepted] = []
        refused = circled = 0
        for raw in chunk:
            try:
                accepted.append(self._accept(raw, now))
            except RecordRefused as refusal:
                self._refuse(raw, refusal, checkpoint, now)
                refused += 1
            except Circled:
                circled += 1
        self._sample(chunk)

        dedup = checkpoint.table(self._dedup)
        output = checkpoint.output(self._log)
        room, assign = self._room, self._times.assign
        rows: dict[bytes, bytes] = {}  # of this chunk: the table was asked before they were there
        new = logged = 0
        count: Counter[str] = Counter(refused=refused, circled=circled)
        names = [name for _, name, *_ in accepted]
        known, waiting = dedup.get_many(names), room.look_up(names, checkpoint)
        for (raw, name, appended, written, terms, record, replica), row, stored in zip(
            accepted, known, waiting, strict=True
        ):
            position = raw.offset
            if name in rows or (row is not None and decide(decode_row(row), position) is DUPLICATE):
                continue
            if appended >= self._segment * 1000:
                self._segment = segment_of(appended, self._window)
            destination: int | None
            if terms is None and stored is None and name not in room.changed:
                if replica is None:
                    destination = output.append_entry(raw, assign(written, position))
                else:
                    destination = output.append_received(raw)
                logged += 1
            elif record is not None and record.action != "write":
                if self._replicates or replica is not None:  # by the same time in every region
                    written = assign(written, position) if replica is None else replica.time
                room.act(raw, written, appended, terms, record, rows, checkpoint, self._dedup)
                if self._replicates:
                    self._append(raw, record, written, replica, record.action.encode(), output)
                destination = ANSWERED
                count["answered"] += 1
            elif replica is not None and replica.kind != SCHEDULED:
                try:
                    room.pass_by(raw, name, record, stored, checkpoint, output.position)
                except Known:
                    continue
                if record is None:
                    destination = output.append_received(raw)
                else:
                    destination = self._append(raw, record, replica.time, replica, b"", output)
                logged += 1
            else:
                try:
                    destination = room.admit(
                        raw, name, written, appended, terms, record, stored, checkpoint, replica, each=self._each
                    )
                except Known:
                    continue
                if destination is None:
                    time_us = assign(written, position) if replica is None else replica.time
                    destination = self._append(raw, record, time_us, replica, b"", output)
                    logged += 1
                else:
                    if self._replicates and destination < ANSWERED and (self._each or replica is not None):
                        time_us = assign(written, position) if replica is None else replica.time
                        self._append(raw, record, time_us, replica, SCHEDULED, output)
                    count[_ENDS.get(destination, "scheduled")] += 1
            assert destination is not None
            rows[name] = encode_row(position, destination)
            new += 1
        room.settle(checkpoint)
        dedup.put_many(rows, now, self._segment)
        count.update(logged=logged, duplicate=len(accepted) - new)
        self._metrics.read(self._namespace.name, count)
        if room.answered:
            self._metrics.answered(self._namespace.name, room.answered)

    def finish(self, checkpoint: Checkpoint) -> None:
        times = checkpoint.table(self._times_table)
        now = now_ms()
        self._room.finish(checkpoint)
        row = self._times.take_row()
        if row is not None:
            times.put(*row, now)
        for key in self._times.take_expired():
            times.delete(key, now)

    async def close(self, checkpoint: Checkpoint | None) -> None:
        """Nothing: what the router knows is in its tables."""

    def _accept(self, raw: KafkaRecord, now: int) -> Accepted:
        """Read a record; refuse what cannot be understood, and what may not be written."""
        # The broker's append time; an adopted topic may have the producers' times instead, which can be anything.
        appended = raw.timestamp if raw.timestamp_type == 1 else min(raw.timestamp, now)
        # What was sent when it was due may have a time long after the timestamp with which it was written.
        came = appended if raw.timestamp_type == 1 else now
        event = plain_event(raw) if raw.size <= self._limit else None
        record = terms = replica = None
        if event is not None:
            name, written, kind, asked = event
        elif self._region is not None and raw.size <= self._limit and (found := plain_replica(raw)) is not None:
            name, time_us, timestamp, path = found
            replica = Replica(time_us, timestamp, path)
            self._look_at(replica, came)
            return raw, name, appended, time_us, None, None, replica
        else:
            replica = None if self._region is None else read_replica(raw.headers)
            if replica is not None:
                self._look_at(replica, came)
            record = self._parse(raw, replica)
            name, written, kind = identity(record.key, record.source, record.id), record.time, record.type.encode()
            asked = record.delay, record.deliver_at, record.jitter, record.expiry
        if replica is not None:
            written = replica.time if written is None else written
        elif written is None:
            written = appended * 1000
        else:
            check_ahead(written, appended)
        if asked is not None:
            # Of a reschedule the jitter is drawn from the write's identity.
            drawn = name if record is None or record.ref is None else identity(record.key, record.source, record.ref)
            terms = Terms.of(written, drawn, *asked)
        if replica is not None:
            return raw, name, appended, written, terms, record, replica
        if self._template is not None and kind == MUTATION_TYPE and (record is None or record.action == "write"):
            key, payload = (raw.key, raw.value) if record is None else (record.key, record.payload)
            row = plain_key(payload) if payload else None
            mismatch = key_mismatch(self._template, mutation_parts(payload)[2] if row is None else row, key)
            if mismatch is not None:
                raise RecordRefused("key-mismatch", mismatch)
        return raw, name, appended, written, terms, record, None

    def _look_at(self, replica: Replica, came: int) -> None:
        """Let nothing in that was here before, or whose time is from the future of when it came (ms).

        Raises
        ------
        Circled
            It has been in this region.
        """
        regions = regions_of(replica.path)
        if self._region in regions:
            raise Circled
        check_ahead(replica.time, came)
        if replica.time % 10 == self._rank and replica.path not in self._warned and len(self._warned) < 100:
            self._warned.add(replica.path)
            log.error(
                "%s: the region %s, whose records come here by %s, has the rank %d, as this one has: of two writes at "
                "the same time it is not sure which one wins. Give each region a WALSTREAM_REGION_RANK of its own",
                self._namespace.name, regions[0], ",".join(regions), self._rank,
            )  # fmt: skip

    def _append(
        self, raw: KafkaRecord, record: Record | None, time_us: int, replica: Replica | None, kind: bytes, log: Output
    ) -> int | None:
        """Write an entry that is no plain copy of its record."""
        headers = log_headers(
            raw.headers if record is None else record.headers,
            time_us=time_us,
            position=raw.offset,
            timestamp_ms=raw.timestamp if replica is None else replica.timestamp,
            path=b"" if replica is None else replica.path,
            kind=kind,
        )
        # Kafka's own key, which a partitionkey does not replace: what targets see is what was written.
        return log.append(raw.timestamp, raw.key, raw.value, headers)

    def _parse(self, raw: KafkaRecord, replica: Replica | None) -> Record:
        """Read a record that is not of the common kind, or larger than those may be."""
        key, value, headers = raw.key, raw.value, raw.headers
        # What it was sent with is no part of the record that its first region has let in.
        if deadletter.size_of(key, value, headers if replica is None else strip_headers(headers)) > self._limit:
            raise RecordRefused("too-large", "")
        refuse_misnamed(raw)
        record = parse(key, value, headers, raw.timestamp)
        if replica is not None:
            if replica.kind and replica.kind != (SCHEDULED if record.action == "write" else record.action.encode()):
                raise RecordRefused("bad-replica", f"its kind is {replica.kind.decode()}, and it is a {record.action}")
            return record  # other regions have other targets
        if record.targets is not None and not record.targets <= self._targets:
            unknown = ", ".join(sorted(record.targets - self._targets))
            raise RecordRefused("unknown-target", f"the namespace {self._namespace.name} has no target {unknown}")
        return record

    def _sample(self, chunk: list[KafkaRecord]) -> None:
        """Look at a record now and then: does its producer partition as others do?"""
        self._until_sample -= len(chunk)
        key = chunk[0].key
        if self._until_sample > 0 or key is None:
            return
        self._until_sample = SAMPLE
        expected = partition_for(key, self._namespace.topics.partitions)
        source = dict(chunk[0].headers).get("ce_source") or b""
        if expected != self._partition and source not in self._warned and len(self._warned) < 100:
            self._warned.add(source)
            log.warning(
                "%s: the producer %r put the key %r into partition %d; by murmur2 it belongs into %d. Keys that go two "
                "ways lose their order and their dedup. librdkafka needs partitioner=murmur2_random",
                self._namespace.name, source.decode(errors="replace"), key, self._partition, expected,
            )  # fmt: skip

    def _refuse(self, record: KafkaRecord, refusal: RecordRefused, checkpoint: Checkpoint, now: int) -> None:
        message = deadletter.not_understood(record, refusal, limit=self._limit, now=now)
        checkpoint.output(self._dlq).append(record.timestamp, message.key, message.value, message.headers)


class Circled(Exception):
    """The record has been in this region before."""

"""Sends entries to another region: to the ingress of the same namespace on the Kafka there.

The router there takes them as if they were written there, but for what travels with them: effective time, original
timestamp and the regions that they have passed. An entry is never sent to one of those. They are sent at least once,
each key's in order; a second time they are dropped there by their identity, for which a record is always sent to the
same partition.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from walstream.changes import Action, Change
from walstream.entry import Entry
from walstream.errors import ConfigurationError, RecordRefused, SinkError
from walstream.headers import LOCAL, SCHEDULED, sent_headers
from walstream.invalidation import invalidation
from walstream.kafka import KafkaConnection
from walstream.murmur2 import partition_for
from walstream.namespace import Words
from walstream.replica import REGION, onward
from walstream.sinks import kafka_topic, kafka_writer
from walstream.sinks.base import (
    APPLIED,
    DEAD,
    RETRY,
    SKIPPED,
    Dead,
    Outcome,
    Retry,
    Sink,
    SinkContext,
    TargetDown,
)
from walstream.sinks.kafka_writer import KafkaWriter
from walstream.topics import BATCH_OVERHEAD
from walstream.wire import RecordWriter, partition_of

BATCH_BYTES = 1024 * 1024
LANES = 8  # batches on their way to a partition, at most; a key is always in the same lane
ROOM = 512  # bytes of the headers that a record is sent with, at most


class ReplicateOptions(Words):
    """Which region, and what is sent there.

    Parameters
    ----------
    region
        The name that the region's own workers have in ``WALSTREAM_REGION``.
    mode
        ``full`` records, or ``keys``: of a mutation only which row it is about, so that the region forgets its copy.
    forward
        Whether what came from other regions is sent on, as in a ring or from a hub. In a full mesh, where each region
        sends to each, it is not.
    topic
        The ingress there, where it is not called as walstream would call it.
    """

    region: str = Field(pattern=REGION)
    mode: Literal["full", "keys"] = "full"
    forward: bool = False
    topic: str | None = Field(None, pattern=r"^[a-zA-Z0-9._-]{1,249}$")


class ReplicateSink(Sink):
    """Sends to the ingress of another region."""

    Options = ReplicateOptions
    errors: ClassVar = kafka_writer.ERRORS
    needs_connection = True
    connection_kind = "kafka"
    takes_controls = True
    # What a dead worker sent arrives before the same from its successor, or is dropped as a duplicate.
    late_writes_harmless = True
    # The longer the way, the more has to be on it: a call is over when its last record is answered.
    batch_size = 12_500
    in_flight = 50_000

    def __init__(self, context: SinkContext) -> None:
        super().__init__(context)
        name = f"{context.namespace}.{context.target}"
        own, rank = context.extra.get("region"), context.extra.get("rank", 0)
        if own is None:
            raise ConfigurationError(
                f"the target {name} sends to another region, and this one has no name",
                remedy="set WALSTREAM_REGION and WALSTREAM_REGION_RANK, for all workers of the region",
            )
        if own == self.options.region:
            raise ConfigurationError(
                f"the target {name} is for the region {own}, and that is this one",
                remedy="name the other region in options.region, or correct WALSTREAM_REGION",
            )
        other = context.connection.rank
        if other is None or other == rank:
            raise ConfigurationError(
                f"the connection of {name} does not say the region's rank"
                if other is None
                else f"the region {self.options.region} has the rank {other}, as this one has; of two writes at the "
                "same time none would win",
                remedy="give each region a WALSTREAM_REGION_RANK of its own, and write that of the other one as rank: "
                "into the connection",
            )
        self._own: str = own
        self._topic = self.options.topic or f"{context.namespace}.ingress"
        self._keys_only = self.options.mode == "keys"
        self._paths: dict[bytes, bytes | None] = {}

    async def open(self) -> None:
        found = await asyncio.to_thread(kafka_topic.find, self._kafka(), self._topic)
        if found is None:
            raise SinkError(
                f"there is no topic {self._topic} in the region {self.options.region}; `walstream apply` there makes it"
            )
        self._lanes = found.partitions * LANES
        self._most = found.max_bytes - BATCH_OVERHEAD - ROOM
        size = min(BATCH_BYTES, found.max_bytes - BATCH_OVERHEAD)
        self._writer = KafkaWriter(self._kafka(), self._topic, found.partitions, size, self.verdict)
        await self._writer.open()

    async def close(self) -> None:
        writer = getattr(self, "_writer", None)
        if writer is not None:
            await writer.close()

    async def leave(self, partition: int) -> None:
        await self._writer.leave(partition)

    def _kafka(self) -> KafkaConnection:
        connection: KafkaConnection = self.context.connection.kafka()
        return connection

    async def provision(self, *, dry_run: bool) -> Sequence[Change]:
        """Say what the other region's ingress is like. It is made there, and may be away without harm to this one."""
        try:
            found = await asyncio.to_thread(kafka_topic.find, self._kafka(), self._topic)
        except SinkError as error:
            return [self._unchanged(f"the region does not answer; what is written here waits for it ({error})")]
        if found is None:
            detail = "it does not exist yet; `walstream apply` there makes it, and until then all waits"
            return [self._unchanged(detail)]
        detail = f"{found.partitions} partitions there"
        if found.partitions != self.context.partitions:
            detail += f", {self.context.partitions} here: a key's partition has another number there"
        return [self._unchanged(detail)]

    def _unchanged(self, detail: str) -> Change:
        return Change(Action.NONE, "topic", f"{self._topic} of the region {self.options.region}", detail)

    async def write(self, batch: Sequence[Entry]) -> Sequence[Outcome]:
        outcomes: list[Outcome | None] = [APPLIED] * len(batch)
        lanes: dict[int, list[int]] = {}
        composed: dict[int, tuple[bytes, list[Any]]] = {}  # of entries that are not sent as they are
        count, most, paths, total = self._lanes, self._most, self._paths, 0
        for place, entry in enumerate(batch):
            try:
                path = paths[entry.path]
            except KeyError:
                path = self._onward(entry.path)
            if path is None or entry.kind == LOCAL:
                outcomes[place] = SKIPPED
                continue
            raw = entry.raw
            if self._keys_only and entry.kind in (b"", SCHEDULED):
                try:
                    message = invalidation(entry)
                except RecordRefused as refusal:
                    outcomes[place] = Dead(str(refusal))
                    continue
                composed[place] = message.value or b"", message.headers
            elif raw is None:
                composed[place] = entry.value, list(entry.headers)  # type: ignore[assignment]
            if (size := entry.size) > most:
                outcomes[place] = Dead(f"it has about {size} bytes, and the topic {self._topic} there takes {most}")
                continue
            total += size
            # A hash modulo so many lanes is, modulo the number of partitions, the key's partition.
            lane = -1 if raw is None else partition_of(raw, count)
            if lane < 0:
                lane = self._lane(entry)
            if (places := lanes.get(lane)) is None:
                lanes[lane] = [place]
            else:
                places.append(place)

        def append(writer: RecordWriter, place: int) -> bool:
            entry = batch[place]
            path, raw = paths[entry.path], entry.raw
            assert path is not None
            if raw is not None and place not in composed:
                return writer.append_sent(raw, entry.timestamp, path)
            value, own = composed[place]
            headers = sent_headers(
                own, time=b"%d" % entry.time, timestamp=b"%d" % entry.timestamp, path=path, kind=entry.kind
            )
            return writer.append(entry.timestamp, entry.key, value, headers)

        failed = await self._writer.write(lanes, append, batch[0].partition, total) if lanes else {}
        return self._judge(outcomes, failed)

    def _judge(self, outcomes: list[Outcome | None], failed: Mapping[int, Exception]) -> Sequence[Outcome]:
        """The outcomes, with what failed.

        Raises
        ------
        TargetDown
            The region is away, with what became of each entry. What was taken may come again: it is dropped there.
        """
        down: Exception | None = None
        for place, error in failed.items():
            verdict = self.verdict(error)
            reason = f"{type(error).__name__}: {error}"
            if verdict is DEAD:
                outcomes[place] = Dead(reason)
            elif verdict is RETRY:
                outcomes[place] = Retry(reason)
            else:
                outcomes[place], down = None, error
        if down is not None:
            raise TargetDown(f"{type(down).__name__}: {down}", outcomes=outcomes) from down
        return outcomes  # type: ignore[return-value]

    def _onward(self, path: bytes) -> bytes | None:
        if len(self._paths) > 1_000:  # there are as many as ways between regions, unless somebody makes them up
            self._paths.clear()
        found = self._paths[path] = onward(path, own=self._own, to=self.options.region, forward=self.options.forward)
        return found

    def _lane(self, entry: Entry) -> int:
        """That of an entry without a Kafka key: to the partition that our client chooses, whenever it is sent."""
        record = entry.record
        key = record.key if record.key is not None else (record.ref or record.id).encode()
        return partition_for(key, self._lanes)

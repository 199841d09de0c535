"""Copies records to a Kafka topic: key, value, headers and timestamp as their producer wrote them.

On the namespace's own cluster the copies are part of the checkpoint, so each record is copied exactly once. On another
cluster (the target names a ``connection``) they are written by an idempotent producer, at least once: after a crash the
records of the last checkpoint may come again, in their order.

A copy has the number of its record's partition where both topics have as many partitions. Else a key's partition is
chosen as Kafka's own clients choose it, and records without a key go round the partitions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka_errors
from pydantic import Field, field_validator

from walstream.changes import Change
from walstream.entry import Entry
from walstream.errors import ConfigurationError, SinkError
from walstream.kafka import KafkaConnection
from walstream.murmur2 import partition_for
from walstream.namespace import Words
from walstream.sinks import kafka_topic
from walstream.sinks.base import (
    APPLIED,
    DEAD,
    RETRY,
    TARGET_DOWN,
    CheckpointSink,
    Dead,
    Outcome,
    Retry,
    Sink,
    SinkContext,
    Staging,
)
from walstream.topics import BATCH_OVERHEAD
from walstream.wire.builder import BatchBuilder

# How long a batch may take. The producer itself tries for ever, so that it can keep its promise of no duplicates.
ANSWER_WITHIN_S = 20.0
BATCH_BYTES = 512 * 1024


class KafkaOptions(Words):
    """Where records go, and how the topic is made where it does not exist.

    Parameters
    ----------
    partitions
        The namespace's count by default.
    replication
        The cluster's default, where it is not given.
    """

    topic: str = Field(pattern=r"^[a-zA-Z0-9._-]{1,249}$")
    partitions: int | None = Field(default=None, ge=1, le=10_000)
    replication: int | None = Field(default=None, ge=1, le=100)

    @field_validator("topic")
    @classmethod
    def _is_a_name(cls, topic: str) -> str:
        if topic in (".", ".."):
            raise ValueError(f"{topic!r} cannot be the name of a topic")
        return topic


@dataclass(frozen=True, slots=True)
class Router:
    """Decides which partition of the topic a record belongs to, and whether the topic can take it at all."""

    topic: kafka_topic.Found
    same_partitions: bool

    @classmethod
    async def open(cls, context: SinkContext) -> Router:
        found = await asyncio.to_thread(kafka_topic.find, _cluster(context), context.options.topic)
        if found is None:
            raise SinkError(f"there is no topic {context.options.topic}; `walstream apply` makes it")
        return cls(found, found.partitions == context.partitions)

    def partition(self, entry: Entry) -> int:
        if self.same_partitions:
            return entry.partition
        if entry.key is not None:
            return partition_for(entry.key, self.topic.partitions)
        return entry.position % self.topic.partitions

    def refusal(self, entry: Entry) -> Dead | None:
        """Why the broker would refuse the record, and with it everything that is in the same batch or transaction."""
        if entry.key is None and self.topic.compacted:
            return Dead(f"the topic {self.topic.name} is compacted and takes no record without a key")
        size = entry.size + BATCH_OVERHEAD
        if size > self.topic.max_bytes:
            return Dead(f"it has about {size} bytes, and the topic {self.topic.name} takes {self.topic.max_bytes}")
        return None


class KafkaSink(Sink):
    """Copies to a topic of another cluster, at least once."""

    Options = KafkaOptions
    errors: ClassVar = {
        kafka_errors.KafkaConnectionError: TARGET_DOWN,
        kafka_errors.KafkaTimeoutError: TARGET_DOWN,
        kafka_errors.KafkaUnavailableError: TARGET_DOWN,
        kafka_errors.NodeNotReadyError: TARGET_DOWN,
        kafka_errors.NoBrokersAvailable: TARGET_DOWN,
        kafka_errors.BrokerNotAvailableError: TARGET_DOWN,
        kafka_errors.RequestTimedOutError: TARGET_DOWN,
        kafka_errors.LeaderNotAvailableError: TARGET_DOWN,
        kafka_errors.NotLeaderForPartitionError: TARGET_DOWN,
        kafka_errors.NotEnoughReplicasError: TARGET_DOWN,
        kafka_errors.NotEnoughReplicasAfterAppendError: TARGET_DOWN,
        kafka_errors.KafkaStorageError: TARGET_DOWN,
        kafka_errors.UnknownTopicOrPartitionError: TARGET_DOWN,
        kafka_errors.AuthenticationFailedError: TARGET_DOWN,
        kafka_errors.SaslAuthenticationFailed: TARGET_DOWN,
        kafka_errors.TopicAuthorizationFailedError: TARGET_DOWN,
        kafka_errors.ClusterAuthorizationFailedError: TARGET_DOWN,
        kafka_errors.PolicyViolationError: TARGET_DOWN,
        SinkError: TARGET_DOWN,
        # The topic's limit, or the broker's, was lowered after we looked.
        kafka_errors.MessageSizeTooLargeError: DEAD,
        kafka_errors.RecordListTooLargeError: RETRY,
        # The topic's message.timestamp.before.max.ms or after.max.ms.
        kafka_errors.InvalidTimestampError: DEAD,
        kafka_errors.CorruptRecordException: RETRY,
        # Of a producer that had to be replaced.
        kafka_errors.OutOfOrderSequenceNumber: RETRY,
        kafka_errors.UnknownProducerId: RETRY,
        kafka_errors.InvalidProducerEpoch: RETRY,
        kafka_errors.ProducerClosed: RETRY,
    }

    @classmethod
    def for_context(cls, context: SinkContext) -> Sink:
        return OwnClusterKafkaSink(context) if context.connection is None else cls(context)

    async def open(self) -> None:
        self._router = await Router.open(self.context)
        count = self._router.topic.partitions
        self._batch_bytes = min(BATCH_BYTES, self._router.topic.max_bytes)
        self._locks = [asyncio.Lock() for _ in range(count)]
        # What was sent and not answered in time. Only once it is, the next batch of that partition may follow: so
        # order holds, and an unreachable cluster does not make batches pile up.
        self._unanswered: dict[int, asyncio.Future[Any]] = {}
        self._replacing = asyncio.Lock()
        self._stopping: set[asyncio.Task[None]] = set()
        self._producer = await self._start_producer()

    async def close(self) -> None:
        producer = getattr(self, "_producer", None)
        if producer is None:
            return
        self._stop(producer)
        # stop() waits for what is unanswered, without end if need be. That comes again from the log.
        await asyncio.wait(self._stopping, timeout=ANSWER_WITHIN_S)

    async def _start_producer(self) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            **_cluster(self.context).aiokafka(),
            enable_idempotence=True,
            request_timeout_ms=int(ANSWER_WITHIN_S * 1000 / 2),
        )
        try:
            await producer.start()
        except kafka_errors.KafkaError as error:
            raise SinkError(f"the other Kafka cannot be reached: {error}") from error
        return producer

    async def _replace(self, broken: AIOKafkaProducer) -> None:
        async with self._replacing:
            if self._producer is broken:
                self._producer = await self._start_producer()
                self._stop(broken)

    def _stop(self, producer: AIOKafkaProducer) -> None:
        task = asyncio.create_task(producer.stop())
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    async def provision(self, *, dry_run: bool) -> Sequence[Change]:
        return await _provision(self.context, dry_run)

    async def write(self, batch: Sequence[Entry]) -> Sequence[Outcome]:
        outcomes: dict[int, Outcome] = {}
        partitions: dict[int, list[int]] = {}
        for i, entry in enumerate(batch):
            if (dead := self._router.refusal(entry)) is not None:
                outcomes[i] = dead
            else:
                partitions.setdefault(self._router.partition(entry), []).append(i)
        failures = await asyncio.gather(
            *(self._write_partition(partition, batch, places) for partition, places in partitions.items())
        )
        failed = {i: error for failure in failures for i, error in failure.items()}
        some_applied = len(failed) < sum(map(len, partitions.values()))
        for i, error in failed.items():
            verdict = self.verdict(error)
            if verdict is DEAD:
                outcomes[i] = Dead(f"{type(error).__name__}: {error}")
            elif verdict is RETRY or (verdict is TARGET_DOWN and some_applied):
                outcomes[i] = Retry(f"{type(error).__name__}: {error}")
            else:
                raise error
        return [outcomes.get(i, APPLIED) for i in range(len(batch))]

    async def _write_partition(
        self, partition: int, batch: Sequence[Entry], places: Sequence[int]
    ) -> dict[int, Exception]:
        """Send some of the batch's entries, in order, and answer with those that failed.

        One after the other: of two batches on their way, the second could arrive where the first fails, and its
        records would then stand before the first's.
        """
        failed: dict[int, Exception] = {}
        todo = list(places)
        alone = False
        async with self._locks[partition]:
            while todo:
                builder, taken = BatchBuilder(self._batch_bytes, "lz4", transactional=False), 0
                for i in todo[: 1 if alone else None]:
                    entry = batch[i]
                    if not builder.writer.append(entry.timestamp, entry.key, entry.value, list(entry.headers)):
                        break
                    taken += 1
                try:
                    await self._send(builder, partition)
                except kafka_errors.KafkaError as error:
                    if self.verdict(error) is not DEAD:
                        return failed | dict.fromkeys(todo, error)
                    if taken > 1:
                        alone = True  # the fault is one record's; find out whose
                        continue
                    failed[todo[0]] = error
                todo = todo[taken:]
        return failed

    async def _send(self, builder: BatchBuilder, partition: int) -> None:
        unanswered = self._unanswered.get(partition)
        if unanswered is not None:
            await _answer(unanswered)  # whether it failed or not: its records come again
        producer = self._producer
        future = await producer.send_batch(builder, self.options.topic, partition=partition)
        self._unanswered[partition] = future
        await _answer(future)
        try:
            future.result()
        except kafka_errors.KafkaError:
            # It has counted a batch that the broker has not: everything after it would be out of order.
            await self._replace(producer)
            raise


class OwnClusterKafkaSink(CheckpointSink):
    """Copies to a topic of the namespace's own cluster, exactly once."""

    Options = KafkaOptions
    errors: ClassVar = {SinkError: TARGET_DOWN}

    def __init__(self, context: SinkContext) -> None:
        super().__init__(context)
        topic = context.options.topic
        if topic in {f"{context.namespace}.{suffix}" for suffix in ("ingress", "log", "dlq", "answers")}:
            raise ConfigurationError(
                f"the target {context.namespace}.{context.target} copies to {topic}, a topic of the namespace itself",
                remedy="give options.topic another name",
            )

    async def open(self) -> None:
        self._router = await Router.open(self.context)

    async def provision(self, *, dry_run: bool) -> Sequence[Change]:
        return await _provision(self.context, dry_run)

    def stage(self, batch: Sequence[Entry], checkpoint: Staging) -> Sequence[Outcome]:
        outcomes: list[Outcome] = []
        topic, router = self.options.topic, self._router
        for entry in batch:
            dead = router.refusal(entry)
            if dead is None:
                partition = router.partition(entry)
                if entry.raw is not None:
                    checkpoint.emit_original(topic, partition, entry.raw, entry.timestamp)
                else:
                    headers = list(entry.headers)
                    checkpoint.emit(topic, partition, entry.timestamp, entry.key, entry.value, headers)
            outcomes.append(dead or APPLIED)
        return outcomes


def _cluster(context: SinkContext) -> KafkaConnection:
    connection: KafkaConnection = context.extra["kafka"] if context.connection is None else context.connection.kafka()
    return connection


async def _provision(context: SinkContext, dry_run: bool) -> Sequence[Change]:
    options = context.options
    wanted = kafka_topic.Wanted(
        options.topic, options.partitions or context.partitions, options.replication, context.max_record
    )
    return [await asyncio.to_thread(kafka_topic.provide, _cluster(context), wanted, dry_run)]


async def _answer(future: asyncio.Future[Any]) -> None:
    """Wait until a batch is answered, well or badly.

    Raises
    ------
    KafkaTimeoutError
        It takes too long. It is still on its way.
    """
    done, _ = await asyncio.wait([future], timeout=ANSWER_WITHIN_S)
    for answered in done:
        answered.exception()  # looked at, so that asyncio does not report it as forgotten
    if not done:
        raise kafka_errors.KafkaTimeoutError(f"no answer within {ANSWER_WITHIN_S:g} s")

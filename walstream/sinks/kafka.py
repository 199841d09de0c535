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
from typing import ClassVar

from pydantic import Field, field_validator

from walstream.changes import Change
from walstream.entry import Entry
from walstream.errors import ConfigurationError, SinkError
from walstream.kafka import KafkaConnection
from walstream.murmur2 import partition_for
from walstream.namespace import Words
from walstream.sinks import kafka_topic, kafka_writer
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
from walstream.sinks.kafka_writer import KafkaWriter
from walstream.topics import BATCH_OVERHEAD
from walstream.wire import RecordWriter


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
    errors: ClassVar = kafka_writer.ERRORS

    @classmethod
    def for_context(cls, context: SinkContext) -> Sink:
        return OwnClusterKafkaSink(context) if context.connection is None else cls(context)

    async def open(self) -> None:
        self._router = await Router.open(self.context)
        topic = self._router.topic
        self._writer = KafkaWriter(
            _cluster(self.context), topic.name, topic.partitions,
            min(kafka_writer.BATCH_BYTES, topic.max_bytes - BATCH_OVERHEAD), self.verdict,
        )  # fmt: skip
        await self._writer.open()

    async def close(self) -> None:
        writer = getattr(self, "_writer", None)
        if writer is not None:
            await writer.close()

    async def leave(self, partition: int) -> None:
        await self._writer.leave(partition)

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

        def append(writer: RecordWriter, place: int) -> bool:
            entry = batch[place]
            return writer.append(entry.timestamp, entry.key, entry.value, list(entry.headers))

        failed = await self._writer.write(partitions, append, batch[0].partition) if partitions else {}
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

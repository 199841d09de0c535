"""The transactional producer of one task. Its transactional id belongs to the partition, so a new owner fences the old.

A producer that met any error is thrown away: what was buffered must never be sent later, and the next producer of the
same id learns from Kafka whether the last transaction took place.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.structs import TopicPartition

from walstream.engine.clock import Clock
from walstream.wire.builder import BatchBuilder

BATCH_SIZE = 1_000_000  # bytes; below the default limit of a topic's record batches
START_TIMEOUT = 60.0  # s; a start waits until the transaction of the former owner is over
COMMIT_TIMEOUT = 20.0  # s
TRANSACTION_TIMEOUT = 30_000  # ms; how long the broker keeps the transaction of an owner that went silent
REQUEST_TIMEOUT = 15_000  # ms
RETRY_BACKOFF = 20  # ms; a broker that verifies a new transaction answers "not yet" for a moment


class TransactionalProducer:
    """Sends batches and offsets as one transaction.

    Parameters
    ----------
    connection
        Options for aiokafka that say how to reach the cluster.
    transactional_id
        The name under which the next owner fences this one.
    clock
        Learns the brokers' time from their answers.
    compression
        ``lz4``, ``zstd``, ``snappy``, ``gzip`` or None.
    """

    def __init__(
        self,
        connection: Mapping[str, Any],
        transactional_id: str,
        clock: Clock | None = None,
        compression: str | None = "lz4",
    ) -> None:
        self.transactional_id = transactional_id
        self._clock = clock or Clock()
        self._compression = compression
        self._producer = AIOKafkaProducer(
            **connection,
            client_id=transactional_id,
            transactional_id=transactional_id,
            enable_idempotence=True,
            acks="all",
            max_batch_size=BATCH_SIZE,
            max_request_size=64 << 20,
            linger_ms=0,
            request_timeout_ms=REQUEST_TIMEOUT,
            retry_backoff_ms=RETRY_BACKOFF,
            transaction_timeout_ms=TRANSACTION_TIMEOUT,
        )

    async def start(self) -> None:
        """Fence the former owner, and wait until its last transaction is committed or aborted."""
        try:
            await asyncio.wait_for(self._producer.start(), START_TIMEOUT)
        except BaseException:
            await self.abandon()
            raise

    def new_batch(self) -> BatchBuilder:
        """An empty batch builder."""
        return BatchBuilder(BATCH_SIZE, self._compression, transactional=True)

    async def commit(
        self, batches: Mapping[tuple[str, int], list[BatchBuilder]], offsets: Mapping[TopicPartition, int], group: str
    ) -> dict[tuple[str, int], list[int]]:
        """Commit batches and offsets as one transaction.

        Returns
        -------
        dict
            For each topic and partition the offset of the first record of each batch.

        Raises
        ------
        Exception
            Whatever went wrong. The transaction may have taken place all the same; the producer is of no more use.
        """
        async with asyncio.timeout(COMMIT_TIMEOUT):
            await self._producer.begin_transaction()
            sent = [self._send(topic, partition, sealed) for (topic, partition), sealed in batches.items()]
            # A checkpoint of the opening or the end has changes and no offsets, which aiokafka refuses to send.
            to_commit = [self._producer.send_offsets_to_transaction(dict(offsets), group)] if offsets else []
            answers = await asyncio.gather(*sent, *to_commit)
            await self._producer.commit_transaction()
        return dict(zip(batches, answers[: len(sent)], strict=True))

    async def _send(self, topic: str, partition: int, batches: list[BatchBuilder]) -> list[int]:
        # Every answer is awaited: a batch that failed for lack of a leader would be missing from the transaction.
        sent = self._clock.boot()
        futures = [await self._producer.send_batch(batch, topic, partition=partition) for batch in batches]
        answer = await futures[0]
        if answer.timestamp_type == 1:  # the append time; topics with the producers' times have none to tell
            leader = self._producer.client.cluster.leader_for_partition(answer.topic_partition)
            self._clock.witness(answer.timestamp, sent, leader)
        return [answer.offset, *[(await future).offset for future in futures[1:]]]

    async def abandon(self) -> None:
        """Throw the producer away without sending what it still holds.

        `AIOKafkaProducer.stop` would flush, and an idempotent batch never expires: a worker that was cut off would send
        it minutes later.
        """
        producer = self._producer
        if producer._closed:
            return
        producer._closed = True
        with contextlib.suppress(Exception):
            await asyncio.wait_for(producer.client.close(), 1)
        with contextlib.suppress(Exception):
            # Ends the sender's task; it raises the error again that ended it, ProducerFenced for one.
            await asyncio.wait_for(producer._sender.close(), 1)
        accumulator = producer._message_accumulator
        for batch in [
            *accumulator._pending_batches,
            *(batch for batches in accumulator._batches.values() for batch in batches),
        ]:
            batch.future.cancel()  # else asyncio reports each as an error that nobody looked at
        accumulator._batches.clear()

"""The transactional producer of one task. Its transactional id belongs to the partition, so a new owner fences the old.

It speaks the protocol itself, over aiokafka's connections: a checkpoint is known as a whole when it is committed, and
five requests one behind the other cost a third of what a producer does that must be ready for anything. Where the
cluster speaks the second transaction protocol (`protocol`), they are three.

A producer that met any error is thrown away: what was to be sent must never be sent later, and the next producer of the
same id learns from Kafka whether the last transaction took place.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeVar

from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.errors import (
    ConcurrentTransactions,
    IncompatibleBrokerVersion,
    KafkaError,
    LeaderNotAvailableError,
    OperationNotAttempted,
    ProducerClosed,
    for_code,
)
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    InitProducerIdRequest,
    TxnOffsetCommitRequest,
)
from aiokafka.structs import TopicPartition

from walstream.engine import protocol
from walstream.engine.clock import Clock
from walstream.wire.builder import BatchBuilder

log = logging.getLogger(__name__)
T = TypeVar("T")
At = tuple[str, int]
"""A topic and a partition number."""

BATCH_SIZE = 1_000_000  # bytes; below the default limit of a topic's record batches
START_TIMEOUT = 60.0  # s; a start waits until the transaction of the former owner is over
COMMIT_TIMEOUT = 20.0  # s
TRANSACTION_TIMEOUT = 30_000  # ms; how long the broker keeps the transaction of an owner that went silent
REQUEST_TIMEOUT = 15_000  # ms
RETRY, RETRY_MOST = 0.02, 0.5  # s
SOON = 0.005  # s; the markers of the transaction before are being written, which takes about that
SEQUENCES = 1 << 31  # after which a batch's sequence number begins at 0 again


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
        self._client = AIOKafkaClient(
            **connection,
            client_id=transactional_id,
            request_timeout_ms=REQUEST_TIMEOUT,
            retry_backoff_ms=round(RETRY * 1_000),
        )
        self._id = self._epoch = -1
        self._second = False  # whether it is the second protocol that is spoken
        self._sequences: defaultdict[At, int] = defaultdict(int)
        self._coordinators: dict[CoordinationType, int] = {}
        self._learning: asyncio.Future[Any] | None = None
        self._closed = False

    async def start(self) -> None:
        """Fence the former owner, and wait until its last transaction is committed or aborted."""
        try:
            async with asyncio.timeout(START_TIMEOUT):
                await self._client.bootstrap()
                features = await self._persist(lambda: protocol.features(self._client))
                self._second = features.get(protocol.FEATURE, 0) >= protocol.SECOND
                await self._persist(self._fence)
        except BaseException:
            await self.abandon()
            raise

    def new_batch(self) -> BatchBuilder:
        """An empty batch builder."""
        return BatchBuilder(BATCH_SIZE, self._compression, transactional=True)

    async def commit(
        self, batches: Mapping[At, list[BatchBuilder]], offsets: Mapping[TopicPartition, int], group: str
    ) -> dict[At, list[int]]:
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
            placed = await self.write(batches, offsets, group)
            if batches or offsets:
                await self._persist(self._end)
        return placed

    async def write(
        self, batches: Mapping[At, list[BatchBuilder]], offsets: Mapping[TopicPartition, int], group: str
    ) -> dict[At, list[int]]:
        """Write batches and offsets, every one of which is answered, and leave the transaction open; see `commit`."""
        if self._second:
            # One behind the other: each changes the transaction, and of two changes at a time one is refused.
            placed = await self._produce(batches)
            if offsets:
                await self._persist(lambda: self._commit_offsets(offsets, group))
            return placed
        if batches:
            await self._persist(lambda: self._add_partitions(batches))
        if not offsets:
            return await self._produce(batches)
        beside = asyncio.create_task(self._add_offsets(offsets, group))
        try:
            placed = await self._produce(batches)
            await beside
        finally:
            if not beside.done():
                beside.cancel()
                await asyncio.wait({beside})
        return placed

    async def abandon(self) -> None:
        """Throw the producer away."""
        if not self._closed:
            self._closed = True
            if self._learning is not None:
                self._learning.cancel()
            with contextlib.suppress(Exception):
                await asyncio.wait_for(self._client.close(), 1)

    # Requests of a transaction, in their order

    async def _fence(self) -> None:
        answer = await self._coordinate(
            CoordinationType.TRANSACTION,
            self.transactional_id,
            InitProducerIdRequest(self.transactional_id, TRANSACTION_TIMEOUT),
        )
        _check([answer.error_code])
        self._id, self._epoch = answer.producer_id, answer.producer_epoch

    async def _add_partitions(self, ats: Iterable[At]) -> None:
        request = AddPartitionsToTxnRequest(self.transactional_id, self._id, self._epoch, _by_topic(ats))
        answer = await self._coordinate(CoordinationType.TRANSACTION, self.transactional_id, request)
        _check(code for _, errors in answer.errors for _, code in errors)

    async def _add_offsets(self, offsets: Mapping[TopicPartition, int], group: str) -> None:
        async def add() -> None:
            request = AddOffsetsToTxnRequest(self.transactional_id, self._id, self._epoch, group)
            answer = await self._coordinate(CoordinationType.TRANSACTION, self.transactional_id, request)
            _check([answer.error_code])

        await self._persist(add)
        await self._persist(lambda: self._commit_offsets(offsets, group))

    async def _commit_offsets(self, offsets: Mapping[TopicPartition, int], group: str) -> None:
        topics = _by_topic((topic, (partition, offset, "")) for (topic, partition), offset in offsets.items())
        request = protocol.TxnOffsetCommitRequest if self._second else TxnOffsetCommitRequest
        answer = await self._coordinate(
            CoordinationType.GROUP, group, request(self.transactional_id, group, self._id, self._epoch, topics)
        )
        _check(code for _, errors, *_ in answer.errors for _, code, *_ in errors)

    async def _end(self) -> None:
        request: Any
        if self._second:
            request = protocol.EndTxnRequest(self.transactional_id, self._id, self._epoch)
        else:
            request = EndTxnRequest(self.transactional_id, self._id, self._epoch, True)
        answer = await self._coordinate(CoordinationType.TRANSACTION, self.transactional_id, request)
        _check([answer.error_code])
        if self._second:
            self._id, self._epoch = answer.producer_id, answer.producer_epoch
            self._sequences.clear()  # they begin again with each epoch

    async def _coordinate(self, kind: CoordinationType, key: str, request: Any) -> Any:
        node = self._coordinators.get(kind)
        if node is None:
            node = self._coordinators[kind] = await self._client.coordinator_lookup(kind, key)
        return await self._client.send(node, request, group=ConnectionGroup.COORDINATION)

    # Batches

    async def _produce(self, batches: Mapping[At, list[BatchBuilder]]) -> dict[At, list[int]]:
        """Send one batch of each partition after the other; what failed is sent again, as the same bytes."""
        placed: dict[At, list[int]] = {at: [] for at in batches}
        for number in range(max(map(len, batches.values()), default=0)):
            waiting: dict[At, bytes] = {}
            for at, sealed in batches.items():
                if number < len(sealed):
                    batch, sequence = sealed[number], self._sequences[at]
                    batch._set_producer_state(self._id, self._epoch, sequence)
                    waiting[at] = batch._build()
                    self._sequences[at] = (sequence + batch.record_count()) % SEQUENCES

            async def send(waiting: dict[At, bytes] = waiting) -> None:
                nodes: defaultdict[int, list[At]] = defaultdict(list)
                for at in waiting:
                    nodes[await self._leader(at)].append(at)
                # With several brokers, all of them at once.
                sent = [self._send(node, {at: waiting[at] for at in ats}) for node, ats in nodes.items()]
                answers = [await sent[0]] if len(sent) == 1 else await asyncio.gather(*sent, return_exceptions=True)
                codes = []
                for answer in answers:
                    if isinstance(answer, BaseException):
                        raise answer
                    for at, code, offset in answer:
                        codes.append(code)
                        if not code:
                            placed[at].append(offset)
                            del waiting[at]
                _check(codes)

            await self._persist(send)
        return placed

    async def _leader(self, at: At) -> int:
        if self._client.cluster.partitions_for_topic(at[0]) is None:
            await self._learn(at[0])
        leader = self._client.cluster.leader_for_partition(TopicPartition(*at))
        if leader is None or leader == -1:
            raise LeaderNotAvailableError(f"{at[0]}-{at[1]}")
        return int(leader)

    async def _learn(self, topic: str) -> None:
        """Ask for a topic's leaders. aiokafka would wait for ever where its client is closed meanwhile."""
        self._learning = asyncio.ensure_future(self._client._wait_on_metadata(topic))
        try:
            await self._learning
        except asyncio.CancelledError:
            if self._closed:
                raise ProducerClosed from None
            raise

    async def _send(self, node: int, batches: Mapping[At, bytes]) -> list[tuple[At, int, int]]:
        """Send batches to one broker; for each its error's code, and the offset of its first record."""
        topics = _by_topic((topic, (partition, batch)) for (topic, partition), batch in batches.items())
        sent = self._clock.boot()
        request: Any
        if self._second:
            request = protocol.ProduceRequest(self.transactional_id, REQUEST_TIMEOUT, topics)
        else:
            request = ProduceRequest(self.transactional_id, -1, REQUEST_TIMEOUT, topics)
        answer = await self._client.send(node, request)
        parts = [(topic, part) for topic, parts, *_ in answer.topics for part in parts]
        appended = max(part[3] for _, part in parts)
        if appended >= 0:  # topics with the producers' times have no append time to tell
            self._clock.witness(appended, sent, node)
        return [((topic, part[0]), part[1], part[2]) for topic, part in parts]

    # What may pass is tried again

    async def _persist(self, work: Callable[[], Awaitable[T]]) -> T:
        wait, soon = RETRY, SOON
        while True:
            if self._closed:
                raise ProducerClosed
            try:
                return await work()
            except NotImplementedError as exc:  # as aiokafka says that a broker is too old for a request
                raise IncompatibleBrokerVersion("the brokers were exchanged for older ones") from exc
            except ConcurrentTransactions:
                await asyncio.sleep(soon)
                soon = min(soon * 2, RETRY_MOST)  # a broker that has just started has more to do
            except KafkaError as exc:
                if not exc.retriable:
                    raise
                log.info("%s tries again after %r", self.transactional_id, exc)
                self._coordinators.clear()
                if exc.invalid_metadata:
                    self._client.force_metadata_update()
                await asyncio.sleep(wait)
                wait = min(wait * 2, RETRY_MOST)


def _by_topic(entries: Iterable[tuple[str, T]]) -> list[tuple[str, list[T]]]:
    topics: defaultdict[str, list[T]] = defaultdict(list)
    for topic, entry in entries:
        topics[topic].append(entry)
    return list(topics.items())


def _check(codes: Iterable[int]) -> None:
    """Raise the error of one that was refused; of one that is final, where there is one."""
    errors = [for_code(code) for code in codes if code]
    # Kafka did not look at these, for the sake of another one.
    errors = [error for error in errors if error is not OperationNotAttempted] or errors
    for error in sorted(errors, key=lambda error: bool(error.retriable)):
        raise error()

"""Writes to partitions of a topic of another cluster, at least once, in lanes, and what is in one lane in order.

The producers are idempotent: a batch that is sent again because its answer was lost stands there once. After a crash of
the worker the records of the last checkpoint come again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka_errors

from walstream.errors import SinkError
from walstream.kafka import KafkaConnection
from walstream.sinks.base import DEAD, RETRY, TARGET_DOWN, Verdict
from walstream.wire import RecordWriter
from walstream.wire.builder import BatchBuilder

# How long a batch may take. The producer itself tries for ever, so that it can keep its promise of no duplicates.
ANSWER_WITHIN_S = 20.0
BATCH_BYTES = 512 * 1024
FEW = 500  # records to a partition that need no lanes: a request for each costs more than their sending gains

ERRORS: Final[Mapping[type[BaseException], Verdict]] = {
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
"""What an error says about the records of a batch: a sink's table of errors."""

Append = Callable[[RecordWriter, int], bool]
"""Adds the record of a place in the caller's batch; False where it does not fit any more."""


class KafkaWriter:
    """Writes to one topic. `open` comes first.

    Parameters
    ----------
    kafka, topic
        Where.
    partitions
        How many the topic has.
    batch_bytes
        Bytes of one batch, not compressed.
    verdict
        What an error says of a batch.
    lanes
        How many each partition has: batches of so many are on their way to it at a time. Lane number ``n`` leads to
        the partition ``n`` modulo the number of partitions.
    producers
        How many, at most. Each has one request at a time on its way to a broker; lanes share them.
    """

    def __init__(
        self,
        kafka: KafkaConnection,
        topic: str,
        partitions: int,
        batch_bytes: int,
        verdict: Callable[[BaseException], Verdict | None],
        lanes: int = 1,
        producers: int = 1,
    ) -> None:
        self._kafka, self._topic, self._batch_bytes, self._verdict = kafka, topic, batch_bytes, verdict
        self._partitions = partitions
        self._locks: dict[tuple[int, int], asyncio.Lock] = {}
        # What was sent and not answered in time. Only once it is, the next batch of that lane may follow: so
        # order holds, and an unreachable cluster does not make batches pile up.
        self._unanswered: dict[tuple[int, int], asyncio.Future[Any]] = {}
        self._replacing = asyncio.Lock()
        self._stopping: set[asyncio.Task[None]] = set()
        self._wanted = min(producers, partitions * lanes)
        self.producers: list[AIOKafkaProducer] = []

    async def open(self) -> None:
        """Connect.

        Raises
        ------
        SinkError
            The cluster cannot be reached.
        """
        while len(self.producers) < self._wanted:
            self.producers.append(await self._start_producer())

    async def close(self) -> None:
        """Disconnect."""
        for producer in self.producers:
            self._stop(producer)
        if self._stopping:
            # stop() waits for what is unanswered, without end if need be. That comes again from the log.
            await asyncio.wait(self._stopping, timeout=ANSWER_WITHIN_S)

    async def _start_producer(self) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            **self._kafka.aiokafka(),
            enable_idempotence=True,
            request_timeout_ms=int(ANSWER_WITHIN_S * 1000 / 2),
        )
        try:
            await producer.start()
        except kafka_errors.KafkaError as error:
            await producer.stop()
            raise SinkError(f"the other Kafka cannot be reached: {error}") from error
        return producer

    async def _replace(self, broken: AIOKafkaProducer) -> None:
        async with self._replacing:
            if broken in self.producers:
                self.producers[self.producers.index(broken)] = await self._start_producer()
                self._stop(broken)

    def _stop(self, producer: AIOKafkaProducer) -> None:
        task = asyncio.create_task(producer.stop())
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    async def write(self, lanes: Mapping[int, Sequence[int]], append: Append, source: int = 0) -> dict[int, Exception]:
        """Send records in some lanes at the same time.

        Parameters
        ----------
        source
            What the records come from has lanes of its own: nothing is in two sources that needs an order.
        lanes
            The places of each lane's records in the caller's batch, in order.
        append
            Encodes one of them.

        Returns
        -------
        dict
            Those that failed, by place, and why.
        """
        if len(lanes) == 1:
            ((lane, places),) = lanes.items()
            return await self._follow([(source, lane)], places, append)
        failures = await asyncio.gather(
            *(self._follow([(source, lane) for lane in group], places, append) for group, places in self._groups(lanes))
        )
        return {place: error for failure in failures for place, error in failure.items()}

    def _groups(self, lanes: Mapping[int, Sequence[int]]) -> list[tuple[list[int], Sequence[int]]]:
        """Lanes that share a batch, and the places in it: those of a partition, where they have little to send."""
        groups: dict[int, list[int]] = {}
        for lane in sorted(lanes):
            groups.setdefault(lane % self._partitions, []).append(lane)
        found: list[tuple[list[int], Sequence[int]]] = []
        for group in groups.values():
            if len(group) > 1 and sum(len(lanes[lane]) for lane in group) <= FEW:
                found.append((group, sorted(place for lane in group for place in lanes[lane])))
            else:
                found += [([lane], lanes[lane]) for lane in group]
        return found

    async def _follow(
        self, lanes: Sequence[tuple[int, int]], places: Sequence[int], append: Append
    ) -> dict[int, Exception]:
        """Send records, in order, and answer with those that failed; what is sent is in all of these lanes.

        One batch after the other: of two on their way, the second could arrive where the first fails, and its records
        would then stand before the first's.
        """
        failed: dict[int, Exception] = {}
        todo = places
        alone = False
        async with contextlib.AsyncExitStack() as locks:
            for lane in lanes:  # in the order of their numbers, so that nobody waits for who waits for him
                await locks.enter_async_context(self._locks.setdefault(lane, asyncio.Lock()))
            while todo:
                builder, taken = BatchBuilder(self._batch_bytes, "lz4", transactional=False), 0
                writer = builder.writer
                for place in todo[: 1 if alone else None]:
                    if not append(writer, place):
                        break
                    taken += 1
                try:
                    await self._send(builder, lanes)
                except kafka_errors.KafkaError as error:
                    if self._verdict(error) is not DEAD:
                        return failed | dict.fromkeys(todo, error)
                    if taken > 1:
                        alone = True  # the fault is one record's; find out whose
                        continue
                    failed[todo[0]] = error
                todo = todo[taken:]
        return failed

    async def _send(self, builder: BatchBuilder, lanes: Sequence[tuple[int, int]]) -> None:
        for lane in lanes:
            if (unanswered := self._unanswered.get(lane)) is not None:
                await _answer(unanswered)  # whether it failed or not: its records come again
        source, number = lanes[0]
        producer = self.producers[(source + number) % len(self.producers)]
        future = await producer.send_batch(builder, self._topic, partition=number % self._partitions)
        self._unanswered.update(dict.fromkeys(lanes, future))
        await _answer(future)
        try:
            future.result()
        except kafka_errors.KafkaError:
            # It has counted a batch that the broker has not: everything after it would be out of order.
            await self._replace(producer)
            raise


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

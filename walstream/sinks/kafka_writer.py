"""Writes to partitions of a topic of another cluster, at least once, in lanes.

What is in one lane is in order, but for what is written at the same time: of two such calls neither may have what must
follow something in the other.

A batch that is sent again because its answer was lost stands there once (`kafka_sender`). After a crash of the worker
the records of the last checkpoint come again.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from aiokafka import errors as kafka_errors

from walstream.errors import SinkError
from walstream.kafka import KafkaConnection
from walstream.sinks.base import DEAD, RETRY, TARGET_DOWN, Verdict
from walstream.sinks.kafka_sender import KafkaSender
from walstream.wire import RecordWriter
from walstream.wire.builder import BatchBuilder

# How long a batch may take. The sender itself tries for ever, so that it can keep its promise of no duplicates.
ANSWER_WITHIN_S = 20.0
CLOSING_S = 2.0  # for what is on its way; a rebalance waits for it
BATCH_BYTES = 512 * 1024
FEW_BYTES = 512 * 1024  # to a partition, for which one lane is enough: more requests cost more than they gain

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
    # Of a producer id that had to be replaced.
    kafka_errors.OutOfOrderSequenceNumber: RETRY,
    kafka_errors.UnknownProducerId: RETRY,
    kafka_errors.InvalidProducerEpoch: RETRY,
}
"""What an error says about the records of a batch: a sink's table of errors."""

Lane = tuple[int, int]
"""A source and a number: what is to be in order there."""

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
    """

    def __init__(
        self,
        kafka: KafkaConnection,
        topic: str,
        partitions: int,
        batch_bytes: int,
        verdict: Callable[[BaseException], Verdict | None],
    ) -> None:
        self._batch_bytes, self._verdict = batch_bytes, verdict
        self._partitions = partitions
        self._sending: dict[asyncio.Task[None], Sequence[Lane]] = {}
        # What was sent, and who waited for the answer has given up. Only once it is there the next batch of that lane
        # may follow: so order holds, and an unreachable cluster does not make batches pile up.
        self._late: dict[Lane, list[asyncio.Task[None]]] = {}
        self.sender = KafkaSender(kafka, topic)

    async def open(self) -> None:
        """Connect.

        Raises
        ------
        SinkError
            The cluster cannot be reached.
        """
        await self.sender.open()

    async def close(self) -> None:
        """Disconnect; what is not answered soon comes again from the log."""
        try:
            if self._sending:
                await asyncio.wait(set(self._sending), timeout=CLOSING_S)
        finally:  # a sender that went on trying would send behind its successor
            for sending in self._sending:
                sending.cancel()
            await self.sender.close()

    async def leave(self, source: int) -> None:
        """Give up what a source has on its way: another worker sends from there now."""
        on_its_way = {sending for sending, lanes in self._sending.items() if lanes[0][0] == source}
        for sending in on_its_way:
            sending.cancel()
        if on_its_way:
            await asyncio.wait(on_its_way)

    async def write(
        self, lanes: Mapping[int, Sequence[int]], append: Append, source: int = 0, size: int = 0
    ) -> dict[int, Exception]:
        """Send records in some lanes at the same time.

        Parameters
        ----------
        source
            What the records come from has lanes of its own: nothing is in two sources that needs an order.
        lanes
            The places of each lane's records in the caller's batch, in order. Lane number ``n`` leads to the partition
            ``n`` modulo the number of partitions; of each lane in a call one batch is on its way at a time.
        append
            Encodes one of them.
        size
            Bytes of all of them, about.

        Returns
        -------
        dict
            Those that failed, by place, and why.
        """
        if len(lanes) == 1:
            ((lane, places),) = lanes.items()
            return await self._follow([(source, lane)], places, append)
        sending: list[asyncio.Task[dict[int, Exception]]] = []
        try:
            async with asyncio.TaskGroup() as tasks:
                for group, places in self._groups(lanes, size):
                    of_group = [(source, lane) for lane in group]
                    sending.append(tasks.create_task(self._follow(of_group, places, append)))
                    await asyncio.sleep(0)  # it is on its way while the next one is encoded
        except ExceptionGroup as errors:  # the sink's table has no groups
            raise errors.exceptions[0] from errors
        return {place: error for task in sending for place, error in task.result().items()}

    def _groups(self, lanes: Mapping[int, Sequence[int]], size: int) -> list[tuple[list[int], Sequence[int]]]:
        """Lanes that share batches, and the places in these: of a partition, where they have little to send."""
        by_partition: dict[int, list[int]] = {}
        for lane in sorted(lanes):
            by_partition.setdefault(lane % self._partitions, []).append(lane)
        each = size / (sum(map(len, lanes.values())) or 1)
        found: list[tuple[list[int], Sequence[int]]] = []
        for all_of_it in by_partition.values():
            count = max(1, math.ceil(sum(len(lanes[lane]) for lane in all_of_it) * each / FEW_BYTES))
            for group in (all_of_it[first::count] for first in range(min(count, len(all_of_it)))):
                places = lanes[group[0]] if len(group) == 1 else sorted(p for lane in group for p in lanes[lane])
                found.append((group, places))
        return found

    async def _follow(self, lanes: Sequence[Lane], places: Sequence[int], append: Append) -> dict[int, Exception]:
        """Send records, in order, and answer with those that failed; what is sent is in all of these lanes.

        One batch after the other: of two on their way, the second could arrive where the first fails, and its records
        would then stand before the first's.
        """
        failed: dict[int, Exception] = {}
        todo = places
        alone = False
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

    async def _send(self, builder: BatchBuilder, lanes: Sequence[Lane]) -> None:
        for late in [late for lane in lanes for late in self._late.get(lane, ())]:
            await _answer(late)  # whether it failed or not: its records come again
        # A task of its own: who waits for it may give up, and it must be known all the same when it is answered.
        sending = asyncio.create_task(self.sender.send(lanes[0][1] % self._partitions, builder))
        self._sending[sending] = lanes
        sending.add_done_callback(self._sent)
        try:
            await _answer(sending)
        finally:
            if not sending.done():
                for lane in lanes:
                    self._late.setdefault(lane, []).append(sending)
        sending.result()

    def _sent(self, sending: asyncio.Task[None]) -> None:
        for lane in self._sending.pop(sending):
            if sending in (late := self._late.get(lane, [])):
                late.remove(sending)
                if not late:
                    del self._late[lane]
        if not sending.cancelled():
            sending.exception()  # looked at, so that asyncio does not report it as forgotten


async def _answer(sending: asyncio.Task[None]) -> None:
    """Wait until a batch is answered, well or badly.

    Raises
    ------
    KafkaTimeoutError
        It takes too long. It is still on its way.
    """
    done, _ = await asyncio.wait([sending], timeout=ANSWER_WITHIN_S)
    if not done:
        raise kafka_errors.KafkaTimeoutError(f"no answer within {ANSWER_WITHIN_S:g} s")

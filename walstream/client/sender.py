"""Batches records by partition, sends them, and says honestly what became of each."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Mapping
from typing import Any

from aiokafka.errors import (
    AuthenticationFailedError,
    AuthenticationMethodNotSupported,
    ClusterAuthorizationFailedError,
    InvalidTimestampError,
    KafkaError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    ProducerClosed,
    RecordListTooLargeError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    UnsupportedForMessageFormatError,
    UnsupportedSaslMechanismError,
)

from walstream.client.batch import Batch
from walstream.client.producer import DiscardableProducer, split, why_unreachable
from walstream.client.receipt import Durable
from walstream.errors import TopicMismatch
from walstream.headers import Header
from walstream.wire.builder import BatchBuilder

BATCH_BYTES = (
    512 * 1024
)  # uncompressed; one request a broker is in flight at a time, so that it must be large to be fast
SMALLEST_BATCH_BYTES = 16 * 1024
PENDING_BYTES = 32 * 1024 * 1024  # what a client holds in memory before its callers wait
BACKOFF_SECONDS = 0.1, 1.0  # between attempts to connect: the first, and the longest
TOPIC_SECONDS = 2.0  # a topic that was just made may take this long until every broker knows it

TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)
REFUSED = (
    *TOO_LARGE,
    ClusterAuthorizationFailedError,
    InvalidTimestampError,
    PolicyViolationError,
    TopicAuthorizationFailedError,
    UnsupportedForMessageFormatError,
)
"""Answers with which a broker says that it has not written the batch, and will not."""


LOCKED_OUT = (
    AuthenticationFailedError,
    AuthenticationMethodNotSupported,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
    ssl.SSLCertVerificationError,
)
"""Errors of a connection that no later attempt will mend."""


class Refused(KafkaError):  # type: ignore[misc]
    """The brokers do not let this client in."""


class Timeout(KafkaError):  # type: ignore[misc]
    """No answer came in time."""


class _NotSent(Exception):
    """The producer is gone, and nothing of the batch has left."""


class Lane:
    """The batches of one partition, sent one after the other."""

    def __init__(self, topic: str, partition: int) -> None:
        self.topic, self.partition = topic, partition
        self.limit = BATCH_BYTES
        self.waiting: deque[Batch] = deque()
        self.task: asyncio.Task[None] | None = None


class Sender:
    """Sends records with one producer at a time; one whose answers do not come is discarded, and a new one made.

    While a partition's batch is on its way the next ones grow, so that few records go at once and many go in large
    batches, without a wait.

    Parameters
    ----------
    connection
        Arguments for aiokafka: where the brokers are, and how to log in.
    timeout
        Seconds that an attempt to connect may take; requests are repeated after half of it.
    """

    def __init__(self, connection: Mapping[str, Any], *, timeout: float) -> None:
        self.timeout = timeout
        self._options: dict[str, Any] = {
            **connection,
            # Twice in a timeout, so that a connection that died silently is replaced once before we give up.
            "request_timeout_ms": max(500, int(timeout * 500)),
            "retry_backoff_ms": 50,
        }
        self._producer: DiscardableProducer | None = None
        self._starting: asyncio.Task[DiscardableProducer] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._lanes: dict[str, list[Lane]] = {}
        self._pending = 0
        self._room = asyncio.Event()
        self._room.set()

    async def partition_count(self, topic: str) -> int:
        """How many partitions a topic has.

        Raises
        ------
        TopicMismatch
            There is no such topic.
        KafkaError, OSError
            No broker could be asked in time.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.timeout
        give_up = min(deadline, loop.time() + TOPIC_SECONDS)
        while True:
            producer = await self._ready_producer(deadline)
            try:
                async with asyncio.timeout_at(deadline):
                    count = await producer.partition_count(topic)
            except TimeoutError as error:
                raise Timeout(f"no answer about topic {topic} within {self.timeout:g} s") from error
            except KafkaError:  # the brokers that are known do not answer, now
                if loop.time() + 0.25 >= deadline:
                    raise
                await asyncio.sleep(0.25)
                continue
            if count is not None:
                return count
            if loop.time() >= give_up:
                raise TopicMismatch(f"topic {topic} does not exist; `walstream apply` makes the topics of a namespace")
            await asyncio.sleep(0.25)

    @property
    def full(self) -> bool:
        """Whether too much is unsent to add more."""
        return self._pending >= PENDING_BYTES

    async def room(self, deadline: float) -> bool:
        """Wait while it is full, but not beyond the deadline, and tell whether there is room now."""
        if self.full:
            self._room.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self._room.wait()
        return not self.full

    def lanes(self, topic: str, partitions: int) -> list[Lane]:
        """The lanes of a topic's partitions, in their order."""
        lanes = self._lanes.get(topic)
        if lanes is None:
            lanes = self._lanes[topic] = [Lane(topic, partition) for partition in range(partitions)]
        return lanes

    def add(
        self,
        lane: Lane,
        namespace: str,
        id_: str,
        timestamp: int,
        key: bytes | None,
        value: bytes | None,
        headers: list[Header],
        deadline: float,
    ) -> Batch:
        """Put a record into the lane's last batch.

        Parameters
        ----------
        timestamp
            For Kafka, in milliseconds.
        deadline
            When to give up, on the event loop's clock. Records that travel together have the deadline of the first.

        Returns
        -------
        Batch
            The batch, in which the record is now the last one.
        """
        batch = lane.waiting[-1] if lane.waiting else None
        # One that has waited for long is about to be given up: a record joins none that has lost half of its time.
        if batch is None or batch.size >= lane.limit or batch.deadline < deadline - self.timeout / 2:
            batch = Batch(namespace, lane.topic, lane.partition, deadline)
            lane.waiting.append(batch)
            if lane.task is None:
                lane.task = asyncio.get_running_loop().create_task(self._drain(lane))
        self._pending += batch.add(id_, timestamp, key, value, headers)
        return batch

    async def close(self) -> None:
        """Wait for the answers to what was added, and disconnect."""
        await asyncio.gather(*(lane.task for lanes in self._lanes.values() for lane in lanes if lane.task is not None))
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        if self._producer is not None:
            producer, self._producer = self._producer, None
            await producer.aclose(self.timeout)
        await asyncio.gather(*self._closing)

    async def _drain(self, lane: Lane) -> None:
        while lane.waiting:
            batch = lane.waiting.popleft()
            assert batch.builder is not None, "a batch is settled once"
            try:
                await self._deliver(lane, batch, batch.builder)
            finally:
                self._pending -= batch.size
                if not self.full:
                    self._room.set()
        lane.task = None

    async def _deliver(self, lane: Lane, batch: Batch, builder: BatchBuilder) -> None:
        """Send a batch, or a part of it, and settle it."""
        count = builder.record_count()
        while True:
            try:
                producer = await self._ready_producer(batch.deadline)
            except (KafkaError, OSError) as error:
                batch.settle(count, Durable.FALSE, error=error)
                return
            try:
                offset = await self._produce(producer, lane, builder, batch.deadline)
            except (_NotSent, ProducerClosed):
                # Another write took the producer with it. This one was not sent: there is time for another try.
                (builder,) = split(builder, 1)
            except TOO_LARGE as error:
                self._retire(producer)
                if count == 1:
                    batch.settle(1, Durable.FALSE, error=error)
                    return
                lane.limit = max(SMALLEST_BATCH_BYTES, min(lane.limit, builder.size()) // 2)
                for part in split(builder, 2):
                    await self._deliver(lane, batch, part)
                return
            except Exception as error:  # whatever it is, nobody may wait for ever
                self._retire(producer)
                surely_not = isinstance(error, REFUSED) or not producer.was_sent(lane.topic, lane.partition)
                batch.settle(count, Durable.FALSE if surely_not else Durable.UNKNOWN, error=error)
                return
            else:
                batch.settle(count, Durable.TRUE, offset)
                return

    async def _produce(
        self, producer: DiscardableProducer, lane: Lane, builder: BatchBuilder, deadline: float
    ) -> int | None:
        """Send a record batch, wait for its answer, and return the offset of its first record, if it is known."""
        loop = asyncio.get_running_loop()
        answer = loop.create_task(producer.produce(builder, lane.topic, lane.partition))
        await asyncio.wait(
            (answer, producer.discarded),
            timeout=max(0.0, deadline - loop.time()),
            return_when=asyncio.FIRST_COMPLETED,
        )
        if answer.done():
            return answer.result()
        answer.cancel()
        in_time = loop.time() < deadline
        self._discard(producer)
        if producer.was_sent(lane.topic, lane.partition):
            raise Timeout(f"it was sent, and no answer came within {self.timeout:g} s")
        if in_time:
            raise _NotSent
        raise Timeout(f"no broker took it within {self.timeout:g} s")

    async def _ready_producer(self, deadline: float) -> DiscardableProducer:
        """Return the producer, started; make one if there is none.

        Raises
        ------
        KafkaError
            No broker could be reached before the deadline.
        """
        if self._producer is not None:
            return self._producer
        loop = asyncio.get_running_loop()
        if self._starting is None:
            self._starting = loop.create_task(self._start(loop.time() + self.timeout))
            self._starting.add_done_callback(lambda task: task.cancelled() or task.exception())
        starting = self._starting
        await asyncio.wait((starting,), timeout=max(0.0, deadline - loop.time()))
        if not starting.done():
            raise Timeout(f"no broker could be reached within {self.timeout:g} s")
        return starting.result()

    async def _start(self, deadline: float) -> DiscardableProducer:
        backoff, longest = BACKOFF_SECONDS
        loop = asyncio.get_running_loop()
        try:
            while True:
                producer = DiscardableProducer(**self._options)
                try:
                    async with asyncio.timeout_at(deadline):
                        await producer.start()
                except BaseException as error:
                    producer.discard()
                    self._close_later(producer)
                    if not isinstance(error, KafkaError | OSError):  # TimeoutError is an OSError
                        raise
                    why = await why_unreachable(self._options) or error
                    if isinstance(why, LOCKED_OUT):
                        raise Refused(f"the broker does not let this client in: {why}") from why
                    if loop.time() + backoff >= deadline:
                        raise Timeout(f"no broker could be reached within {self.timeout:g} s: {why}") from why
                else:
                    self._producer = producer
                    return producer
                await asyncio.sleep(backoff)
                backoff = min(2 * backoff, longest)
        finally:
            self._starting = None

    def _discard(self, producer: DiscardableProducer) -> None:
        """Throw a producer away: what it holds must not be written after we said that we do not know."""
        producer.discard()
        self._retire(producer)

    def _retire(self, producer: DiscardableProducer) -> None:
        """Give a producer nothing more, and close it when what is in flight is answered.

        After a refusal aiokafka's sequence numbers have a gap: the next batch of that partition would be refused too.
        """
        if self._producer is producer:
            self._producer = None
            self._close_later(producer)

    def _close_later(self, producer: DiscardableProducer) -> None:
        task = asyncio.get_running_loop().create_task(producer.aclose(self.timeout))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

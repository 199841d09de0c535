"""Listens on the answers of a namespace: what became of a cancel or reschedule."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from walstream.answers import Answer, read_answer
from walstream.errors import RecordRefused

POLL_MS = 1_000  # how long a fetch waits for records; they are there as soon as they come


class Listener:
    """Reads the answers of one namespace, all partitions, while somebody waits for one.

    Parameters
    ----------
    topic, partitions
        The answers, and how many partitions they have.
    connection
        Arguments for aiokafka: where the brokers are, and how to log in.
    timeout
        Seconds that the brokers may take until it listens.
    """

    def __init__(self, topic: str, partitions: int, connection: Mapping[str, Any], *, timeout: float) -> None:
        self._partitions = [TopicPartition(topic, partition) for partition in range(partitions)]
        self._connection, self._timeout = connection, timeout
        self._consumer: AIOKafkaConsumer | None = None
        self._starting = asyncio.Lock()
        self._waiting: dict[tuple[str, str], asyncio.Future[Answer]] = {}
        self._reading: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def listening(self, source: str, id: str) -> AsyncIterator[Callable[[float], Awaitable[Answer | None]]]:
        """Listen for the answer to a cancel or reschedule that is not written yet.

        Yields
        ------
        Callable
            Waits for so many seconds, and returns the answer, or None where none came.

        Raises
        ------
        KafkaError, TimeoutError
            The answers cannot be read.
        """
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        async def wait(seconds: float) -> Answer | None:
            await asyncio.wait((answer,), timeout=seconds)
            return answer.result() if answer.done() else None

        async with self._starting:
            self._waiting[source, id] = answer
            try:
                if self._reading is None:
                    async with asyncio.timeout(self._timeout):
                        consumer = await self._at_the_end()
                    self._reading = asyncio.create_task(self._read(consumer))
            except BaseException:
                del self._waiting[source, id]
                raise
        try:
            yield wait
        finally:
            self._waiting.pop((source, id), None)

    async def close(self) -> None:
        """Disconnect."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        if self._consumer is not None:
            await self._consumer.stop()

    async def _at_the_end(self) -> AIOKafkaConsumer:
        """The consumer, which reads what is written from now on."""
        consumer = self._consumer
        if consumer is None:
            options = {"isolation_level": "read_committed", "enable_auto_commit": False, "auto_offset_reset": "latest"}
            consumer = AIOKafkaConsumer(**self._connection, **options, fetch_max_wait_ms=POLL_MS)
            try:
                await consumer.start()
                consumer.assign(self._partitions)
            except BaseException:
                await consumer.stop()
                raise
            self._consumer = consumer
        for partition, end in (await consumer.end_offsets(self._partitions)).items():
            consumer.seek(partition, end)
        return consumer

    async def _read(self, consumer: AIOKafkaConsumer) -> None:
        """Hand answers to who waits for them, until nobody does."""
        try:
            while self._waiting:
                for records in (await consumer.getmany(timeout_ms=POLL_MS)).values():
                    for record in records:
                        self._hand_over(record)
        except Exception as error:  # whatever it is: who waits is told, and who comes next gets another consumer
            self._consumer = self._reading = None
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(error)
            await consumer.stop()
        else:
            self._reading = None

    def _hand_over(self, record: Any) -> None:
        try:
            answer = read_answer(record.key, record.value, record.headers)
        except RecordRefused:  # what others wrote there is for nobody here
            return
        waiting = self._waiting.get((answer.source, answer.id))
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

"""Sends record batches to a topic of another cluster: each until it is answered, again and again as the same bytes.

It speaks the protocol itself, over aiokafka's connections. aiokafka's producer has one request at a time on its way to
a broker, and over a long way all others wait for its answer; here requests follow each other without waiting.

Each of the batches that are on their way at the same time has a producer id of its own. One that is sent again, since
its answer was lost, stands there once: brokers know how many records of that id they have.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from aiokafka import errors as kafka_errors
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import InitProducerIdRequest
from aiokafka.structs import TopicPartition

from walstream.errors import SinkError
from walstream.kafka import KafkaConnection
from walstream.wire.builder import BatchBuilder

log = logging.getLogger(__name__)

CONNECTIONS = 8  # to a broker, which works on one request of each at a time, until its replicas have it
REQUEST_TIMEOUT = 10_000  # ms; a connection that is silent for so long is given up
BROKER_TIMEOUT = 5_000  # ms for the replicas; other requests of the connection wait meanwhile
RETRY, RETRY_MOST = 0.1, 2.0  # s
NOBODY: Final = -1
SEQUENCES: Final = 1 << 31  # after which a batch's sequence number begins at 0 again


@dataclass(slots=True)
class _Producer:
    """Who a batch comes from, as the brokers know it: an id, and how many records they have of it.

    Its connection is what aiokafka calls a group: it has one to each broker and group.
    """

    connection: int
    id: int = NOBODY
    epoch: int = -1
    sequence: int = 0


class KafkaSender:
    """Sends to one topic. `open` comes first.

    Parameters
    ----------
    kafka, topic
        Where.
    """

    def __init__(self, kafka: KafkaConnection, topic: str) -> None:
        self._kafka, self._topic = kafka, topic
        self._idle: dict[int, list[_Producer]] = {}  # of each partition
        self._producers = 0
        self._client: AIOKafkaClient

    async def open(self) -> None:
        """Connect.

        Raises
        ------
        SinkError
            The cluster cannot be reached.
        """
        self._client = AIOKafkaClient(**self._kafka.aiokafka(), request_timeout_ms=REQUEST_TIMEOUT)
        try:
            await self._client.bootstrap()
            await self._client.set_topics([self._topic])
        except kafka_errors.KafkaError as error:
            await self._client.close()
            raise SinkError(f"the other Kafka cannot be reached: {error}") from error

    async def close(self) -> None:
        """Disconnect."""
        if (client := getattr(self, "_client", None)) is not None:
            await client.close()

    async def send(self, partition: int, batch: BatchBuilder) -> None:
        """Send a batch, until the cluster has it or refuses it.

        Of two that are on their way to a partition at the same time either may be the first one there.

        Raises
        ------
        KafkaError
            It is refused.
        """
        idle = self._idle.setdefault(partition, [])
        if idle:
            producer = idle.pop()
        else:
            producer = _Producer(self._producers % CONNECTIONS)
            self._producers += 1
        try:
            if producer.id == NOBODY:
                await self._persist(lambda: self._identify(producer))
            batch._set_producer_state(producer.id, producer.epoch, producer.sequence)
            data = batch._build()
            await self._persist(lambda: self._produce(producer.connection, partition, data))
            producer.sequence = (producer.sequence + batch.record_count()) % SEQUENCES
        except BaseException:
            producer.id = NOBODY  # whether the broker has counted it is not known
            raise
        finally:
            idle.append(producer)

    async def _identify(self, producer: _Producer) -> None:
        node = self._client.get_random_node()
        answer = await self._client.send(node, InitProducerIdRequest(None, 0), group=producer.connection)
        _check(answer.error_code)
        producer.id, producer.epoch, producer.sequence = answer.producer_id, answer.producer_epoch, 0

    async def _produce(self, connection: int, partition: int, data: bytes) -> None:
        await self._client._wait_on_metadata(self._topic)
        leader = self._client.cluster.leader_for_partition(TopicPartition(self._topic, partition))
        if leader is None or leader == -1:
            raise kafka_errors.LeaderNotAvailableError(f"{self._topic}-{partition}")
        request = ProduceRequest(None, -1, BROKER_TIMEOUT, [(self._topic, [(partition, data)])])
        answer = await self._client.send(leader, request, group=connection)
        ((_, ((_, code, *_),)),) = answer.topics
        if code != kafka_errors.DuplicateSequenceNumber.errno:  # it has had it for long
            _check(code)

    async def _persist(self, work: Callable[[], Awaitable[None]]) -> None:
        """Try until it is done, or refused for good."""
        wait = RETRY
        while True:
            try:
                return await work()
            except kafka_errors.KafkaError as error:
                if not error.retriable:
                    raise
                log.info("%s: tried again after %r", self._topic, error)
                if error.invalid_metadata:
                    self._client.force_metadata_update()
            await asyncio.sleep(wait)
            wait = min(wait * 2, RETRY_MOST)


def _check(code: int) -> None:
    if code:
        raise kafka_errors.for_code(code)()

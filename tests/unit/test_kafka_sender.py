"""What becomes of a batch whose answer is an error, or does not come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import errors as kafka_errors
from aiokafka.protocol.produce import ProduceRequest

from walstream.errors import SinkError
from walstream.kafka import KafkaConnection
from walstream.sinks import kafka_sender
from walstream.sinks.kafka_sender import KafkaSender
from walstream.wire.batch import HEADER
from walstream.wire.builder import BatchBuilder


class Client:
    """Notes what it is given, and answers with what it is told: an error, a future, or else that all is well."""

    def __init__(self, **_: Any) -> None:
        self.answers: list[Any] = []
        self.batches: list[bytes] = []
        self.nodes: list[int] = []
        self.identities = self.refreshed = 0
        self.leaders = [1]
        self.is_away = False
        self.cluster = SimpleNamespace(leader_for_partition=lambda at: self.leaders[-1])

    async def bootstrap(self) -> None:
        if self.is_away:
            raise kafka_errors.KafkaConnectionError("away")

    async def set_topics(self, topics: list[str]) -> None: ...

    async def close(self) -> None: ...

    async def _wait_on_metadata(self, topic: str) -> None: ...

    def get_random_node(self) -> int:
        return 1

    def force_metadata_update(self) -> None:
        self.refreshed += 1
        if len(self.leaders) > 1:
            self.leaders.pop()

    async def send(self, node: int, request: Any, *, group: int) -> Any:
        if not isinstance(request, ProduceRequest):
            self.identities += 1
            return SimpleNamespace(error_code=0, producer_id=self.identities, producer_epoch=0)
        ((topic, ((partition, data),)),) = request._topics
        self.batches.append(data)
        self.nodes.append(node)
        answer = self.answers.pop(0) if self.answers else 0
        if isinstance(answer, asyncio.Future):
            answer = await answer
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(topics=[(topic, [(partition, answer, 0, -1)])])

    @property
    def numbers(self) -> list[tuple[int, int]]:
        """Producer id and sequence of each batch."""
        return [HEADER.unpack_from(data)[9:12:2] for data in self.batches]


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    client = Client()
    monkeypatch.setattr(kafka_sender, "AIOKafkaClient", lambda **_: client)
    monkeypatch.setattr(kafka_sender, "RETRY", 0.0)
    return client


@pytest.fixture
async def sender(client: Client) -> KafkaSender:
    sender = KafkaSender(KafkaConnection(("nowhere:1",)), "t")
    await sender.open()
    return sender


def batch(*values: bytes) -> BatchBuilder:
    builder = BatchBuilder(1_000, None, transactional=False)
    for value in values:
        assert builder.writer.append(1, None, value, [])
    return builder


async def test_a_producer_counts_what_the_brokers_have_of_it(sender: KafkaSender, client: Client) -> None:
    for builder in (batch(b"1", b"2"), batch(b"3"), batch(b"4")):
        await sender.send(1, builder)
    await sender.send(2, batch(b"5"))
    await sender.send(1, batch(b"6"))
    assert client.numbers == [(1, 0), (1, 2), (1, 3), (2, 0), (1, 4)]


async def test_sequence_numbers_begin_again_where_they_end(
    sender: KafkaSender, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_sender, "SEQUENCES", 3)
    for _ in range(3):
        await sender.send(1, batch(b"1", b"2"))
    assert client.numbers == [(1, 0), (1, 2), (1, 1)]


@pytest.mark.parametrize(
    "failure",
    [
        kafka_errors.KafkaConnectionError("gone"),
        kafka_errors.RequestTimedOutError(),
        kafka_errors.NodeNotReadyError(),
        kafka_errors.NotEnoughReplicasAfterAppendError.errno,
        kafka_errors.RequestTimedOutError.errno,
    ],
)
async def test_what_may_have_arrived_is_sent_again_as_the_same_bytes(
    sender: KafkaSender, client: Client, failure: Any
) -> None:
    client.answers = [failure, failure]
    await sender.send(1, batch(b"1"))
    await sender.send(1, batch(b"2"))
    first, again, and_again, second = client.batches
    assert first == again == and_again != second
    assert client.numbers == [(1, 0), (1, 0), (1, 0), (1, 1)]


async def test_another_leader_is_looked_for(sender: KafkaSender, client: Client) -> None:
    client.leaders, client.answers = [2, -1, 1], [kafka_errors.NotLeaderForPartitionError.errno]
    await sender.send(1, batch(b"1"))
    assert (client.nodes, client.refreshed) == ([1, 2], 2)


@pytest.mark.parametrize(
    "refusal",
    [
        kafka_errors.OutOfOrderSequenceNumber,
        kafka_errors.UnknownProducerId,
        kafka_errors.InvalidProducerEpoch,
        kafka_errors.MessageSizeTooLargeError,
    ],
)
async def test_a_producer_whose_batch_is_refused_begins_anew(sender: KafkaSender, client: Client, refusal: Any) -> None:
    await sender.send(1, batch(b"1"))
    client.answers = [refusal.errno]
    with pytest.raises(refusal):
        await sender.send(1, batch(b"2"))
    await sender.send(1, batch(b"3"))
    assert client.numbers == [(1, 0), (1, 1), (2, 0)]


async def test_a_batch_that_the_brokers_have_had_for_long_is_sent(sender: KafkaSender, client: Client) -> None:
    client.answers = [kafka_errors.KafkaConnectionError("gone"), kafka_errors.DuplicateSequenceNumber.errno]
    await sender.send(1, batch(b"1"))
    await sender.send(1, batch(b"2"))
    assert client.numbers == [(1, 0), (1, 0), (1, 1)]


async def test_a_producer_that_was_given_up_begins_anew(sender: KafkaSender, client: Client) -> None:
    client.answers = [asyncio.get_running_loop().create_future()]
    sending = asyncio.create_task(sender.send(1, batch(b"1")))
    await _until(lambda: bool(client.batches))
    sending.cancel()
    await asyncio.wait([sending])
    await sender.send(1, batch(b"2"))
    assert client.numbers == [(1, 0), (2, 0)]


async def test_batches_do_not_wait_for_each_other(sender: KafkaSender, client: Client) -> None:
    answers = client.answers = [asyncio.get_running_loop().create_future() for _ in range(25)]
    waiting = list(answers)
    sending = [asyncio.create_task(sender.send(1, batch(b"1"))) for _ in waiting]
    await _until(lambda: len(client.batches) == len(waiting))
    assert len(set(client.numbers)) == len(waiting), "each comes from a producer of its own"
    for answer in waiting:
        answer.set_result(0)
    await asyncio.gather(*sending)
    await sender.send(1, batch(b"1"))
    assert client.identities == len(waiting), "of which one is used again"


async def test_a_cluster_that_is_away_is_said(client: Client) -> None:
    client.is_away = True
    with pytest.raises(SinkError, match="cannot be reached"):
        await KafkaSender(KafkaConnection(("nowhere:1",)), "t").open()


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0)

"""What the client says when the network fails between a request and its answer, or before."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from walstream import AsyncClient, Durable, NotDurable, Write
from walstream.client.producer import DiscardableProducer
from walstream.local.ports import free_port
from walstream.record import parse
from walstream.testing.proxy import Direction, Proxy
from walstream.testing.readback import Readback
from walstream.testing.servers import Server

TIMEOUT = 1.5  # seconds; short, since most tests wait for it
NAMESPACE = "cut"


@pytest.fixture
def topic(kafka: Server) -> Iterator[str]:
    admin = AdminClient({"bootstrap.servers": kafka.address})
    topic = NewTopic(f"{NAMESPACE}.ingress", 1, 1, config={"max.message.bytes": str(16 * 1024 * 1024)})
    admin.create_topics([topic])[topic.topic].result()
    yield topic.topic
    admin.delete_topics([topic.topic])[topic.topic].result()


@pytest.fixture
async def client(proxy: Proxy, topic: str) -> AsyncIterator[AsyncClient]:
    """Make a client that has written one record through the proxy."""
    async with AsyncClient(proxy.address, timeout=TIMEOUT) as client:
        (await client.write(NAMESPACE, b"", id="first")).raise_for_durability()
        yield client
        proxy.heal()


@pytest.fixture
def ids(kafka: Server, topic: str):  # type: ignore[no-untyped-def]
    """Read back the ids of what is in the topic, on a way around the proxy."""
    readback = Readback({"bootstrap.servers": kafka.address})

    async def read() -> list[str]:
        records = await asyncio.to_thread(readback.records, topic)
        return [parse(each.key, each.value, list(each.headers), 0).id for each in records]

    return read


async def test_cut_between_request_and_answer(proxy: Proxy, client: AsyncClient, ids) -> None:  # type: ignore[no-untyped-def]
    proxy.cut(Direction.RESPONSES)
    started = asyncio.get_running_loop().time()
    receipt = await client.write(NAMESPACE, b"", id="cut")
    assert asyncio.get_running_loop().time() - started < TIMEOUT + 0.5
    assert receipt.durable is Durable.UNKNOWN
    assert (receipt.partition, receipt.offset) == (None, None)
    with pytest.raises(NotDurable, match="no answer came"):
        receipt.raise_for_durability()
    assert await ids() == ["first", "cut"]

    proxy.heal()
    again = await client.write(NAMESPACE, b"", id="cut")
    assert again.durable is Durable.TRUE
    assert await ids() == ["first", "cut", "cut"]  # one identity; the router drops the second


async def test_an_answer_that_is_lost_is_asked_for_again(proxy: Proxy, client: AsyncClient, ids) -> None:  # type: ignore[no-untyped-def]
    proxy.cut(Direction.RESPONSES)
    writing = asyncio.create_task(client.write(NAMESPACE, b"", id="twice"))
    async with asyncio.timeout(TIMEOUT):
        while await ids() != ["first", "twice"]:
            pass
    proxy.reset()
    proxy.heal()
    receipt = await writing
    assert receipt.durable is Durable.TRUE, receipt
    assert await ids() == ["first", "twice"]  # the broker knew the batch by its sequence number


async def test_nothing_arrives_after_it_was_given_up(proxy: Proxy, client: AsyncClient, ids) -> None:  # type: ignore[no-untyped-def]
    proxy.cut(Direction.REQUESTS)
    # More than sockets and the proxy hold, so that the rest is in the client when it gives up.
    receipt = await client.write(NAMESPACE, os.urandom(12 * 1024 * 1024), id="late")
    assert receipt.durable is Durable.UNKNOWN
    proxy.heal()
    assert (await client.write(NAMESPACE, b"", id="next")).durable is Durable.TRUE
    await asyncio.sleep(1.0)  # long enough for a connection that still holds the record to deliver it
    assert await ids() == ["first", "next"]


async def test_a_broker_that_goes_away_before_the_request(proxy: Proxy, client: AsyncClient, ids) -> None:  # type: ignore[no-untyped-def]
    proxy.refuse()
    proxy.reset()
    await asyncio.sleep(0.05)  # the client learns of the reset
    receipt = await client.write(NAMESPACE, b"", id="never")
    assert receipt.durable is Durable.FALSE, receipt
    proxy.heal()
    assert (await client.write(NAMESPACE, b"", id="next")).durable is Durable.TRUE
    assert await ids() == ["first", "next"]


async def test_a_broker_that_comes_back_in_time(proxy: Proxy, client: AsyncClient, ids) -> None:  # type: ignore[no-untyped-def]
    proxy.refuse()
    proxy.reset()
    writing = asyncio.create_task(client.write(NAMESPACE, b"", id="patient"))
    await asyncio.sleep(TIMEOUT / 3)
    proxy.heal()
    assert (await writing).durable is Durable.TRUE
    assert await ids() == ["first", "patient"]


async def test_no_broker_at_all() -> None:
    async with AsyncClient(f"127.0.0.1:{free_port()}", timeout=0.5) as client:
        receipts = await client.write_many(NAMESPACE, [Write(b""), Write(b"")])
    assert [receipt.durable for receipt in receipts] == [Durable.FALSE] * 2
    assert "no broker could be reached within 0.5 s" in str(receipts[0].error)


async def test_a_broker_that_takes_connections_and_says_nothing(proxy: Proxy, topic: str) -> None:
    proxy.cut()
    async with AsyncClient(proxy.address, timeout=0.5) as client:
        started = asyncio.get_running_loop().time()
        receipt = await client.write(NAMESPACE, b"")
        assert asyncio.get_running_loop().time() - started < 1.0
    assert receipt.durable is Durable.FALSE


async def test_many_records_while_connections_are_reset(proxy: Proxy, client: AsyncClient, ids) -> None:  # type: ignore[no-untyped-def]
    async def disturb() -> None:
        for _ in range(6):
            await asyncio.sleep(0.1)
            proxy.reset()

    disturbing = asyncio.create_task(disturb())
    sent: list[str] = []
    n = 0
    while not disturbing.done():
        receipts = await client.write_many(NAMESPACE, (Write(b"x" * 200, id=str(n + i)) for i in range(2_000)))
        n += len(receipts)
        assert {receipt.durable for receipt in receipts} == {Durable.TRUE}
        sent += [receipt.id for receipt in receipts]
    assert await ids() == ["first", *sent]  # none lost, none twice, in order


async def test_a_topic_that_is_missing_is_never_asked_for_by_name(client: AsyncClient, topic: str) -> None:
    """Brokers that create topics automatically would make it, with the wrong number of partitions."""
    receipt = await client.write("misspelt", b"")
    assert receipt.durable is Durable.FALSE
    assert client._sender._producer is not None
    assert client._sender._producer.client._topics == {topic}


async def test_the_seams_of_aiokafka(proxy: Proxy) -> None:
    """Each private part that the client leans on is where it was. A failure names the one that moved."""
    producer = DiscardableProducer(bootstrap_servers=proxy.address)
    await producer.start()
    assert producer.client._get_conn == producer._get_connection, "AIOKafkaClient._get_conn"
    await producer.client.fetch_all_metadata()
    (connection,) = producer.client._conns.values()
    assert connection._writer.transport in producer._transports, "AIOKafkaConnection._writer, or _get_conn is not used"
    assert not producer._sender.sender_task.done(), "AIOKafkaProducer._sender.sender_task"
    producer.discard()
    assert connection._writer.transport.is_closing()
    assert await producer.client.ready(1) is False, "AIOKafkaClient._get_conn is not asked for connections"
    await producer.aclose(1.0)
    assert producer._sender.sender_task.done()

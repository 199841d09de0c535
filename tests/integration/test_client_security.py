"""The client over TLS and with a password."""

import asyncio

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from walstream import AsyncClient, Durable, KafkaConnection
from walstream.local import Servers
from walstream.local.certificates import Certificates

LOGIN = {"mechanism": "SCRAM-SHA-512", "username": "alice", "password": "a secret of 5 words"}


@pytest.fixture(scope="module")
def namespace(secure: Servers) -> str:
    topic = NewTopic("client.ingress", 1, 1)
    admin = AdminClient({"bootstrap.servers": secure.brokers})
    admin.create_topics([topic])[topic.topic].result()
    return "client"


def connection(secure: Servers, certificates: Certificates, **options: str) -> KafkaConnection:
    address = secure.address("kafka", "SASL_SSL")
    return KafkaConnection((address,), protocol="SASL_SSL", cafile=certificates.authority, **(LOGIN | options))  # type: ignore[arg-type]


async def test_writes_and_gives_a_connection_up(secure: Servers, certificates: Certificates, namespace: str) -> None:
    async with AsyncClient(connection=connection(secure, certificates)) as client:
        assert (await client.write(namespace, b"one")).durable is Durable.TRUE
        producer = client._sender._producer
        assert producer is not None
        client._sender._discard(producer)
        assert all(transport.is_closing() for transport in producer._transports)
        assert (await client.write(namespace, b"two")).durable is Durable.TRUE
        assert client._sender._producer is not producer


async def test_a_wrong_password_is_said_at_once(secure: Servers, certificates: Certificates, namespace: str) -> None:
    started = asyncio.get_running_loop().time()
    async with AsyncClient(connection=connection(secure, certificates, password="wrong"), timeout=30) as client:
        receipt = await client.write(namespace, b"")
    assert asyncio.get_running_loop().time() - started < 15
    assert receipt.durable is Durable.FALSE
    assert "does not let this client in" in str(receipt.error)


async def test_an_unknown_authority_is_said_at_once(
    secure: Servers, certificates: Certificates, namespace: str
) -> None:
    unknown = KafkaConnection((secure.address("kafka", "SASL_SSL"),), protocol="SASL_SSL", **LOGIN)  # type: ignore[arg-type]
    async with AsyncClient(connection=unknown, timeout=30) as client:
        receipt = await client.write(namespace, b"")
    assert receipt.durable is Durable.FALSE
    assert "CERTIFICATE_VERIFY_FAILED" in str(receipt.error)

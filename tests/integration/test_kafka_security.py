"""One description of a Kafka, and every client gets in by it, over each of its listeners."""

from __future__ import annotations

from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from walstream.admin import Admin
from walstream.errors import Unreachable
from walstream.kafka import KafkaConnection
from walstream.local import Servers
from walstream.local.certificates import Certificates

LOGIN = {"username": "alice", "password": "a secret of 5 words"}

WAYS = [
    pytest.param("PLAINTEXT", {}, id="plain"),
    pytest.param("SSL", {}, id="tls"),
    pytest.param("SSL", {"own": True}, id="tls-client-certificate"),
    pytest.param("SASL_PLAINTEXT", {"mechanism": "PLAIN", **LOGIN}, id="plain-password"),
    pytest.param("SASL_PLAINTEXT", {"mechanism": "SCRAM-SHA-256", **LOGIN}, id="scram-256"),
    pytest.param("SASL_SSL", {"mechanism": "SCRAM-SHA-512", **LOGIN}, id="scram-512-tls"),
]


def connection(secure: Servers, certificates: Certificates, listener: str, options: dict[str, Any]) -> KafkaConnection:
    options = dict(options)
    if listener.endswith("SSL"):
        options["cafile"] = certificates.authority
    if options.pop("own", False):
        options |= {"certfile": certificates.client, "keyfile": certificates.client_key}
    return KafkaConnection((secure.address("kafka", listener),), protocol=listener, **options)  # type: ignore[arg-type]


async def topics_by_aiokafka(**options: Any) -> list[str]:
    admin = AIOKafkaAdminClient(**options)
    await admin.start()
    try:
        return list(await admin.list_topics())
    finally:
        await admin.close()


@pytest.mark.parametrize(("listener", "options"), WAYS)
async def test_every_client_gets_in(
    secure: Servers, certificates: Certificates, listener: str, options: dict[str, Any]
) -> None:
    kafka = connection(secure, certificates, listener, options)
    assert Admin(kafka).broker_count() == 1
    assert isinstance(await topics_by_aiokafka(**kafka.aiokafka()), list)


@pytest.mark.parametrize(
    ("listener", "options", "says"),
    [
        ("SASL_SSL", {"mechanism": "SCRAM-SHA-512", "username": "alice", "password": "wrong"}, "[Aa]uthentication"),
        ("SASL_SSL", {"mechanism": "SCRAM-SHA-512", **LOGIN, "cafile": None}, "certificate"),
    ],
    ids=["wrong-password", "unknown-authority"],
)
def test_a_closed_door_says_why(
    secure: Servers, certificates: Certificates, listener: str, options: dict[str, Any], says: str
) -> None:
    trusting = {"cafile": certificates.authority} | options
    kafka = KafkaConnection((secure.address("kafka", listener),), protocol=listener, **trusting)  # type: ignore[arg-type]
    with pytest.raises(Unreachable, match=says):
        Admin(kafka, timeout=3).broker_count()

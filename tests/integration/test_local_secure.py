"""Logins over TLS, against the servers that the fixture `secure` starts."""

from __future__ import annotations

from typing import Any

import pytest
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import Cluster, NoHostAvailable
from confluent_kafka import KafkaError
from confluent_kafka.admin import AdminClient

from walstream.local import Servers
from walstream.local.certificates import Certificates
from walstream.testing.waiting import wait_until

USER, PASSWORD = "alice", "a secret of 5 words"


def brokers_seen(secure: Servers, listener: str, **settings: Any) -> int:
    address = secure.address("kafka", listener)
    admin = AdminClient(
        {"bootstrap.servers": address, "security.protocol": listener, "log_level": 0}
        | {name.replace("_", "."): value for name, value in settings.items()}
    )
    return len(admin.list_topics(timeout=10).brokers)


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
@pytest.mark.parametrize("listener", ["SASL_PLAINTEXT", "SASL_SSL"])
def test_kafka_takes_a_password(secure: Servers, certificates: Certificates, listener: str, mechanism: str) -> None:
    login = {"sasl_mechanism": mechanism, "sasl_username": USER, "sasl_password": PASSWORD}
    trust = {"ssl_ca_location": str(certificates.authority)} if listener == "SASL_SSL" else {}
    assert brokers_seen(secure, listener, **login, **trust) == 1


def test_kafka_refuses_a_wrong_password(secure: Servers) -> None:
    errors: list[KafkaError] = []
    admin = AdminClient(
        {
            "bootstrap.servers": secure.address("kafka", "SASL_PLAINTEXT"),
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": USER,
            "sasl.password": "wrong",
            "error_cb": errors.append,
            "log_level": 0,
        }
    )
    wait_until(lambda: admin.poll(0.2) and errors, 30, "refused")
    assert errors[0].code() == KafkaError._AUTHENTICATION


def test_kafka_takes_a_clients_certificate(secure: Servers, certificates: Certificates) -> None:
    own = {"ssl_certificate_location": str(certificates.client), "ssl_key_location": str(certificates.client_key)}
    assert brokers_seen(secure, "SSL", ssl_ca_location=str(certificates.authority), **own) == 1


def cassandra_version(secure: Servers, password: str, **settings: Any) -> str:
    host, _, port = secure.cassandra.rpartition(":")
    login = PlainTextAuthProvider("cassandra", password)
    cluster = Cluster([host], port=int(port), protocol_version=5, auth_provider=login, **settings)
    try:
        return str(cluster.connect().execute("SELECT release_version FROM system.local").one()[0])
    finally:
        cluster.shutdown()


def test_cassandra_takes_a_password_over_tls(secure: Servers, certificates: Certificates) -> None:
    assert cassandra_version(secure, "cassandra", ssl_context=certificates.context()).startswith("5.")


def test_cassandra_refuses_a_wrong_password_and_a_plain_connection(secure: Servers, certificates: Certificates) -> None:
    with pytest.raises(NoHostAvailable):
        cassandra_version(secure, "wrong", ssl_context=certificates.context())
    with pytest.raises(NoHostAvailable):
        cassandra_version(secure, "cassandra")

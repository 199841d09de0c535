"""One Kafka, described to two clients."""

from __future__ import annotations

from pathlib import Path

import pytest

from walstream.errors import ConfigurationError
from walstream.kafka import KafkaConnection, broker_address
from walstream.local.certificates import make_certificates
from walstream.settings import Settings


def test_plain() -> None:
    connection = KafkaConnection(("a:1", "b:2"))
    assert connection.aiokafka() == {"bootstrap_servers": ["a:1", "b:2"], "security_protocol": "PLAINTEXT"}
    assert connection.librdkafka().items() >= {"bootstrap.servers": "a:1,b:2", "security.protocol": "PLAINTEXT"}.items()


def test_scram_over_tls(ca: Path) -> None:
    connection = KafkaConnection(
        ("a:1",),
        protocol="SASL_SSL",
        mechanism="SCRAM-SHA-256",
        username="me",
        password="secret",
        cafile=ca,
        check_hostname=False,
    )
    aiokafka = connection.aiokafka()
    context = aiokafka.pop("ssl_context")
    assert context.check_hostname is False
    assert len(context.get_ca_certs()) == 1
    assert aiokafka == {
        "bootstrap_servers": ["a:1"],
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-256",
        "sasl_plain_username": "me",
        "sasl_plain_password": "secret",
    }
    wanted = {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-256",
        "sasl.username": "me",
        "sasl.password": "secret",
        "ssl.ca.location": str(ca),
        "ssl.endpoint.identification.algorithm": "none",
    }
    assert connection.librdkafka().items() >= wanted.items()
    assert "secret" not in repr(connection)


def test_password_without_tls() -> None:
    connection = KafkaConnection(("a:1",), protocol="SASL_PLAINTEXT", username="me", password="secret")
    assert "ssl_context" not in connection.aiokafka()
    assert connection.aiokafka()["sasl_plain_password"] == "secret"


def test_tls_checks_the_host(ca: Path) -> None:
    connection = KafkaConnection(("a:1",), protocol="SSL", cafile=ca)
    assert connection.aiokafka()["ssl_context"].check_hostname is True
    assert connection.librdkafka()["ssl.endpoint.identification.algorithm"] == "https"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"protocol": "SASL_SSL"}, "needs a user name"),
        ({"protocol": "SASL_SSL", "username": "me"}, "needs a user name and a password"),
        ({"username": "me", "password": "x"}, "PLAINTEXT does not use it"),
        ({"cafile": Path("x")}, "PLAINTEXT does not use them"),
    ],
)
def test_parts_that_do_not_go_together(options: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        KafkaConnection(("a:1",), **options)  # type: ignore[arg-type]


def test_a_certificate_that_is_not_there(tmp_path: Path) -> None:
    connection = KafkaConnection(("a:1",), protocol="SSL", cafile=tmp_path / "no.pem")
    with pytest.raises(ConfigurationError, match=r"no\.pem"):
        connection.aiokafka()


def test_from_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WALSTREAM_KAFKA_SECURITY_PROTOCOL", "SASL_PLAINTEXT")
    monkeypatch.setenv("WALSTREAM_KAFKA_SASL_USERNAME", "me")
    monkeypatch.setenv("WALSTREAM_KAFKA_SASL_PASSWORD", "secret")
    connection = KafkaConnection.from_settings(Settings.load(brokers="a:1"))
    assert connection == KafkaConnection(("a:1",), protocol="SASL_PLAINTEXT", username="me", password="secret")


@pytest.mark.parametrize("text", ["a", "a:", ":1", "a:b", "a:0", "a:65536", "::1:9092", "a b:1", "http://a:1", "a:¹"])
def test_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        broker_address(text)


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate to trust."""
    return make_certificates(tmp_path_factory.mktemp("ca")).authority

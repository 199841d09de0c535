"""The environment, and what is made of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from walstream.errors import ConfigurationError
from walstream.settings import Settings


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("WALSTREAM_"):
            monkeypatch.delenv(name)


def test_defaults() -> None:
    settings = Settings.load()
    assert settings.brokers == ["localhost:9092"]
    assert settings.config == Path("config/namespaces")
    assert settings.kafka_security_protocol == "PLAINTEXT"
    assert (settings.shard, settings.namespaces, settings.target) == (None, [], None)


def test_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "BROKERS": "a:1, [::1]:2",
        "CONFIG": "/etc/walstream",
        "SHARD": "west",
        "NAMESPACES": "flights,trains",
        "TARGET": "flights.base",
        "REGION": "eu",
        "REGION_RANK": "3",
        "DATADIR": "/var/lib/walstream",
        "KAFKA_SECURITY_PROTOCOL": "sasl_ssl",
        "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
        "KAFKA_SASL_USERNAME": "me",
        "KAFKA_SASL_PASSWORD": "secret",
        "KAFKA_SSL_CAFILE": "/ca.pem",
        "KAFKA_SSL_CHECK_HOSTNAME": "false",
    }.items():
        monkeypatch.setenv(f"WALSTREAM_{name}", value)
    settings = Settings.load()
    assert settings.brokers == ["a:1", "[::1]:2"]
    assert settings.namespaces == ["flights", "trains"]
    assert settings.region_rank == 3
    assert settings.kafka_security_protocol == "SASL_SSL"
    assert settings.kafka_ssl_check_hostname is False
    assert "secret" not in repr(settings)


def test_the_command_line_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WALSTREAM_BROKERS", "a:1")
    monkeypatch.setenv("WALSTREAM_CONFIG", "there")
    settings = Settings.load(brokers="b:2", config=None)
    assert (settings.brokers, settings.config) == (["b:2"], Path("there"))


def test_an_empty_variable_is_as_if_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WALSTREAM_SHARD", "")
    assert Settings.load().shard is None


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("BROKERS", "nohost", "host:port"),
        ("BROKERS", "a:99999", "between 1 and 65535"),
        ("BROKERS", ",", "at least 1"),
        ("REGION_RANK", "10", "less than or equal to 9"),
        ("TARGET", "flights", "pattern"),
        ("KAFKA_SECURITY_PROTOCOL", "TLS", "SASL_SSL"),
    ],
)
def test_what_cannot_be_names_the_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str) -> None:
    monkeypatch.setenv(f"WALSTREAM_{name}", value)
    with pytest.raises(ConfigurationError, match=f"WALSTREAM_{name}: .*{says}"):
        Settings.load()


def test_a_misspelt_security_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WALSTREAM_KAFKA_SECURITY_PROTOCOLL", "SSL")
    with pytest.raises(ConfigurationError, match="did you mean WALSTREAM_KAFKA_SECURITY_PROTOCOL"):
        Settings.load()

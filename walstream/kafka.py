"""How to reach a Kafka: its brokers, TLS and SASL, for each of the clients that walstream uses."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from walstream.errors import ConfigurationError

if TYPE_CHECKING:
    from walstream.settings import Settings

SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
SaslMechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]


def broker_address(text: str) -> str:
    """A broker's address, checked: ``host:port``, where an IPv6 host stands in brackets.

    Raises
    ------
    ValueError
        It has no host, no port, or one that cannot be.
    """
    host, colon, port = text.strip().rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not bare or (":" in host and bare == host) or any(char in host for char in " /@,;"):
        raise ValueError(f"{text!r} is not a broker's address; write host:port, such as kafka-1:9092")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
        raise ValueError(f"{text!r} has no port between 1 and 65535; write host:port, such as kafka-1:9092")
    return f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class KafkaConnection:
    """A Kafka cluster and what it asks of clients.

    Parameters
    ----------
    brokers
        Addresses, ``host:port``, of some of the brokers.
    protocol
        With TLS (``SSL``) or without, with a password (``SASL``) or without.
    mechanism, username, password
        For SASL.
    cafile
        Certificates (PEM) to trust; the system's where there is none.
    certfile, keyfile, keypassword
        The client's own certificate, where the brokers ask for one.
    check_hostname
        Whether the broker's certificate must name the host that was called.

    Raises
    ------
    ConfigurationError
        The parts do not go together.
    """

    brokers: tuple[str, ...]
    protocol: SecurityProtocol = "PLAINTEXT"
    mechanism: SaslMechanism = "PLAIN"
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    cafile: Path | None = None
    certfile: Path | None = None
    keyfile: Path | None = None
    keypassword: str | None = field(default=None, repr=False)
    check_hostname: bool = True

    def __post_init__(self) -> None:
        if not self.brokers:
            raise ConfigurationError("no broker is given", remedy="set WALSTREAM_BROKERS=host:port,…")
        if self.sasl and (self.username is None or self.password is None):
            raise ConfigurationError(
                f"{self.protocol} needs a user name and a password",
                remedy="set WALSTREAM_KAFKA_SASL_USERNAME and WALSTREAM_KAFKA_SASL_PASSWORD, or the connection's sasl",
            )
        if not self.sasl and self.username is not None:
            raise ConfigurationError(
                f"a SASL user name is given, but {self.protocol} does not use it",
                remedy="set the security protocol to SASL_SSL or SASL_PLAINTEXT",
            )
        if self.tls is False and (self.cafile or self.certfile or self.keyfile):
            raise ConfigurationError(
                f"certificates are given, but {self.protocol} does not use them",
                remedy="set the security protocol to SSL or SASL_SSL",
            )

    @classmethod
    def from_settings(cls, settings: Settings) -> KafkaConnection:
        """The cluster that the environment names: where the namespaces' own topics are."""
        return cls(
            brokers=tuple(settings.brokers),
            protocol=settings.kafka_security_protocol,
            mechanism=settings.kafka_sasl_mechanism,
            username=settings.kafka_sasl_username,
            password=_revealed(settings.kafka_sasl_password),
            cafile=settings.kafka_ssl_cafile,
            certfile=settings.kafka_ssl_certfile,
            keyfile=settings.kafka_ssl_keyfile,
            keypassword=_revealed(settings.kafka_ssl_password),
            check_hostname=settings.kafka_ssl_check_hostname,
        )

    @property
    def tls(self) -> bool:
        return self.protocol in ("SSL", "SASL_SSL")

    @property
    def sasl(self) -> bool:
        return self.protocol in ("SASL_PLAINTEXT", "SASL_SSL")

    def ssl_context(self) -> ssl.SSLContext | None:
        """The TLS context for Python's clients, or None without TLS.

        Raises
        ------
        ConfigurationError
            A certificate or key cannot be read.
        """
        if not self.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.cafile)
            context.check_hostname = self.check_hostname
            if self.certfile is not None:
                context.load_cert_chain(self.certfile, self.keyfile, self.keypassword)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            files = ", ".join(str(path) for path in (self.cafile, self.certfile, self.keyfile) if path is not None)
            raise ConfigurationError(
                f"Kafka's certificates cannot be read ({files}): {error}",
                remedy="give PEM files that this user may read: WALSTREAM_KAFKA_SSL_CAFILE, _CERTFILE, _KEYFILE",
            ) from error
        return context

    def aiokafka(self) -> dict[str, Any]:
        """Keyword arguments for aiokafka's consumer, producer and admin client."""
        kwargs: dict[str, Any] = {"bootstrap_servers": list(self.brokers), "security_protocol": self.protocol}
        if self.tls:
            kwargs["ssl_context"] = self.ssl_context()
        if self.sasl:
            kwargs |= {
                "sasl_mechanism": self.mechanism,
                "sasl_plain_username": self.username,
                "sasl_plain_password": self.password,
            }
        return kwargs

    def librdkafka(self) -> dict[str, Any]:
        """The configuration for a confluent-kafka client."""
        config: dict[str, Any] = {
            "bootstrap.servers": ",".join(self.brokers),
            "security.protocol": self.protocol,
            "log_level": 4,  # warnings; librdkafka writes to stderr, and its news are of no use there
        }
        if self.tls:
            config["ssl.endpoint.identification.algorithm"] = "https" if self.check_hostname else "none"
            for key, value in (
                ("ssl.ca.location", self.cafile),
                ("ssl.certificate.location", self.certfile),
                ("ssl.key.location", self.keyfile or self.certfile),
                ("ssl.key.password", self.keypassword),
            ):
                if value is not None:
                    config[key] = str(value)
        if self.sasl:
            config |= {
                "sasl.mechanism": self.mechanism,
                "sasl.username": self.username,
                "sasl.password": self.password,
            }
        return config


def _revealed(secret: Any) -> str | None:
    return None if secret is None else str(secret.get_secret_value())

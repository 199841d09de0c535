"""The entries of ``connections.yaml``: how to reach what targets write to.

Secrets are never written into the file; it says where they are: ``{file: …}`` or ``{env: …}``. Paths that are not
absolute count from the file's own folder.
"""

from __future__ import annotations

import os
import re
import ssl
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from walstream.errors import ConfigurationError
from walstream.kafka import KafkaConnection, SaslMechanism, broker_address
from walstream.namespace import Words, fault

HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""What the name of an HTTP header may be (RFC 9110, 5.6.2)."""
HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")
"""What the value of an HTTP header may be where every server is to understand it."""
_OWN_HEADERS = frozenset({"connection", "content-length", "content-type", "idempotency-key", "transfer-encoding"})


def _from_folder(path: Path, info: ValidationInfo) -> Path:
    folder = (info.context or {}).get("folder")
    return path.expanduser() if folder is None else Path(folder) / path.expanduser()


ConfigPath = Annotated[Path, AfterValidator(_from_folder)]
"""A path that counts from the folder of the file in which it stands."""


class Secret(Words):
    """Where a secret is: in a file of its own, or in a variable of the environment."""

    file: ConfigPath | None = None
    env: str | None = Field(None, min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _never_in_the_open(cls, value: Any) -> Any:
        if isinstance(value, dict | Secret):
            return value
        raise ValueError("a secret does not stand in the file; write {file: path} or {env: VARIABLE}")

    @model_validator(mode="after")
    def _one_place(self) -> Secret:
        if (self.file is None) == (self.env is None):
            raise fault("a secret is in one place", remedy="write either {file: path} or {env: VARIABLE}")
        return self

    def read(self) -> str:
        """The secret itself; a file's trailing line end is no part of it.

        Raises
        ------
        ConfigurationError
            It is not there.
        """
        if self.env is not None:
            value = os.environ.get(self.env)
            if value is None:
                raise ConfigurationError(
                    f"a secret is in the variable {self.env}, which is not set", remedy=f"export {self.env}=…"
                )
            return value
        assert self.file is not None  # one of the two, by the validator
        try:
            return self.file.read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"a secret cannot be read: {error}",
                file=str(self.file),
                remedy="write it there, readable for this user",
            ) from error


class Tls(Words):
    """TLS towards a server.

    Parameters
    ----------
    cafile
        Certificates (PEM) to trust; the system's where there is none.
    certfile, keyfile, keypassword
        The client's own certificate, where the server asks for one.
    check_hostname
        Whether the server's certificate must name the host that was called.
    """

    cafile: ConfigPath | None = None
    certfile: ConfigPath | None = None
    keyfile: ConfigPath | None = None
    keypassword: Secret | None = None
    check_hostname: bool = True

    def context(self) -> ssl.SSLContext:
        """The TLS context for Python's clients.

        Raises
        ------
        ConfigurationError
            A certificate or key cannot be read.
        """
        password = None if self.keypassword is None else self.keypassword.read()
        try:
            context = ssl.create_default_context(cafile=self.cafile)
            context.check_hostname = self.check_hostname
            if self.certfile is not None:
                context.load_cert_chain(self.certfile, self.keyfile, password)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            files = ", ".join(str(path) for path in (self.cafile, self.certfile, self.keyfile) if path is not None)
            raise ConfigurationError(
                f"certificates cannot be read ({files}): {error}", remedy="give PEM files that this user may read"
            ) from error
        return context


class Sasl(Words):
    """A user name and password for Kafka."""

    mechanism: SaslMechanism = "SCRAM-SHA-512"
    username: str
    password: Secret


def _tls(value: Any) -> Any:
    return {True: {}, False: None}.get(value, value) if isinstance(value, bool) else value


MaybeTls = Annotated[Tls | None, BeforeValidator(_tls)]
"""``ssl: true`` trusts what the system trusts; ``ssl: {cafile: …}`` says more."""


def _hosts(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {"env"}:
        name = str(value["env"])
        value = os.environ.get(name, "")
        if not value.strip():
            raise ValueError(f"the hosts are in the variable {name}, which is not set; export {name}=host:port,…")
    return [word.strip() for word in value.split(",") if word.strip()] if isinstance(value, str) else value


Hosts = Annotated[list[str], BeforeValidator(_hosts), Field(min_length=1)]
"""A list, or ``{env: VARIABLE}`` where the environment knows better than a file, as beside local servers."""


class CassandraConnection(Words):
    """A Cassandra cluster.

    Parameters
    ----------
    hosts, port
        Contact points; each may say a port of its own as ``host:port``.
    datacenter
        The local one, whose nodes are asked; needed where there are several.
    username, password
        Where the cluster asks for them.
    """

    sink: Literal["cassandra"]
    hosts: Hosts
    port: int = Field(9042, ge=1, le=65_535)
    datacenter: str | None = None
    username: str | None = None
    password: Secret | None = None
    ssl: MaybeTls = None

    @model_validator(mode="after")
    def _both_or_none(self) -> CassandraConnection:
        if (self.username is None) != (self.password is None):
            raise fault("a user name and a password belong together", remedy="write both, or neither")
        return self


class KafkaClusterConnection(Words):
    """Another Kafka cluster than the namespaces' own.

    Parameters
    ----------
    brokers
        ``host:port``, several with commas or as a list; or ``{env: VARIABLE}``.
    rank
        Where it is that of another region: what that region's workers have in ``WALSTREAM_REGION_RANK``.
    """

    sink: Literal["kafka"]
    brokers: list[str] = Field(min_length=1)
    rank: int | None = Field(None, ge=0, le=9)
    sasl: Sasl | None = None
    ssl: MaybeTls = None

    @field_validator("brokers", mode="before")
    @classmethod
    def _addresses(cls, value: Any) -> Any:
        words = _hosts(value)
        if not isinstance(words, list):
            return words
        return [broker_address(str(word)) for word in words]

    def kafka(self) -> KafkaConnection:
        """How to reach it.

        Raises
        ------
        ConfigurationError
            A secret is not there.
        """
        tls = self.ssl
        return KafkaConnection(
            brokers=tuple(self.brokers),
            protocol=(("SASL_SSL" if tls else "SASL_PLAINTEXT") if self.sasl else ("SSL" if tls else "PLAINTEXT")),
            mechanism=self.sasl.mechanism if self.sasl else "PLAIN",
            username=self.sasl.username if self.sasl else None,
            password=self.sasl.password.read() if self.sasl else None,
            cafile=tls.cafile if tls else None,
            certfile=tls.certfile if tls else None,
            keyfile=tls.keyfile if tls else None,
            keypassword=tls.keypassword.read() if tls and tls.keypassword else None,
            check_hostname=tls.check_hostname if tls else True,
        )


def _url(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {"env"}:
        name = str(value["env"])
        value = os.environ.get(name, "").strip()
        if not value:
            raise ValueError(f"the url is in the variable {name}, which is not set; export {name}=redis://host:port")
    return value


class RedisConnection(Words):
    """A Redis, or what speaks its protocol.

    Parameters
    ----------
    host, port, db
        Where it is, and which of its databases.
    url
        The same in one: ``redis://host:port/db``, ``rediss://`` for TLS, ``unix://path?db=1``; or ``{env: VARIABLE}``.
    username, password
        Where Redis asks for them; the password alone is that of the user ``default``.
    """

    sink: Literal["redis"]
    host: str | None = Field(None, min_length=1)
    port: int = Field(6379, ge=1, le=65_535)
    db: int = Field(0, ge=0)
    url: Annotated[str | None, BeforeValidator(_url)] = None
    username: str | None = None
    password: Secret | None = None
    ssl: MaybeTls = None

    @field_validator("url")
    @classmethod
    def _is_a_url(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        if parts.scheme not in ("redis", "rediss", "unix") or not (parts.hostname or parts.path):
            raise ValueError(f"{url!r} is no url of a Redis, such as redis://localhost:6379/0")
        if "@" in parts.netloc or "password=" in parts.query:
            raise ValueError("a password does not stand in the url; write username, and password: {file: path}")
        return url

    @model_validator(mode="after")
    def _goes_together(self) -> RedisConnection:
        if (self.url is None) == (self.host is None):
            raise fault("a Redis is at one place", remedy="write either host (and port, db), or url")
        if self.url is not None and {"port", "db"} & self.model_fields_set:
            raise fault("port and db are in the url already", "url", remedy="write redis://host:port/db")
        if self.ssl is not None and self.url is not None and not self.url.startswith("rediss:"):
            raise fault("ssl is for a url that starts with rediss", "ssl", remedy="write url: rediss://…")
        if self.username is not None and self.password is None:
            raise fault("a user name needs a password", "username", remedy="write password: {file: path}")
        return self

    @property
    def address(self) -> str:
        """The url, which has no secrets."""
        if self.url is not None:
            return self.url
        host = f"[{self.host}]" if ":" in str(self.host) else self.host
        return f"redis{'s' if self.ssl else ''}://{host}:{self.port}/{self.db}"


class MemcachedConnection(Words):
    """A memcached.

    Parameters
    ----------
    host, port
        Where it is.
    username, password
        Where it asks for them (its option ``--auth-file``).
    """

    sink: Literal["memcached"]
    host: str = Field(min_length=1)
    port: int = Field(11211, ge=1, le=65_535)
    username: str | None = Field(None, min_length=1)
    password: Secret | None = None
    ssl: MaybeTls = None

    @model_validator(mode="after")
    def _both_or_none(self) -> MemcachedConnection:
        if (self.username is None) != (self.password is None):
            raise fault("a user name and a password belong together", remedy="write both, or neither")
        return self

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class HttpConnection(Words):
    """An application that is reached by HTTP.

    Parameters
    ----------
    url
        ``http://`` or ``https://``, the host, and the beginning of the path where all paths have one.
    headers
        Added to every request; a value may be a secret.
    token
        Sent as ``Authorization: Bearer …``.
    """

    sink: Literal["http"]
    url: str
    headers: dict[str, str | Secret] = Field(default_factory=dict)
    token: Secret | None = None
    ssl: MaybeTls = None

    @field_validator("url")
    @classmethod
    def _is_a_url(cls, url: str) -> str:
        if "@" in url:
            raise ValueError("a password does not stand in the url; write token: {file: path}, or headers")
        try:
            parts = urlsplit(url)
            good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            good = False
        if not good or not url.isascii() or any(mark in url for mark in "?# "):
            raise ValueError(f"{url!r} is no url of an application, such as https://app.example.com/events")
        return url

    @field_validator("headers")
    @classmethod
    def _can_be_sent(cls, headers: dict[str, str | Secret]) -> dict[str, str | Secret]:
        for name, value in headers.items():
            if not HEADER_NAME.fullmatch(name):
                raise ValueError(f"{name!r} cannot be the name of an HTTP header")
            if name.lower() in _OWN_HEADERS or name.lower().startswith(("ce-", "walstream-")):
                raise ValueError(f"the header {name} is made for each request")
            if isinstance(value, str) and not HEADER_VALUE.fullmatch(value):
                raise ValueError(f"the value of {name} has something that is not printable ASCII")
        return headers

    @model_validator(mode="after")
    def _goes_together(self) -> HttpConnection:
        if self.ssl is not None and not self.url.startswith("https:"):
            raise fault("ssl is for a url that starts with https", "ssl", remedy="write url: https://…")
        if self.token is not None and "authorization" in map(str.lower, self.headers):
            raise fault("there are two Authorization headers", "token", remedy="leave out the token, or the header")
        return self

    def request_headers(self) -> dict[str, str]:
        """The headers that every request has.

        Raises
        ------
        ConfigurationError
            A secret is not there, or cannot stand in a header.
        """
        found = {name: value if isinstance(value, str) else value.read() for name, value in self.headers.items()}
        if self.token is not None:
            found["Authorization"] = f"Bearer {self.token.read()}"
        for name, value in found.items():
            if not HEADER_VALUE.fullmatch(value):
                raise ConfigurationError(
                    f"the secret for the header {name} has something that is not printable ASCII",
                    remedy="look for a line end in the middle",
                )
        return found


Connection = CassandraConnection | KafkaClusterConnection | HttpConnection | MemcachedConnection | RedisConnection

CONNECTIONS: dict[str, type[BaseModel]] = {
    "cassandra": CassandraConnection,
    "kafka": KafkaClusterConnection,
    "redis": RedisConnection,
    "memcached": MemcachedConnection,
    "http": HttpConnection,
}
"""The model of an entry, by its ``sink``."""

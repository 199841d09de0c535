"""What a process is told by its environment: variables that start with ``WALSTREAM_``."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from walstream.errors import ConfigurationError
from walstream.kafka import SaslMechanism, SecurityProtocol, broker_address

PREFIX = "WALSTREAM_"


def _words(value: Any) -> Any:
    return [word.strip() for word in value.split(",") if word.strip()] if isinstance(value, str) else value


def _addresses(value: Any) -> Any:
    return [broker_address(word) for word in _words(value)]


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


class Settings(BaseSettings):
    """The environment of one process.

    Parameters
    ----------
    brokers
        The Kafka of the namespaces, ``host:port,…``.
    config
        The folder with ``connections.yaml`` and the namespace files.
    shard, namespaces
        What a router serves: a name for its group, and which namespaces (none: all).
    target
        ``<namespace>.<target>``: what a delivery worker serves.
    region, region_rank
        This region's name, and its rank (0 to 9), which is the last digit of every effective time that it gives.
    datadir
        Where workers keep their state.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", frozen=True)

    brokers: Annotated[list[str], NoDecode, BeforeValidator(_addresses)] = Field(["localhost:9092"], min_length=1)
    config: Path = Path("config/namespaces")
    shard: str | None = Field(None, pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    namespaces: Annotated[list[str], NoDecode, BeforeValidator(_words)] = []
    target: str | None = Field(None, pattern=r"^[a-z][a-z0-9-]{0,62}\.[a-z][a-z0-9-]{0,62}$")
    region: str | None = Field(None, pattern=r"^[a-z][a-z0-9-]{0,30}$")
    region_rank: int = Field(0, ge=0, le=9)
    datadir: Path = Path(".walstream/data")

    kafka_security_protocol: Annotated[SecurityProtocol, BeforeValidator(_upper)] = "PLAINTEXT"
    kafka_sasl_mechanism: Annotated[SaslMechanism, BeforeValidator(_upper)] = "PLAIN"
    kafka_sasl_username: str | None = None
    kafka_sasl_password: SecretStr | None = None
    kafka_ssl_cafile: Path | None = None
    kafka_ssl_certfile: Path | None = None
    kafka_ssl_keyfile: Path | None = None
    kafka_ssl_password: SecretStr | None = None
    kafka_ssl_check_hostname: bool = True

    @classmethod
    def load(cls, **overrides: Any) -> Settings:
        """The settings of this process.

        Parameters
        ----------
        overrides
            What was said on the command line, which wins over the environment; None is as if not said.

        Raises
        ------
        ConfigurationError
            A variable cannot be understood, or one that starts with ``WALSTREAM_KAFKA_`` is unknown.
        """
        _refuse_unknown()
        try:
            return cls(**{name: value for name, value in overrides.items() if value is not None})
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = str(first["loc"][0]) if first["loc"] else ""
            said = first["msg"].removeprefix("Value error, ")
            where = f"--{name}" if name in overrides else f"{PREFIX}{name.upper()}"
            raise ConfigurationError(f"{where}: {said}", remedy=f"correct or unset {where}") from None


def _refuse_unknown() -> None:
    """A misspelt security setting must not quietly leave the connection unprotected."""
    known = {f"{PREFIX}{name}".upper() for name in Settings.model_fields}
    for name in os.environ:
        if name.upper().startswith(f"{PREFIX}KAFKA_") and name.upper() not in known:
            near = difflib.get_close_matches(name.upper(), known, n=1)
            remedy = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}"
            raise ConfigurationError(f"{name} is no setting of walstream", remedy=remedy)

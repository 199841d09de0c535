"""A real Kafka and a real Cassandra for tests: child processes of this machine, or containers.

`WALSTREAM_TEST_SERVERS` says which: ``local``, ``docker``, or ``auto``, which takes containers where an engine answers.
The images are `WALSTREAM_TEST_KAFKA_IMAGE` and `WALSTREAM_TEST_CASSANDRA_IMAGE`. `WALSTREAM_BROKERS_FOR_TESTS` and
`WALSTREAM_CASSANDRA_FOR_TESTS` name servers that run already and are only used.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from walstream.errors import ServerError
from walstream.local import CassandraOptions, KafkaOptions, Servers
from walstream.local.cassandra import Cassandra
from walstream.local.kafka import CLUSTER_ID, SINGLE_NODE, Kafka
from walstream.local.ports import free_port

Name = Literal["kafka", "cassandra"]

KAFKA_IMAGE = "apache/kafka:4.1.0"
CASSANDRA_IMAGE = "cassandra:5.0"
# An image that has to be pulled first takes its time before this counts.
START_SECONDS = 120.0


class Address(str):
    """``host:port``, and its parts."""

    __slots__ = ()

    @property
    def host(self) -> str:
        return self.rpartition(":")[0]

    @property
    def port(self) -> int:
        return int(self.rpartition(":")[2])

    @property
    def contact_points(self) -> list[str]:
        return [self.host]


class Server(Protocol):
    """A server that a test may do things to."""

    @property
    def address(self) -> Address:
        """Where it answers; the same after a restart."""
        ...

    @property
    def proxied(self) -> Address | None:
        """What a proxy in front of a Kafka forwards to; who goes to `address` goes around it."""
        ...

    def stop(self, *, kill: bool = False) -> None:
        """Stop it, with SIGKILL if asked; its data stays."""
        ...

    def start(self) -> None:
        """Start it again, and wait until it answers."""
        ...

    def close(self) -> None:
        """End it for good."""
        ...


def image_of(name: Name) -> str:
    """Give the image of a server."""
    chosen = os.environ.get(f"WALSTREAM_TEST_{name.upper()}_IMAGE")
    return chosen or {"kafka": KAFKA_IMAGE, "cassandra": CASSANDRA_IMAGE}[name]


def provider(name: Name) -> Literal["local", "docker"]:
    """Tell where a server comes from."""
    wanted = os.environ.get("WALSTREAM_TEST_SERVERS") or "auto"
    if wanted == "local" or (wanted == "auto" and not (engine_answers() and can_have(image_of(name)))):
        return "local"
    if wanted in ("docker", "auto"):
        return "docker"
    raise ServerError(f"WALSTREAM_TEST_SERVERS is {wanted!r}, not docker, local or auto")


def can_have(image: str) -> bool:
    """Tell whether the engine has an image, or gets it now: an engine may be cut off from where images are."""
    import docker

    with contextlib.closing(docker.from_env(timeout=600)) as client:
        try:
            client.images.get(image)
        except docker.errors.ImageNotFound:
            try:
                client.images.pull(image)
            except docker.errors.APIError:
                return False
    return True


def engine_answers() -> bool:
    """Tell whether there is a Docker engine."""
    import docker

    try:
        client = docker.from_env(timeout=5)
    except docker.errors.DockerException:
        return False
    client.close()
    return True


def given(name: Name) -> Address | None:
    """Give the address of a server that was started outside, if the environment names one."""
    variable = {"kafka": "WALSTREAM_BROKERS_FOR_TESTS", "cassandra": "WALSTREAM_CASSANDRA_FOR_TESTS"}[name]
    address = os.environ.get(variable)
    return Address(address) if address else None


def start_server(name: Name, folder: Path, *, advertised: int | None = None) -> Server:
    """Start a server.

    Parameters
    ----------
    name
        Which.
    folder
        Empty; for its data where it is a process.
    advertised
        A port that Kafka tells its clients to come to, where a proxy stands.
    """
    if provider(name) == "local":
        return LocalServer(name, folder, advertised)
    return KafkaContainer(advertised) if name == "kafka" else CassandraContainer()


class LocalServer:
    """A child process of this one."""

    def __init__(self, name: Name, folder: Path, advertised: int | None = None) -> None:
        self._name = name
        kafka = KafkaOptions(quick=True, advertised=advertised)
        self._servers = Servers(folder, kafka=kafka, cassandra=CassandraOptions(quick=True))
        self._servers.up(kafka=name == "kafka", cassandra=name == "cassandra")
        self.address = Address(self._servers.address(name))
        self.proxied = Address(self._servers.address(name, "PROXIED")) if advertised else None

    def stop(self, *, kill: bool = False) -> None:
        self._servers.stop(self._name, kill=kill)

    def start(self) -> None:
        self._servers.start(self._name)

    def close(self) -> None:
        # Nobody wants its data any more.
        self._servers.stop(self._name, kill=True)


class Container:
    """A container whose ports are on loopback, and stay where they are when it is started again."""

    def __init__(self, image: str, environment: Mapping[str, str], ports: Mapping[int, int]) -> None:
        # Its own clean-up container would have to be pulled; `close` is ours.
        os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
        from testcontainers.core.container import DockerContainer

        self._container = DockerContainer(image)
        for variable, value in environment.items():
            self._container.with_env(variable, value)
        for inside, outside in ports.items():
            self._container.with_bind_ports(inside, outside)
        self._container.start()
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def stop(self, *, kill: bool = False) -> None:
        container = self._container.get_wrapped_container()
        if kill:
            container.kill()
            container.wait()
        else:
            container.stop()

    def start(self) -> None:
        self._container.get_wrapped_container().start()
        self._wait()

    def close(self) -> None:
        self._container.stop()

    def _ready(self) -> bool:
        raise NotImplementedError

    def _wait(self) -> None:
        container: Any = self._container.get_wrapped_container()
        deadline = time.monotonic() + START_SECONDS
        while not self._ready():
            container.reload()
            if container.status not in ("created", "running") or time.monotonic() > deadline:
                end = container.logs(tail=25).decode(errors="replace")
                raise ServerError(
                    f"A container of {container.image.tags} is {container.status}. The end of its log:\n{end}"
                )
            time.sleep(0.2)


class KafkaContainer(Container):
    """Kafka as an image that takes ``KAFKA_*`` for its properties."""

    def __init__(self, advertised: int | None = None) -> None:
        outside, behind = free_port(), free_port()
        self.address = Address(f"127.0.0.1:{outside}")
        self.proxied = Address(f"127.0.0.1:{behind}") if advertised else None
        properties = SINGLE_NODE | {
            "listeners": "PLAINTEXT://:9092,CONTROLLER://:9093,PROXIED://:9094,INSIDE://127.0.0.1:9095",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{outside},PROXIED://127.0.0.1:{advertised or behind}"
            ",INSIDE://127.0.0.1:9095",
            "listener.security.protocol.map": ",".join(
                f"{name}:PLAINTEXT" for name in ("PLAINTEXT", "CONTROLLER", "PROXIED", "INSIDE")
            ),
            # The transaction coordinator writes its markers through this one; the ports outside do not exist in there.
            "inter.broker.listener.name": "INSIDE",
            "controller.quorum.voters": "1@127.0.0.1:9093",
        }
        environment = {f"KAFKA_{name.replace('.', '_').upper()}": value for name, value in properties.items()}
        environment |= {"CLUSTER_ID": CLUSTER_ID, "KAFKA_HEAP_OPTS": "-Xmx512m"}
        super().__init__(image_of("kafka"), environment, {9092: outside, 9094: behind})

    def _ready(self) -> bool:
        return Kafka(KafkaOptions()).ready({"PLAINTEXT": self.address.port})


class CassandraContainer(Container):
    """Cassandra as an image that takes ``CASSANDRA_*`` and heap sizes."""

    def __init__(self) -> None:
        outside = free_port()
        self.address = Address(f"127.0.0.1:{outside}")
        self.proxied = None
        start = "-Dcassandra.skip_wait_for_gossip_to_settle=0 -Dcassandra.ring_delay_ms=1"
        environment = {
            "CASSANDRA_NUM_TOKENS": "1",
            "MAX_HEAP_SIZE": "768m",
            "HEAP_NEWSIZE": "192m",
            "JVM_EXTRA_OPTS": start,
        }
        super().__init__(image_of("cassandra"), environment, {9042: outside})

    def _ready(self) -> bool:
        return Cassandra(CassandraOptions()).ready({"native": self.address.port})

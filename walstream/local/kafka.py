"""Kafka: one KRaft node that is broker and controller."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from walstream.local.certificates import Certificates

VERSION = "4.1.0"
# An id of the same form as Kafka's own tool makes. Fixed: a folder holds one node, and nothing ever joins it.
CLUSTER_ID = "d2Fsc3RyZWFtLWxvY2FsMQ"
SCRAM = ("SCRAM-SHA-256", "SCRAM-SHA-512")

# What suits a node that is alone.
SINGLE_NODE = {
    "node.id": "1",
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    # Every internal topic is single, and small, which makes a start and a rebalance quick.
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "8",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "8",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    # Kafka's own lowest session timeout, 6 s, is long for who watches a worker die.
    "group.min.session.timeout.ms": "1000",
    # A node that was killed may not register again before its former self is given up; the usual 9 s are for networks.
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "500",
    # Topics are made by `walstream apply`, exactly; one made by accident hides a mistake.
    "auto.create.topics.enable": "false",
}

LOGGING = """\
status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{HH:mm:ss.SSS} %-5p %c{1}: %m%n
rootLogger.level = info
rootLogger.appenderRef.out.ref = out
"""


def regional(name: str, region: str | None) -> str:
    """The name of a server that is one region's own."""
    return name if region is None else f"{region}/{name}"


@dataclass(frozen=True, slots=True)
class KafkaOptions:
    """What a local Kafka can do besides answering on a plain port.

    Parameters
    ----------
    heap
        Of the Java machine at most, such as ``512m``.
    quick
        Whether Java leaves out its second compiler. A start then takes half of processor time, and
        what runs for longer than a test is slower.
    properties
        More lines for ``server.properties``; they win.
    users
        Names and passwords. They open the listener ``SASL_PLAINTEXT``, with `certificates` also ``SASL_SSL``, both with
        the mechanisms PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512.
    certificates
        Open the listener ``SSL``, which takes a client's certificate but asks for none.
    advertised
        Open the listener ``PROXIED``, which tells its clients to come to this port, where a proxy stands.
    """

    heap: str = "512m"
    quick: bool = False
    properties: Mapping[str, str] = field(default_factory=dict)
    users: Mapping[str, str] = field(default_factory=dict)
    certificates: Certificates | None = None
    advertised: int | None = None

    @property
    def listeners(self) -> tuple[str, ...]:
        """The listeners for clients, by the names of their protocols; each has a port of its own."""
        return (
            "PLAINTEXT",
            *(("SASL_PLAINTEXT",) if self.users else ()),
            *(("SASL_SSL",) if self.users and self.certificates else ()),
            *(("SSL",) if self.certificates else ()),
            *(("PROXIED",) if self.advertised else ()),
        )


@dataclass(frozen=True, slots=True)
class Kafka:
    """How a Kafka is configured and started.

    Parameters
    ----------
    region
        Whose Kafka it is, where a folder has one for each region.
    """

    options: KafkaOptions
    region: str | None = None

    main_port = "PLAINTEXT"
    # Kafka's own package binds SLF4J to Log4j; its jar alone does not, and would log nothing. The exclamation mark
    # keeps the versions that Log4j's description manages, an older Kafka's among them, off the class path.
    coordinates = (f"org.apache.kafka:kafka_2.13:{VERSION}", "org.apache.logging.log4j:log4j-slf4j-impl:2.24.3!")

    @property
    def name(self) -> str:
        """By which it is started and stopped, and its folder within that of all servers."""
        return regional("kafka", self.region)

    @property
    def title(self) -> str:
        """For people."""
        return f"Kafka {VERSION}" + (f" of {self.region}" if self.region else "")

    @property
    def ports(self) -> tuple[str, ...]:
        """Names of the ports that it needs."""
        return (*self.options.listeners, "CONTROLLER")

    def configure(self, folder: Path, ports: Mapping[str, int]) -> None:
        """Write the files that it reads at its start."""
        (folder / "log4j2.properties").write_text(LOGGING)
        lines = "".join(f"{name}={value}\n" for name, value in self._properties(folder, ports).items())
        (folder / "server.properties").write_text(lines)

    def first(self, java: Path, jars: list[Path], folder: Path) -> list[str] | None:
        """Give the command to run before the first start, if there is one still to run."""
        if (folder / "data" / "meta.properties").exists():
            return None
        format_ = ["format", "-t", CLUSTER_ID, "-c", str(folder / "server.properties")]
        return [*self._java(java, jars, folder), "kafka.tools.StorageTool", *format_]

    def command(self, java: Path, jars: list[Path], folder: Path) -> list[str]:
        """Give the command that starts it."""
        return [*self._java(java, jars, folder), "kafka.Kafka", str(folder / "server.properties")]

    def ready(self, ports: Mapping[str, int]) -> bool:
        """Tell whether it answers, and make its users."""
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import (
            AdminClient,
            ScramCredentialInfo,
            ScramMechanism,
            UserScramCredentialUpsertion,
        )

        address = ("127.0.0.1", ports[self.main_port])
        try:
            socket.create_connection(address, timeout=1).close()
            admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{address[1]}", "log_level": 0})
            if not admin.list_topics(timeout=5).brokers:
                return False
            mechanisms = (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512)
            for mechanism in mechanisms if self.options.users else ():
                for user, password in self.options.users.items():
                    info = ScramCredentialInfo(mechanism, 4096)
                    wanted = UserScramCredentialUpsertion(user, info, password.encode())
                    admin.alter_user_scram_credentials([wanted])[user].result(timeout=10)
        except (OSError, KafkaException):
            return False
        return True

    def _java(self, java: Path, jars: list[Path], folder: Path) -> list[str]:
        return [
            str(java),
            f"-Xmx{self.options.heap}",
            "-XX:+ExitOnOutOfMemoryError",
            *(("-XX:TieredStopAtLevel=1",) if self.options.quick else ()),
            "-Djava.awt.headless=true",
            f"-Dlog4j2.configurationFile={folder / 'log4j2.properties'}",
            "-cp",
            ":".join(map(str, jars)),
        ]

    def _properties(self, folder: Path, ports: Mapping[str, int]) -> dict[str, str]:
        options = self.options
        # In the order of the ports' names: inside, Kafka talks to itself on the first.
        advertised = {each: ports[each] for each in options.listeners}
        if options.advertised:
            advertised["PROXIED"] = options.advertised
        properties = {
            **SINGLE_NODE,
            "log.dirs": str(folder / "data"),
            "listeners": ",".join(f"{name}://127.0.0.1:{ports[name]}" for name in self.ports),
            "advertised.listeners": ",".join(f"{name}://127.0.0.1:{port}" for name, port in advertised.items()),
            "listener.security.protocol.map": ",".join(
                f"{name}:{'PLAINTEXT' if name in ('CONTROLLER', 'PROXIED') else name}" for name in self.ports
            ),
            "controller.quorum.voters": f"1@127.0.0.1:{ports['CONTROLLER']}",
        }
        if options.certificates:
            properties |= {
                "ssl.keystore.type": "PEM",
                "ssl.keystore.location": str(options.certificates.server),
                "ssl.truststore.type": "PEM",
                "ssl.truststore.location": str(options.certificates.authority),
                "ssl.client.auth": "requested",
            }
        if options.users:
            users = " ".join(f'user_{name}="{password}"' for name, password in options.users.items())
            module = "org.apache.kafka.common.security"
            properties["sasl.enabled.mechanisms"] = ",".join(("PLAIN", *SCRAM))
            for listener in (each.lower() for each in options.listeners if each.startswith("SASL")):
                prefix = f"listener.name.{listener}"
                properties[f"{prefix}.plain.sasl.jaas.config"] = f"{module}.plain.PlainLoginModule required {users};"
                for mechanism in SCRAM:
                    login = f"{module}.scram.ScramLoginModule required;"
                    properties[f"{prefix}.{mechanism.lower()}.sasl.jaas.config"] = login
        return properties | dict(options.properties)

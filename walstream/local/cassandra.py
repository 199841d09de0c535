"""Cassandra: one node, set for a quick start."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from walstream.local.certificates import Certificates

VERSION = "5.0.5"

# What Cassandra's own jvm17 options open of the Java runtime.
OPENS = (
    "java.base/java.io",
    "java.base/java.lang",
    "java.base/java.lang.module",
    "java.base/java.nio",
    "java.base/java.util",
    "java.base/jdk.internal.loader",
    "java.base/jdk.internal.math",
    "java.base/jdk.internal.module",
    "java.base/jdk.internal.ref",
    "java.base/jdk.internal.reflect",
    "java.base/jdk.internal.util.jar",
    "java.base/sun.nio.ch",
    "jdk.management/com.sun.management.internal",
)
EXPORTS = (
    "java.base/jdk.internal.misc",
    "java.base/jdk.internal.ref",
    "java.base/sun.nio.ch",
    "java.management.rmi/com.sun.jmx.remote.internal.rmi",
    "java.rmi/sun.rmi.registry",
    "java.rmi/sun.rmi.server",
    "java.sql/java.sql",
    "jdk.unsupported/sun.misc",
)

LOGGING = """\
<configuration>
  <appender name="out" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%d{HH:mm:ss.SSS} %-5level %logger{0}: %msg%n</pattern></encoder>
  </appender>
  <root level="INFO"><appender-ref ref="out"/></root>
</configuration>
"""

# The request OPTIONS of the native protocol, version 4: a header with no body. Any server answers it, before any login.
OPTIONS_REQUEST = bytes((4, 0, 0, 0, 5, 0, 0, 0, 0))


@dataclass(frozen=True, slots=True)
class CassandraOptions:
    """What a local Cassandra can do besides answering on a plain port.

    Parameters
    ----------
    heap
        Of the Java machine at most, such as ``1g``.
    quick
        Whether Java leaves out its second compiler. A start then takes three quarters of processor time, and
        what runs for longer than a test is slower.
    passwords
        Whether clients must log in; the first user is ``cassandra`` with the password ``cassandra``.
    certificates
        Where given, clients must use TLS.
    """

    heap: str = "1g"
    quick: bool = False
    passwords: bool = False
    certificates: Certificates | None = None


@dataclass(frozen=True, slots=True)
class Cassandra:
    """How a Cassandra is configured and started."""

    options: CassandraOptions

    name = "cassandra"
    title = f"Cassandra {VERSION}"
    main_port = "native"
    ports = ("native", "storage")
    coordinates = (f"org.apache.cassandra:cassandra-all:{VERSION}",)

    def configure(self, folder: Path, ports: Mapping[str, int]) -> None:
        """Write the files that it reads at its start."""
        (folder / "logback.xml").write_text(LOGGING)
        # JSON is YAML.
        (folder / "cassandra.yaml").write_text(json.dumps(self._configuration(folder, ports), indent=2))

    def first(self, java: Path, jars: list[Path], folder: Path) -> list[str] | None:
        """Give the command to run before the first start: there is none."""
        return None

    def command(self, java: Path, jars: list[Path], folder: Path) -> list[str]:
        """Give the command that starts it."""
        agent = next(jar for jar in jars if jar.name.startswith("jamm-"))
        return [
            str(java),
            "-Xms512m",
            f"-Xmx{self.options.heap}",
            "-XX:MaxDirectMemorySize=512m",
            "-XX:+ExitOnOutOfMemoryError",
            *(("-XX:TieredStopAtLevel=1",) if self.options.quick else ()),
            f"-javaagent:{agent}",
            "-Djdk.attach.allowAttachSelf=true",
            *(f"--add-opens={each}=ALL-UNNAMED" for each in OPENS),
            *(f"--add-exports={each}=ALL-UNNAMED" for each in EXPORTS),
            f"-Dlogback.configurationFile={folder / 'logback.xml'}",
            f"-Dcassandra.config={(folder / 'cassandra.yaml').as_uri()}",
            f"-Dcassandra.storagedir={folder}",
            "-Dcassandra-foreground=yes",
            # A single node has nobody to wait for.
            "-Dcassandra.skip_wait_for_gossip_to_settle=0",
            "-Dcassandra.ring_delay_ms=1",
            "-Dcassandra.superuser_setup_delay_ms=0",
            "-Dcassandra.shutdown_announce_in_ms=0",
            "-cp",
            ":".join(map(str, jars)),
            "org.apache.cassandra.service.CassandraDaemon",
        ]

    def ready(self, ports: Mapping[str, int]) -> bool:
        """Tell whether it answers, and lets in who must log in."""
        port = ports[self.main_port]
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                if self.options.certificates is None:
                    connection.settimeout(5)
                    connection.sendall(OPTIONS_REQUEST)
                    if not connection.recv(1):
                        return False
        except OSError:
            return False
        return not self.options.passwords or self._lets_in(port)

    def _lets_in(self, port: int) -> bool:
        from cassandra import DriverException
        from cassandra.auth import PlainTextAuthProvider
        from cassandra.cluster import Cluster, NoHostAvailable

        cluster = Cluster(
            ["127.0.0.1"],
            port=port,
            protocol_version=5,
            auth_provider=PlainTextAuthProvider("cassandra", "cassandra"),
            ssl_context=self.options.certificates.context() if self.options.certificates else None,
        )
        try:
            cluster.connect()
        except (NoHostAvailable, DriverException):
            return False
        finally:
            cluster.shutdown()
        return True

    def _configuration(self, folder: Path, ports: Mapping[str, int]) -> dict[str, Any]:
        seeds = {"class_name": "org.apache.cassandra.locator.SimpleSeedProvider"}
        configuration: dict[str, Any] = {
            "cluster_name": "walstream local",
            "num_tokens": 1,
            "partitioner": "org.apache.cassandra.dht.Murmur3Partitioner",
            "endpoint_snitch": "SimpleSnitch",
            "seed_provider": [{**seeds, "parameters": [{"seeds": f"127.0.0.1:{ports['storage']}"}]}],
            "listen_address": "127.0.0.1",
            "storage_port": ports["storage"],
            "rpc_address": "127.0.0.1",
            "native_transport_port": ports["native"],
            "commitlog_sync": "periodic",
            "commitlog_sync_period": "10000ms",
            "data_file_directories": [str(folder / "data")],
            "commitlog_directory": str(folder / "commitlog"),
            "saved_caches_directory": str(folder / "saved_caches"),
            "hints_directory": str(folder / "hints"),
            "cdc_raw_directory": str(folder / "cdc_raw"),
            "authenticator": "PasswordAuthenticator" if self.options.passwords else "AllowAllAuthenticator",
            "authorizer": "CassandraAuthorizer" if self.options.passwords else "AllowAllAuthorizer",
            # Dropping a keyspace of an experiment should free its space.
            "auto_snapshot": False,
            # A laptop that does ten things at once is not a broken node.
            "read_request_timeout": "10s",
            "range_request_timeout": "20s",
            "write_request_timeout": "10s",
            "request_timeout": "20s",
        }
        if self.options.certificates:
            configuration["client_encryption_options"] = {
                "enabled": True,
                "optional": False,
                "keystore": str(self.options.certificates.keystore),
                "keystore_password": self.options.certificates.password,
                "store_type": "PKCS12",
            }
        return configuration

"""The servers of a benchmark, and what the harness asks Kafka for: topics, offsets, progress."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import psutil
from confluent_kafka.admin import AdminClient
from rich.console import Console

from walstream.admin import Admin
from walstream.kafka import KafkaConnection
from walstream.local import CassandraOptions, KafkaOptions, Servers
from walstream.topics import Topic

TIMEOUT = 60.0  # s
SETTLED = {"retention.ms": "-1", "message.timestamp.type": "LogAppendTime"}


class Cluster:
    """A Kafka (and, where asked for, a Cassandra) in a folder; they end with this process.

    Parameters
    ----------
    folder
        For data and logs.
    out
        Where the figures' results go.
    cassandra
        Whether there is to be one.
    advertised
        A port where a proxy stands, if some clients are to come by it.
    quick
        Whether Java leaves out its second compiler, which takes a core for seconds at a time, minutes after a start.
    """

    def __init__(
        self,
        folder: Path,
        out: Path,
        *,
        cassandra: bool = False,
        advertised: int | None = None,
        quick: bool = False,
        console: Console | None = None,
    ) -> None:
        self.folder, self.out = folder, out
        # The servers are to be no bottleneck for want of memory; the page cache does the rest.
        kafka = KafkaOptions(heap="1g", quick=quick, advertised=advertised)
        self._servers = Servers(folder / "servers", kafka=kafka, cassandra=CassandraOptions())
        self._servers.up(cassandra=cassandra, console=console)
        self.brokers = self._servers.brokers
        self.proxied = self._servers.address("kafka", "PROXIED") if advertised else None
        self.cassandra = self._servers.cassandra if cassandra else None
        self._admin = Admin(KafkaConnection((self.brokers,)))
        self._client = AdminClient({"bootstrap.servers": self.brokers, "log_level": 2})
        self._counts: dict[str, int] = {}
        self._processes = {
            status.name: psutil.Process(status.process.pid) for status in self._servers.status() if status.process
        }

    def close(self) -> None:
        """Stop the servers."""
        self._servers.close()

    def cpu(self, server: str = "kafka") -> float:
        """Processor seconds that a server has used so far."""
        times = self._processes[server].cpu_times()
        return float(times.user + times.system)

    def create(self, topic: str, partitions: int, config: Mapping[str, str] = SETTLED) -> None:
        """Make a topic."""
        self._admin.create([Topic(topic, partitions, 1, config)])

    def delete(self, prefix: str) -> None:
        """Delete all topics whose names start so; their files are gone soon after."""
        names = [name for name in self._client.list_topics(timeout=TIMEOUT).topics if name.startswith(prefix)]
        for future in self._client.delete_topics(names).values() if names else ():
            future.result(TIMEOUT)

    def ends(self, topic: str) -> dict[int, int]:
        """The offset behind what is committed of each partition."""
        found = self._admin.offsets(self._partitions(topic), "latest")
        return {number: offset for (_, number), offset in found.items()}

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """The offsets that a group has committed; nothing where it has none yet."""
        found = self._admin.committed(group, self._partitions(topic))
        return {number: offset for (_, number), offset in found.items()}

    def _partitions(self, topic: str) -> list[tuple[str, int]]:
        if topic not in self._counts:
            self._counts[topic] = self._admin.describe([topic])[topic].partitions
        return [(topic, number) for number in range(self._counts[topic])]

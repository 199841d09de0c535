"""The servers of a benchmark, and what the harness asks Kafka for: topics, offsets, progress."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec
from rich.console import Console

from walstream.local import CassandraOptions, KafkaOptions, Servers

TIMEOUT = 60.0  # s
LATEST: Any = OffsetSpec.latest()  # type: ignore[no-untyped-call]
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
    """

    def __init__(self, folder: Path, out: Path, *, cassandra: bool = False, console: Console | None = None) -> None:
        self.folder, self.out = folder, out
        # The servers are to be no bottleneck for want of memory; the page cache does the rest.
        self._servers = Servers(folder / "servers", kafka=KafkaOptions(heap="1g"), cassandra=CassandraOptions())
        self._servers.up(cassandra=cassandra, console=console)
        self.brokers = self._servers.brokers
        self.cassandra = self._servers.cassandra if cassandra else None
        self._admin = AdminClient({"bootstrap.servers": self.brokers, "log_level": 2})
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
        new = NewTopic(topic, partitions, 1, config=dict(config))
        self._admin.create_topics([new])[topic].result(TIMEOUT)
        deadline = time.monotonic() + TIMEOUT
        while len(self.topics().get(topic, ())) < partitions:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the topic {topic} does not appear")
            time.sleep(0.02)

    def topics(self) -> dict[str, list[int]]:
        """The topics there are, and their partitions."""
        found = self._admin.list_topics(timeout=TIMEOUT).topics
        return {name: sorted(topic.partitions) for name, topic in found.items()}

    def delete(self, prefix: str) -> None:
        """Delete all topics whose names start so; their files are gone soon after."""
        names = [name for name in self.topics() if name.startswith(prefix)]
        for future in self._admin.delete_topics(names).values() if names else ():
            future.result(TIMEOUT)

    def ends(self, topic: str) -> dict[int, int]:
        """The end offset of each partition, what is not yet committed included."""
        partitions = [TopicPartition(topic, number) for number in self.topics().get(topic, ())]
        if not partitions:
            return {}
        futures = self._admin.list_offsets(dict.fromkeys(partitions, LATEST))
        return {partition.partition: future.result(TIMEOUT).offset for partition, future in futures.items()}

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """The offsets that a group has committed; nothing where it has none yet."""
        partitions = [TopicPartition(topic, number) for number in self.topics().get(topic, ())]
        asked = self._admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group, partitions)])
        try:
            found = asked[group].result(TIMEOUT)
        except KafkaException:
            return {}
        return {each.partition: each.offset for each in found.topic_partitions if each.offset >= 0}

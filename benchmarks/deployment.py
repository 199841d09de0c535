"""A namespace of walstream, and the commands that start its workers as people start them."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from benchmarks.cluster import TIMEOUT, Cluster
from benchmarks.load import Shape, write
from benchmarks.processes import Processes
from walstream.apply import apply
from walstream.changes import Action
from walstream.config import load_connections, load_namespaces
from walstream.kafka import KafkaConnection

Command = tuple[list[str], dict[str, str]]
"""Program and arguments, and environment."""


class Deployment:
    """One namespace.

    Parameters
    ----------
    name
        The namespace, and the router's shard.
    partitions
        Of every topic.
    ingress
        A topic to adopt, so that several contenders can read the same one.
    targets
        As in the namespace file.
    key
        The template of mutations' keys.
    schedule, latency
        As in the namespace file.
    connections
        As in connections.yaml.
    region
        Name and rank of the region that the cluster is, where it is one.
    """

    def __init__(
        self,
        cluster: Cluster,
        name: str,
        *,
        partitions: int,
        ingress: str | None = None,
        targets: Mapping[str, Any] | None = None,
        key: str | None = None,
        schedule: Mapping[str, Any] | None = None,
        latency: str | None = None,
        connections: Mapping[str, Any] | None = None,
        region: tuple[str | None, int] = (None, 0),
    ) -> None:
        self.cluster, self.name, self.partitions = cluster, name, partitions
        self.folder = cluster.folder / name
        self._connections, self._region = dict(connections or {}), region
        self.ingress, self.log = ingress or f"{name}.ingress", f"{name}.log"
        self._document: dict[str, Any] = {
            "version": 1,
            "namespace": name,
            "topics": {"partitions": partitions, "replication": 1, "min_insync": 1},
            "targets": dict(targets or {}),
            "schedule": dict(schedule or {}),
        }
        if latency is not None:
            self._document["latency"] = latency
        if ingress is not None:
            self._document["topics"]["names"] = {"ingress": ingress}
        if key is not None:
            self._document["key"] = key

    def apply(self) -> None:
        """Make the topics, and those of targets that were added since."""
        config = self.folder / "config"
        config.mkdir(parents=True, exist_ok=True)
        # JSON is YAML.
        (config / f"{self.name}.yaml").write_text(json.dumps(self._document))
        if self.cluster.cassandra is not None:
            host, _, port = self.cluster.cassandra.rpartition(":")
            self._connections["main"] = {"sink": "cassandra", "hosts": [host], "port": int(port)}
        (config / "connections.yaml").write_text(json.dumps(self._connections))
        namespaces, connections = load_namespaces(config), load_connections(config)
        kafka = KafkaConnection((self.cluster.brokers,))
        changes = apply(namespaces.values(), connections, kafka, shard=self.name, region=self._region)
        refused = [change for change in changes if change.action is Action.REFUSE]
        if refused:
            raise RuntimeError(f"walstream apply refuses: {refused}")

    def add_target(self, name: str, target: Mapping[str, Any]) -> None:
        """One more target, which begins with the first record of the log."""
        self._document["targets"][name] = {"start": "earliest", **target}
        self.apply()

    def remove_target(self, name: str) -> None:
        """Forget a target; its topics are left."""
        del self._document["targets"][name]

    def group(self, role: str) -> str:
        """The consumer group of ``router`` or of a target."""
        return f"walstream.router.{self.name}" if role == "router" else f"walstream.{self.name}.{role}"

    def command(self, role: str, number: int = 0) -> Command:
        """How a worker is started: of the router, or of a target. Those of one number share a data folder."""
        data = self.folder / f"data-{role}-{number}"
        data.mkdir(parents=True, exist_ok=True)
        topology = "topologies.router" if role == "router" else "topologies.delivery"
        faust = str(Path(sys.executable).with_name("faust"))
        command = [faust, "-A", topology, "--datadir", str(data), "worker", "--without-web", "-l", "warn"]
        environment = {
            "WALSTREAM_BROKERS": self.cluster.brokers,
            "WALSTREAM_CONFIG": str(self.folder / "config"),
            "WALSTREAM_NAMESPACES": self.name,
            "WALSTREAM_SHARD": self.name,
            "WALSTREAM_DATADIR": str(data),
        }
        name, rank = self._region
        if name is not None:
            environment |= {"WALSTREAM_REGION": name, "WALSTREAM_REGION_RANK": str(rank)}
        if role != "router":
            environment["WALSTREAM_TARGET"] = f"{self.name}.{role}"
        return command, environment

    @contextmanager
    def running(self, *roles: str, output: str) -> Iterator[list[Processes]]:
        """Workers of these roles, one each; they are ready, which a few records that reach `output` have shown."""
        workers: list[Processes] = []
        try:
            for role in roles:
                command, environment = self.command(role)
                worker = Processes(self.folder / f"run-{role}", [command], [environment])
                workers.append(worker.__enter__())
            before = sum(self.cluster.ends(output).values())
            write(self.cluster.brokers, self.ingress, Shape(), 10 * self.partitions, time.time_ns(), 0, "none")
            deadline = time.monotonic() + TIMEOUT
            while sum(self.cluster.ends(output).values()) < before + 10 * self.partitions:
                for worker in workers:
                    worker.check()
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{', '.join(roles)}: nothing arrives in {output}")
                time.sleep(0.05)
            yield workers
        finally:
            for worker in workers:
                worker.stop()


def tail(brokers: str, topic: str, ends: Mapping[int, int]) -> Consumer:
    """A consumer of what comes into a topic from now on, committed only, without delay."""
    consumer = Consumer(
        {
            "bootstrap.servers": brokers,
            "group.id": "benchmark-tail",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "fetch.min.bytes": 1,
            "fetch.wait.max.ms": 100,
            "fetch.queue.backoff.ms": 1,
        }
    )
    consumer.assign([TopicPartition(topic, partition, end) for partition, end in ends.items()])
    return consumer

"""How far other regions are behind this one: what its own Kafka knows of the targets that send to them."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from walstream import topics
from walstream.admin import Admin, Partition
from walstream.connections import Connection, KafkaClusterConnection
from walstream.errors import Unreachable
from walstream.kafka import KafkaConnection
from walstream.namespace import Namespace
from walstream.scan import Bounds, Scanner
from walstream.status import Status, statuses
from walstream.units import format_rfc3339

SINK = "replicate"
"""The sink of targets that send to other regions."""

REACH = 3.0
"""Seconds that another region's Kafka is given to answer, while this one's is asked."""

WINDOW = 100
"""Positions in which the oldest record that is not sent is looked for first."""


@dataclass(frozen=True, slots=True)
class Behind:
    """How far a partition is behind.

    Parameters
    ----------
    records
        Positions of the log that are not sent yet, or passed over.
    seconds
        How long ago the oldest of them was appended to the log; 0 where there is none.
    """

    records: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Replication:
    """A target that sends to another region.

    Parameters
    ----------
    status
        Of its consumer group, and what waits beside the log: to be tried again, or parked behind that.
    region, brokers
        Whereto.
    partitions
        By number.
    problem
        Why the other region's Kafka cannot be reached from here; None where it can.
    """

    status: Status
    region: str
    brokers: str
    partitions: Mapping[int, Behind]
    problem: str | None

    @property
    def since(self) -> str | None:
        """Since when its workers do not reach the other region, as they wrote it down."""
        down = None if self.status.health is None else self.status.health.down
        return None if down is None else format_rfc3339(down.since * 1_000)

    @property
    def records(self) -> int:
        """Of all partitions."""
        return sum(behind.records for behind in self.partitions.values())

    @property
    def seconds(self) -> float:
        """Of the partition that is furthest behind."""
        return max((behind.seconds for behind in self.partitions.values()), default=0.0)

    def document(self) -> dict[str, Any]:
        """The same for JSON."""
        health = {} if self.status.health is None else self.status.health.document()
        return {
            "namespace": self.status.namespace,
            "target": self.status.role,
            "region": self.region,
            "brokers": self.brokers,
            "reachable": self.problem is None,
            "problem": self.problem,
            "records": self.records,
            "seconds": round(self.seconds, 3),
            "partitions": [
                {"partition": number, "records": behind.records, "seconds": round(behind.seconds, 3)}
                for number, behind in sorted(self.partitions.items())
            ],
            "members": [{"client": client, "host": host} for client, host in self.status.members],
            **health,
        }


def replications(
    namespaces: Sequence[Namespace], kafka: KafkaConnection, connections: Mapping[str, Connection]
) -> list[Replication]:
    """Every target of these namespaces that sends to another region.

    Parameters
    ----------
    kafka
        This region's.
    connections
        The entries of ``connections.yaml``.

    Raises
    ------
    TopicMismatch
        A topic does not exist.
    Unreachable
        This region's Kafka does not answer, or refuses.
    """
    sending = {
        (namespace.name, name): (namespace, target)
        for namespace in namespaces
        for name, target in namespace.targets.items()
        if target.sink == SINK
    }
    if not sending:
        return []
    concerned = {namespace.name: namespace for namespace, _ in sending.values()}
    names = {str(target.connection) for _, target in sending.values()}
    with ThreadPoolExecutor(len(names)) as pool:
        problems = {name: pool.submit(_problem, connections[name]) for name in names}
        found = [one for one in statuses(list(concerned.values()), kafka) if (one.namespace, one.role) in sending]
        admin = Admin(kafka)
        result = []
        for one in found:
            namespace, target = sending[one.namespace, one.role]
            connection = connections[str(target.connection)]
            assert isinstance(connection, KafkaClusterConnection)  # as the configuration was checked
            result.append(
                Replication(
                    one,
                    str(target.options["region"]),
                    ",".join(connection.brokers),
                    _behind(admin, kafka, one, topics.log(namespace).name),
                    problems[str(target.connection)].result(),
                )
            )
    return result


def _behind(admin: Admin, kafka: KafkaConnection, status: Status, log: str) -> dict[int, Behind]:
    """How far each partition of the log is."""
    lags = {partition: lag for partition, lag in status.partition_lags.items() if partition[0] == log}
    late = [partition for partition, lag in lags.items() if lag]
    begins, committed = admin.offsets(late, "earliest"), admin.committed(status.group, late)
    bounds = {}
    for partition in late:
        begin = committed.get(partition, begins[partition])
        bounds[partition] = begin, begin + lags[partition]
    oldest = _oldest(Scanner(kafka, admin), bounds)
    now = time.time() * 1e3
    return {
        partition[1]: Behind(lag, max(0.0, now - oldest[partition]) / 1e3 if partition in oldest else 0.0)
        for partition, lag in lags.items()
    }


def _oldest(scanner: Scanner, bounds: Bounds) -> dict[Partition, int]:
    """When the first record of each stretch was appended (ms since the epoch); without those that have no record."""
    found: dict[Partition, int] = {}
    rest, width = dict(bounds), WINDOW
    while rest:
        windows = {partition: (begin, min(end, begin + width)) for partition, (begin, end) in rest.items()}
        for message in scanner.messages(windows):
            found.setdefault((str(message.topic()), int(message.partition() or 0)), int(message.timestamp()[1]))
        rest = {
            partition: (windows[partition][1], end)
            for partition, (_, end) in rest.items()
            if partition not in found and windows[partition][1] < end
        }
        width *= 100
    return found


def _problem(connection: Connection) -> str | None:
    """Why a region's Kafka cannot be reached; None where it can."""
    assert isinstance(connection, KafkaClusterConnection)
    began = time.monotonic()
    refusals = []
    for broker in connection.brokers:  # a client would try again until its time is up, and not say why
        host, _, port = broker.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), REACH / len(connection.brokers)).close()
            break
        except OSError as error:
            refusals.append(f"{broker}: {error}")
    else:
        return "; ".join(refusals)
    try:
        Admin(connection.kafka(), max(1.0, REACH - (time.monotonic() - began))).broker_count()
    except Unreachable as error:
        return str(error).partition("\n")[0]
    return None

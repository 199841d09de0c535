"""How far routers and deliveries are, and who is at work, as Kafka itself knows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from walstream import topics
from walstream.admin import Admin, Partition
from walstream.errors import TopicMismatch
from walstream.kafka import KafkaConnection
from walstream.namespace import Namespace
from walstream.topics import Topic


@dataclass(frozen=True, slots=True)
class Status:
    """A consumer group's work on one namespace.

    Parameters
    ----------
    role
        ``router``, or the target's name.
    partition_lags
        Positions between what is finished and the end of what was committed, by topic and partition.
    members
        Client ids and hosts of the group's members; a router's may serve other namespaces too.
    """

    namespace: str
    role: str
    group: str
    partition_lags: dict[Partition, int]
    members: tuple[tuple[str, str], ...]

    @property
    def lag(self) -> int:
        return sum(self.partition_lags.values())

    @property
    def lags(self) -> dict[str, int]:
        """The lag by topic."""
        sums: dict[str, int] = {}
        for (topic, _), lag in self.partition_lags.items():
            sums[topic] = sums.get(topic, 0) + lag
        return sums

    def document(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "namespace": self.namespace,
            "role": self.role,
            "group": self.group,
            "lag": self.lag,
            "partitions": [
                {"topic": topic, "partition": number, "lag": lag}
                for (topic, number), lag in sorted(self.partition_lags.items())
            ],
            "members": [{"client": client, "host": host} for client, host in self.members],
        }


def statuses(namespaces: Sequence[Namespace], connection: KafkaConnection, *, shard: str | None = None) -> list[Status]:
    """The status of the router and of each target, for each namespace.

    Parameters
    ----------
    shard
        That of the routers which serve the namespaces.

    Raises
    ------
    TopicMismatch
        A topic does not exist.
    Unreachable
        Kafka does not answer, or refuses.
    """
    admin = Admin(connection)
    work: list[tuple[Namespace, str, str, list[Topic]]] = []
    for namespace in namespaces:
        work.append((namespace, "router", topics.router_app_id(shard), [topics.ingress(namespace)]))
        for target in namespace.targets:
            read = [topics.log(namespace), topics.retry(namespace, target)]
            work.append((namespace, target, topics.delivery_app_id(namespace, target), read))
    described = admin.describe({topic.name for _, _, _, read in work for topic in read})
    missing = sorted({topic.name for _, _, _, read in work for topic in read} - set(described))
    if missing:
        raise TopicMismatch(f"these topics do not exist: {', '.join(missing)}\n  remedy: run: walstream apply")
    partitions = [(name, number) for name, topic in described.items() for number in range(topic.partitions)]
    begins, ends = admin.offsets(partitions, "earliest"), admin.offsets(partitions, "latest")
    groups = admin.groups(sorted({group for _, _, group, _ in work}))
    found = []
    for namespace, role, group, read in work:
        names = {topic.name for topic in read}
        own = [partition for partition in partitions if partition[0] in names]
        committed = admin.committed(group, own)
        lags = {p: max(0, ends[p] - committed.get(p, begins[p])) for p in own}
        found.append(Status(namespace.name, role, group, lags, groups[group].members))
    return found

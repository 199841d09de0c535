"""How far routers and deliveries are, who is at work, and what waits at targets, as Kafka itself knows it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from walstream import marks, topics
from walstream.admin import Admin, Partition
from walstream.errors import TopicMismatch
from walstream.kafka import KafkaConnection
from walstream.marks import Counts, Halted
from walstream.namespace import Namespace
from walstream.scan import Scanner
from walstream.topics import Topic
from walstream.units import format_rfc3339


@dataclass(frozen=True, slots=True)
class Health:
    """How a target does, as its partitions' owners wrote it down.

    Parameters
    ----------
    counts
        What waits, of all partitions together.
    paused, down
        The first partition that is paused by people, or whose target does not answer.
    """

    counts: Counts
    paused: Halted | None = None
    down: Halted | None = None

    @classmethod
    def of(cls, rows: Mapping[tuple[int, bytes], bytes]) -> Health:
        """From the marks of all partitions.

        Raises
        ------
        StateMismatch
            A mark is of a newer format.
        """
        by_name: dict[bytes, list[bytes]] = {}
        for (_, name), row in rows.items():
            by_name.setdefault(name, []).append(row)
        found = [dataclasses.astuple(marks.decode(Counts, row)) for row in by_name.get(marks.COUNTS, ())]
        return cls(
            Counts(*(sum(column) for column in zip(*found, strict=True))),
            *(
                min(
                    (marks.decode(Halted, row) for row in by_name.get(name, ())),
                    key=lambda halted: halted.since,
                    default=None,
                )
                for name in (marks.PAUSED, marks.DOWN)
            ),
        )

    def document(self) -> dict[str, Any]:
        """The same for JSON."""
        return dataclasses.asdict(self.counts) | {"paused": _halted(self.paused), "down": _halted(self.down)}


def _halted(halted: Halted | None) -> dict[str, Any] | None:
    return None if halted is None else {"since": format_rfc3339(halted.since * 1_000), "reason": halted.reason}


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
    health
        How a target does; None for a router.
    """

    namespace: str
    role: str
    group: str
    partition_lags: dict[Partition, int]
    members: tuple[tuple[str, str], ...]
    health: Health | None = None

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
            **({} if self.health is None else self.health.document()),
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
    changelogs: dict[tuple[str, str], Topic] = {}
    for namespace in namespaces:
        work.append((namespace, "router", topics.router_app_id(shard), [topics.ingress(namespace)]))
        for target in namespace.targets:
            read = [topics.log(namespace), topics.retry(namespace, target)]
            work.append((namespace, target, topics.delivery_app_id(namespace, target), read))
            changelogs[namespace.name, target] = topics.target_changelogs(namespace, target)["marks"]
    names = {topic.name for _, _, _, read in work for topic in read}
    needed = names | {topic.name for topic in changelogs.values()}
    described = admin.describe(needed)
    if missing := sorted(needed - set(described)):
        raise TopicMismatch(f"these topics do not exist: {', '.join(missing)}\n  remedy: run: walstream apply")
    partitions = [(name, number) for name in names for number in range(described[name].partitions)]
    begins, ends = admin.offsets(partitions, "earliest"), admin.offsets(partitions, "latest")
    groups = admin.groups(sorted({group for _, _, group, _ in work}))
    rows = Scanner(connection, admin).newest(
        [(topic.name, number) for topic in changelogs.values() for number in range(described[topic.name].partitions)]
    )
    found = []
    for namespace, role, group, read in work:
        read_names = {topic.name for topic in read}
        own = [partition for partition in partitions if partition[0] in read_names]
        committed = admin.committed(group, own)
        lags = {p: max(0, ends[p] - committed.get(p, begins[p])) for p in own}
        changelog = changelogs.get((namespace.name, role))
        health = None
        if changelog is not None:
            health = Health.of({(n, name): row for ((topic, n), name), row in rows.items() if topic == changelog.name})
        found.append(Status(namespace.name, role, group, lags, groups[group].members, health))
    return found

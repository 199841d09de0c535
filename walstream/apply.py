"""Makes what namespaces need outside of walstream: topics, keyspaces and tables, and where each group starts.

Run again, it changes nothing. What would break order or lose data is refused, and then nothing at all is done.

A group without a committed offset is new, or was stopped for longer than the brokers keep offsets; only a new one may
be given its start. A router is new as long as nothing that it writes holds a record. A target is new as long as its
retry topic does not exist: that topic is made after the target's start was committed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import stamina

from walstream import topics
from walstream.admin import Admin, Partition, Where
from walstream.changes import Action, Change
from walstream.config import make_sink
from walstream.connections import Connection
from walstream.errors import TopicMismatch
from walstream.kafka import KafkaConnection
from walstream.namespace import Namespace
from walstream.topics import Described, Difference, Topic
from walstream.units import format_rfc3339

SETTLED_WITHIN_S = 10.0
"""How long what was changed may take to be seen on every broker."""


@dataclass(frozen=True, slots=True)
class _Start:
    """Where a group begins on a topic."""

    group: str
    topic: Topic
    where: Where
    target: str | None


@dataclass(slots=True)
class _Plan:
    """What is to be done for a namespace."""

    changes: list[Change] = field(default_factory=list)
    create: list[Topic] = field(default_factory=list)
    alter: dict[str, Mapping[str, str]] = field(default_factory=dict)
    commit: list[tuple[_Start, list[Partition]]] = field(default_factory=list)

    @property
    def refused(self) -> bool:
        return any(change.action is Action.REFUSE for change in self.changes)


def apply(
    namespaces: Iterable[Namespace],
    connections: Mapping[str, Connection],
    connection: KafkaConnection,
    *,
    shard: str | None = None,
    region: tuple[str | None, int] = (None, 0),
    dry_run: bool = False,
) -> list[Change]:
    """Make what is missing, and put right what can be.

    Parameters
    ----------
    connections
        From `walstream.config.load_connections`.
    connection
        The namespaces' own Kafka.
    shard
        That of the routers which serve the namespaces.
    region
        The region's name, if it has one, and its rank.
    dry_run
        Only say what would be done.

    Returns
    -------
    list of Change
        Everything that was looked at. Where one of them is `Action.REFUSE`, nothing was done.

    Raises
    ------
    Unreachable, SinkError, ConfigurationError
        Kafka or a target does not answer, or a secret is not there.
    TopicMismatch
        Somebody else changed the topics at the same time.
    """
    admin = Admin(connection)
    brokers = admin.broker_count()
    namespaces = list(namespaces)
    sinks = [
        make_sink(namespace, target, connections, {"kafka": connection, "region": region[0], "rank": region[1]})
        for namespace in namespaces
        for target in namespace.targets
    ]
    plans = [_plan(admin, namespace, brokers, shard) for namespace in namespaces]
    provisions = [asyncio.run(sink.provision(dry_run=True)) for sink in sinks]
    changes = [change for plan in plans for change in plan.changes]
    changes += [change for provision in provisions for change in provision]
    if dry_run or any(change.action is Action.REFUSE for change in changes):
        return changes
    for plan in plans:
        _execute(admin, plan)
    for sink in sorted(sinks, key=lambda sink: sink.stateful):  # an index is made of a table that another target makes
        asyncio.run(sink.provision(dry_run=False))
    _confirm(admin, [topic for namespace in namespaces for topic in topics.all_topics(namespace)])
    return changes


def _confirm(admin: Admin, wanted: Sequence[Topic]) -> None:
    """Look again, until every broker that answers knows what was done."""
    for trial in stamina.retry_context(
        on=TopicMismatch, attempts=None, timeout=SETTLED_WITHIN_S, wait_initial=0.05, wait_max=0.5, wait_jitter=0.05
    ):
        with trial:
            differences = topics.verify(wanted, admin.describe({topic.name for topic in wanted}))
            if differences:
                raise TopicMismatch(
                    "\n".join(["topics were changed by somebody else at the same time:", *topics.explain(differences)])
                )


def ensure_start_offsets(
    connection: KafkaConnection, namespace: Namespace, *, shard: str | None = None
) -> list[Change]:
    """Commit a start for each new group of a namespace whose topics exist, as `apply` does.

    Returns
    -------
    list of Change
        `Action.REFUSE` for a group that has lost its offsets; then nothing was done.
    """
    admin = Admin(connection)
    wanted = topics.all_topics(namespace)
    plan = _Plan()
    _plan_starts(admin, namespace, admin.describe([topic.name for topic in wanted]), shard, plan)
    if not plan.refused:
        _execute(admin, plan)
    return plan.changes


def _plan(admin: Admin, namespace: Namespace, brokers: int, shard: str | None) -> _Plan:
    wanted = topics.all_topics(namespace)
    found = admin.describe([topic.name for topic in wanted])
    plan = _Plan()
    for topic in wanted:
        change = _topic_change(topic, topics.verify([topic], found), brokers)
        plan.changes.append(change)
        if change.action is Action.CREATE:
            plan.create.append(topic)
        elif change.action is Action.ALTER:
            plan.alter[topic.name] = change.settings["alter"]
    if not plan.refused:
        _plan_starts(admin, namespace, found, shard, plan)
    return plan


def _topic_change(topic: Topic, differences: Sequence[Difference], brokers: int) -> Change:
    settings: dict[str, Any] = {
        "partitions": topic.partitions,
        "replication": topic.replication,
        "config": dict(topic.config),
    }
    refused = [difference for difference in differences if not difference.fixable]
    if refused:
        has = ", ".join(f"{difference.setting} {difference.found}" for difference in refused)
        needs = ", ".join(f"{difference.setting} {difference.wanted}" for difference in refused)
        said = "it does not exist" if refused[0].setting == "missing" else f"it has {has}, and needs {needs}"
        detail = "\n".join([said, *dict.fromkeys(f"remedy: {difference.remedy}" for difference in refused)])
        return Change(Action.REFUSE, "topic", topic.name, detail, settings)
    if not differences:
        return Change(Action.NONE, "topic", topic.name, "adopted" if topic.adopted else "", settings)
    if differences[0].setting != "missing":
        settings["alter"] = {difference.setting: difference.wanted for difference in differences}
        settings["destroys"] = any(_shrinks(difference) for difference in differences)
        detail = ", ".join(f"{d.setting} {d.found} -> {d.wanted}" for d in differences)
        return Change(Action.ALTER, "topic", topic.name, detail, settings)
    if topic.replication > brokers:
        has = "1 broker" if brokers == 1 else f"{brokers} brokers"
        detail = (
            f"the cluster has {has}, too few for {topic.replication} copies\n"
            f"remedy: write topics: {{replication: {brokers}, min_insync: {min(brokers, 2)}}}, or add brokers"
        )
        return Change(Action.REFUSE, "topic", topic.name, detail, settings)
    detail = f"{topic.partitions} partitions, replication {topic.replication}"
    return Change(Action.CREATE, "topic", topic.name, detail, settings)


def _shrinks(difference: Difference) -> bool:
    """Whether the brokers will delete what they would have kept."""
    wanted, found = difference.wanted, difference.found
    if difference.setting == "retention.ms" and wanted != "-1":
        return found == "-1" or (found.isdigit() and int(wanted) < int(found))
    return difference.setting == "cleanup.policy" and "delete" not in found


def _plan_starts(
    admin: Admin, namespace: Namespace, found: Mapping[str, Described], shard: str | None, plan: _Plan
) -> None:
    starts = _starts(namespace, shard)
    groups = admin.groups(sorted({start.group for start in starts}))
    for start in starts:
        partitions = [(start.topic.name, number) for number in range(start.topic.partitions)]
        if start.topic.name in found:
            # Where a group is at work, its offsets are its own; what it has none for, it has not read from yet.
            if groups[start.group].active:
                continue
            have = admin.committed(start.group, partitions)
            partitions = [partition for partition in partitions if partition not in have]
        if not partitions:
            continue
        if start.topic.name in found and not _is_new(admin, namespace, start, found):
            ends = admin.offsets(partitions, "latest")
            lost = [number for topic, number in partitions if ends[topic, number] > 0]
            if lost:
                plan.changes.append(_lost(start, lost))
                continue
        detail = f"{start.topic.name} from {_said(start.where)}, {len(partitions)} partitions"
        settings = {"topic": start.topic.name, "partitions": len(partitions), "start": _said(start.where)}
        plan.changes.append(Change(Action.CREATE, "offsets", start.group, detail, settings))
        plan.commit.append((start, partitions))


def _starts(namespace: Namespace, shard: str | None) -> list[_Start]:
    starts = [_Start(topics.router_app_id(shard), topics.ingress(namespace), "earliest", None)]
    for name, target in namespace.targets.items():
        group = topics.delivery_app_id(namespace, name)
        starts.append(_Start(group, topics.log(namespace), target.start, name))
        starts.append(_Start(group, topics.retry(namespace, name), "earliest", name))
    return starts


def _is_new(admin: Admin, namespace: Namespace, start: _Start, found: Mapping[str, Described]) -> bool:
    if start.target is None:
        written = [topics.log(namespace), topics.dlq(namespace), *topics.router_changelogs(namespace).values()]
    elif topics.retry(namespace, start.target).name not in found:
        return True
    elif start.where == "earliest":
        written = topics.target_topics(namespace, start.target)
    else:
        return False
    partitions = [
        (topic.name, number) for topic in written if topic.name in found for number in range(topic.partitions)
    ]
    return not any(admin.offsets(partitions, "latest").values())


def _lost(start: _Start, partitions: Sequence[int]) -> Change:
    numbers = ",".join(map(str, partitions))
    detail = (
        f"it has no committed offset for {start.topic.name}, partitions {numbers}, but is not new. Brokers forget "
        f"the offsets of a group that was stopped for longer than their offsets.retention.minutes\n"
        f"remedy: choose where it goes on (earlier is safe for a target, and repeats work): kafka-consumer-groups.sh "
        f"--group {start.group} --topic {start.topic.name}:{numbers} --reset-offsets --to-datetime … --execute"
    )
    return Change(Action.REFUSE, "offsets", start.group, detail)


def _execute(admin: Admin, plan: _Plan) -> None:
    last = {topic.name for topic in plan.create if topic.name.endswith(".retry")}
    admin.create([topic for topic in plan.create if topic.name not in last])
    admin.alter(plan.alter)
    for start, partitions in plan.commit:
        if start.topic.name not in last:
            admin.commit(start.group, admin.offsets(partitions, start.where))
    admin.create([topic for topic in plan.create if topic.name in last])
    for start, partitions in plan.commit:
        if start.topic.name in last:
            admin.commit(start.group, admin.offsets(partitions, start.where))


def _said(where: Where) -> str:
    return format_rfc3339(where) if isinstance(where, int) else where

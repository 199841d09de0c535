"""The topics of a namespace: their names, and exactly how each must be set.

All are made by ``walstream apply``; workers make none. What waits in a topic is never deleted by age: only walstream
trims ingress, log and retry topics, below what everybody has finished.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from walstream.namespace import HEADROOM, Namespace
from walstream.units import DAY, HOUR, MINUTE, format_duration

BATCH_OVERHEAD = 1024
"""Bytes that a Kafka batch of one record has beside the record: 61 of header, and the record's own lengths."""

LEAST_BATCH = 1024 * 1024
"""Bytes of a batch that every topic allows, whatever the record limit, so that small records travel in good batches."""

DEDUP_MARGIN = HOUR
"""How much longer (ms) the changelog of dedup keeps its rows than twice the window, which three half windows need."""

TOMBSTONES = 7 * DAY
"""How long (ms) compacted changelogs keep a deletion: a disk that was away for less is brought up to date."""

MARKS_SEGMENT = 16 * 1024 * 1024
"""Bytes of a segment of the changelog of marks; only what is not in the last one is compacted."""

ROUTER_TABLES = ("dedup", "times", "schedule", "pending")
TARGET_TABLES = ("marks", "schedule", "blocked", "parked", "dead")
STATE = "state"
"""One more table of a target whose sink keeps rows of its own."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as it must be.

    Parameters
    ----------
    config
        Settings by Kafka's own names. A topic may allow larger messages than ``max.message.bytes`` says.
    adopted
        Whether others made it, for reasons of their own: it is then looked at, and never made or altered.
    retention
        How long (ms) an adopted topic must keep its records.
    """

    name: str
    partitions: int
    replication: int
    config: Mapping[str, str] = field(default_factory=dict)
    adopted: bool = False
    retention: int = 0


@dataclass(frozen=True, slots=True)
class Described:
    """A topic as it was found.

    Parameters
    ----------
    replication
        The fewest copies that one of its partitions has.
    config
        All its settings, defaults included, by Kafka's own names.
    """

    name: str
    partitions: int
    replication: int
    config: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Difference:
    """One way in which a topic is not what it must be.

    Parameters
    ----------
    setting
        ``missing``, ``partitions``, ``replication``, or one of Kafka's settings.
    wanted, found
        The two values.
    fixable
        Whether ``walstream apply`` can put it right.
    remedy
        What to do about it.
    """

    topic: str
    setting: str
    wanted: str
    found: str
    fixable: bool
    remedy: str

    def __str__(self) -> str:
        if self.setting == "missing":
            return f"{self.topic} does not exist"
        return f"{self.topic} has {self.setting} {self.found}, and needs {self.wanted}"


def router_app_id(shard: str | None = None) -> str:
    """The consumer group, and Faust app id, of the routers of a shard."""
    return "walstream.router" if shard is None else f"walstream.router.{shard}"


def delivery_app_id(namespace: Namespace, target: str) -> str:
    """The consumer group, and Faust app id, of the delivery to a target."""
    return f"walstream.{namespace.name}.{target}"


def ingress(namespace: Namespace) -> Topic:
    """Where producers write."""
    adopted = namespace.topics.names.ingress
    if adopted is None:
        return _kept(namespace, "ingress")
    return Topic(
        adopted,
        partitions=namespace.topics.partitions,
        replication=namespace.topics.replication,
        adopted=True,
        retention=namespace.topics.retention,
    )


def log(namespace: Namespace) -> Topic:
    """The records that are deduplicated and due, in order."""
    return _kept(namespace, "log")


def dlq(namespace: Namespace) -> Topic:
    """What could not be understood."""
    return _kept(namespace, "dlq")


def answers(namespace: Namespace) -> Topic:
    """What became of each cancel or reschedule."""
    return _kept(namespace, "answers", **{"retention.ms": str(namespace.topics.retention)})


def retry(namespace: Namespace, target: str) -> Topic:
    """A target's inbox for what comes from outside the log, retries first of all."""
    return _kept(namespace, f"{target}.retry")


def target_dlq(namespace: Namespace, target: str) -> Topic:
    """What a target will never take."""
    return _kept(namespace, f"{target}.dlq")


def router_changelogs(namespace: Namespace) -> dict[str, Topic]:
    """The changelogs of the router's tables, by table."""
    return {table: _changelog(namespace, table, f"{table}.changelog") for table in ROUTER_TABLES}


def target_changelogs(namespace: Namespace, target: str) -> dict[str, Topic]:
    """The changelogs of a target's tables, by table."""
    tables = (*TARGET_TABLES, STATE) if namespace.targets[target].stateful else TARGET_TABLES
    return {table: _changelog(namespace, table, f"{target}.{table}.changelog") for table in tables}


def router_topics(namespace: Namespace) -> list[Topic]:
    """What a router needs to serve the namespace."""
    return [
        ingress(namespace),
        log(namespace),
        dlq(namespace),
        answers(namespace),
        *router_changelogs(namespace).values(),
    ]


def target_topics(namespace: Namespace, target: str) -> list[Topic]:
    """What a target has beside the log."""
    return [
        retry(namespace, target),
        target_dlq(namespace, target),
        *target_changelogs(namespace, target).values(),
    ]


def all_topics(namespace: Namespace) -> list[Topic]:
    """Every topic of the namespace, an adopted one included."""
    return [
        *router_topics(namespace),
        *(topic for target in namespace.targets for topic in target_topics(namespace, target)),
    ]


def _kept(namespace: Namespace, suffix: str, **settings: str) -> Topic:
    options = namespace.topics
    return Topic(
        f"{namespace.name}.{suffix}",
        partitions=options.partitions,
        replication=options.replication,
        config={
            "cleanup.policy": "delete",
            "retention.ms": "-1",
            "retention.bytes": "-1",
            "message.timestamp.type": "LogAppendTime",
            "max.message.bytes": str(max(options.max_record, LEAST_BATCH) + HEADROOM + BATCH_OVERHEAD),
            "min.insync.replicas": str(options.min_insync),
            "unclean.leader.election.enable": "false",
            # As the producer compressed it, so that what the router copies need not be compressed anew.
            "compression.type": "producer",
        }
        | settings,
    )


def _changelog(namespace: Namespace, table: str, suffix: str) -> Topic:
    if table != "dedup":
        settings = {"cleanup.policy": "compact", "delete.retention.ms": str(TOMBSTONES)}
        if table == "marks":  # written each second, and read whole by `walstream status`
            settings["segment.bytes"] = str(MARKS_SEGMENT)
        return _kept(namespace, suffix, **settings)
    window = namespace.dedup.window
    return _kept(
        namespace,
        suffix,
        **{
            "retention.ms": str(2 * window + DEDUP_MARGIN),
            # Kafka deletes whole segments. One of at most half a window keeps what recovery reads near what it needs.
            "segment.ms": str(min(max(window // 2, 10 * MINUTE), 7 * DAY)),
        },
    )


def verify(topics: Sequence[Topic], described: Mapping[str, Described]) -> list[Difference]:
    """How the topics that were found differ from what they must be.

    Parameters
    ----------
    topics
        What must be.
    described
        What was found, by name; a topic that does not exist is not in it.
    """
    return [
        difference
        for topic in topics
        for difference in (
            _adopted_differences(topic, described.get(topic.name))
            if topic.adopted
            else _differences(topic, described.get(topic.name))
        )
    ]


def explain(differences: Iterable[Difference]) -> list[str]:
    """A line for each difference, and the remedies, each once."""
    differences = list(differences)
    remedies = dict.fromkeys(difference.remedy for difference in differences)
    return [f"  {difference}" for difference in differences] + [f"  remedy: {remedy}" for remedy in remedies]


def _differences(topic: Topic, found: Described | None) -> list[Difference]:
    if found is None:
        return [Difference(topic.name, "missing", "", "", fixable=True, remedy="run: walstream apply")]
    differences = _shape(topic, found)
    for setting, wanted in topic.config.items():
        actual = found.config.get(setting, "")
        if setting == "max.message.bytes" and actual.isdigit() and int(actual) >= int(wanted):
            continue  # records that are as large may be waiting already, and must fit into the next topic
        if actual == wanted:
            continue
        remedy = "run: walstream apply"
        fixable = True
        if setting == "cleanup.policy" and "compact" in actual:
            fixable = False
            remedy = (
                f"records may be gone already; see whether any are missed, then alter it: kafka-configs.sh --alter "
                f"--entity-type topics --entity-name {topic.name} --add-config cleanup.policy={wanted}"
            )
        differences.append(Difference(topic.name, setting, wanted, actual or "unset", fixable, remedy))
    return differences


def _adopted_differences(topic: Topic, found: Described | None) -> list[Difference]:
    if found is None:
        remedy = "make the topic, or leave topics.names.ingress out so that walstream makes its own"
        return [Difference(topic.name, "missing", "", "", fixable=False, remedy=remedy)]
    differences = _shape(topic, found)
    policy = found.config.get("cleanup.policy", "delete")
    if "compact" in policy:
        remedy = "a compacted topic drops records before they are read; set cleanup.policy=delete on it"
        differences.append(Difference(topic.name, "cleanup.policy", "delete", policy, fixable=False, remedy=remedy))
    if "delete" in policy:
        kept = int(found.config.get("retention.ms", "-1"))
        if 0 <= kept < topic.retention:
            remedy = (
                f"records that wait longer are lost unread; set retention.ms={topic.retention} on it, "
                f"or a shorter topics.retention in the file"
            )
            wanted = f"{topic.retention} ({format_duration(topic.retention)}) or more"
            differences.append(Difference(topic.name, "retention.ms", wanted, str(kept), fixable=False, remedy=remedy))
        size = found.config.get("retention.bytes", "-1")
        if size != "-1":
            remedy = "a flood would delete records unread; set retention.bytes=-1 on it"
            differences.append(Difference(topic.name, "retention.bytes", "-1", size, fixable=False, remedy=remedy))
    return differences


def _shape(topic: Topic, found: Described) -> list[Difference]:
    differences = []
    if found.partitions != topic.partitions:
        if topic.adopted:
            remedy = (
                f"write partitions: {found.partitions}: a namespace has as many partitions as the topic that it adopts"
            )
        else:
            remedy = (
                f"write partitions: {found.partitions}, as it was; the count is fixed for life, since keys would "
                f"change their partition and lose their order. Growing is a new namespace. A topic that a client made "
                f"by accident, and to which nothing was written, can be deleted"
            )
        differences.append(
            Difference(
                topic.name, "partitions", str(topic.partitions), str(found.partitions), fixable=False, remedy=remedy
            )
        )
    # More copies do no harm, and a reassignment under way has them.
    if found.replication < topic.replication and not topic.adopted:
        remedy = (
            f"add copies with kafka-reassign-partitions.sh, or write replication: {found.replication} "
            f"(and a min_insync that fits)"
        )
        differences.append(
            Difference(
                topic.name, "replication", str(topic.replication), str(found.replication), fixable=False, remedy=remedy
            )
        )
    return differences

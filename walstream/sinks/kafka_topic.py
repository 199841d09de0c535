"""The topic of a kafka target: found, made where it is missing, checked where it exists. Everything here blocks."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from walstream.changes import Action, Change
from walstream.errors import SinkError
from walstream.kafka import KafkaConnection
from walstream.namespace import HEADROOM
from walstream.topics import BATCH_OVERHEAD, LEAST_BATCH

TIMEOUT_S = 15.0
APPEARS_WITHIN_S = 3.0
_LONG_MAX = str(2**63 - 1)


@dataclass(frozen=True, slots=True)
class Found:
    """A topic as it is.

    Parameters
    ----------
    max_bytes
        Of one batch, compressed.
    keeps_timestamps
        Whether records keep the timestamps that they come with.
    """

    name: str
    partitions: int
    max_bytes: int
    compacted: bool
    keeps_timestamps: bool


@dataclass(frozen=True, slots=True)
class Wanted:
    """A topic as the target needs it; without ``replication`` it has the cluster's default."""

    name: str
    partitions: int
    replication: int | None
    max_record: int

    def config(self) -> Mapping[str, str]:
        return {
            # Copies keep their timestamps, however old or new those are.
            "message.timestamp.type": "CreateTime",
            "message.timestamp.before.max.ms": _LONG_MAX,
            "message.timestamp.after.max.ms": _LONG_MAX,
            "max.message.bytes": str(max(self.max_record + HEADROOM + BATCH_OVERHEAD, LEAST_BATCH)),
        }

    def settings(self) -> Mapping[str, Any]:
        """All that somebody needs to make it with another tool."""
        replication = self.replication or "the cluster's default"
        return {"partitions": self.partitions, "replication": replication, "config": dict(self.config())}


def find(kafka: KafkaConnection, name: str) -> Found | None:
    """Look a topic up; None where there is none.

    Raises
    ------
    SinkError
        The cluster does not answer, or does not let us look.
    """
    return _await(AdminClient(kafka.librdkafka()), kafka, name)


def provide(kafka: KafkaConnection, wanted: Wanted, dry_run: bool) -> Change:
    """Make the topic where it is missing, and say what was done, or would be."""
    admin = AdminClient(kafka.librdkafka())
    found = _find(admin, kafka, wanted.name)
    if found is None and not dry_run and not _create(admin, wanted):
        found = _await(admin, kafka, wanted.name)  # somebody else has just made it
    if found is not None:
        return _compare(found, wanted)
    if not dry_run:
        _await(admin, kafka, wanted.name)
    return Change(Action.CREATE, "topic", wanted.name, f"{wanted.partitions} partitions", wanted.settings())


def _create(admin: Any, wanted: Wanted) -> bool:
    """Make the topic; whether there was none."""
    topic = NewTopic(wanted.name, wanted.partitions, wanted.replication or -1, config=dict(wanted.config()))
    try:
        admin.create_topics([topic], request_timeout=TIMEOUT_S)[wanted.name].result()
    except KafkaException as error:
        if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
            return False
        raise SinkError(f"the topic {wanted.name} cannot be made: {error.args[0].str()}") from error
    return True


def _compare(found: Found, wanted: Wanted) -> Change:
    if not found.keeps_timestamps:
        return Change(
            Action.REFUSE,
            "topic",
            found.name,
            "it has message.timestamp.type=LogAppendTime, and the records' own timestamps would be lost; "
            "set it to CreateTime, or take another topic",
            wanted.settings(),
        )
    detail = f"{found.partitions} partitions"
    if found.max_bytes < wanted.max_record:
        detail += f"; records of more than {found.max_bytes} bytes (max.message.bytes) will be dead"
    return Change(Action.NONE, "topic", found.name, detail, wanted.settings())


def _await(admin: Any, kafka: KafkaConnection, name: str) -> Found | None:
    """Look for a topic that may have been made a moment ago: brokers hear of it one after the other."""
    until = time.monotonic() + APPEARS_WITHIN_S
    while (found := _find(admin, kafka, name)) is None and time.monotonic() < until:
        time.sleep(0.05)
    return found


def _find(admin: Any, kafka: KafkaConnection, name: str) -> Found | None:
    resource = ConfigResource(ResourceType.TOPIC, name)
    try:
        described = admin.describe_topics(TopicCollection([name]), request_timeout=TIMEOUT_S)[name].result()
        config = admin.describe_configs([resource], request_timeout=TIMEOUT_S)[resource].result()
    except KafkaException as error:
        if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return None
        brokers = ", ".join(kafka.brokers)
        raise SinkError(
            f"Kafka at {brokers} cannot say what the topic {name} is like: {error.args[0].str()}"
        ) from error
    return Found(
        name,
        len(described.partitions),
        int(config["max.message.bytes"].value),
        "compact" in config["cleanup.policy"].value.split(","),
        config["message.timestamp.type"].value == "CreateTime",
    )

"""The topic of a kafka target: found, made where it is missing, checked where it exists. Everything here blocks."""

from __future__ import annotations

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


def find(kafka: KafkaConnection, name: str) -> Found | None:
    """Look a topic up; None where there is none.

    Raises
    ------
    SinkError
        The cluster does not answer, or does not let us look.
    """
    return _find(AdminClient(kafka.librdkafka()), kafka, name)


def provide(kafka: KafkaConnection, wanted: Wanted, dry_run: bool) -> Change:
    """Make the topic where it is missing, and say what was done, or would be."""
    admin = AdminClient(kafka.librdkafka())
    found = _find(admin, kafka, wanted.name)
    settings = {
        "partitions": wanted.partitions,
        "replication": wanted.replication or "the cluster's default",
        "config": dict(wanted.config()),
    }
    if found is not None:
        if not found.keeps_timestamps:
            return Change(
                Action.REFUSE,
                "topic",
                wanted.name,
                "it has message.timestamp.type=LogAppendTime, and the records' own timestamps would be lost; "
                "set it to CreateTime, or take another topic",
                settings,
            )
        detail = f"{found.partitions} partitions"
        if found.max_bytes < wanted.max_record:
            detail += f"; records of more than {found.max_bytes} bytes (max.message.bytes) will be dead"
        return Change(Action.NONE, "topic", wanted.name, detail, settings)
    if not dry_run:
        topic = NewTopic(wanted.name, wanted.partitions, wanted.replication or -1, config=dict(wanted.config()))
        try:
            admin.create_topics([topic], request_timeout=TIMEOUT_S)[wanted.name].result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise SinkError(f"the topic {wanted.name} cannot be made: {error.args[0].str()}") from error
    return Change(Action.CREATE, "topic", wanted.name, f"{wanted.partitions} partitions", settings)


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

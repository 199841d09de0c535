"""A Kafka cluster as an administrator sees it: topics, their settings, offsets and groups."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import stamina
from confluent_kafka import (
    Consumer,
    ConsumerGroupState,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from walstream.errors import Unreachable
from walstream.kafka import KafkaConnection
from walstream.topics import Described, Topic

Partition = tuple[str, int]
"""A topic's name and the number of a partition."""

Where = str | int
"""``earliest``, ``latest``, or an append time in microseconds."""

TIMEOUT = 20.0
"""Seconds that one request may take, a slow first connection over TLS included."""

COORDINATOR_TIMEOUT = 4.0
"""Seconds until a question to a group's coordinator is asked again. The first one of all makes a new cluster make the
topic of the groups; librdkafka, told that there is no coordinator yet, may wait for it until the request times out."""

# Just after a topic was made, other brokers may not know it, or its leader, yet.
_SETTLING = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.NOT_COORDINATOR,
        KafkaError.UNSTABLE_OFFSET_COMMIT,
        KafkaError._TIMED_OUT,
        KafkaError._NOENT,  # librdkafka's own: no partition that was asked for has a leader yet
    }
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Group:
    """A consumer group.

    Parameters
    ----------
    active
        Whether it has members, or is just about to: its offsets are then its own.
    members
        Client ids, and the hosts from which they come.
    """

    name: str
    active: bool
    members: tuple[tuple[str, str], ...]


class Admin:
    """A connection for administration.

    Raises
    ------
    Unreachable
        From every method: the cluster does not answer, or refuses what was asked.
    """

    def __init__(self, connection: KafkaConnection, timeout: float = TIMEOUT) -> None:
        self._brokers, self._timeout = ",".join(connection.brokers), timeout
        self._errors: list[str] = []
        self._config: dict[str, Any] = connection.librdkafka() | {
            "client.id": "walstream-admin",
            "error_cb": lambda error: self._errors.append(error.str()),
            "log_level": 2,  # what goes wrong is in the exception; librdkafka would also write it to stderr
            "socket.connection.setup.timeout.ms": 10_000,
        }
        self._client = AdminClient(self._config)
        self._readers: dict[str, Consumer] = {}  # by group

    def broker_count(self) -> int:
        """How many brokers the cluster has at the moment."""
        try:
            return len(self._client.describe_cluster(request_timeout=self._timeout).result(self._timeout + 5).nodes)
        except (KafkaException, TimeoutError) as error:
            raise self._unreachable(error) from error

    def describe(self, names: Collection[str]) -> dict[str, Described]:
        """The topics of these names that exist."""
        if not names:
            return {}
        found = self._each(self._client.describe_topics(TopicCollection(sorted(names)), request_timeout=self._timeout))
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in found]
        if not resources:
            return {}
        configs = self._each(self._client.describe_configs(resources, request_timeout=self._timeout), by="name")
        return {
            name: Described(
                name,
                partitions=len(topic.partitions),
                replication=min(len(partition.replicas) for partition in topic.partitions),
                config={key: entry.value for key, entry in configs[name].items() if entry.value is not None},
            )
            for name, topic in found.items()
            if name in configs  # else deleted between the two requests
        }

    def topic_ids(self, names: Collection[str]) -> dict[str, str]:
        """Kafka's id of each topic that exists; one that was deleted and made again has another."""
        found = self._each(self._client.describe_topics(TopicCollection(sorted(names)), request_timeout=self._timeout))
        return {name: str(topic.topic_id) for name, topic in found.items()}

    def create(self, topics: Sequence[Topic]) -> None:
        """Make topics, and wait until they can be used; one that exists by now is left as it is."""
        if not topics:
            return
        new = [NewTopic(t.name, t.partitions, t.replication, config=dict(t.config)) for t in topics]
        for future in self._client.create_topics(new, request_timeout=self._timeout).values():
            self._result(future, accept=(KafkaError.TOPIC_ALREADY_EXISTS,))
        self.offsets([(topic.name, number) for topic in topics for number in range(topic.partitions)], "latest")

    def delete(self, names: Collection[str]) -> list[str]:
        """Delete topics, and answer with those that there were."""
        found = sorted(self.topic_ids(names)) if names else []
        for future in (self._client.delete_topics(found, request_timeout=self._timeout) if found else {}).values():
            self._result(future, accept=(KafkaError.UNKNOWN_TOPIC_OR_PART,))
        return found

    def alter(self, changes: Mapping[str, Mapping[str, str]]) -> None:
        """Change these settings of these topics, and no others."""
        resources = [
            ConfigResource(
                ResourceType.TOPIC,
                name,
                incremental_configs=[
                    ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
                    for key, value in settings.items()
                ],
            )
            for name, settings in changes.items()
        ]
        if resources:
            for future in self._client.incremental_alter_configs(resources, request_timeout=self._timeout).values():
                self._result(future)

    def offsets(self, partitions: Iterable[Partition], where: Where) -> dict[Partition, int]:
        """The offset at which each partition begins, ends (for readers of committed records), or was at a time."""
        ends: dict[Where, Any] = {
            "earliest": OffsetSpec.earliest(),  # type: ignore[no-untyped-call]
            "latest": OffsetSpec.latest(),  # type: ignore[no-untyped-call]
        }
        # Rounded up to Kafka's milliseconds: a start is never before the time that was said.
        spec = ends[where] if where in ends else OffsetSpec.for_timestamp(-(-int(where) // 1_000))
        wanted = {TopicPartition(*partition): spec for partition in partitions}
        if not wanted:
            return {}

        def once() -> dict[Partition, int]:
            futures = self._client.list_offsets(
                wanted, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=self._timeout
            )
            try:
                return {(key.topic, key.partition): self._settling(future).offset for key, future in futures.items()}
            except KafkaException as error:
                if error.args[0].code() == KafkaError._NOENT:
                    # librdkafka keeps what it saw while a new topic had no leader yet, until it is made to look again.
                    self._client.list_topics(timeout=self._timeout)
                raise

        found = self._settled(once)
        after_all = [partition for partition, offset in found.items() if offset < 0]  # nothing came since that time
        return found | (self.offsets(after_all, "latest") if after_all else {})

    def committed(self, group: str, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The committed offsets of a group; partitions for which it has none are left out."""
        wanted = [TopicPartition(*partition) for partition in partitions]
        # A consumer that never joins. The admin client's own request ends the process with a segmentation fault where
        # the group's coordinator has just moved: https://github.com/confluentinc/librdkafka/issues/5040
        if group not in self._readers:
            self._readers[group] = Consumer(self._config | {"group.id": group, "enable.auto.commit": False})
        reader = self._readers[group]

        def once() -> dict[Partition, int]:
            answer = reader.committed(wanted, timeout=min(self._timeout, COORDINATOR_TIMEOUT))
            for partition in answer:
                if partition.error is not None and partition.error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise KafkaException(partition.error)
            return {(p.topic, p.partition): p.offset for p in answer if p.offset >= 0}

        return self._settled(once)

    def commit(self, group: str, offsets: Mapping[Partition, int]) -> bool:
        """Commit offsets for a group that is not at work; False where it is, and nothing was done."""
        request = [
            ConsumerGroupTopicPartitions(
                group, [TopicPartition(topic, number, offset) for (topic, number), offset in offsets.items()]
            )
        ]

        def once() -> bool:
            futures = self._client.alter_consumer_group_offsets(
                request, request_timeout=min(self._timeout, COORDINATOR_TIMEOUT)
            )
            try:
                answer = self._settling(futures[group])
                for partition in answer.topic_partitions:
                    if partition.error is not None:
                        raise KafkaException(partition.error)
            except KafkaException as error:
                if error.args[0].code() in (KafkaError.UNKNOWN_MEMBER_ID, KafkaError.NON_EMPTY_GROUP):
                    return False
                raise
            return True

        return self._settled(once)

    def delete_before(self, offsets: Mapping[Partition, int]) -> None:
        """Delete the records of each partition that stand before an offset."""
        if not offsets:
            return
        wanted = [TopicPartition(topic, number, offset) for (topic, number), offset in offsets.items()]
        for future in self._client.delete_records(wanted, request_timeout=self._timeout).values():
            self._result(future)

    def groups(self, names: Sequence[str]) -> dict[str, Group]:
        """Consumer groups; one that never was is an empty one."""
        if not names:
            return {}

        def once() -> dict[str, Any]:
            results = {}
            futures = self._client.describe_consumer_groups(
                list(names), request_timeout=min(self._timeout, COORDINATOR_TIMEOUT)
            )
            for name, future in futures.items():
                try:
                    results[name] = self._settling(future)
                except KafkaException as error:
                    if error.args[0].code() != KafkaError.GROUP_ID_NOT_FOUND:
                        raise
            return results

        # The first question of all to a new cluster finds no coordinator: it makes the topic of the groups only then.
        found = self._settled(once)
        idle = (ConsumerGroupState.EMPTY, ConsumerGroupState.DEAD)
        return {
            name: Group(
                name,
                active=name in found and found[name].state not in idle,
                members=tuple((member.client_id, member.host.removeprefix("/")) for member in found[name].members)
                if name in found
                else (),
            )
            for name in names
        }

    def delete_group(self, name: str) -> bool:
        """Delete a consumer group that is not at work, with its offsets; False where there is none."""

        def once() -> bool:
            futures = self._client.delete_consumer_groups(
                [name], request_timeout=min(self._timeout, COORDINATOR_TIMEOUT)
            )
            try:
                self._settling(futures[name])
            except KafkaException as error:
                if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
                    return False
                raise
            return True

        return self._settled(once)

    def _each(self, futures: Mapping[Any, Future[T]], by: str | None = None) -> dict[str, T]:
        """Results by name, without those that do not exist."""
        results = {}
        for key, future in futures.items():
            result = self._result(future, accept=(KafkaError.UNKNOWN_TOPIC_OR_PART,))
            if result is not None:
                results[str(getattr(key, by) if by else key)] = result
        return results

    def _result(self, future: Future[T], accept: Collection[int] = ()) -> T | None:
        try:
            return future.result(self._timeout + 5)
        except KafkaException as error:
            if error.args[0].code() in accept:
                return None
            raise self._unreachable(error) from error
        except TimeoutError as error:
            raise self._unreachable(error) from error

    def _settled(self, attempt: Callable[[], T]) -> T:
        """The result of an attempt, which is made again while the cluster still spreads what was changed."""
        try:
            for trial in stamina.retry_context(
                on=_is_settling, attempts=None, timeout=self._timeout, wait_initial=0.05, wait_max=0.5, wait_jitter=0.05
            ):
                with trial:
                    return attempt()
        except (KafkaException, TimeoutError) as error:
            raise self._unreachable(error) from error
        raise AssertionError("a retry ends with a result or an error")

    def _settling(self, future: Future[T]) -> T:
        return future.result(self._timeout + 5)

    def _unreachable(self, error: Exception) -> Unreachable:
        self._client.poll(0)  # which calls error_cb with the causes that librdkafka saw meanwhile
        said = error.args[0].str() if isinstance(error, KafkaException) else "it timed out"
        causes = f" ({self._errors[-1]})" if self._errors else ""
        return Unreachable(
            f"Kafka at {self._brokers} does not do what it should: {said}{causes}\n"
            "  remedy: see that it runs, and that WALSTREAM_BROKERS and WALSTREAM_KAFKA_* are right"
        )


def _is_settling(error: Exception) -> bool:
    return isinstance(error, KafkaException) and error.args[0].code() in _SETTLING

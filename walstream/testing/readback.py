"""Reading back what stands in a Kafka: records, ends, committed offsets, members of groups.

By librdkafka and not by the clients that the workers use, so that both sides do not err in the same way.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from confluent_kafka import (
    Consumer,
    ConsumerGroupState,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from walstream.testing.history import Observed

T = TypeVar("T")
_PATIENCE = 60.0  # s; a broker that restarts on a busy machine
_EARLIEST: Any = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
_LATEST: Any = OffsetSpec.latest()  # type: ignore[no-untyped-call]


class Readback:
    """Reads one Kafka.

    Parameters
    ----------
    config
        librdkafka's configuration to reach it; at least ``bootstrap.servers``.
    timeout
        Seconds that one question may take.
    """

    def __init__(self, config: Mapping[str, Any], timeout: float = 10.0) -> None:
        # librdkafka waits up to ten seconds between two tries to connect, longer than a broker's restart takes.
        self._config = {"log_level": 2, "reconnect.backoff.max.ms": 500, **config}
        self._timeout = timeout
        self._admin = AdminClient(self._config)
        self._of_groups: dict[str, Consumer] = {}
        self._given_up: list[AdminClient | Consumer] = []

    def partitions(self, topic: str) -> list[int]:
        """Partition numbers of a topic; empty where there is no such topic."""
        metadata = self._patiently(lambda: self._admin.list_topics(topic, timeout=self._timeout)).topics[topic]
        return [] if metadata.error is not None else sorted(metadata.partitions)

    def records(self, topic: str, *, committed: bool = True) -> list[Observed]:
        """All records of a topic up to its present end, each partition in order.

        Parameters
        ----------
        committed
            Leave out what belongs to aborted transactions, and stop at the first open one.
        """
        partitions = self.partitions(topic)
        consumer = Consumer(
            {
                **self._config,
                "group.id": f"readback-{uuid.uuid4()}",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 10,  # else the end of an empty partition shows after half a second
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed" if committed else "read_uncommitted",
            }
        )
        found: dict[int, list[Observed]] = {partition: [] for partition in partitions}
        open_ones = set(partitions)
        try:
            deadline = time.monotonic() + self._timeout
            consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
            while open_ones:
                messages = consumer.consume(10_000, timeout=0.1)
                if messages:
                    deadline = time.monotonic() + self._timeout
                elif time.monotonic() > deadline:
                    raise TimeoutError(f"{topic} was not read to its end: {sorted(open_ones)} are silent")
                for message in messages:
                    error = message.error()
                    if error is None:
                        observed = _observed(message)
                        found[observed.partition].append(observed)
                    elif error.code() == KafkaError._PARTITION_EOF:
                        open_ones.discard(message.partition())
                    elif error.fatal() or not error.retriable():
                        raise KafkaException(error)
        finally:
            consumer.close()
        return [record for partition in partitions for record in found[partition]]

    def ends(self, topic: str, *, committed: bool = True) -> dict[int, int]:
        """Next offset of each partition: the last stable one, or with ``committed=False`` the high watermark."""
        return self._patiently(lambda: self._offsets(topic, _LATEST, committed))

    def starts(self, topic: str) -> dict[int, int]:
        """First offset of each partition that is still there."""
        return self._patiently(lambda: self._offsets(topic, _EARLIEST, committed=True))

    def _offsets(self, topic: str, spec: Any, committed: bool) -> dict[int, int]:
        level = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
        wanted = {TopicPartition(topic, partition): spec for partition in self.partitions(topic)}
        if not wanted:
            return {}
        answers: dict[TopicPartition, Any] = self._admin.list_offsets(
            wanted, isolation_level=level, request_timeout=self._timeout
        )
        return {int(place.partition): answer.result(self._timeout + 5).offset for place, answer in answers.items()}

    def _patiently(self, ask: Callable[[], T]) -> T:
        """Ask again while a broker that has just started does not know better.

        With a new client: one that has seen its only broker die may not find it again for minutes, and it was up.
        """
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                return ask()
            except (KafkaException, TimeoutError):
                if time.monotonic() > deadline:
                    raise
                # Another thread may wait for an answer to the one before, which would never come if it were gone.
                self._given_up += [self._admin, *self._of_groups.values()]
                self._admin, self._of_groups = AdminClient(self._config), {}
            time.sleep(0.1)

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """A group's committed offsets; a partition of which none is committed is left out."""
        wanted = [TopicPartition(topic, partition) for partition in self.partitions(topic)]

        def ask() -> dict[int, int]:
            consumer = self._of_groups.get(group)
            if consumer is None:
                # It never joins the group. The admin client could ask too, but it crashes when the coordinator moves
                # (https://github.com/confluentinc/librdkafka/issues/5040).
                settings = {"group.id": group, "enable.auto.commit": False, "isolation.level": "read_uncommitted"}
                consumer = self._of_groups[group] = Consumer({**self._config, **settings})
            places = consumer.committed(wanted, timeout=self._timeout)
            if errors := [place.error for place in places if place.error is not None]:
                raise KafkaException(errors[0])
            return {place.partition: place.offset for place in places if place.offset >= 0}

        return self._patiently(ask)

    def lag(self, group: str, topic: str) -> int:
        """Offsets between what a group has committed and the last stable ends, in all."""
        committed = self.committed(group, topic)
        return sum(end - committed.get(partition, 0) for partition, end in self.ends(topic).items())

    def assigned(self, group: str, topics: Iterable[str]) -> dict[str, set[tuple[str, int]]]:
        """Which partitions of some topics each member of a group has; empty while the group is being rebalanced."""
        wanted = set(topics)
        answer = self._patiently(
            lambda: self._admin.describe_consumer_groups([group], request_timeout=self._timeout)[group].result(
                self._timeout + 5
            )
        )
        if answer.state != ConsumerGroupState.STABLE:
            return {}
        return {
            member.member_id: {
                (place.topic, place.partition)
                for place in (member.assignment.topic_partitions if member.assignment else ())
                if place.topic in wanted
            }
            for member in answer.members
        }


def _observed(message: Any) -> Observed:
    headers = tuple((name, value) for name, value in message.headers() or ())
    return Observed(
        message.partition(), message.offset(), message.key(), message.value(), headers, message.timestamp()[1]
    )

"""What all onlookers have in common: threads that look on, topics read as they grow, and what groups are doing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from walstream import topics
from walstream.admin import Admin
from walstream.kafka import KafkaConnection
from walstream.namespace import Namespace


class Onlooker:
    """Looks on until it is closed. It asks no worker.

    Parameters
    ----------
    kafka, namespace
        What to look at.
    """

    def __init__(self, kafka: KafkaConnection, namespace: Namespace) -> None:
        self._kafka, self._namespace = kafka, namespace
        self._admin = Admin(kafka)
        self._partitions = range(namespace.topics.partitions)
        self._closing = threading.Event()
        self._failure: BaseException | None = None

    def works(self) -> Iterable[Callable[[], None]]:
        """What is done while it looks on, each in a thread, until it is closed."""
        return ()

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Look on for the length of a with statement."""
        threads = [
            threading.Thread(target=self._guarded, args=(work,), name=f"demo-{work.__name__}", daemon=True)
            for work in self.works()
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._closing.set()
            for thread in threads:
                thread.join(10)

    def check(self) -> None:
        """Raise what has stopped it, if something has."""
        if self._failure is not None:
            raise self._failure

    def everybody_works(self) -> bool:
        """Whether the router and all targets are members of their groups, and have their partitions."""
        names = [topics.router_app_id()]
        names += [topics.delivery_app_id(self._namespace, target) for target in self._namespace.targets]
        return all(group.active and group.members for group in self._admin.groups(names).values())

    def dead(self) -> dict[str, int]:
        """How many records each dead-letter topic holds, of those that hold any."""
        names = [topics.dlq(self._namespace).name]
        names += [topics.target_dlq(self._namespace, target).name for target in self._namespace.targets]
        counts = {name: self.size(name) for name in names}
        return {name: count for name, count in counts.items() if count}

    def size(self, topic: str) -> int:
        """How many positions a topic of the namespace has had so far."""
        return sum(self._admin.offsets([(topic, number) for number in self._partitions], "latest").values())

    def messages(self, *names: str) -> Iterator[Message]:
        """What was committed to topics, from their beginnings on, as it comes."""
        consumer = Consumer(
            self._kafka.librdkafka()
            | {
                "group.id": "walstream-demo",  # needed by the client; nothing is committed
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
                "log_level": 2,
            }
        )
        try:
            consumer.assign([TopicPartition(name, number, 0) for name in names for number in self._partitions])
            while not self._closing.is_set():
                for message in consumer.consume(2_000, timeout=0.1):
                    error = message.error()
                    if error is None:
                        yield message
                    elif error.fatal() or not error.retriable():
                        raise KafkaException(error)
        finally:
            consumer.close()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._failure = self._failure or error

"""An onlooker in one region: what its Kafka holds, and how far its targets are, seen from outside.

It asks no worker. It reads ingress and log as they grow, and the groups' committed offsets.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from walstream import topics
from walstream.admin import Admin
from walstream.demo.watch import Latencies, Offsets
from walstream.headers import PATH_HEADER, TIME_HEADER, TIMESTAMP_HEADER
from walstream.kafka import KafkaConnection
from walstream.namespace import Namespace
from walstream.replica import regions_of

_LAGS_EVERY = 0.5  # seconds


class Traffic:
    """Looks on until it is closed.

    Parameters
    ----------
    region
        Its name.
    kafka, namespace
        What to look at.

    Attributes
    ----------
    times
        The effective times of all records in the log, by id, and
    counts
        how often each stands there.
    written, sent, circled
        Records in the ingress: those that were written here, those that another region sent, and of these the ones that
        had passed this region before.
    from_elsewhere
        Records in the log that were written in another region.
    lags
        How many positions of the log each target still has before it, as of the last of
    looks
        so many looks.
    """

    def __init__(self, region: str, kafka: KafkaConnection, namespace: Namespace) -> None:
        self._region, self._kafka, self._namespace = region, kafka, namespace
        self._admin = Admin(kafka)
        self._ingress, self._log = topics.ingress(namespace).name, topics.log(namespace).name
        self._partitions = range(namespace.topics.partitions)
        self._closing = threading.Event()
        self._failure: BaseException | None = None
        self.times: dict[bytes, int] = {}
        self.counts: Counter[bytes] = Counter()
        self.written = self.sent = self.circled = self.from_elsewhere = 0
        self.lags = dict.fromkeys(namespace.targets, 0)
        self.looks = 0
        self._took: list[tuple[int, int]] = []  # when a record of another region came, and how long it took, ms

    @property
    def in_log(self) -> int:
        """How many records the log has, each counted once."""
        return len(self.counts)

    def latencies(self, begin: float, end: float) -> Latencies:
        """How long records of another region took from the ingress there into the log here.

        Both times are the brokers', which share a clock.

        Parameters
        ----------
        begin, end
            Only of those that came between these times, seconds since the epoch.
        """
        found = Latencies()
        for at, took in self._took:
            if begin <= at / 1000 < end:
                found.add(took)
        return found

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Look on for the length of a with statement."""
        threads = [
            threading.Thread(target=self._guarded, args=(work,), name=f"demo-{self._region}", daemon=True)
            for work in (self._read_topics, self._read_lags)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._closing.set()
            for thread in threads:
                thread.join(10)

    def everybody_works(self) -> bool:
        """Whether the router and all targets are members of their groups, and have their partitions."""
        names = [topics.router_app_id()]
        names += [topics.delivery_app_id(self._namespace, target) for target in self._namespace.targets]
        return all(group.active and group.members for group in self._admin.groups(names).values())

    def dead(self) -> dict[str, int]:
        """How many records each dead-letter topic holds, of those that hold any."""
        names = [topics.dlq(self._namespace).name]
        names += [topics.target_dlq(self._namespace, target).name for target in self._namespace.targets]
        counts = {name: sum(self._ends(name).values()) for name in names}
        return {f"{self._region}: {name}": count for name, count in counts.items() if count}

    def check(self) -> None:
        """Raise what has stopped the onlooker, if something has."""
        if self._failure is not None:
            raise self._failure

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._failure = self._failure or error

    def _read_topics(self) -> None:
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
            consumer.assign(
                [TopicPartition(topic, n, 0) for topic in (self._ingress, self._log) for n in self._partitions]
            )
            while not self._closing.is_set():
                for message in consumer.consume(2_000, timeout=0.1):
                    error = message.error()
                    if error is not None:
                        if error.fatal() or not error.retriable():
                            raise KafkaException(error)
                        continue
                    if message.topic() == self._log:
                        self._take_log(message)
                    else:
                        self._take_ingress(message)
        finally:
            consumer.close()

    def _take_ingress(self, message: Message) -> None:
        headers: dict[str, Any] = dict(message.headers() or ())
        path = headers.get(PATH_HEADER)
        if path is None:
            self.written += 1
        else:
            self.sent += 1
            self.circled += self._region in regions_of(path)

    def _take_log(self, message: Message) -> None:
        headers: dict[str, Any] = dict(message.headers() or ())
        id = headers["ce_id"]
        self.counts[id] += 1
        self.times[id] = int(headers[TIME_HEADER])
        if headers.get(PATH_HEADER) is not None:
            self.from_elsewhere += 1
            here = message.timestamp()[1]
            self._took.append((here, here - int(headers[TIMESTAMP_HEADER])))

    def _ends(self, topic: str) -> dict[tuple[str, int], int]:
        return self._admin.offsets([(topic, number) for number in self._partitions], "latest")

    def _read_lags(self) -> None:
        groups = {target: topics.delivery_app_id(self._namespace, target) for target in self.lags}
        offsets = Offsets(self._kafka, [(group, self._log) for group in groups.values()], self._partitions)
        while not self._closing.wait(_LAGS_EVERY):
            offsets.look()
            self.lags = {target: offsets.lags[group] for target, group in groups.items()}
            self.looks += 1

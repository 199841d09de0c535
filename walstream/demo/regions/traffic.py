"""An onlooker in one region: what its Kafka holds, and how far its targets are, seen from outside.

It asks no worker. It reads ingress and log as they grow, and the groups' committed offsets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from confluent_kafka import Message

from walstream import topics
from walstream.demo.onlooker import Onlooker
from walstream.demo.watch import Latencies, Offsets
from walstream.headers import PATH_HEADER, TIME_HEADER, TIMESTAMP_HEADER
from walstream.kafka import KafkaConnection
from walstream.namespace import Namespace
from walstream.replica import regions_of

_LAGS_EVERY = 0.5  # seconds


class Traffic(Onlooker):
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
        super().__init__(kafka, namespace)
        self._region = region
        self._ingress, self._log = topics.ingress(namespace).name, topics.log(namespace).name
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

    def works(self) -> Iterable[Callable[[], None]]:
        return self._read_topics, self._read_lags

    def _read_topics(self) -> None:
        for message in self.messages(self._ingress, self._log):
            if message.topic() == self._log:
                self._take_log(message)
            else:
                self._take_ingress(message)

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

    def _read_lags(self) -> None:
        groups = {target: topics.delivery_app_id(self._namespace, target) for target in self.lags}
        offsets = Offsets(self._kafka, [(group, self._log) for group in groups.values()], self._partitions)
        while not self._closing.wait(_LAGS_EVERY):
            offsets.look()
            self.lags = {target: offsets.lags[group] for target, group in groups.items()}
            self.looks += 1

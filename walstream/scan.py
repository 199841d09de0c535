"""Reads topics from a place to the end that they had at the start, and then stops: for commands, not for workers."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from walstream.admin import Admin, Partition
from walstream.errors import TopicMismatch, Unreachable
from walstream.headers import Header
from walstream.kafka import KafkaConnection

SILENCE = 30.0
"""Seconds without anything new after which a cluster counts as unreachable."""

CHUNK = 500
"""Records that are taken from librdkafka at once."""

POLL = 0.2
"""Seconds to wait for something new at a time."""

HOPELESS = frozenset(
    {KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError._AUTHENTICATION}
)
"""Errors that do not pass with time."""

Bounds = Mapping[Partition, tuple[int, int]]
"""For each partition the first offset to read, and the one behind the last."""


class Found(NamedTuple):
    """A record as it was read.

    Parameters
    ----------
    timestamp
        Milliseconds since the epoch.
    """

    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[Header]


class Scanner:
    """Reads records that are committed, without a consumer group.

    Parameters
    ----------
    connection
        The cluster.
    admin
        A connection to it for administration.

    Raises
    ------
    Unreachable
        From every method: the cluster does not answer, or refuses.
    """

    def __init__(self, connection: KafkaConnection, admin: Admin) -> None:
        self._connection, self.admin = connection, admin
        self._known: set[str] = set()

    def bounds(
        self, partitions: Iterable[Partition], *, since: int | None = None, until: int | None = None
    ) -> dict[Partition, tuple[int, int]]:
        """What stands in some partitions now.

        Parameters
        ----------
        since, until
            Only what was appended from a time on, and before another; µs since the epoch.

        Raises
        ------
        TopicMismatch
            A topic does not exist.
        """
        wanted = list(partitions)
        if names := {topic for topic, _ in wanted} - self._known:
            # The first question of a new client is about topics and not about offsets, for which librdkafka may wait
            # for seconds while it does not know the leaders.
            self._known |= set(self.admin.topic_ids(names))
            if missing := sorted(names - self._known):
                raise TopicMismatch(f"these topics do not exist: {', '.join(missing)}\n  remedy: run: walstream apply")
        # The ends are asked for last: what was there when the call began is then surely between the two.
        begins = self.admin.offsets(wanted, "earliest" if since is None else since)
        ends = self.admin.offsets(wanted, "latest" if until is None else until)
        return {partition: (begins[partition], max(begins[partition], ends[partition])) for partition in wanted}

    def messages(self, bounds: Bounds) -> Iterator[Message]:
        """The records, each partition in order, as librdkafka has them: only what is asked of one is decoded."""
        open_ones = {partition: end for partition, (begin, end) in bounds.items() if begin < end}
        if not open_ones:
            return
        consumer = Consumer(
            self._connection.librdkafka()
            | {
                "group.id": f"walstream-scan-{uuid.uuid4()}",  # librdkafka wants one; it is never joined
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",  # where the first offset was trimmed meanwhile
                "isolation.level": "read_committed",
                "max.poll.interval.ms": 86_400_000,  # who reads may do something slow with each record
                "fetch.wait.max.ms": 10,  # else the end of a quiet partition shows after half a second
                "log_level": 2,
            }
        )
        try:
            consumer.assign([TopicPartition(*partition, bounds[partition][0]) for partition in open_ones])
            silent, said = 0.0, ""
            while open_ones:
                began = time.monotonic()
                chunk = consumer.consume(1, timeout=POLL)  # for more it would wait until all are there
                chunk += consumer.consume(CHUNK, timeout=0)
                silent += time.monotonic() - began
                if silent > SILENCE:
                    names = ", ".join(sorted({topic for topic, _ in open_ones}))
                    raise Unreachable(f"{names}: nothing came for {SILENCE:g} s, and the end is not reached{said}")
                for message in chunk:
                    partition = (str(message.topic()), int(message.partition() or 0))
                    if (error := message.error()) is not None:
                        if error.code() == KafkaError._PARTITION_EOF:
                            silent = 0.0
                            open_ones.pop(partition, None)
                        elif error.fatal() or error.code() in HOPELESS:
                            raise KafkaException(error)
                        else:
                            said = f": {error.str()}"
                        continue
                    silent = 0.0
                    end = open_ones.get(partition)
                    if end is None:
                        continue
                    offset = int(message.offset() or 0)
                    if offset < end:
                        yield message
                    if offset >= end - 1:
                        del open_ones[partition]
        except KafkaException as error:
            raise Unreachable(f"Kafka: {error.args[0].str()}") from error
        finally:
            consumer.close()

    def records(self, bounds: Bounds) -> Iterator[Found]:
        """The records, each partition in order."""
        for message in self.messages(bounds):
            yield found(message)

    def record(self, partition: Partition, offset: int) -> Found | None:
        """The record at one place, or None where there is none."""
        begin, end = self.bounds([partition])[partition]
        if not begin <= offset < end:
            return None
        # Not every offset has a record: ends of transactions have one, too, and compaction leaves gaps.
        return next(self.records({partition: (offset, offset + 1)}), None)

    def newest(self, partitions: Iterable[Partition]) -> dict[tuple[Partition, bytes], bytes]:
        """The rows of compacted changelogs, by partition and key. All are held: for tables with small rows."""
        rows: dict[tuple[Partition, bytes], bytes] = {}
        for message in self.messages(self.bounds(partitions)):
            partition = str(message.topic()), int(message.partition() or 0)
            place, value = (partition, _bytes(message.key()) or b""), _bytes(message.value())
            if value is None:
                rows.pop(place, None)
            else:
                rows[place] = value
        return rows

    def places(self, partition: Partition) -> dict[bytes, int]:
        """The keys of a compacted changelog's rows, each with the offset of its newest record."""
        places: dict[bytes, int] = {}
        for message in self.messages(self.bounds([partition])):
            key = _bytes(message.key()) or b""
            if len(message) or message.value() is not None:
                places[key] = int(message.offset() or 0)
            else:
                places.pop(key, None)
        return places

    def at(self, partition: Partition, offsets: Iterable[int]) -> Iterator[Found]:
        """The records at some offsets, in their order; what is no longer there is left out."""
        wanted = set(offsets)
        if wanted:
            for message in self.messages({partition: (min(wanted), max(wanted) + 1)}):
                if message.offset() in wanted:
                    yield found(message)


def found(message: Message) -> Found:
    """A message of librdkafka's as a record."""
    headers: Any = message.headers() or ()
    return Found(
        int(message.partition() or 0),
        int(message.offset() or 0),
        int(message.timestamp()[1]),
        _bytes(message.key()),
        _bytes(message.value()),
        [(name, _bytes(text)) for name, text in headers],
    )


def _bytes(data: str | bytes | None) -> bytes | None:
    return data.encode() if isinstance(data, str) else data

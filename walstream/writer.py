"""Writes records to partitions that are given, acknowledged by all in-sync replicas: for commands, not for workers."""

from __future__ import annotations

import time
from collections import Counter
from types import TracebackType
from typing import Any, Self

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from walstream.admin import Partition
from walstream.errors import NotDurable
from walstream.kafka import KafkaConnection
from walstream.record import Message as Record

TIMEOUT = 30.0
"""Seconds within which a record is acknowledged, or counts as not written."""

BUFFER_KB = 64 * 1024
"""KiB that may wait for their acknowledgement."""


class Writer:
    """An idempotent producer.

    Parameters
    ----------
    connection
        The cluster.
    largest
        Bytes of the largest batch that the topics allow.
    rate
        Records per second, at most; None is as many as are taken.

    Attributes
    ----------
    acknowledged
        The highest offset of what was written, by partition.
    """

    def __init__(self, connection: KafkaConnection, *, largest: int, rate: float | None = None) -> None:
        self._rate, self._sent, self._began = rate, 0, time.monotonic()
        self._failures: Counter[str] = Counter()
        self.acknowledged: dict[Partition, int] = {}
        self._producer = Producer(
            connection.librdkafka()
            | {
                "acks": "all",
                "enable.idempotence": True,
                "message.max.bytes": largest,
                "message.timeout.ms": int(TIMEOUT * 1000),
                "queue.buffering.max.kbytes": BUFFER_KB,
                "log_level": 2,
            }
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None:
            self.flush()
        else:
            self._producer.purge()

    def write(self, topic: str, partition: int, record: Record, timestamp: int = 0) -> None:
        """Hand a record over; wait where the rate or the buffer says so.

        Parameters
        ----------
        timestamp
            Milliseconds since the epoch, where the topic takes that of producers; 0 is now.

        Raises
        ------
        NotDurable
            It was not written, or one before.
        """
        self._pace()
        headers: Any = record.headers
        while True:
            try:
                self._producer.produce(
                    topic, record.value, record.key, partition, on_delivery=self._answered, timestamp=timestamp,
                    headers=headers,
                )  # fmt: skip
                break
            except BufferError:
                self._producer.poll(0.1)
                self._check()
            except KafkaException as error:  # it does not even try: such as a record that is larger than `largest`
                raise NotDurable(f"a record was not written to {topic}: {error.args[0].str()}") from error
        self._producer.poll(0)
        self._check()

    def flush(self) -> None:
        """Wait until all is acknowledged.

        Raises
        ------
        NotDurable
            Something was not written, or may not be.
        """
        left = self._producer.flush(TIMEOUT + 5)
        if left:
            self._failures["no answer came"] += left
        self._check()

    def _pace(self) -> None:
        if self._rate is not None:
            wait = self._began + self._sent / self._rate - time.monotonic()
            if wait > 0:
                self._producer.poll(0)  # what waits goes out meanwhile
                time.sleep(wait)
        self._sent += 1

    def _answered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._failures[error.str()] += 1
            return
        place = (str(message.topic()), int(message.partition() or 0))
        self.acknowledged[place] = max(self.acknowledged.get(place, -1), int(message.offset() or 0))

    def _check(self) -> None:
        if self._failures:
            self._producer.purge()
            said = ", ".join(self._failures)
            raise NotDurable(f"{self._failures.total()} records were not written, or may not be: {said}")

"""Producers for tests: librdkafka in a thread, every answer into the ledger."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Self

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException

from walstream.testing.history import Answer, Content
from walstream.testing.ledger import Ledger

NEVER_SENT = {KafkaError._QUEUE_FULL, KafkaError.MSG_SIZE_TOO_LARGE}
FLUSH = 60.0  # s; a broker's restart takes up to 14
# What ends a client is raised where answers are taken, and the binding may lose the exception on its way out. What
# waits for its answer gets it all the same, and the next `produce` says that the client is of no more use.
ENDED = (KafkaException, SystemError)


class Producer:
    """Writes a workload from a thread, until it is stopped or has written enough.

    Parameters
    ----------
    config
        librdkafka's configuration to reach the brokers.
    records
        What to write: contents, and whether each can be understood.
    rate
        Records per second; None is as fast as possible.
    limit
        How many records; None is until `stop`.
    settings
        More configuration of the producer.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        topic: str,
        ledger: Ledger,
        records: Iterator[tuple[Content, bool]],
        *,
        rate: float | None = None,
        limit: int | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.topic, self.ledger = topic, ledger
        self._records, self._rate, self._limit = records, rate, limit
        self._config = {
            **config,
            "log_level": 2,
            "partitioner": "murmur2_random",
            "enable.idempotence": True,
            "linger.ms": 5,
            "message.timeout.ms": int(FLUSH * 1000),
            **(settings or {}),
        }
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="producer", daemon=True)
        self._error: BaseException | None = None

    def start(self) -> Self:
        self._thread.start()
        return self

    def stop(self) -> None:
        """End, and wait until every record that was sent has its answer."""
        self._stopping.set()
        self.join()

    def join(self) -> None:
        """Wait until the limit is reached, and all is answered."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            self._write()
        except BaseException as error:
            self._error = error

    def _write(self) -> None:
        producer = confluent_kafka.Producer(self._config)
        for content, understood in self._paced():
            try:
                self._produce(producer, content, understood, self._answered)
            except KafkaException as error:
                if error.args[0].code() != KafkaError._FATAL:
                    raise
                # A broker that was stopped knows of a producer's batches only the last: whether those before it that
                # had no answer stand there, it cannot say, and the client is of no more use.
                self._finish(producer)
                producer = confluent_kafka.Producer(self._config)
        self._finish(producer)

    def _finish(self, producer: Any) -> None:
        """Wait until all that was sent has its answer."""
        end = time.monotonic() + FLUSH
        while len(producer) and (left := end - time.monotonic()) > 0:
            with suppress(*ENDED):
                producer.flush(left)

    def _paced(self) -> Iterator[tuple[Content, bool]]:
        """The workload at its rate, until it is enough."""
        begun = time.monotonic()
        for count, record in enumerate(self._records):
            if self._stopping.is_set() or count == self._limit:
                return
            if self._rate is not None and (early := begun + count / self._rate - time.monotonic()) > 0:
                self._stopping.wait(early)
            yield record

    def _produce(self, producer: Any, content: Content, understood: bool, answered: Any) -> None:
        sequence = self.ledger.sent(content, understood=understood)
        while True:
            try:
                producer.produce(
                    self.topic,
                    key=content.key,
                    value=content.value,
                    headers=list(content.headers),
                    timestamp=content.timestamp or 0,
                    on_delivery=partial(answered, sequence),
                )
                break
            except BufferError:
                self._poll(producer, 0.1)
        self._poll(producer, 0)

    def _poll(self, producer: Any, timeout: float) -> None:
        with suppress(*ENDED):
            producer.poll(timeout)

    def _answered(self, sequence: int, error: Any, message: Any) -> None:
        if error is None:
            self.ledger.answered(sequence, Answer.ACKED, partition=message.partition(), offset=message.offset())
        else:
            self.ledger.answered(sequence, Answer.FAILED if error.code() in NEVER_SENT else Answer.UNKNOWN)


class TransactionalProducer(Producer):
    """Writes in transactions of random length, and aborts some of them.

    Parameters
    ----------
    aborts
        Share of transactions that are aborted.
    seed
        For lengths and aborts.
    """

    def __init__(self, *args: Any, aborts: float = 0.5, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._aborts, self._random = aborts, random.Random(seed)
        # An open transaction holds back every reader of committed records: send at once, and keep it short.
        self._config |= {"transactional.id": f"test-{self._random.random()}-{time.time_ns()}", "linger.ms": 0}
        self._delivered: dict[int, tuple[int, int]] = {}

    def _write(self) -> None:
        producer = confluent_kafka.Producer(self._config)
        producer.init_transactions(FLUSH)
        records = self._paced()
        while chunk := list(itertools.islice(records, self._random.randrange(1, 40))):
            producer.begin_transaction()
            for content, understood in chunk:
                self._produce(producer, content, understood, self._answered_within)
            producer.flush(FLUSH)
            if self._random.random() < self._aborts:
                producer.abort_transaction(FLUSH)
                for sequence in self._delivered:
                    self.ledger.answered(sequence, Answer.ABORTED)
            else:
                producer.commit_transaction(FLUSH)
                for sequence, (partition, offset) in self._delivered.items():
                    self.ledger.answered(sequence, Answer.ACKED, partition=partition, offset=offset)
            self._delivered.clear()

    def _answered_within(self, sequence: int, error: Any, message: Any) -> None:
        """An acknowledgement inside a transaction is none yet."""
        if error is None:
            self._delivered[sequence] = (message.partition(), message.offset())

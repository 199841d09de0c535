"""The tests' producer goes on with a client of its own where librdkafka says that one is of no more use."""

from __future__ import annotations

from typing import Any

import confluent_kafka
import pytest
from confluent_kafka import KafkaError, KafkaException

from walstream.testing.history import Answer, Content
from walstream.testing.ledger import Ledger
from walstream.testing.producer import Producer


class Client:
    """Acknowledges so many records, takes one more, and then raises the error.

    As librdkafka's binding does where a client has ended, it raises where answers are taken, too, and takes them only
    when it is asked once more.
    """

    def __init__(self, limit: int, code: int) -> None:
        self.limit, self.code = limit, code
        self.produced: list[bytes] = []
        self.waiting: list[Any] = []
        self.raised = 0

    def produce(self, _topic: str, *, key: bytes, on_delivery: Any, **_: Any) -> None:
        if self.waiting:
            raise KafkaException(KafkaError(self.code))
        self.produced.append(key)
        if len(self.produced) > self.limit:
            self.waiting.append(on_delivery)
        else:
            on_delivery(None, self)

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return len(self.produced)

    def poll(self, _timeout: float) -> None:
        if self.waiting:
            self.raised += 1
            raise KafkaException(KafkaError(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER))

    def flush(self, _timeout: float) -> None:
        if self.waiting and self.raised < 2:
            self.raised += 1
            raise SystemError("returned NULL without setting an exception")
        for answered in self.waiting:
            answered(KafkaError(KafkaError._PURGE_QUEUE), None)
        self.waiting.clear()

    def __len__(self) -> int:
        return len(self.waiting)


def producer(monkeypatch: pytest.MonkeyPatch, code: int) -> tuple[Producer, list[Client]]:
    clients: list[Client] = []

    def make(_config: Any) -> Client:
        clients.append(Client(1, code))
        return clients[-1]

    monkeypatch.setattr(confluent_kafka, "Producer", make)
    records = ((Content(b"%d" % number, b"v", (), None), True) for number in range(4))
    return Producer({}, "t", Ledger(), records), clients


def test_a_client_that_is_of_no_more_use_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    writing, clients = producer(monkeypatch, KafkaError._FATAL)
    with writing:
        writing.join()
    assert [client.produced for client in clients] == [[b"0", b"1"], [b"3"]]
    assert [client.raised for client in clients] == [2, 0]
    answers = [written.answer for written in writing.ledger.written()]
    # What a client that has ended had not sent for good may have been on the wire before.
    assert answers == [Answer.ACKED, Answer.UNKNOWN, Answer.UNKNOWN, Answer.ACKED]


def test_any_other_error_ends_the_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    writing, _ = producer(monkeypatch, KafkaError._INVALID_ARG)
    writing.start()
    with pytest.raises(KafkaException):
        writing.join()

"""Requests of the second transaction protocol, byte by byte as Kafka's message definitions have them."""

from __future__ import annotations

import io
from typing import Any

import pytest

from walstream.engine import protocol
from walstream.engine.protocol import EndTxnRequest, FeaturesRequest, ProduceRequest, TxnOffsetCommitRequest

VERSIONS = {0: (0, 13), 18: (0, 4), 26: (0, 5), 28: (0, 5)}
"""What a broker of Kafka 4.1 takes."""


def body(request: Any) -> bytes:
    encoded: bytes = request.prepare(VERSIONS).encode()
    return encoded


def test_a_batch() -> None:
    request = ProduceRequest("tx", 15_000, [("log", [(3, b"batch"), (4, b"b")])])
    assert body(request) == (
        b"\x03tx" b"\xff\xff" b"\x00\x00\x3a\x98"
        b"\x02" b"\x04log" b"\x03"
        b"\x00\x00\x00\x03" b"\x06batch" b"\x00"
        b"\x00\x00\x00\x04" b"\x02b" b"\x00"
        b"\x00" b"\x00"
    )  # fmt: skip


def test_offsets() -> None:
    request = TxnOffsetCommitRequest("tx", "group", 7, 2, [("in", [(1, 258, "")])])
    assert body(request) == (
        b"\x03tx" b"\x06group" b"\x00\x00\x00\x00\x00\x00\x00\x07" b"\x00\x02"
        b"\xff\xff\xff\xff" b"\x01" b"\x00"
        b"\x02" b"\x03in" b"\x02"
        b"\x00\x00\x00\x01" b"\x00\x00\x00\x00\x00\x00\x01\x02" b"\xff\xff\xff\xff" b"\x01" b"\x00"
        b"\x00" b"\x00"
    )  # fmt: skip


def test_the_end() -> None:
    assert body(EndTxnRequest("tx", 7, 2)) == b"\x03tx\x00\x00\x00\x00\x00\x00\x00\x07\x00\x02\x01\x00"


def test_requests_say_that_they_are_compact() -> None:
    for request in (
        ProduceRequest("tx", 1, []),
        TxnOffsetCommitRequest("tx", "group", 7, 2, []),
        EndTxnRequest("tx", 7, 2),
        FeaturesRequest(),
    ):
        made = request.prepare(VERSIONS)
        header = made.build_request_header(correlation_id=5, client_id="me").encode()
        assert header.endswith(b"\x00\x00\x00\x05\x00\x02me\x00"), type(request).__name__


def test_an_answer_to_a_batch() -> None:
    answer = ProduceRequest("tx", 1, []).prepare(VERSIONS).RESPONSE_TYPE.decode(
        io.BytesIO(
            b"\x02" b"\x04log" b"\x02"
            b"\x00\x00\x00\x03" b"\x00\x33" b"\x00\x00\x00\x00\x00\x00\x00\x09" b"\x00\x00\x00\x00\x00\x00\x00\x0a"
            b"\x00\x00\x00\x00\x00\x00\x00\x01" b"\x02\x00\x00\x00\x00\x04bad\x00" b"\x04why"
            b"\x01\x00\x02\xff\xff" b"\x00"
            b"\x00\x00\x00\x00" b"\x00"
        )
    )  # fmt: skip
    ((topic, ((partition, error, offset, timestamp, *_),), _),) = answer.topics
    assert (topic, partition, error, offset, timestamp) == ("log", 3, 51, 9, 10)


def test_an_answer_to_the_end_has_the_next_epoch() -> None:
    decode = EndTxnRequest("tx", 7, 2).prepare(VERSIONS).RESPONSE_TYPE.decode
    answer = decode(io.BytesIO(b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x08\x00\x03\x00"))
    assert (answer.error_code, answer.producer_id, answer.producer_epoch) == (0, 8, 3)


class Client:
    """Answers as a broker does, or is too old to."""

    def __init__(self, versions: dict[int, tuple[int, int]], answer: bytes) -> None:
        self._versions, self._answer = versions, answer

    def get_random_node(self) -> int:
        return 1

    async def send(self, _node: int, request: Any) -> Any:
        made = request.prepare(self._versions)
        read = io.BytesIO(b"\x00\x00\x00\x05" + self._answer)
        assert made.parse_response_header(read).correlation_id == 5
        return made.RESPONSE_TYPE.decode(read)


@pytest.mark.parametrize(
    ("tagged", "levels"),
    [
        (b"\x00", {}),
        (b"\x01\x01\x08\x00\x00\x00\x00\x00\x00\x00\x09", {}),
        (
            b"\x02\x01\x08\x00\x00\x00\x00\x00\x00\x00\x09\x02\x1a\x02\x14transaction.version\x00\x02\x00\x02\x00",
            {"transaction.version": 2},
        ),
    ],
    ids=["no tags", "none", "one"],
)
async def test_features(tagged: bytes, levels: dict[str, int]) -> None:
    answer = b"\x00\x00\x02\x00\x00\x00\x00\x00\x0d\x00\x00\x00\x00\x00" + tagged
    assert await protocol.features(Client(VERSIONS, answer)) == levels  # type: ignore[arg-type]


async def test_a_broker_that_is_too_old_has_no_features() -> None:
    assert await protocol.features(Client({18: (0, 2)}, b"")) == {}  # type: ignore[arg-type]

"""Lines of NDJSON become writes."""

import base64
from typing import Any

import orjson
import pytest

from walstream import RecordRefused, Write, put
from walstream.cli.lines import parse_line

NOTHING = Write(None)


def parse(line: Any, defaults: Write = NOTHING) -> Write:
    return parse_line(line if isinstance(line, bytes) else orjson.dumps(line), defaults)


def test_a_mutation_keeps_its_digits_and_takes_the_defaults() -> None:
    line = b'{"op":"put","key":{"flight":"UA1"},"set":{"price":1.10}}'
    write = parse(line, Write(None, delay="5m", source="ops"))
    assert (write.delay, write.source) == ("5m", "ops")
    assert write.payload.to_bytes() == line  # type: ignore[union-attr]
    assert parse({"op": "put", "key": {"a": 1}}).payload == put(key={"a": 1})


def test_an_object_says_everything() -> None:
    texts = {"key": "k", "id": "1", "source": "s", "type": "t", "time": "2013-01-01T00:00:00Z", "delay": "1m"}
    line = {
        **texts,
        "payload": "text",
        "targets": ["base"],
        "extensions": {"traceparent": "x"},
        "headers": {"a": "1", "b": None},
    }
    write = parse(line, Write(None, key="other", headers=[("c", b"")], extensions={"e": "1"}))
    assert write.payload == "text"
    assert {name: getattr(write, name) for name in texts} == texts
    assert write.targets == ["base"]
    assert write.extensions == {"e": "1", "traceparent": "x"}
    assert write.headers == [("c", b""), ("a", b"1"), ("b", None)]


def test_a_cancel_and_a_reschedule_have_no_payload() -> None:
    assert parse({"action": "cancel", "ref": "w", "key": "k"}) == Write(None, "k", action="cancel", ref="w")
    moved = parse({"action": "reschedule", "ref": "w", "delay": "1h"}, Write(None, jitter="1m"))
    assert moved == Write(None, delay="1h", jitter="1m", action="reschedule", ref="w")
    with pytest.raises(RecordRefused, match="no payload"):
        parse({"action": "cancel", "ref": "w", "payload": None})
    with pytest.raises(RecordRefused, match="needs either payload"):
        parse({"action": "write"})


@pytest.mark.parametrize(
    ("line", "payload", "content_type"),
    [
        (b'{"payload":null}', None, None),
        (
            b'{"payload":{"n":1.50, "m":12345678901234567.25}}',
            b'{"n":1.50,"m":12345678901234567.25}',
            "application/json",
        ),
        (b'{"payload":[1], "content_type":"a/b"}', b"[1]", "a/b"),
        (b'{"payload":false}', b"false", "application/json"),
        (b'{"payload_base64":"AP8="}', b"\x00\xff", None),
    ],
)
def test_payloads(line: bytes, payload: bytes | None, content_type: str | None) -> None:
    write = parse(line)
    assert (write.payload, write.content_type) == (payload, content_type)


@pytest.mark.parametrize(
    "line",
    [
        b"nope",
        b"[]",
        b"{}",
        b'{"payload":1,"payload_base64":""}',
        b'{"payload_base64":"!"}',
        b'{"payload_base64":5}',
        b'{"payload":1,"colour":"red"}',
        b'{"payload":1,"key":5}',
        b'{"payload":1,"targets":"base"}',
        b'{"payload":1,"headers":{"a":1}}',
        b'{"payload":1,"extensions":{"a":null}}',
        b'{"op":"put"}',
    ],
)
def test_bad_lines(line: bytes) -> None:
    with pytest.raises(RecordRefused, match=r"bad-line|bad-mutation"):
        parse(line)


def test_base64_round_trip() -> None:
    data = bytes(range(256))
    assert parse({"payload_base64": base64.b64encode(data).decode()}).payload == data

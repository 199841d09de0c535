"""What becomes of the arguments of a write."""

import time
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walstream import RecordRefused, Write, delete, put
from walstream.client.write import SOURCE, Composed, Route, compose
from walstream.murmur2 import partition_for
from walstream.mutation import KeyTemplate, parse_mutation
from walstream.record import Record, parse

UNKNOWN = Route("flights", "flights.ingress")
KNOWN = Route("flights", "flights.ingress", known=True, key=KeyTemplate("{flight}"), max_record=2048)


def read(composed: Composed) -> Record:
    return parse(composed.key, composed.value, composed.headers, 0)


def record(payload: Any = b"x", route: Route = UNKNOWN, **arguments: Any) -> Record:
    return read(compose(Write(payload, **arguments), route, id_="1"))


def test_the_least_that_can_be_said() -> None:
    before = time.time_ns() // 1000
    seen = record(b"payload")
    assert (seen.key, seen.payload, seen.id, seen.source, seen.type) == (
        None,
        b"payload",
        "1",
        SOURCE,
        "walstream.record",
    )
    assert (seen.action, seen.delay, seen.deliver_at, seen.targets, seen.content_type) == (
        "write",
        None,
        None,
        None,
        None,
    )
    assert seen.time is not None
    assert before <= seen.time <= time.time_ns() // 1000


def test_everything_that_can_be_said() -> None:
    seen = record(
        b"{}",
        key="UA1",
        source="ops",
        type="flight.changed",
        content_type="application/json",
        time="2013-01-01T05:17:00.25Z",
        delay="10m",
        jitter=1.5,
        expiry=datetime(2030, 1, 1, tzinfo=UTC),
        targets=["copy", "base"],
        extensions={"traceparent": "00-1-2-00"},
        headers=[("region", b"east"), ("region", None)],
    )
    assert (seen.key, seen.source, seen.type, seen.content_type) == (
        b"UA1",
        "ops",
        "flight.changed",
        "application/json",
    )
    assert seen.time == 1_357_017_420_250_000
    assert (seen.delay, seen.jitter) == (600_000_000, 1_500_000)
    assert seen.expiry == 1_893_456_000_000_000
    assert seen.targets == {"base", "copy"}
    assert list(seen.headers)[-2:] == [("region", b"east"), ("region", None)]
    assert ("ce_traceparent", b"00-1-2-00") in seen.headers


@pytest.mark.parametrize(
    ("payload", "value", "content_type"),
    [
        (None, None, None),
        (b"\x00\xff", b"\x00\xff", None),
        ("grüße", "grüße".encode(), "text/plain; charset=utf-8"),
        ({"a": [1, None]}, b'{"a":[1,null]}', "application/json"),
        ([1], b"[1]", "application/json"),
    ],
)
def test_payloads(payload: Any, value: bytes | None, content_type: str | None) -> None:
    seen = record(payload)
    assert (seen.payload, seen.content_type) == (value, content_type)


@pytest.mark.parametrize(
    ("delay", "microseconds"),
    [
        *(("250ms", 250_000), ("PT10M", 600_000_000), ("P1W", 604_800_000_000)),
        *((timedelta(hours=1), 3_600_000_000), (2, 2_000_000), (0, 0)),
    ],
)
def test_delays(delay: Any, microseconds: int) -> None:
    assert record(delay=delay).delay == microseconds


@given(st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(9998, 1, 1)), st.integers(-23, 23))
def test_times_keep_their_microseconds(naive: datetime, offset: int) -> None:
    moment = naive.replace(tzinfo=timezone(timedelta(hours=offset)))
    expected = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert record(time=moment).time == expected
    assert record(time=expected).time == expected


def test_a_mutation_has_the_key_of_the_template() -> None:
    seen = record(put(key={"flight": "UA1"}, set={"delay": 3}), KNOWN)
    assert (seen.key, seen.type, seen.content_type) == (b"UA1", "walstream.mutation", "application/json")
    assert parse_mutation(seen.payload) == put(key={"flight": "UA1"}, set={"delay": 3})


def test_bytes_that_are_said_to_be_a_mutation_are_checked_and_keyed() -> None:
    payload = delete(key={"flight": "UA1"}).to_bytes()
    assert record(payload, KNOWN, type="walstream.mutation").key == b"UA1"
    with pytest.raises(RecordRefused, match="bad-mutation"):
        record(b"{}", KNOWN, type="walstream.mutation")


def test_a_mutation_of_an_unknown_namespace_needs_its_key() -> None:
    with pytest.raises(RecordRefused, match="have no order"):
        record(put(key={"flight": "UA1"}))
    assert record(put(key={"flight": "UA1"}), key="UA1").key == b"UA1"


def test_a_mutation_with_another_key_is_refused() -> None:
    with pytest.raises(RecordRefused, match="bad-key"):
        record(put(key={"flight": "UA1"}), KNOWN, key="UA2")


def test_a_namespace_without_a_template_leaves_keys_to_the_producer() -> None:
    assert record(put(key={"flight": "UA1"}), Route("flights", "flights.ingress", known=True)).key is None


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"delay": -1}, "bad-duration"),
        ({"delay": float("inf")}, "bad-duration"),
        ({"delay": float("nan")}, "bad-duration"),
        ({"jitter": timedelta(seconds=-1)}, "bad-duration"),
        ({"delay": "1 fortnight"}, "bad-duration"),
        ({"delay": "-5m"}, "bad-duration"),
        ({"delay": "P1M"}, "bad-duration"),
        ({"jitter": "-PT5M"}, "bad-duration"),
        ({"delay": "100000000d"}, "bad-duration"),
        ({"delay": "3650000d"}, "bad-schedule"),
        ({"deliver_at": "2023-02-29T00:00:00Z"}, "bad-time"),
        ({"deliver_at": "2023-02-28"}, "bad-time"),
        ({"deliver_at": datetime(2030, 1, 1)}, "bad-time"),
        ({"expiry": "2023-06-31T00:00:00Z"}, "bad-time"),
        ({"delay": 1, "deliver_at": 2_000_000}, "bad-schedule"),
        ({"time": datetime(2013, 1, 1)}, "bad-time"),
        ({"time": "2013-02-30T00:00:00Z"}, "bad-time"),
        ({"payload": None, "action": "undo", "ref": "w"}, "bad-action"),
        ({"payload": None, "action": "cancel"}, "bad-ref"),
        ({"payload": None, "ref": "w"}, "bad-ref"),
        ({"payload": None, "action": "reschedule", "ref": "w"}, "bad-schedule"),
        ({"payload": None, "action": "reschedule", "ref": "w", "jitter": "1m"}, "bad-schedule"),
        ({"payload": b"x", "action": "cancel", "ref": "w"}, "bad-data"),
        ({"payload": put(key={"a": 1}), "action": "cancel", "ref": "w", "key": "k"}, "bad-data"),
        ({"targets": ["No Such Name"]}, "bad-targets"),
        ({"extensions": {"waldelay": "PT1S"}}, "reserved-attribute"),
        ({"headers": [("ce_id", b"2")]}, "reserved-header"),
        ({"headers": [("walstream-time", b"2")]}, "reserved-header"),
        ({"headers": [("Content-Type", b"2")]}, "reserved-header"),
        ({"payload": {"a": object()}}, "bad-data"),
        ({"payload": object()}, "bad-data"),
        ({"key": 5}, "bad-argument"),
        ({"key": bytearray(b"k")}, "bad-argument"),
        ({"headers": [("h", "text")]}, "bad-argument"),
        ({"headers": [(5, b"")]}, "bad-argument"),
        ({"key": "\ud800"}, "bad-argument"),
        ({"source": 5}, "bad-argument"),
    ],
)
def test_what_the_router_would_refuse_is_refused_here(arguments: dict[str, Any], code: str) -> None:
    with pytest.raises(RecordRefused) as caught:
        record(**arguments)
    assert caught.value.code == code


def test_an_empty_id_is_refused() -> None:
    with pytest.raises(RecordRefused, match="empty-attribute"):
        compose(Write(b""), UNKNOWN, id_="")


@given(
    st.integers(1500, 2100), st.binary(max_size=300), st.integers(0, 200).map("n".__mul__), st.booleans(), st.booleans()
)
def test_the_limit_counts_key_value_and_headers(
    value: int, key: bytes, source: str, extended: bool, headed: bool
) -> None:
    write = Write(
        b"v" * value,
        key=key,
        source=source or None,
        extensions={"e": "x" * 100} if extended else None,
        headers=[("h", b"x" * 100)] if headed else (),
    )
    whole = compose(write, UNKNOWN, id_="1")
    size = value + len(key) + sum(len(name) + len(text or b"") for name, text in whole.headers)
    if size <= KNOWN.max_record:
        assert compose(write, KNOWN, id_="1").value == write.payload
    else:
        with pytest.raises(RecordRefused, match="too-large"):
            compose(write, KNOWN, id_="1")


@given(st.none() | st.binary(max_size=40), st.text(min_size=1), st.integers(1, 64))
def test_the_partition_is_that_of_the_key_or_of_the_id(key: bytes | None, id_: str, partitions: int) -> None:
    composed = Composed(id_, key, b"", ())
    assert composed.partition(partitions) == partition_for(id_.encode() if key is None else key, partitions)


@pytest.mark.parametrize(
    "arguments",
    [
        {"jitter": "1h"},
        {"jitter": "1h", "deliver_at": 2_000_000},
        {"delay": "10m", "expiry": 0},
        {"deliver_at": 0},
    ],
)
def test_what_is_allowed_though_it_may_look_odd(arguments: dict[str, Any]) -> None:
    seen = record(**arguments)
    assert (seen.jitter, seen.expiry) == (("jitter" in arguments and 3_600_000_000) or None, arguments.get("expiry"))


def test_a_cancel_and_a_reschedule() -> None:
    cancel = record(None, action="cancel", ref="w", key="UA1")
    assert (cancel.action, cancel.ref, cancel.type, cancel.payload) == ("cancel", "w", "walstream.cancel", None)
    moved = record(None, action="reschedule", ref="w", delay="10m", jitter="1m", type="mine")
    assert (moved.action, moved.delay, moved.jitter, moved.type) == ("reschedule", 600_000_000, 60_000_000, "mine")


@given(st.none() | st.binary(max_size=40), st.text(min_size=1, max_size=20), st.integers(1, 64))
def test_an_action_goes_where_its_write_goes(key: bytes | None, ref: str, partitions: int) -> None:
    write = compose(Write(b"", key), UNKNOWN, id_=ref)
    action = compose(Write(None, key, action="cancel", ref=ref), UNKNOWN, id_="another")
    assert action.partition(partitions) == write.partition(partitions)

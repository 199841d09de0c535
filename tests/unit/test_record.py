from __future__ import annotations

import contextlib
import json
import re
from typing import Any

import orjson
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from walstream.attributes import is_name, read_time
from walstream.errors import RecordRefused
from walstream.headers import Header, strip_headers
from walstream.record import encode, parse
from walstream.units import MAX_US, parse_rfc3339

REQUIRED: list[Header] = [
    ("ce_specversion", b"1.0"),
    ("ce_id", b"1"),
    ("ce_source", b"/flights"),
    ("ce_type", b"departed"),
]
EVENT = {"specversion": "1.0", "id": "1", "source": "/flights", "type": "departed"}
JSON_EVENT: list[Header] = [("content-type", b"application/cloudevents+json; charset=utf-8")]

names = st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True)
texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
times = st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999)
durations = st.integers(0, 10**16)
extensions = st.dictionaries(
    st.from_regex(r"[a-z][a-z0-9]{0,10}", fullmatch=True).filter(
        lambda name: (
            not name.startswith("wal")
            and name not in ("specversion", "id", "source", "type", "time", "data", "datacontenttype", "expirytime")
        )
    ),
    texts,
    max_size=3,
)


def binary(*more: Header) -> list[Header]:
    """The headers of a record in binary mode; one that is named again takes the place of the first."""
    named = {name for name, _ in more}
    return [header for header in REQUIRED if header[0] not in named] + list(more)


def structured(**members: Any) -> bytes:
    return json.dumps({name: value for name, value in {**EVENT, **members}.items() if value is not ...}).encode()


def refusal(headers: list[Header], value: bytes | None = b"payload", key: bytes | None = b"k") -> RecordRefused:
    with pytest.raises(RecordRefused) as caught:
        parse(key, value, headers, 0)
    return caught.value


# Round trips


@given(
    payload=st.none() | st.binary(max_size=20),
    key=st.none() | st.binary(max_size=10),
    id=texts,
    source=texts,
    type=texts,
    time=st.none() | times,
    content_type=st.none() | st.sampled_from(["application/json", "text/plain; charset=utf-8", "image/png"]),
    action=st.sampled_from(["write", "cancel", "reschedule"]),
    ref=texts,
    delay=st.none() | durations,
    jitter=st.none() | durations,
    deliver_at=times,
    expiry=st.none() | times,
    targets=st.none() | st.sets(names, min_size=1, max_size=3),
    extensions=st.none() | extensions,
)
def test_what_is_encoded_comes_back(ref: str, deliver_at: int, **given_: Any) -> None:
    given_["ref"] = ref if given_["action"] != "write" else None
    given_["deliver_at"] = deliver_at if given_["delay"] is None else None
    message = encode(**given_)
    record = parse(message.key, message.value, message.headers, 7)
    extra = given_.pop("extensions") or {}
    if given_["key"] is None and "partitionkey" in extra:
        given_["key"] = extra["partitionkey"].encode()
    for name, value in given_.items():
        assert getattr(record, name) == value, name
    for name, text in extra.items():
        assert (f"ce_{name}", text.encode()) in record.headers
    assert (record.value, record.headers, record.timestamp) == (given_["payload"], message.headers, 7)
    assert not record.structured


@given(
    st.dictionaries(
        st.sampled_from(
            [
                *("time", "expirytime", "partitionkey", "traceparent", "walaction", "walref", "waldeliverat"),
                *("waldelay", "waljitter", "waltargets", "walother", "subject", "id", "source"),
            ]
        ),
        st.sampled_from(
            [
                *(
                    "2013-01-01T05:17:00Z",
                    "2013-01-01T05:17:00.25+01:00",
                    "2013-02-30T00:00:00Z",
                    "PT5M",
                    "P1M",
                    "-PT1S",
                ),
                *("write", "cancel", "reschedule", "base,copy", "Base", "", "x"),
            ]
        ),
        max_size=5,
    )
)
def test_both_modes_say_the_same(attributes: dict[str, str]) -> None:
    fields = (
        "key",
        "id",
        "source",
        "type",
        "time",
        "action",
        "ref",
        "deliver_at",
        "delay",
        "jitter",
        "expiry",
        "targets",
    )

    def outcome(value: bytes, headers: list[Header]) -> Any:
        try:
            record = parse(None, value, headers, 0)
        except RecordRefused as error:
            # Of several faults each mode may name another first.
            return (error.code, error.reason) if len(attributes) == 1 else "refused"
        return [getattr(record, field) for field in fields]

    in_headers = binary(*((f"ce_{name}", text.encode()) for name, text in attributes.items()))
    assert outcome(b"", in_headers) == outcome(structured(**attributes), JSON_EVENT)


@given(st.lists(st.tuples(st.text("ceEC_walstreamid-", max_size=14), st.none() | st.binary(max_size=4)), max_size=6))
def test_whatever_comes_is_read_or_refused(headers: list[Header]) -> None:
    for whole in (headers, binary(*headers), JSON_EVENT + headers):
        with contextlib.suppress(RecordRefused):
            assert parse(b"k", b"v", whole, 0).headers == strip_headers(whole)


@given(
    st.binary(max_size=60)
    | st.recursive(st.none() | st.text(), lambda x: st.dictionaries(st.text(), x)).map(orjson.dumps)
)
def test_whatever_value_comes_is_read_or_refused(value: bytes) -> None:
    assert refusal([], value).code == "not-a-cloudevent"
    assert refusal(JSON_EVENT, value).code.split("-")[0] in ("bad", "missing", "empty")


# What stays as it is


def test_nothing_of_a_record_is_changed() -> None:
    headers = binary(
        ("ce_time", b"2013-01-01T05:17:00.123456Z"),
        ("trace", b"1"),
        ("trace", None),
        ("ce_dataref", b"s3://x"),
        ("Content-Type", b"Text/Plain"),
    )
    record = parse(b"k", None, headers, 123)
    assert record.headers == headers
    assert (record.key, record.value, record.payload, record.timestamp) == (b"k", None, None, 123)
    assert record.content_type == "Text/Plain"
    assert record.time == 1_357_017_420_123_456
    assert record.action == "write"


def test_headers_of_ours_are_ignored() -> None:
    headers = binary(("walstream-time", b"1"), ("WALstream-path", b"eu"), ("walstreamer", b"x"), ("was", b"y"))
    assert parse(b"k", None, headers, 0).headers == [*REQUIRED, ("walstreamer", b"x"), ("was", b"y")]


@pytest.mark.parametrize(
    ("key", "partition_key", "expected"),
    [(b"k", b"p", b"k"), (b"", b"p", b""), (None, b"p", b"p"), (None, None, None), (b"k", None, b"k")],
)
def test_the_key_is_the_kafka_key_and_else_the_partition_key(
    key: bytes | None, partition_key: bytes | None, expected: bytes | None
) -> None:
    more = () if partition_key is None else (("ce_partitionkey", partition_key),)
    assert parse(key, b"", binary(*more), 0).key == expected


# Times


@pytest.mark.parametrize(
    "text",
    [
        *("2013-01-01T05:17:00Z", "2013-01-01T05:17:00.5Z", "2013-01-01T05:17:00.123Z", "2013-01-01T05:17:00.123456Z"),
        *(
            "2013-01-01T05:17:00.123456789Z",
            "2013-01-01t05:17:00z",
            "2013-01-01T05:17:00-05:00",
            "1969-12-31T23:59:59.9Z",
        ),
        *("2016-12-31T23:59:60Z", "2013-01-01T05:17:00.123456+00:00"),
    ],
)
def test_times_are_what_units_say(text: str) -> None:
    assert read_time(text.encode()) == parse_rfc3339(text)


@given(times.map(lambda us: encode(None, key=None, id="1", source="s", type="t", time=us)), st.data())
@example(encode(None, key=None, id="1", source="s", type="t", time=0), "1970-01-01T00:00:00.Z")
@example(encode(None, key=None, id="1", source="s", type="t", time=0), "2000-01-01T00:00:00.000000:Z")
@example(encode(None, key=None, id="1", source="s", type="t", time=0), "2000-01-01T00:00:00.123456T4Z")
def test_no_broken_time_is_read(message: Any, data: st.DataObject | str) -> None:
    """The quick way and the thorough one accept the same texts."""
    text = dict(message.headers)["ce_time"].decode()
    if isinstance(data, str):
        broken = data
    else:
        position = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.integers(0, 2))
        broken = text[:position] + data.draw(st.text("0123456789-:.TZ+W _,ä", max_size=2)) + text[position + cut :]
    try:
        expected = parse_rfc3339(broken)
    except ValueError:
        with pytest.raises(RecordRefused):
            read_time(broken.encode())
    else:
        assert read_time(broken.encode()) == expected


# Structured mode


@pytest.mark.parametrize(
    "headers", [[], JSON_EVENT, [("Content-Type", b"Application/CloudEvents+JSON")], [*JSON_EVENT, ("ce_id", b"other")]]
)
def test_structured_mode_is_told_by_content_type_or_by_the_value(headers: list[Header]) -> None:
    value = structured(partitionkey="p", data={"a": 1}, time="2013-01-01T05:17:00Z")
    record = parse(None, value, headers, 5)
    assert record.structured
    assert (record.id, record.key, record.time) == ("1", b"p", 1_357_017_420_000_000)
    assert (record.value, record.headers, record.timestamp) == (value, headers, 5)
    assert (record.payload, record.content_type) == (b'{"a": 1}', "application/json")


@pytest.mark.parametrize(
    ("members", "payload", "content_type"),
    [
        ({}, None, None),
        ({"data": None}, None, None),
        ({"data": None, "datacontenttype": "text/plain"}, None, "text/plain"),
        ({"data": "UA1545"}, b'"UA1545"', "application/json"),
        ({"data": "UA1545", "datacontenttype": "text/plain"}, b"UA1545", "text/plain"),
        ({"data": "é", "datacontenttype": "application/vnd.x+json; v=1"}, b'"\\u00e9"', "application/vnd.x+json; v=1"),
        ({"data": {"a": 1}, "datacontenttype": "application/xml"}, b'{"a": 1}', "application/xml"),
        ({"data_base64": "AAEC/w=="}, b"\x00\x01\x02\xff", None),
        ({"data_base64": "", "datacontenttype": "image/png"}, b"", "image/png"),
        ({"data": False}, b"false", "application/json"),
    ],
)
def test_the_payload_of_a_structured_event(
    members: dict[str, Any], payload: bytes | None, content_type: str | None
) -> None:
    record = parse(b"k", structured(**members), JSON_EVENT, 0)
    assert (record.payload, record.content_type) == (payload, content_type)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


@given(json_values.filter(lambda data: data is not None), st.permutations(["data", *EVENT]), st.sampled_from([None, 1]))
def test_json_data_is_the_text_that_stands_in_the_event(data: Any, order: list[str], indent: int | None) -> None:
    event = {**EVENT, "data": data}
    value = " " + json.dumps({name: event[name] for name in order}, indent=indent, ensure_ascii=False) + "\n"
    payload = parse(b"k", value.encode(), JSON_EVENT, 0).payload
    assert payload is not None
    assert payload in value.encode()
    assert json.loads(payload) == data


def test_numbers_keep_their_digits() -> None:
    value = structured()[:-1] + b', "data": 1.10000000000000000000001, "data": 12345678901234567890123}'
    assert parse(b"k", value, JSON_EVENT, 0).payload == b"12345678901234567890123"


# Refusals


@pytest.mark.parametrize(
    ("headers", "code", "words"),
    [
        ([], "not-a-cloudevent", "no ce_ headers"),
        ([("trace", b"1"), ("CE_id", b"1")], "not-a-cloudevent", "no ce_ headers"),
        ([("ce_id", b"1")], "missing-attribute", "specversion"),
        ([("ce_dataref", b"1")], "missing-attribute", "specversion"),
        *(([h for h in REQUIRED if h[0] != name], "missing-attribute", name[3:]) for name, _ in REQUIRED),
        *((binary((name, b"")), "empty-attribute", name[3:]) for name, _ in REQUIRED),
        *((binary((name, None)), "null-attribute", name) for name, _ in REQUIRED),
        *((binary((name, b"\xff")), "not-utf8", name[3:]) for name, _ in REQUIRED),
        (binary(("ce_specversion", b"0.3")), "bad-specversion", "'0.3'; only 1.0"),
        (binary(("ce_specversion", b"1")), "bad-specversion", "only 1.0"),
        ([*REQUIRED, ("ce_id", b"1")], "repeated-attribute", "ce_id is there twice"),
        ([*REQUIRED, ("ce_own", b"1"), ("ce_own", b"1")], "repeated-attribute", "ce_own is there twice"),
        (binary(("ce_own", None)), "null-attribute", "ce_own"),
        (binary(("ce_own", b"\xc3")), "not-utf8", "own"),
        (binary(("ce_time", None)), "null-attribute", "ce_time"),
        (binary(("ce_time", b"\xff")), "not-utf8", "time"),
        (binary(("content-type", b"\xff")), "not-utf8", "content-type"),
        (binary(("ce_time", b"")), "bad-time", "time"),
        (binary(("ce_time", b"2013-02-30T00:00:00Z")), "bad-time", "time cannot be read"),
        (binary(("ce_time", b"2013-01-01T00:00:00")), "bad-time", "time cannot be read"),
        (binary(("ce_expirytime", b"tomorrow")), "bad-time", "expirytime cannot be read"),
        (binary(("ce_expirytime", b"")), "empty-attribute", "expirytime"),
        (binary(("ce_partitionkey", b"")), "empty-attribute", "partitionkey"),
        (binary(("ce_waldeliverat", b"PT5M")), "bad-time", "waldeliverat cannot be read"),
        (binary(("ce_waldelay", b"-PT5M")), "bad-duration", "waldelay"),
        (binary(("ce_waldelay", b"P1M")), "bad-duration", "waldelay"),
        (binary(("ce_waldelay", b"P1Y")), "bad-duration", "waldelay"),
        (binary(("ce_waljitter", b"5m")), "bad-duration", "waljitter"),
        (binary(("ce_waldelay", b"PT5M"), ("ce_waldeliverat", b"2013-01-01T00:00:00Z")), "bad-schedule", "both"),
        (binary(("ce_walaction", b"delete")), "bad-action", "'delete'; it can be write, cancel or reschedule"),
        (binary(("ce_walaction", b"cancel")), "bad-ref", "a cancel needs walref"),
        (binary(("ce_walaction", b"reschedule"), ("ce_waldelay", b"PT1S")), "bad-ref", "a reschedule needs walref"),
        (binary(("ce_walaction", b"reschedule"), ("ce_walref", b"1")), "bad-schedule", "waldelay or waldeliverat"),
        (binary(("ce_walref", b"1")), "bad-ref", "a write has no walref"),
        (binary(("ce_walfoo", b"1")), "reserved-attribute", "walfoo"),
        (binary(("ce_wal", b"1")), "reserved-attribute", "wal"),
        (binary(("ce_waltargets", b"base,")), "bad-targets", "''"),
        (binary(("ce_waltargets", b"Base")), "bad-targets", "'Base'"),
        (binary(("ce_waltargets", b"base;copy")), "bad-targets", "base;copy"),
        ([("content-type", b"application/cloudevents-batch+json")], "unsupported-format", "cloudevents-batch+json"),
        ([("content-type", b"application/cloudevents+avro; x=1")], "unsupported-format", "cloudevents+avro cannot"),
        ([("content-type", b"application/cloudevents")], "unsupported-format", "cannot be read"),
    ],
)
def test_each_fault_has_a_code_and_a_sentence(headers: list[Header], code: str, words: str) -> None:
    error = refusal(headers)
    assert error.code == code
    assert words in error.reason


@pytest.mark.parametrize(
    ("value", "code", "words"),
    [
        (None, "bad-json", "the value is none"),
        (b"", "bad-json", "the value is none"),
        (b"{", "bad-json", "the value is none"),
        (b"[]", "bad-json", "not a JSON object"),
        (b'{"a": NaN}', "bad-json", "the value is none"),
        (structured(specversion=...), "missing-attribute", "specversion"),
        (structured(specversion="0.3"), "bad-specversion", "'0.3'"),
        (structured(specversion=1.0), "bad-attribute", "specversion is not text"),
        (structured(id=...), "missing-attribute", "id"),
        (structured(id=None), "missing-attribute", "id"),
        (structured(id=""), "empty-attribute", "id"),
        (structured(id=1), "bad-attribute", "id is not text"),
        (structured(time="now"), "bad-time", "time cannot be read"),
        (structured(waldelay=5), "bad-attribute", "waldelay is not text"),
        (structured(waldelay=""), "empty-attribute", "waldelay"),
        (structured(walfoo="x"), "reserved-attribute", "walfoo"),
        (structured(datacontenttype=5), "bad-attribute", "datacontenttype is not text"),
        (structured(data=1, data_base64="AA=="), "bad-data", "data and data_base64"),
        (structured(data_base64="?"), "bad-data", "not Base64"),
        (structured(data_base64=5), "bad-data", "not Base64"),
        (structured(data_base64="é"), "bad-data", "not Base64"),
        (structured(data=...)[:-1] + b',"data":' + b"[" * 1000 + b"]" * 1000 + b"}", "bad-json", "nested too deeply"),
    ],
)
def test_each_fault_of_a_structured_event_has_a_code_and_a_sentence(value: bytes | None, code: str, words: str) -> None:
    error = refusal(JSON_EVENT, value)
    assert error.code == code
    assert words in error.reason


def test_a_value_is_not_taken_for_an_event_beside_attributes() -> None:
    assert refusal([("ce_id", b"1")], structured()).code == "missing-attribute"
    assert parse(b"k", structured(id="2"), binary(), 0).id == "1"


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({"id": ""}, "empty-attribute"),
        ({"source": ""}, "empty-attribute"),
        ({"type": ""}, "empty-attribute"),
        ({"action": "drop"}, "bad-action"),
        ({"action": "cancel"}, "bad-ref"),
        ({"delay": -1}, "bad-duration"),
        ({"jitter": -1}, "bad-duration"),
        ({"jitter": MAX_US + 1}, "bad-duration"),
        ({"expiry": 10**18}, "bad-time"),
        ({"action": "cancel", "ref": ""}, "empty-attribute"),
        ({"action": "undo", "ref": "1"}, "bad-action"),
        ({"ref": "1"}, "bad-ref"),
        ({"action": "reschedule", "ref": "1"}, "bad-schedule"),
        ({"delay": 1, "deliver_at": 1}, "bad-schedule"),
        ({"time": 10**18}, "bad-time"),
        ({"targets": []}, "empty-attribute"),
        ({"targets": ["Base"]}, "bad-targets"),
        ({"extensions": {"Trace": "x"}}, "bad-attribute"),
        ({"extensions": {"trace-parent": "x"}}, "bad-attribute"),
        ({"extensions": {"": "x"}}, "bad-attribute"),
        ({"extensions": {"walfoo": "x"}}, "reserved-attribute"),
        ({"extensions": {"id": "x"}}, "reserved-attribute"),
        ({"extensions": {"data": "x"}}, "reserved-attribute"),
    ],
)
def test_what_would_be_refused_is_not_written(parameters: dict[str, Any], code: str) -> None:
    base: dict[str, Any] = {"key": b"k", "id": "1", "source": "s", "type": "t", "time": 0}
    with pytest.raises(RecordRefused) as caught:
        encode(b"", **{**base, **parameters})
    assert caught.value.code == code


@given(st.text("az09-A_ é", max_size=5) | names.map(lambda name: name * 4))
def test_names(text: str) -> None:
    assume("\n" not in text)
    assert is_name(text) == bool(re.fullmatch(r"[a-z][a-z0-9-]{0,62}", text))

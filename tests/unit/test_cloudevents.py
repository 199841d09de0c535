"""Records against the CloudEvents project's own package, in both modes and both directions."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from cloudevents.core.bindings.kafka import KafkaMessage, from_kafka, to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from walstream.record import Record, encode, parse

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# No control characters and surrogates, which CloudEvents does not allow in attributes.
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Cn"]), min_size=1, max_size=20)
moments = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)).map(lambda moment: moment.replace(tzinfo=UTC))
documents = st.dictionaries(texts, st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts, max_size=4)
data = st.one_of(
    st.tuples(st.just("application/json"), documents),
    st.tuples(st.just("application/octet-stream"), st.binary(min_size=1, max_size=20)),  # it takes empty data for none
    st.tuples(st.just("text/plain"), texts),
)
events = st.builds(
    lambda attributes, keyed, time, content: CloudEvent(
        {**attributes, **keyed, "time": time, "datacontenttype": content[0]}, content[1]
    ),
    st.fixed_dictionaries({"id": texts, "source": texts, "type": texts}, optional={"subject": texts, "trace1": texts}),
    st.fixed_dictionaries({}, optional={"partitionkey": texts}),
    moments,
    data,
)


def microseconds(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1)


def read(message: KafkaMessage) -> Record:
    key = message.key.encode() if isinstance(message.key, str) else message.key
    return parse(key, message.value, list(message.headers.items()), 0)


def same(record: Record, event: Any) -> None:
    assert (record.id, record.source, record.type) == (event.get_id(), event.get_source(), event.get_type())
    assert record.time == microseconds(event.get_time())
    assert record.content_type == event.get_datacontenttype()
    key = event.get_extension("partitionkey")
    assert record.key == (None if key is None else key.encode())
    content = event.get_data()
    payload = record.payload
    assert payload is not None
    if isinstance(content, dict):
        assert json.loads(payload) == content
    else:
        assert payload == (content.encode() if isinstance(content, str) else content)


@given(events)
def test_we_read_what_it_writes_in_binary_mode(event: CloudEvent) -> None:
    record = read(to_binary(event, JSONFormat()))
    assert not record.structured
    same(record, event)


@given(events)
def test_we_read_what_it_writes_in_structured_mode(event: CloudEvent) -> None:
    record = read(to_structured(event, JSONFormat()))
    assert record.structured
    same(record, event)


@given(
    id=texts,
    source=texts,
    type=texts,
    time=moments.map(microseconds),
    key=st.none() | texts.map(str.encode),
    content=data,
    delay=st.none() | st.integers(0, 10**12),
    expiry=st.none() | moments.map(microseconds),
    trace=texts,
)
def test_it_reads_what_we_write(
    id: str,
    source: str,
    type: str,
    time: int,
    key: bytes | None,
    content: tuple[str, Any],
    delay: int | None,
    expiry: int | None,
    trace: str,
) -> None:
    payload = json.dumps(content[1]) if isinstance(content[1], dict) else content[1]
    message = encode(
        payload.encode() if isinstance(payload, str) else payload,
        key=key,
        id=id,
        source=source,
        type=type,
        time=time,
        content_type=content[0],
        delay=delay,
        expiry=expiry,
        extensions={"traceparent": trace},
    )
    headers = {name: text for name, text in message.headers if text is not None}
    assert message.value is not None
    event = from_kafka(KafkaMessage(headers, message.key, message.value), JSONFormat())
    assert event.get_extension("traceparent") == trace
    assert (event.get_extension("waldelay") is None) == (delay is None)
    record = parse(message.key, message.value, message.headers, 0)
    assert (record.delay, record.expiry) == (delay, expiry)
    same(record, event)
    # And once more round: what it makes of it in structured mode is still the same record.
    again = read(to_structured(event, JSONFormat()))
    assert (again.id, again.time, again.key, again.delay, again.expiry) == (id, time, key, delay, expiry)
    same(again, event)

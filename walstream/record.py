"""Records: CloudEvents 1.0 on Kafka, read and written, and what walstream adds to them on the log.

A record comes in binary mode (attributes are headers ``ce_…``, the value is the payload) or in structured mode (the
value is a JSON object with everything in it). Either way its key, value and headers travel untouched; `parse` only
reads them. On the log a record has a block of headers ``walstream-…`` in front of its own; `Entry.from_log` takes them
off again.

The codes of what is refused:

======================  ============================================================================
``not-a-cloudevent``    no ``ce_`` headers, and no JSON object with ``specversion``
``unsupported-format``  a structured mode that is not ``application/cloudevents+json``, or a batch
``bad-json``            structured mode, but the value is not a JSON object
``bad-data``            ``data_base64`` beside ``data``, or not Base64
``bad-specversion``     another version of CloudEvents than 1.0
``missing-attribute``   specversion, id, source or type
``empty-attribute``     an attribute that must say something is empty
``null-attribute``      a ``ce_`` header without a value
``repeated-attribute``  a ``ce_`` header twice
``not-utf8``            an attribute that is not UTF-8; the router: or the name of a header
``bad-attribute``       structured mode, an attribute that is not text
``bad-time``            time, expirytime or waldeliverat is not an RFC 3339 time
``bad-duration``        waldelay or waljitter is not an ISO 8601 duration of weeks and smaller units
``bad-action``          walaction is not write, cancel or reschedule
``bad-ref``             a cancel or reschedule without walref, or a write with one
``bad-schedule``        both waldelay and waldeliverat, or a reschedule with neither
``bad-targets``         waltargets is not a list of names
``reserved-attribute``  an attribute that starts with ``wal`` and is none of the known
======================  ============================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from walstream import attributes as attr
from walstream import structured
from walstream.attributes import COMMON, LIFECYCLE, read_time, read_value
from walstream.errors import RecordRefused
from walstream.headers import PREFIX, Header, strip_headers
from walstream.units import parse_iso_duration, parse_rfc3339

_HOT = COMMON | {"content-type"}


class Record:
    """A record as its producer meant it.

    Attributes
    ----------
    key
        The Kafka key; where there is none, ``partitionkey``; None is a record without order.
    value, headers, timestamp
        As they were in Kafka, but for headers that start with ``walstream-``; the timestamp in milliseconds.
    id, source, type
        The CloudEvents attributes.
    time
        The write time in microseconds since the epoch, or None where the producer gave none.
    action
        ``write``, ``cancel`` or ``reschedule``; ``ref`` is the id that the latter two are about.
    deliver_at, expiry
        Microseconds since the epoch, or None.
    delay, jitter
        Microseconds, or None; the delay counts from the write time.
    targets
        Names of the targets that it is meant for; None is all.
    structured
        Whether it came in structured mode.
    payload, content_type
        The data, in both modes. In structured mode JSON data is the very text that stands in the event.
    """

    __slots__ = (
        "action",
        "content_type",
        "delay",
        "deliver_at",
        "expiry",
        "headers",
        "id",
        "jitter",
        "key",
        "payload",
        "ref",
        "source",
        "structured",
        "targets",
        "time",
        "timestamp",
        "type",
        "value",
    )

    def __init__(
        self,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[Header],
        timestamp: int,
        id: str,
        source: str,
        type: str,
        time: int | None,
        payload: bytes | None,
        content_type: str | None,
        structured: bool,
    ) -> None:
        self.key, self.value, self.headers, self.timestamp = key, value, headers, timestamp
        self.id, self.source, self.type, self.time = id, source, type, time
        self.payload, self.content_type, self.structured = payload, content_type, structured
        self.action = "write"
        self.ref: str | None = None
        self.deliver_at: int | None = None
        self.delay: int | None = None
        self.jitter: int | None = None
        self.expiry: int | None = None
        self.targets: frozenset[str] | None = None

    def __repr__(self) -> str:
        return f"<Record {self.type} id={self.id!r} source={self.source!r} key={self.key!r}>"


def parse(key: bytes | None, value: bytes | None, headers: Sequence[Header], timestamp_ms: int) -> Record:
    """Read a Kafka record as a CloudEvent.

    Parameters
    ----------
    key, value, headers
        Of the Kafka record; headers that start with ``walstream-`` are left out.
    timestamp_ms
        Its timestamp, kept as `Record.timestamp`; it does not stand in for a missing ``time``.

    Raises
    ------
    RecordRefused
        It cannot be understood. The codes are listed above.
    """
    attributes = dict(headers)
    if len(attributes) != len(headers):
        attr.refuse_repeated(headers)
    media_type = attributes.get("content-type")
    others = []
    for name in attributes:
        if name not in _HOT:
            if name[:3] == "ce_":
                others.append(name)
            elif name[:1] in "wW" and name[:10].lower() == PREFIX:
                headers = strip_headers(headers)
            elif media_type is None and len(name) == 12 and name.lower() == "content-type":
                media_type = attributes[name]
    announced = media_type is not None and len(media_type) >= 23 and media_type[:23].lower() == structured.ANNOUNCEMENT
    if announced or ("ce_specversion" not in attributes and not others and COMMON.isdisjoint(attributes)):
        return _parse_structured(key, value, headers, timestamp_ms, media_type if announced else None)
    try:
        record = Record(
            key,
            value,
            headers,
            timestamp_ms,
            attributes["ce_id"].decode(),  # type: ignore[union-attr]
            attributes["ce_source"].decode(),  # type: ignore[union-attr]
            attributes["ce_type"].decode(),  # type: ignore[union-attr]
            read_time(attributes["ce_time"]) if "ce_time" in attributes else None,  # type: ignore[arg-type]
            value,
            media_type.decode() if media_type is not None else None,
            False,
        )
        good = attributes["ce_specversion"] == b"1.0" and record.id and record.source and record.type
        lifecycle = {}
        for name in others:
            read = attributes[name].decode()  # type: ignore[union-attr]
            if name in LIFECYCLE or name.startswith(attr.RESERVED):
                lifecycle[name] = read
    except (KeyError, AttributeError, TypeError, UnicodeDecodeError):
        good = False
    if not good:
        # One of them is missing, empty, null, or not UTF-8.
        attr.refuse({name: text for name, text in attributes.items() if name[:3] == "ce_" or text is media_type})
    if lifecycle:
        _apply(record, lifecycle)
    return record


def _parse_structured(
    key: bytes | None, value: bytes | None, headers: Sequence[Header], timestamp_ms: int, media_type: bytes | None
) -> Record:
    if media_type is not None:
        structured.check_media_type(media_type)
    event = structured.parse_event(value, announced=media_type is not None)
    attributes = event.attributes
    if any(not attributes.get(name) for name in attr.REQUIRED) or attributes["ce_specversion"] != attr.SPECVERSION:
        attr.refuse({name: text.encode() for name, text in attributes.items()})
    record = Record(
        key,
        value,
        headers,
        timestamp_ms,
        attributes["ce_id"],
        attributes["ce_source"],
        attributes["ce_type"],
        read_time(attributes["ce_time"].encode()) if "ce_time" in attributes else None,
        event.payload,
        event.content_type,
        True,
    )
    _apply(record, {name: text for name, text in attributes.items() if name not in COMMON})
    return record


def _apply(record: Record, attributes: Mapping[str, str]) -> None:
    """Set what attributes of `LIFECYCLE` say; others are refused."""
    for name, text in attributes.items():
        if name not in LIFECYCLE:
            attr.refuse_reserved(name)
        if not text:
            raise RecordRefused("empty-attribute", f"the attribute {name[3:]} is empty")
    get = attributes.get
    if record.key is None and (key := get("ce_partitionkey")) is not None:
        record.key = key.encode()
    if (expiry := get("ce_expirytime")) is not None:
        record.expiry = read_value("expirytime", expiry, parse_rfc3339, "bad-time")
    if (deliver_at := get("ce_waldeliverat")) is not None:
        record.deliver_at = read_value("waldeliverat", deliver_at, parse_rfc3339, "bad-time")
    if (delay := get("ce_waldelay")) is not None:
        record.delay = read_value("waldelay", delay, parse_iso_duration, "bad-duration")
    if (jitter := get("ce_waljitter")) is not None:
        record.jitter = read_value("waljitter", jitter, parse_iso_duration, "bad-duration")
    if (targets := get("ce_waltargets")) is not None:
        record.targets = attr.read_targets(targets)
    record.action = get("ce_walaction", "write")
    record.ref = get("ce_walref")
    _check(record.action, record.ref, record.delay, record.deliver_at)


def _check(action: str, ref: str | None, delay: int | None, deliver_at: int | None) -> None:
    """Whether what a record asks for goes together."""
    if action not in attr.ACTIONS:
        raise RecordRefused("bad-action", f"walaction is {action!r}; it can be write, cancel or reschedule")
    if action == "write" and ref is not None:
        raise RecordRefused("bad-ref", "a write has no walref; only a cancel or a reschedule is about another record")
    if action != "write" and ref is None:
        raise RecordRefused("bad-ref", f"a {action} needs walref, the id of the record that it is about")
    if delay is not None and deliver_at is not None:
        raise RecordRefused("bad-schedule", "waldelay and waldeliverat are both given; one of them can be")
    if action == "reschedule" and delay is None and deliver_at is None:
        raise RecordRefused("bad-schedule", "a reschedule needs waldelay or waldeliverat")


class Message(NamedTuple):
    """What goes to Kafka."""

    key: bytes | None
    value: bytes | None
    headers: list[Header]


def encode(
    payload: bytes | None,
    *,
    key: bytes | None,
    id: str,
    source: str,
    type: str,
    time: int | None,
    content_type: str | None = None,
    action: str = "write",
    ref: str | None = None,
    delay: int | None = None,
    jitter: int | None = None,
    deliver_at: int | None = None,
    expiry: int | None = None,
    targets: Iterable[str] | None = None,
    extensions: Mapping[str, str] | None = None,
) -> Message:
    """Write a record, in binary mode.

    Parameters
    ----------
    payload
        The data; None is a null value.
    key, id, source, type, content_type, action, ref, targets
        As in `Record`.
    time, deliver_at, expiry
        Microseconds since the epoch.
    delay, jitter
        Microseconds.
    extensions
        Further CloudEvents attributes by their names, without a prefix.

    Raises
    ------
    RecordRefused
        The router would refuse it; the codes are the same.
    """
    headers = plain_headers(id, source, type, time, content_type)
    plain = len(headers)
    if action != "write":
        headers.append(("ce_walaction", action.encode()))
    if ref is not None:
        headers.append(("ce_walref", ref.encode()))
    if delay is not None:
        headers.append(("ce_waldelay", attr.write_duration("waldelay", delay)))
    if jitter is not None:
        headers.append(("ce_waljitter", attr.write_duration("waljitter", jitter)))
    if deliver_at is not None:
        headers.append(("ce_waldeliverat", attr.write_time("waldeliverat", deliver_at)))
    if expiry is not None:
        headers.append(("ce_expirytime", attr.write_time("expirytime", expiry)))
    if targets is not None:
        headers.append(("ce_waltargets", ",".join(sorted(targets)).encode()))
    for name, text in (extensions or {}).items():
        attr.check_extension(name)
        headers.append((f"ce_{name}", text.encode()))
    if targets is not None or extensions:
        parse(key, payload, headers, -1)
    elif len(headers) > plain:
        # What is written above can be read again; so there is nothing left but this, at a tenth of the cost.
        if ref is not None and not ref:
            raise RecordRefused("empty-attribute", "the attribute walref is empty")
        _check(action, ref, delay, deliver_at)
    return Message(key, payload, headers)


def plain_headers(id: str, source: str, type: str, time: int | None, content_type: str | None = None) -> list[Header]:
    """The attributes of a record that says nothing about its delivery; as `encode`, at less cost."""
    headers = [("ce_id", id.encode()), *_shared_headers(source, type, content_type)]
    if not (id and source and type):
        attr.refuse(dict(headers))
    if time is not None:
        headers.append(("ce_time", attr.write_time("time", time)))
    return headers


@lru_cache(maxsize=1024)
def _shared_headers(source: str, type: str, content_type: str | None) -> tuple[Header, ...]:
    """The headers that most records of a producer have in common."""
    headers: list[Header] = [
        ("ce_specversion", attr.SPECVERSION.encode()),
        ("ce_source", source.encode()),
        ("ce_type", type.encode()),
    ]
    if content_type is not None:
        headers.append(("content-type", content_type.encode()))
    return tuple(headers)

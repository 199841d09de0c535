"""What a producer wants written, and the record that comes of it."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

from walstream.errors import RecordRefused
from walstream.headers import Header
from walstream.identity import identity
from walstream.murmur2 import partition_for
from walstream.mutation import CONTENT_TYPE, TYPE, KeyTemplate, Mutation, key_mismatch, parse_mutation
from walstream.pending import due_time
from walstream.record import encode, plain_headers
from walstream.units import parse_duration, parse_iso_duration, parse_rfc3339

SOURCE = "walstream/client"
"""The CloudEvents source of a client that was not told another. The same for every client: a record's identity holds
it, so that a write may be repeated from another machine."""

RECORD_TYPE = "walstream.record"
"""The CloudEvents type of a record that is given none, and is no mutation."""
LARGEST_BYTES = (
    64 * 1024 * 1024
)  # brokers cut the connection of a request above 100 MB, which would look like a time-out
SURELY_SMALL = (
    1024  # bytes that the headers of a record without extensions need at most; only near the limit they count
)

Payload = bytes | str | Mutation | Mapping[str, Any] | list[Any] | None
Span = timedelta | str | float
Moment = datetime | str | int
Headers = Sequence[Header]

_PLAIN = ("write", None, None, None, None, None, None, None)
_partition = lru_cache(maxsize=65_536)(partition_for)  # keys repeat, and murmur2 in Python costs microseconds


@dataclass(slots=True)
class Write:
    """One record to be written; the arguments of `Client.write`.

    Parameters
    ----------
    payload
        Bytes, or None for a null value; a mutation (`put`, `delete`); text, sent as UTF-8; or what JSON can hold.
    key
        The unit of order; text is sent as UTF-8. Left out, a mutation's key comes from the namespace's ``key``
        template, and any other record has no order.
    id
        The idempotency token; a new UUIDv7 where there is none.
    source, type, content_type
        CloudEvents attributes. The source and the id are the record's identity, together with its key.
    time
        The write time: a datetime with a time zone, RFC 3339 text, or microseconds since 1970. Left out: now.
    delay, jitter
        Not to be delivered before this long after the write time: a timedelta, text such as ``10m`` or ``PT10M``, or
        seconds. Up to the jitter is added, at random, but the same whenever the record is written again; it may be
        given alone.
    deliver_at
        When to deliver, instead of a delay; as `time`.
    expiry
        Not to be delivered after this time; as `time`. Where it is not later than when the record is due, the record is
        never delivered.
    targets
        Names of the targets that the record is for; left out: all.
    extensions
        More CloudEvents attributes, such as ``traceparent``.
    headers
        More Kafka headers, which travel untouched.
    action, ref
        ``cancel`` or ``reschedule`` is about another write of the same key and source: the one with the id `ref`. The
        payload is then None, and of a reschedule the delay counts from its own write time.
    """

    payload: Payload
    key: bytes | str | None = None
    id: str | None = None
    source: str | None = None
    type: str | None = None
    content_type: str | None = None
    time: Moment | None = None
    delay: Span | None = None
    jitter: Span | None = None
    deliver_at: Moment | None = None
    expiry: Moment | None = None
    targets: Collection[str] | None = None
    extensions: Mapping[str, str] | None = None
    headers: Headers = ()
    action: str = "write"
    ref: str | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """Where a namespace's records go, and what is known about them.

    Parameters
    ----------
    namespace, topic
        The name, and its ingress topic.
    known
        Whether the namespace's file was found. Without it, `key` and `max_record` say nothing.
    key
        The template that makes a mutation's key.
    max_record
        The most bytes of key, value and headers.
    """

    namespace: str
    topic: str
    known: bool = False
    key: KeyTemplate | None = None
    max_record: int = LARGEST_BYTES


class Composed(NamedTuple):
    """A record as it goes over the wire.

    Parameters
    ----------
    id
        Its id, made here if none was given.
    key, value, headers
        Of the Kafka record.
    ref
        The id of the write that a cancel or reschedule is about.
    """

    id: str
    key: bytes | None
    value: bytes | None
    headers: list[Header]
    ref: str | None = None

    def partition(self, partitions: int) -> int:
        """The partition, of so many, that the record belongs to.

        By its key, and without one by its id. A cancel or reschedule goes where the write went that it is about.
        """
        if self.key is None:
            return partition_for((self.ref or self.id).encode(), partitions)
        return _partition(self.key, partitions)


def compose(write: Write, route: Route, *, id_: str, source: str = SOURCE) -> Composed:
    """Make the record.

    Parameters
    ----------
    id_
        The record's id: the one that the write gives, or a new one.
    source
        The source, where the write gives none.

    Raises
    ------
    RecordRefused
        It would end in the DLQ, or be too large for the namespace, or an argument is of a type that it cannot be.
    """
    try:
        return _compose(write, route, id_, source)
    except (AttributeError, TypeError, UnicodeError) as error:
        raise RecordRefused("bad-argument", f"the record cannot be made of the arguments: {error}") from error


def _compose(write: Write, route: Route, id_: str, source: str) -> Composed:
    payload, key, type_, content_type = write.payload, write.key, write.type, write.content_type
    if isinstance(key, str):
        key = key.encode()
    elif key is not None and not isinstance(key, bytes):
        raise TypeError("the key is neither bytes nor text")
    value: bytes | None
    if payload is None or isinstance(payload, bytes):
        value = payload
    elif isinstance(payload, Mutation):
        value, type_, content_type = payload.to_bytes(), type_ or TYPE, content_type or CONTENT_TYPE
    elif isinstance(payload, str):
        value, content_type = payload.encode(), content_type or "text/plain; charset=utf-8"
    else:
        try:
            value, content_type = orjson.dumps(payload), content_type or "application/json"
        except TypeError as error:
            raise RecordRefused("bad-data", f"the payload is neither bytes nor JSON: {error}") from error
    if type_ == TYPE or isinstance(payload, Mutation):
        key = _mutation_key(payload if isinstance(payload, Mutation) else parse_mutation(value), key, route)
    source = write.source or source
    written = time.time_ns() // 1000 if (moment := _moment("time", write.time)) is None else moment
    asked = write.action, write.ref, write.delay, write.jitter, write.deliver_at, write.expiry
    headers: list[Header]
    if (*asked, write.targets, write.extensions) == _PLAIN:
        headers = plain_headers(id_, source, type_ or RECORD_TYPE, written, content_type)
    else:
        delay, jitter = _span("delay", write.delay), _span("jitter", write.jitter)
        deliver_at = _moment("deliver-at", write.deliver_at)
        if write.action != "write" and value is not None:
            raise RecordRefused("bad-data", f"a {write.action} has no payload")
        headers = encode(
            value,
            key=key,
            id=id_,
            source=source,
            type=type_ or (RECORD_TYPE if write.action == "write" else f"walstream.{write.action}"),
            time=written,
            content_type=content_type,
            action=write.action,
            ref=write.ref,
            delay=delay,
            jitter=jitter,
            deliver_at=deliver_at,
            expiry=_moment("expiry", write.expiry),
            targets=write.targets,
            extensions=write.extensions,
        ).headers
        due_time(written, identity(key, source, write.ref or id_), delay, deliver_at, jitter)  # it must be a time
    if write.headers:
        _check_headers(write.headers)
        headers += write.headers
    size = (len(key) if key else 0) + (len(value) if value else 0)
    if size + SURELY_SMALL > route.max_record or write.extensions or write.headers:
        size += sum(len(name) + len(data or b"") for name, data in headers)
        if size > route.max_record:
            raise RecordRefused("too-large", f"key, value and headers have more than {route.max_record} bytes")
    return Composed(id_, key, value, headers, write.ref)


def _mutation_key(mutation: Mutation, key: bytes | None, route: Route) -> bytes | None:
    if route.key is not None:
        if key is not None and (reason := key_mismatch(route.key, mutation.key, key)) is not None:
            raise RecordRefused("bad-key", reason)
        return route.key.render(mutation.key)
    if key is None and not route.known:
        raise RecordRefused(
            "bad-key",
            f"without the file of namespace {route.namespace} the key of a row is not known, and mutations of it would "
            "have no order; give the key, or the folder of the namespace files",
        )
    return key


def _check_headers(headers: Headers) -> None:
    for name, data in headers:
        if data is not None and not isinstance(data, bytes):
            raise TypeError(f"the header {name} is neither bytes nor None")
        if name.startswith("ce_") or name.lower().startswith("walstream-") or name.lower() == "content-type":
            raise RecordRefused("reserved-header", f"the header {name} is an attribute's, or reserved")


_ISO = frozenset("P+-")  # how a duration of ISO 8601 begins; its parser also says best what a sign is not


def _span(name: str, value: Span | None) -> int | None:
    """Turn a length of time into microseconds."""
    if value is None:
        return None
    if isinstance(value, str):
        try:
            return parse_iso_duration(value) if value[:1] in _ISO else parse_duration(value) * 1000
        except ValueError as error:
            raise RecordRefused("bad-duration", f"{name}: {error}") from error
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if not math.isfinite(seconds):
        raise RecordRefused("bad-duration", f"a {name} of {seconds} s cannot be")
    return round(seconds * 1_000_000)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _moment(name: str, value: Moment | None) -> int | None:
    """Turn a point in time into microseconds since 1970."""
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, str):
        try:
            return parse_rfc3339(value)
        except ValueError as error:
            raise RecordRefused("bad-time", f"{name}: {error}") from error
    if value.tzinfo is None:
        raise RecordRefused("bad-time", f"{name}: {value} has no time zone")
    return (value - _EPOCH) // timedelta(microseconds=1)

"""Records: CloudEvents 1.0 on Kafka, read and written, and what walstream adds to them on the log.

A record comes in binary mode (attributes are headers ``ce_…``, the value is the payload) or in structured mode (the value
is a JSON object with everything in it). Either way its key, value and headers travel untouched; `parse` only reads them.
On the log a record has a block of headers ``walstream-…`` in front of its own; `Entry.from_log` takes them off again.

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
``not-utf8``            an attribute that is not UTF-8
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

import base64
import binascii
import json
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, NoReturn

import orjson

from walstream.errors import RecordRefused, StateMismatch
from walstream.units import format_rfc3339, parse_iso_duration, parse_rfc3339

Header = tuple[str, bytes | None]

SPECVERSION = "1.0"
STRUCTURED = "application/cloudevents+json"

PREFIX = "walstream-"
"""Headers that walstream adds start with it."""
VERSION_HEADER = "walstream-version"
"""The format version of the added headers, always the first of them."""
TIME_HEADER = "walstream-time"
"""The effective time, microseconds since the epoch."""
POSITION_HEADER = "walstream-position"
"""The position in the ingress."""
TIMESTAMP_HEADER = "walstream-timestamp"
"""The record's original Kafka timestamp, milliseconds since the epoch."""
PATH_HEADER = "walstream-path"
"""The regions passed, comma-separated; absent where there were none."""

_HEADERS_VERSION = 1
_VERSION = (VERSION_HEADER, b"%d" % _HEADERS_VERSION)

ACTIONS = frozenset({"write", "cancel", "reschedule"})
_REQUIRED = ("ce_specversion", "ce_id", "ce_source", "ce_type")
_COMMON = frozenset({*_REQUIRED, "ce_time"})
_RESERVED = "ce_wal"
_OURS = frozenset({f"ce_wal{name}" for name in ("action", "ref", "deliverat", "delay", "jitter", "targets")})
_LIFECYCLE = _OURS | {"ce_expirytime", "ce_partitionkey"}


class Record:
    """A record as its producer meant it.

    Attributes
    ----------
    key
        The Kafka key; where there is none, ``partitionkey``; None is a record without order.
    value, headers, timestamp
        As they were in Kafka; the timestamp in milliseconds.
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
        Of the Kafka record.
    timestamp_ms
        Its timestamp, kept as `Record.timestamp`; it does not stand in for a missing ``time``.

    Raises
    ------
    RecordRefused
        It cannot be understood. The codes are listed above.
    """
    attributes: dict[str, bytes | None] = {}
    count = 0
    media_type: bytes | None = None
    for name, text in headers:
        if name[:3] == "ce_":
            attributes[name] = text
            count += 1
        elif len(name) == 12 and name.lower() == "content-type":
            media_type = text
    if media_type is not None and media_type[:23].lower() == b"application/cloudevents":
        _check_structured(media_type)
        return _parse_structured(key, value, headers, timestamp_ms, announced=True)
    if not count:
        return _parse_structured(key, value, headers, timestamp_ms, announced=False)
    if len(attributes) != count:
        _refuse_repeated(headers)

    try:
        if attributes["ce_specversion"] != b"1.0":
            _refuse_attributes(attributes)
        record = Record(
            key,
            value,
            headers,
            timestamp_ms,
            attributes["ce_id"].decode(),  # type: ignore[union-attr]
            attributes["ce_source"].decode(),  # type: ignore[union-attr]
            attributes["ce_type"].decode(),  # type: ignore[union-attr]
            _time(attributes["ce_time"]) if "ce_time" in attributes else None,  # type: ignore[arg-type]
            value,
            None if media_type is None else media_type.decode(),
            False,
        )
        if count > 5 or record.time is None:
            lifecycle = {}
            for name in attributes.keys() - _COMMON:
                read = attributes[name].decode()  # type: ignore[union-attr]
                if name in _LIFECYCLE or name.startswith(_RESERVED):
                    lifecycle[name] = read
            if lifecycle:
                _apply(record, lifecycle)
    except (KeyError, AttributeError, TypeError, ValueError):
        _refuse_attributes({**attributes, "content-type": b"" if media_type is None else media_type})
    if not (record.id and record.source and record.type):
        _refuse_attributes(attributes)
    return record


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
    headers: list[Header] = [
        ("ce_specversion", b"1.0"),
        ("ce_id", id.encode()),
        ("ce_source", source.encode()),
        ("ce_type", type.encode()),
    ]
    if time is not None:
        headers.append(("ce_time", _format_time("time", time)))
    if content_type is not None:
        headers.append(("content-type", content_type.encode()))
    plain = len(headers)
    if action != "write":
        headers.append(("ce_walaction", action.encode()))
    if ref is not None:
        headers.append(("ce_walref", ref.encode()))
    if delay is not None:
        headers.append(("ce_waldelay", _format_duration("waldelay", delay)))
    if jitter is not None:
        headers.append(("ce_waljitter", _format_duration("waljitter", jitter)))
    if deliver_at is not None:
        headers.append(("ce_waldeliverat", _format_time("waldeliverat", deliver_at)))
    if expiry is not None:
        headers.append(("ce_expirytime", _format_time("expirytime", expiry)))
    if targets is not None:
        headers.append(("ce_waltargets", ",".join(sorted(targets)).encode()))
    for name, text in (extensions or {}).items():
        _check_extension(name)
        headers.append((f"ce_{name}", text.encode()))
    if len(headers) > plain:
        parse(key, payload, headers, -1)
    elif not (id and source and type):
        _refuse_attributes(dict(headers))
    return Message(key, payload, headers)


def strip_headers(headers: Iterable[Header]) -> list[Header]:
    """The headers without those that start with ``walstream-``, in whatever case."""
    return [header for header in headers if header[0][:10].lower() != PREFIX]


def log_headers(
    record_headers: Iterable[Header], *, time_us: int, position: int, timestamp_ms: int, path: bytes = b""
) -> list[Header]:
    """The headers of a record on the log: ours in front, then the record's own.

    Parameters
    ----------
    record_headers
        As they came; what starts with ``walstream-`` is left out.
    time_us
        The effective time, microseconds since the epoch.
    position
        The position in the ingress.
    timestamp_ms
        The record's original Kafka timestamp.
    path
        The regions passed, comma-separated.
    """
    ours: list[Header] = [
        _VERSION,
        (TIME_HEADER, b"%d" % time_us),
        (POSITION_HEADER, b"%d" % position),
        (TIMESTAMP_HEADER, b"%d" % timestamp_ms),
    ]
    if path:
        ours.append((PATH_HEADER, path))
    for header in record_headers:
        if header[0][:1] in "wW" and header[0][:10].lower() == PREFIX:
            continue
        ours.append(header)
    return ours


class Entry:
    """One entry of the log, as a sink sees it.

    Attributes
    ----------
    partition, position
        Where in the log.
    key, value, headers, timestamp
        The record's own, byte for byte as its producer wrote them; the timestamp in milliseconds.
    time
        The effective time, microseconds since the epoch: the only time to compare by.
    ingress_position
        Where in the ingress.
    path
        The regions passed, comma-separated.
    """

    __slots__ = (
        "_record",
        "headers",
        "ingress_position",
        "key",
        "partition",
        "path",
        "position",
        "time",
        "timestamp",
        "value",
    )

    def __init__(
        self,
        partition: int,
        position: int,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[Header],
        timestamp: int,
        time: int,
        ingress_position: int,
        path: bytes = b"",
    ) -> None:
        self.partition, self.position = partition, position
        self.key, self.value, self.headers, self.timestamp = key, value, headers, timestamp
        self.time, self.ingress_position, self.path = time, ingress_position, path
        self._record: Record | None = None

    @classmethod
    def from_log(
        cls,
        partition: int,
        position: int,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[Header],
        timestamp: int,
    ) -> Entry:
        """Read a record of the log (or of a retry topic or DLQ, which have more headers of ours, in front as well).

        Parameters
        ----------
        timestamp
            Of the record on the log. The entry's is the one that the record had before.

        Raises
        ------
        StateMismatch
            The headers that walstream adds are missing, broken, or of a newer format.
        """
        ours: dict[str, bytes | None] = {}
        for name, text in headers:
            if name[:10] != PREFIX:
                break
            ours[name] = text
        try:
            if ours[VERSION_HEADER] != b"1":
                _refuse_version(ours[VERSION_HEADER])
            return cls(
                partition,
                position,
                key,
                value,
                headers[len(ours) :],
                int(ours[TIMESTAMP_HEADER]),  # type: ignore[arg-type]
                int(ours[TIME_HEADER]),  # type: ignore[arg-type]
                int(ours[POSITION_HEADER]),  # type: ignore[arg-type]
                ours.get(PATH_HEADER) or b"",
            )
        except (KeyError, TypeError, ValueError) as error:
            raise StateMismatch(
                f"the record at position {position} of partition {partition} was not written by walstream:"
                f" its headers {PREFIX}… are missing or broken ({error})"
            ) from None

    @property
    def record(self) -> Record:
        """The record, read when it is first asked for."""
        if self._record is None:
            self._record = parse(self.key, self.value, self.headers, self.timestamp)
        return self._record

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def source(self) -> str:
        return self.record.source

    @property
    def type(self) -> str:
        return self.record.type

    @property
    def payload(self) -> bytes | None:
        return self.record.payload

    def is_for(self, target: str) -> bool:
        """Whether the record is meant for a target of that name."""
        targets = None if self._record is None and _surely_for_all(self.headers) else self.record.targets
        return targets is None or target in targets

    def __repr__(self) -> str:
        return f"<Entry {self.partition}:{self.position} key={self.key!r} time={self.time}>"


def _surely_for_all(headers: Sequence[Header]) -> bool:
    """Whether the headers alone say that a record is for all targets: it is in binary mode, without ``waltargets``."""
    binary = False
    for name, text in headers:
        if name == "ce_waltargets":
            return False
        if name == "ce_specversion":
            binary = True
        elif (
            len(name) == 12
            and name.lower() == "content-type"
            and (text or b"")[:23].lower() == b"application/cloudevents"
        ):
            return False
    return binary


# Structured mode


def _check_structured(media_type: bytes) -> None:
    name = media_type.partition(b";")[0].strip().lower()
    if name != STRUCTURED.encode():
        shown = name.decode(errors="replace")
        raise RecordRefused("unsupported-format", f"the content type {shown} cannot be read; only {STRUCTURED} can")


def _parse_structured(
    key: bytes | None, value: bytes | None, headers: Sequence[Header], timestamp_ms: int, *, announced: bool
) -> Record:
    try:
        event: Any = orjson.loads(value or b"")
    except orjson.JSONDecodeError as error:
        if announced:
            raise RecordRefused(
                "bad-json", f"the value is not JSON, though the content type says so: {error}"
            ) from None
        event = None
    if not isinstance(event, dict) or not (announced or "specversion" in event):
        if announced:
            raise RecordRefused("bad-json", "the value is not a JSON object, though the content type says so")
        raise RecordRefused(
            "not-a-cloudevent", "there are no ce_ headers, and the value is not a JSON object with specversion"
        )
    attributes = {}
    for name, text in event.items():
        name = f"ce_{name}"
        if text is not None and (name in _COMMON or name in _LIFECYCLE or name.startswith(_RESERVED)):
            if not isinstance(text, str):
                raise RecordRefused("bad-attribute", f"the attribute {name[3:]} is not text")
            attributes[name] = text
    if any(not attributes.get(name) for name in _REQUIRED) or attributes["ce_specversion"] != SPECVERSION:
        _refuse_attributes({name: text.encode() for name, text in attributes.items()})
    payload, content_type = _structured_data(value or b"", event)
    time = attributes.get("ce_time")
    record = Record(
        key,
        value,
        headers,
        timestamp_ms,
        attributes["ce_id"],
        attributes["ce_source"],
        attributes["ce_type"],
        None if time is None else _read("time", time, parse_rfc3339, "bad-time"),
        payload,
        content_type,
        True,
    )
    _apply(record, {name: text for name, text in attributes.items() if name not in _COMMON})
    return record


def _structured_data(value: bytes, event: dict[str, Any]) -> tuple[bytes | None, str | None]:
    content_type = event.get("datacontenttype")
    if content_type is not None and not isinstance(content_type, str):
        raise RecordRefused("bad-attribute", "the attribute datacontenttype is not text")
    data, encoded = event.get("data"), event.get("data_base64")
    if encoded is not None:
        if data is not None:
            raise RecordRefused("bad-data", "the event has data and data_base64; it can have one")
        try:
            return base64.b64decode(encoded, validate=True), content_type
        except (TypeError, ValueError, binascii.Error):
            raise RecordRefused("bad-data", "data_base64 is not Base64") from None
    if data is None:
        return None, content_type
    if isinstance(data, str) and content_type is not None and not _is_json(content_type):
        return data.encode(), content_type
    return _member(value.decode(), "data"), content_type or "application/json"


def _is_json(content_type: str) -> bool:
    name = content_type.partition(";")[0].strip().lower()
    return name.endswith(("/json", "+json"))


def _member(text: str, wanted: str) -> bytes:
    """The text of one member of a JSON object that is known to be valid and to have it.

    Read and written again, a large integer or a decimal fraction would come out as another number.
    """
    decode = json.JSONDecoder().raw_decode
    found = ""

    def skip(position: int) -> int:
        while text[position] in " \t\r\n":
            position += 1
        return position

    position = skip(0)
    while text[position] != "}":
        name, position = decode(text, skip(position + 1))
        start = skip(skip(position) + 1)
        try:
            _, end = decode(text, start)
        except RecursionError:
            raise RecordRefused("bad-json", "the value is nested too deeply") from None
        if name == wanted:
            found = text[start:end]
        position = skip(end)
    return found.encode()


# Attributes


def _apply(record: Record, attributes: Mapping[str, str]) -> None:
    """Set what the attributes of `_LIFECYCLE` say."""
    for name, text in attributes.items():
        if name not in _LIFECYCLE:
            raise RecordRefused(
                "reserved-attribute",
                f"the attribute {name[3:]} is not known, and names that start with wal are reserved",
            )
        if not text:
            raise RecordRefused("empty-attribute", f"the attribute {name[3:]} is empty")
    get = attributes.get
    if record.key is None and (key := get("ce_partitionkey")) is not None:
        record.key = key.encode()
    if (expiry := get("ce_expirytime")) is not None:
        record.expiry = _read("expirytime", expiry, parse_rfc3339, "bad-time")
    if (deliver_at := get("ce_waldeliverat")) is not None:
        record.deliver_at = _read("waldeliverat", deliver_at, parse_rfc3339, "bad-time")
    if (delay := get("ce_waldelay")) is not None:
        record.delay = _read("waldelay", delay, parse_iso_duration, "bad-duration")
    if (jitter := get("ce_waljitter")) is not None:
        record.jitter = _read("waljitter", jitter, parse_iso_duration, "bad-duration")
    if (targets := get("ce_waltargets")) is not None:
        record.targets = _targets(targets)
    record.action = get("ce_walaction", "write")
    record.ref = get("ce_walref")
    if record.action not in ACTIONS:
        raise RecordRefused("bad-action", f"walaction is {record.action!r}; it can be write, cancel or reschedule")
    if record.action == "write" and record.ref is not None:
        raise RecordRefused("bad-ref", "a write has no walref; only a cancel or a reschedule is about another record")
    if record.action != "write" and record.ref is None:
        raise RecordRefused("bad-ref", f"a {record.action} needs walref, the id of the record that it is about")
    if record.delay is not None and record.deliver_at is not None:
        raise RecordRefused("bad-schedule", "waldelay and waldeliverat are both given; one of them can be")
    if record.action == "reschedule" and record.delay is None and record.deliver_at is None:
        raise RecordRefused("bad-schedule", "a reschedule needs waldelay or waldeliverat")


def _read(name: str, text: str, read: Callable[[str], int], code: str) -> int:
    try:
        return read(text)
    except ValueError as error:
        raise RecordRefused(code, f"the attribute {name} cannot be read: {error}") from None


@lru_cache(maxsize=4096)
def _minute(text: bytes) -> int:
    """Microseconds since the epoch of ``YYYY-MM-DDTHH:MM``. Write times of one stretch of a log share few minutes."""
    return parse_rfc3339(f"{text.decode()}:00Z")


def _time(text: bytes) -> int:
    """Microseconds since the epoch of an RFC 3339 time; fast for what most producers write."""
    if text[16:17] == b":" and text[-1:] == b"Z":
        length = len(text)
        if length == 20:
            digits, scale = text[17:19], 1_000_000
        elif length == 27 and text[19:20] == b".":
            digits, scale = text[17:19] + text[20:26], 1
        elif length == 24 and text[19:20] == b".":
            digits, scale = text[17:19] + text[20:23], 1_000
        else:
            return _slow_time(text)
        if digits.isdigit() and digits < b"60":
            return _minute(text[:16]) + int(digits) * scale
    return _slow_time(text)


def _slow_time(text: bytes) -> int:
    return _read("time", text.decode(), parse_rfc3339, "bad-time")


@lru_cache(maxsize=1024)
def _targets(text: str) -> frozenset[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if not is_name(name):
            raise RecordRefused("bad-targets", f"waltargets names {name!r}, which cannot be the name of a target")
    return frozenset(names)


def is_name(text: str) -> bool:
    """Whether a text can be the name of a namespace or a target: ``[a-z][a-z0-9-]{0,62}``."""
    return (
        0 < len(text) <= 63
        and text[0] in string.ascii_lowercase
        and not text.strip(string.ascii_lowercase + string.digits + "-")
    )


def _check_extension(name: str) -> None:
    """CloudEvents 1.0, "Naming conventions": lower-case letters of ASCII and digits."""
    if not name.isascii() or not name.isalnum() or name.lower() != name:
        raise RecordRefused("bad-attribute", f"{name!r} cannot be the name of an attribute: a-z and 0-9 only")
    if f"ce_{name}" in _COMMON or name.startswith("wal") or name in ("data", "datacontenttype", "expirytime"):
        raise RecordRefused("reserved-attribute", f"the attribute {name} has a parameter of its own or is reserved")


def _format_time(name: str, microseconds: int) -> bytes:
    try:
        return format_rfc3339(microseconds).encode()
    except ValueError as error:
        raise RecordRefused("bad-time", f"the attribute {name} cannot be written: {error}") from None


def _format_duration(name: str, microseconds: int) -> bytes:
    if microseconds < 0:
        raise RecordRefused("bad-duration", f"the attribute {name} is negative")
    seconds, fraction = divmod(microseconds, 1_000_000)
    return (f"PT{seconds}.{fraction:06}S" if fraction else f"PT{seconds}S").encode()


# Refusals: reached only by records that cannot be understood, so they look at everything again and name the first fault


def _refuse_repeated(headers: Sequence[Header]) -> NoReturn:
    seen = set()
    for name, _ in headers:
        if name.startswith("ce_") and name in seen:
            raise RecordRefused("repeated-attribute", f"the header {name} is there twice")
        seen.add(name)
    raise AssertionError("no ce_ header is there twice")


def _refuse_attributes(attributes: Mapping[str, bytes | None]) -> NoReturn:
    for name, text in attributes.items():
        shown = name.removeprefix("ce_")
        if text is None:
            raise RecordRefused("null-attribute", f"the header {name} has no value")
        try:
            text.decode()
        except UnicodeDecodeError:
            raise RecordRefused("not-utf8", f"the attribute {shown} is not UTF-8") from None
    for name in _REQUIRED:
        if name not in attributes:
            raise RecordRefused("missing-attribute", f"the attribute {name[3:]} is missing; CloudEvents requires it")
        if not attributes[name]:
            raise RecordRefused("empty-attribute", f"the attribute {name[3:]} is empty")
    version = (attributes["ce_specversion"] or b"").decode()
    if version != SPECVERSION:
        raise RecordRefused("bad-specversion", f"the record is CloudEvents {version!r}; only {SPECVERSION} can be read")
    _slow_time(attributes["ce_time"] or b"")
    raise AssertionError("nothing is wrong with the attributes")


def _refuse_version(version: bytes | None) -> NoReturn:
    number = int(version or b"")
    if number > _HEADERS_VERSION:
        raise StateMismatch(
            f"a record's added headers have format {number}; this version of walstream reads {_HEADERS_VERSION}"
        )
    raise ValueError(f"format {number}")

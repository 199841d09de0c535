"""An entry as an HTTP request: CloudEvents 1.0.2, HTTP protocol binding.

A record in binary mode has its attributes as headers ``ce-…`` and its value as the body; one in structured mode is sent
as it is. Either way the request has headers of ours: what the record is (``Idempotency-Key``), its key, its times, and
where it stands in the log.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote

from walstream.connections import HEADER_NAME, HEADER_VALUE
from walstream.deadletter import LOG_POSITION_HEADER
from walstream.entry import Entry
from walstream.errors import RecordRefused
from walstream.headers import TIME_HEADER, TIMESTAMP_HEADER
from walstream.identity import identity
from walstream.structured import ANNOUNCEMENT, MEDIA_TYPE

IDEMPOTENCY_HEADER = "Idempotency-Key"
"""The record's identity, 32 hexadecimal digits: the same whenever the record comes again."""
KEY_HEADER = "walstream-key"
"""The record's key, percent-encoded; absent where there is none."""
PARTITION_HEADER = "walstream-partition"
"""The partition number; together with the log position it names the entry."""
NULL_HEADER = "walstream-null"
"""``true`` where the value is null, which in HTTP looks like an empty one."""

# All that the binding lets stand for itself, 3.1.3.2: printable ASCII but the space, the double quote and the percent
# sign.
_SAFE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
_PLAIN = re.compile("[!#$&-~]*")  # the same as a pattern


class Message(NamedTuple):
    """The headers and the body of a request."""

    headers: list[tuple[str, str]]
    body: bytes | None


def percent_encoded(text: str | bytes) -> str:
    """A text as the value of a header, by the rules of the binding; of bytes each that is no printable ASCII."""
    if isinstance(text, bytes):
        return text.decode() if text.isascii() and _PLAIN.fullmatch(text.decode()) else quote(text, safe=_SAFE)
    return text if _PLAIN.fullmatch(text) else quote(text, safe=_SAFE)


@lru_cache(maxsize=1024)
def _attribute_header(attribute: str) -> str:
    if not HEADER_NAME.fullmatch(attribute):
        raise RecordRefused("not-a-header", f"the attribute {attribute!r} cannot be the name of an HTTP header")
    return f"ce-{attribute}"


def message(entry: Entry) -> Message:
    """Make the request for an entry.

    Raises
    ------
    RecordRefused
        HTTP cannot carry it: an attribute whose name cannot be a header's, or a content type that is not ASCII. The
        code is ``not-a-header``.
    """
    record = entry.record
    headers = [
        (IDEMPOTENCY_HEADER, identity(record.key, record.source, record.id).hex()),
        (TIME_HEADER, str(entry.time)),
        (TIMESTAMP_HEADER, str(entry.timestamp)),
        (PARTITION_HEADER, str(entry.partition)),
        (LOG_POSITION_HEADER, str(entry.position)),
    ]
    if record.key is not None:
        headers.append((KEY_HEADER, percent_encoded(record.key)))
    if entry.value is None:
        headers.append((NULL_HEADER, "true"))
    content_type: str | None
    if record.structured:
        content_type = _announced(entry) or f"{MEDIA_TYPE}; charset=UTF-8"
    else:
        content_type = record.content_type
        for name, value in entry.headers:
            if name[:3] != "ce_":
                continue
            attribute, text = name[3:], (value or b"").decode()
            if attribute == "datacontenttype":  # 3.1.1: it is the content type, and no header of its own
                content_type = content_type or text
                continue
            headers.append((_attribute_header(attribute), percent_encoded(text)))
    if content_type is not None:
        if not HEADER_VALUE.fullmatch(content_type):
            raise RecordRefused("not-a-header", f"the content type {content_type!r} cannot stand in an HTTP header")
        headers.append(("Content-Type", content_type.strip()))
    return Message(headers, entry.value)


def _announced(entry: Entry) -> str | None:
    """The content type that says that an entry is an event in structured mode, if one does."""
    for name, value in entry.headers:
        if name.lower() == "content-type" and (value or b"")[:23].lower() == ANNOUNCEMENT:
            return (value or b"").decode("latin-1")
    return None

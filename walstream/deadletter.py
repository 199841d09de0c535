"""Dead letters: records that cannot be delivered, with everything needed to understand and to redrive them.

Key, value and the record's own headers stay byte for byte; in front of them stands a block of headers ``walstream-…``
that says what happened. Only a record that is larger than its namespace allows is cut, with its size and digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from walstream.entry import Entry
from walstream.errors import RecordRefused
from walstream.headers import (
    KIND_HEADER,
    PATH_HEADER,
    POSITION_HEADER,
    TIME_HEADER,
    TIMESTAMP_HEADER,
    VERSION,
    Header,
    strip_headers,
)
from walstream.record import Message
from walstream.wire import Record as KafkaRecord

ERROR_HEADER = "walstream-error"
"""What is wrong, for a person."""
CODE_HEADER = "walstream-error-code"
"""The same as one short word, for counting and filtering."""
FIRST_ERROR_HEADER = "walstream-error-first"
"""What was wrong at the first attempt, where that was something else."""
WHEN_HEADER = "walstream-when"
"""When it was given up, milliseconds since the epoch."""
TARGET_HEADER = "walstream-target"
"""The target's full name."""
ATTEMPT_HEADER = "walstream-attempt"
"""How many times it was tried."""
AGE_HEADER = "walstream-age"
"""For how long it was to wait between attempts, milliseconds."""
LOG_POSITION_HEADER = "walstream-log-position"
"""Where in the log, at the same partition number; absent where it came from outside the log."""
SIZE_HEADER = "walstream-size"
"""Bytes of key, value and headers, where the record was cut."""
DIGEST_HEADER = "walstream-digest"
"""SHA-256 of the whole value, where the record was cut."""

ERROR_LENGTH = 1_000  # characters; a driver's message may hold a whole statement


def size_of(key: bytes | None, value: bytes | None, headers: Sequence[Header]) -> int:
    """Bytes of a record, as its namespace's limit counts them: key, value, and names and values of headers."""
    size = len(key or b"") + len(value or b"")
    for name, text in headers:
        size += len(name) + len(text or b"")
    return size


def error_text(error: str) -> bytes:
    """What a header says of an error: at most so many characters, whatever is in them."""
    # A driver's message may have half a character in it, which must not keep the entry out of the DLQ.
    return error[:ERROR_LENGTH].encode(errors="backslashreplace")


def refused(
    key: bytes | None,
    value: bytes | None,
    headers: Sequence[Header],
    *,
    code: str,
    reason: str,
    position: int,
    timestamp: int,
    now: int,
) -> Message:
    """A record that the router could not understand.

    Parameters
    ----------
    code, reason
        What is wrong.
    position
        Where in the ingress, at the same partition number.
    timestamp, now
        The record's Kafka timestamp and the present, milliseconds.
    """
    ours: list[Header] = [
        VERSION,
        (CODE_HEADER, code.encode()),
        (ERROR_HEADER, error_text(reason)),
        (WHEN_HEADER, b"%d" % now),
        (POSITION_HEADER, b"%d" % position),
        (TIMESTAMP_HEADER, b"%d" % timestamp),
    ]
    return Message(key, value, ours + strip_headers(headers))


def oversized(
    key: bytes | None,
    value: bytes | None,
    headers: Sequence[Header],
    *,
    limit: int,
    position: int,
    timestamp: int,
    now: int,
) -> Message:
    """A record that is larger than its namespace allows: cut to the limit (bytes), with its size and digest."""
    size = size_of(key, value, headers)
    room = limit
    kept: list[Header] = []
    for name, text in headers:
        room -= len(name) + len(text or b"")
        if room < 0:
            break
        kept.append((name, text))
    room = max(room, 0)
    cut_key = None if key is None else key[:room]
    room -= len(cut_key or b"")
    cut_value = None if value is None else value[:room]
    reason = f"the record has {size} bytes, and the namespace allows {limit}; it was cut"
    message = refused(
        cut_key, cut_value, kept, code="too-large", reason=reason, position=position, timestamp=timestamp, now=now
    )
    message.headers[1:1] = [
        (SIZE_HEADER, b"%d" % size),
        (DIGEST_HEADER, hashlib.sha256(value or b"").hexdigest().encode()),
    ]
    return message


def not_understood(raw: KafkaRecord, refusal: RecordRefused, *, limit: int, now: int) -> Message:
    """A record that was refused as it was read: whole, or cut where it is larger than the limit (bytes).

    Parameters
    ----------
    now
        Milliseconds since the epoch.
    """
    key, value, headers = raw.key, raw.value, raw.headers
    if size_of(key, value, headers) > limit:
        return oversized(key, value, headers, limit=limit, position=raw.offset, timestamp=raw.timestamp, now=now)
    return refused(
        key, value, headers, code=refusal.code, reason=refusal.reason, position=raw.offset, timestamp=raw.timestamp,
        now=now,
    )  # fmt: skip


def origin(entry: Entry, target: str) -> list[Header]:
    """The headers that say what a record is and where it came from, in front of those that say what became of it."""
    ours: list[Header] = [
        VERSION,
        (TIME_HEADER, b"%d" % entry.time),
        (POSITION_HEADER, b"%d" % entry.ingress_position),
        (TIMESTAMP_HEADER, b"%d" % entry.timestamp),
        (TARGET_HEADER, target.encode()),
    ]
    if entry.path:
        ours.append((PATH_HEADER, entry.path))
    if entry.kind:
        ours.append((KIND_HEADER, entry.kind))
    if entry.position >= 0:
        ours.append((LOG_POSITION_HEADER, b"%d" % entry.position))
    return ours


def dead(
    entry: Entry, *, target: str, reason: str, attempt: int, now: int, first: str | None = None, age: int | None = None
) -> Message:
    """An entry of the log that a target will never take.

    Parameters
    ----------
    target
        The target's full name.
    reason, first
        What the target said at last, and at first where that was something else.
    attempt
        How many times it was tried.
    now
        Milliseconds since the epoch.
    age
        For how long it was to wait between attempts (ms), if it was.
    """
    ours = origin(entry, target)
    ours += [(ATTEMPT_HEADER, b"%d" % attempt), (ERROR_HEADER, error_text(reason)), (WHEN_HEADER, b"%d" % now)]
    if age is not None:
        ours.append((AGE_HEADER, b"%d" % age))
    if first is not None and first != reason:
        ours.append((FIRST_ERROR_HEADER, error_text(first)))
    return Message(entry.key, entry.value, [*ours, *entry.headers])

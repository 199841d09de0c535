"""Headers of Kafka records, and the block of ``walstream-…`` headers that walstream adds to them.

On the log, on retry topics and in DLQs a record has that block in front of its own headers, which stay as they were. On
ingress such headers are ignored.
"""

from __future__ import annotations

from collections.abc import Iterable

Header = tuple[str, bytes | None]

PREFIX = "walstream-"
"""Headers that walstream adds start with it."""
VERSION_HEADER = "walstream-version"
"""The format version of the added headers."""
TIME_HEADER = "walstream-time"
"""The effective time, microseconds since the epoch."""
POSITION_HEADER = "walstream-position"
"""The position in the ingress."""
TIMESTAMP_HEADER = "walstream-timestamp"
"""The record's original Kafka timestamp, milliseconds since the epoch."""
PATH_HEADER = "walstream-path"
"""The regions passed, comma-separated; absent where there were none."""
KIND_HEADER = "walstream-kind"
"""What an entry is that is no ordinary write (`CANCEL` and the words below it); absent on all others."""
CONTROL_HEADER = "walstream-control"
"""On a retry topic: what people say to the target (`walstream.control`)."""

CANCEL, RESCHEDULE, SCHEDULED = b"cancel", b"reschedule", b"scheduled"
"""Control entries: an action, and a write that waits for its time in each region. They are for replicate targets."""
LOCAL = b"local"
"""A write that every region has of its own, since each let it wait; it is not sent to others again."""

HEADERS_VERSION = 1
VERSION = (VERSION_HEADER, b"%d" % HEADERS_VERSION)


def strip_headers(headers: Iterable[Header]) -> list[Header]:
    """The headers without those that start with ``walstream-``, in whatever case."""
    return [header for header in headers if header[0][:10].lower() != PREFIX]


def log_headers(
    record_headers: Iterable[Header],
    *,
    time_us: int,
    position: int,
    timestamp_ms: int,
    path: bytes = b"",
    kind: bytes = b"",
) -> list[Header]:
    """The headers of a record on the log: ours in front, then the record's own.

    Parameters
    ----------
    record_headers
        `Record.headers`, which have none of ours.
    time_us
        The effective time, microseconds since the epoch.
    position
        The position in the ingress.
    timestamp_ms
        The record's original Kafka timestamp.
    path
        The regions passed, comma-separated.
    kind
        What it is, where it is no ordinary write.
    """
    ours: list[Header] = [
        VERSION,
        (TIME_HEADER, b"%d" % time_us),
        (POSITION_HEADER, b"%d" % position),
        (TIMESTAMP_HEADER, b"%d" % timestamp_ms),
    ]
    if path:
        ours.append((PATH_HEADER, path))
    if kind:
        ours.append((KIND_HEADER, kind))
    return [*ours, *record_headers]


def sent_headers(
    record_headers: Iterable[Header], *, time: bytes, timestamp: bytes, path: bytes, kind: bytes = b""
) -> list[Header]:
    """The headers of a record that is sent to another region: ours in front, then the record's own.

    Parameters
    ----------
    time, timestamp
        As they stand on the log: effective time (µs) and original timestamp (ms).
    path
        The regions passed, comma-separated, the sender's own at the end.
    kind
        What it is, where it is no ordinary write.
    """
    ours = [VERSION, (TIME_HEADER, time), (TIMESTAMP_HEADER, timestamp), (PATH_HEADER, path)]
    if kind:
        ours.append((KIND_HEADER, kind))
    return [*ours, *record_headers]

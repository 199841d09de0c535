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
CONTROL_HEADER = "walstream-control"
"""On a retry topic: what people say to the target (`walstream.control`)."""

HEADERS_VERSION = 1
VERSION = (VERSION_HEADER, b"%d" % HEADERS_VERSION)


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
        `Record.headers`, which have none of ours.
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
        VERSION,
        (TIME_HEADER, b"%d" % time_us),
        (POSITION_HEADER, b"%d" % position),
        (TIMESTAMP_HEADER, b"%d" % timestamp_ms),
    ]
    if path:
        ours.append((PATH_HEADER, path))
    return [*ours, *record_headers]

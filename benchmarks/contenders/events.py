"""What a hand-written program does with a CloudEvent: check it, know it, and say when it takes effect.

Shared by the contenders in Python, and free of walstream's own code.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import blake2b

Headers = Sequence[tuple[str, bytes]]
ROW = struct.Struct(">Bqq")  # a format, and two positions
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def parse(headers: Headers) -> tuple[bytes, bytes, int]:
    """Source, id, and write time in microseconds, of an event that is complete."""
    attributes = dict(headers)
    if attributes["ce_specversion"] != b"1.0" or not attributes["ce_type"]:
        raise ValueError("not a CloudEvent")
    written = (datetime.fromisoformat(attributes["ce_time"].decode()) - EPOCH) // MICROSECOND
    return attributes["ce_source"], attributes["ce_id"], written


def identity(key: bytes | None, source: bytes, id_: bytes) -> bytes:
    """Sixteen bytes that stand for a record."""
    return blake2b(b"%d %d %b%b%b" % (len(key or b""), len(source), key or b"", source, id_), digest_size=16).digest()


def added(headers: Headers, written: int, position: int, timestamp: int) -> list[tuple[str, bytes]]:
    """The headers of a record on the log."""
    return [
        ("walstream-version", b"1"),
        ("walstream-time", b"%d" % written),
        ("walstream-position", b"%d" % position),
        ("walstream-timestamp", b"%d" % timestamp),
        *headers,
    ]

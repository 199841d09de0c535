"""What a schedule holds for a router: a delayed record byte for byte, or that a waiting action is to be forgotten.

A delayed record is stored so that it can be copied into a record batch without being taken apart. First what is needed
to decide about it, at fixed places (big-endian)::

    at  size
     0     1  kind, 1
     1     1  version of the format, 1
     2     8  timestamp of the ingress record, ms since the epoch
    10     8  effective time, µs since the epoch; the smallest number there is: it is given when the record is due
    18     8  when the broker got it, ms since the epoch
    26     8  when it expires, µs since the epoch; the largest number there is: never
    34    16  identity
    50     4  bytes of key and value as they follow
    54     4  how many headers follow
    58        key and value, then the headers

Key, value and headers are as in a record of Kafka's message format 2 (kafka.apache.org/documentation, "Record"): the
length of the key as a zigzag varint (-1 is null), the key, the same of the value; then of each header the length of the
name, the name, and again length and value. The count of the headers, which Kafka has between value and headers, is in
front instead, since on the log walstream's own come before them.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from typing import NamedTuple

from walstream.errors import StateMismatch
from walstream.headers import Header
from walstream.record import Record
from walstream.wire import Record as KafkaRecord
from walstream.wire import record_of
from walstream.wire.plain import encode_block

_VERSION = 1
HEAD = struct.Struct(">BBqqqq16sII")
"""The fixed places."""
_pack, _unpack = HEAD.pack, HEAD.unpack_from
_FORGET = struct.Struct(">BB16s")

WHEN_DUE = -(1 << 63)
"""In place of the effective time."""
NEVER = (1 << 63) - 1
"""In place of the expiry, which it is compared as."""


class Kind(enum.IntEnum):
    """What a row of the schedule is."""

    WRITE = 1  # a delayed record
    FORGET = 2  # an action waits for its write no longer


_WRITE = bytes((Kind.WRITE, _VERSION))
_KINDS = {kind.value: kind for kind in Kind}


class Delayed(NamedTuple):
    """A delayed record.

    Parameters
    ----------
    timestamp
        Of the ingress record, ms.
    time
        The effective time, µs, or `WHEN_DUE`.
    appended
        When the broker got it, ms.
    expiry
        µs, or `NEVER`.
    identity
        16 bytes.
    key, value, headers
        As they were in the ingress, but for headers of walstream's.
    """

    timestamp: int
    time: int
    appended: int
    expiry: int
    identity: bytes
    key: bytes | None
    value: bytes | None
    headers: Sequence[Header]


def encode_delayed(
    timestamp: int,
    time: int,
    appended: int,
    expiry: int | None,
    identity: bytes,
    key: bytes | None,
    value: bytes | None,
    headers: Sequence[Header],
) -> bytes:
    """The stored form of a delayed record; the parameters are as in `Delayed`, where None is no expiry."""
    body = encode_block(key) + encode_block(value)
    parts = [
        _pack(
            Kind.WRITE, _VERSION, timestamp, time, appended, NEVER if expiry is None else expiry, identity,
            len(body), len(headers),
        ),
        body,
    ]  # fmt: skip
    for name, text in headers:
        parts += (encode_block(name.encode()), encode_block(text))
    return b"".join(parts)


def store_record(
    raw: KafkaRecord,
    record: Record | None,
    time: int,
    appended: int,
    expiry: int | None,
    identity: bytes,
    added: Sequence[Header] = (),
) -> bytes:
    """The stored form of a record of the ingress, copied as it is encoded there.

    Parameters
    ----------
    record
        What was parsed, if it was: a record with headers of walstream's is stored without them.
    added
        Headers of walstream's that it is to have on the log, beside those that every entry has.
    """
    fields, count, headers = raw.parts
    if record is not None and len(record.headers) != count:
        own = [*added, *record.headers]
        return encode_delayed(raw.timestamp, time, appended, expiry, identity, raw.key, raw.value, own)
    for name, text in reversed(added):
        headers = encode_block(name.encode()) + encode_block(text) + headers
        count += 1
    expiry = NEVER if expiry is None else expiry
    head = _pack(Kind.WRITE, _VERSION, raw.timestamp, time, appended, expiry, identity, len(fields), count)
    return head + fields + headers


class StoredRecord:
    """A delayed record that is to be sent, not taken apart.

    Raises
    ------
    StateMismatch
        It is of a newer format, or no delayed record.
    """

    __slots__ = ("_count", "_size", "_stored", "_timestamp", "appended", "expiry", "identity", "time")

    def __init__(self, stored: bytes) -> None:
        if stored[:2] != _WRITE or len(stored) < HEAD.size:
            _check(stored, Kind.WRITE, HEAD.size)
        (
            _, _, self._timestamp, self.time, self.appended, self.expiry, self.identity, self._size, self._count
        ) = _unpack(stored)  # fmt: skip
        self._stored = stored

    def record(self, position: int) -> KafkaRecord:
        """The record as it was in the ingress, at that position."""
        try:
            return record_of(self._stored, HEAD.size, self._size, self._count, position, self._timestamp)
        except ValueError:
            raise StateMismatch(f"a delayed record of {len(self._stored)} bytes is cut off") from None


def decode_delayed(stored: bytes) -> Delayed:
    """Read a stored record.

    Raises
    ------
    StateMismatch
        It is of a newer format, or no delayed record.
    """
    record = StoredRecord(stored)
    raw = record.record(0)
    return Delayed(
        raw.timestamp, record.time, record.appended, record.expiry, record.identity, raw.key, raw.value, raw.headers
    )


def encode_forget(identity: bytes) -> bytes:
    """The stored form of: whatever waits for the write of that identity is forgotten."""
    return _FORGET.pack(Kind.FORGET, _VERSION, identity)


def decode_forget(stored: bytes) -> bytes:
    """The identity in it.

    Raises
    ------
    StateMismatch
        It is of a newer format, or something else.
    """
    _check(stored, Kind.FORGET, _FORGET.size)
    return stored[2:18]


def kind_of(stored: bytes) -> Kind:
    """What a row of the schedule is.

    Raises
    ------
    StateMismatch
        It is nothing that this version knows.
    """
    try:
        return _KINDS[stored[0]]
    except (IndexError, KeyError):
        raise StateMismatch(f"a row of the schedule is of an unknown kind: {stored[:1].hex() or 'empty'}") from None


def _check(stored: bytes, kind: Kind, least: int) -> None:
    if kind_of(stored) is kind and len(stored) >= least and stored[1] == _VERSION:
        return
    version = stored[1] if len(stored) > 1 else 0
    raise StateMismatch(
        f"a row of the schedule has format {version}; this version of walstream reads format {_VERSION}"
        if version > _VERSION
        else f"a row of the schedule, of {len(stored)} bytes, cannot be read"
    )

"""A Kafka record as a row of a table: opaque bytes, copied and not taken apart.

First what a record batch has elsewhere (big-endian), then the record's parts as they are encoded in it::

    at  size
     0     1  version of the format, 1
     1     8  timestamp, ms since the epoch
     9     4  bytes of key and value as they follow
    13     4  how many headers follow
    17        key and value, then the headers

The parts are as in a record of Kafka's message format 2 (kafka.apache.org/documentation, "Record"). The record's offset
is not among them: it belongs into the row's key, or says nothing any more.
"""

from __future__ import annotations

import struct

from walstream.errors import StateMismatch
from walstream.wire import Record, record_of

_VERSION = 1
_HEAD = struct.Struct(">BqII")
_SIZE = _HEAD.size
_pack, _unpack = _HEAD.pack, _HEAD.unpack_from


def store(record: Record) -> bytes:
    """The stored form of a record."""
    fields, count, headers = record.parts
    return _pack(_VERSION, record.timestamp, len(fields), count) + fields + headers


def load(stored: bytes, offset: int) -> Record:
    """The record of which `store` made a row.

    Parameters
    ----------
    offset
        What the record is to say.

    Raises
    ------
    StateMismatch
        It is of a newer format, or no stored record.
    """
    try:
        version, timestamp, size, count = _unpack(stored)
        if version == _VERSION:
            return record_of(stored, _SIZE, size, count, offset, timestamp)
    except (struct.error, ValueError):
        version = stored[0] if stored else 0
    if version > _VERSION:
        raise StateMismatch(f"a stored record has format {version}; this version of walstream reads format {_VERSION}")
    raise StateMismatch(f"a stored record of {len(stored)} bytes cannot be read")

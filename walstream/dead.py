"""What became of the records that a target will never take: a row for each, by its position in the log.

The row changes in the same checkpoint as what it is about, so that redrive and drop are safe to repeat.
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple

from walstream.errors import StateMismatch

_VERSION = 1
_ROW = struct.Struct(">BBq")
_KEY = struct.Struct(">Q")


class State(enum.IntEnum):
    """What became of a record."""

    DEAD = 1  # it is in the DLQ
    REDRIVEN = 2  # it was, and is tried again
    DROPPED = 3  # it is, and nobody wants it


class Row(NamedTuple):
    """A row.

    Parameters
    ----------
    state
        What became of the record.
    when
        When that was, ms since the epoch; of a dead one as its record in the DLQ says, in ``walstream-when``.
    """

    state: State
    when: int


def row_key(position: int) -> bytes:
    """The key of the row of a record at a log position."""
    return _KEY.pack(position)


def position_of(key: bytes) -> int:
    """The log position in a row's key."""
    position: int = _KEY.unpack(key)[0]
    return position


def encode(state: State, when: int) -> bytes:
    """The stored form of a row."""
    return _ROW.pack(_VERSION, state, when)


def decode(row: bytes) -> Row:
    """Read a stored row.

    Raises
    ------
    StateMismatch
        It is of a newer format, or no such row.
    """
    try:
        version, state, when = _ROW.unpack(row)
        if version == _VERSION:
            return Row(State(state), when)
    except (struct.error, ValueError):
        version = row[0] if row else 0
    if version > _VERSION:
        raise StateMismatch(f"a dead record has format {version}; this version of walstream reads format {_VERSION}")
    raise StateMismatch(f"a dead record's row of {len(row)} bytes cannot be read")


def may_change(row: bytes | None, when: int | None) -> bool:
    """Whether a redrive or drop goes on: the record is dead still, or again, of the very death that was seen.

    Parameters
    ----------
    row
        The stored row. What died by a release that kept no rows has none, and goes on.
    when
        When the record was given up that was seen in the DLQ (ms); None is any.
    """
    if row is None:
        return True
    state, died = decode(row)
    return state is State.DEAD and (when is None or when == died)

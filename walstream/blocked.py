"""Keys that wait at a target: the first of a key's records that is not finished is its head, and the others follow it.

A key is a row with the log positions of head and tail. A record's own position, compared with these, says whether it is
done, the head, parked already, or to be parked; that stays true when the log is read again after a crash.

The followers are rows of another table, in the order of hash and position, so that those of a key are a range.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from hashlib import blake2b

from walstream.errors import StateMismatch

HASH = 16
"""Bytes that stand for a key. At 128 bits two of 10^12 keys meet with a probability of 10^-15."""

_VERSION = 1
_HEAD = struct.Struct(">BBqqI")
_POSITION = struct.Struct(">Q")
_END = b"\xff" * _POSITION.size  # behind all positions: they are less than 2^63


class State(enum.IntEnum):
    """What a key waits for."""

    RETRYING = 1  # its head is on the retry topic or in the schedule
    HELD = 2  # its head is dead, and the target holds keys then
    RELEASED = 3  # its head is done; its followers are to be sent


class Place(enum.Enum):
    """Where a record of a blocked key stands."""

    DONE = "done"
    HEAD = "head"
    PARKED = "parked"
    BEHIND = "behind"  # behind the tail: it is to be parked


@dataclass(slots=True)
class Blocked:
    """A key that waits.

    Attributes
    ----------
    key
        The Kafka key.
    state
        What it waits for.
    head, tail
        The log positions of the record at the front, which in `State.RELEASED` is done, and of the last one behind it;
        the same where nothing follows. One from outside the log has a number below 0.
    count
        How many followers are parked.
    """

    key: bytes
    state: State
    head: int
    tail: int
    count: int = 0

    def place(self, position: int) -> Place:
        """Where the key's record at a log position stands."""
        if position > self.tail:
            return Place.BEHIND
        if position > self.head:
            return Place.PARKED
        return Place.HEAD if position == self.head and self.state is not State.RELEASED else Place.DONE

    def encode(self) -> bytes:
        """The stored row."""
        return _HEAD.pack(_VERSION, self.state, self.head, self.tail, self.count) + self.key


def decode(row: bytes) -> Blocked:
    """Read a stored row.

    Raises
    ------
    StateMismatch
        It is of a newer format, or no such row.
    """
    try:
        version, state, head, tail, count = _HEAD.unpack_from(row)
        if version == _VERSION:
            return Blocked(row[_HEAD.size :], State(state), head, tail, count)
    except (struct.error, ValueError):
        version = row[0] if row else 0
    if version > _VERSION:
        raise StateMismatch(f"a blocked key has format {version}; this version of walstream reads format {_VERSION}")
    raise StateMismatch(f"a blocked key's row of {len(row)} bytes cannot be read")


def key_hash(key: bytes) -> bytes:
    """What a key is called in both tables: its BLAKE2b of 16 bytes."""
    return blake2b(key, digest_size=HASH).digest()


def parked_key(hash: bytes, position: int) -> bytes:
    """The key of a parked record's row."""
    return hash + _POSITION.pack(position)


def parked_range(hash: bytes, after: int = -1) -> tuple[bytes, bytes]:
    """Of which row on, and before which, a key's parked records are: all, or those behind a log position."""
    return parked_key(hash, max(after + 1, 0)), hash + _END


def parked_position(row_key: bytes) -> int:
    """The log position in the key of a parked record's row."""
    position: int = _POSITION.unpack(row_key[HASH:])[0]
    return position

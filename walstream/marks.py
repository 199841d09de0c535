"""Marks: what the owner of a partition leaves for the next one, and for people, as stored rows by name."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TypeVar

import orjson

from walstream.errors import StateMismatch

STOPPED = b"stopped"
"""Whether the last owner left in order: `encode_mark`."""
PAUSED = b"paused"
"""People stopped the target: `Halted`."""
DOWN = b"down"
"""The target does not answer, or takes too little: `Halted`."""
COUNTS = b"counts"
"""How much waits: `Counts`."""
OPENED = b"opened"
"""How often the partition was opened: `Opened`."""
NOTE = b"note"
"""How far somebody is who fills the target with what was there before the log: `Noted`."""
READY = b"ready"
"""All of that stood in front of this in the partition: `Noted`."""
ADMITTED = b"admitted"
"""What stands on the retry topic before an offset goes before all else: `Admitted`."""
QUARANTINE = b"quarantine"
"""In front of a log position (`quarantine_key`): that record is not to be tried: `Quarantined`."""

_VERSION = 1
_POSITION = struct.Struct(">Q")


@dataclass(frozen=True, slots=True)
class Halted:
    """Nothing is tried: since when (ms since the epoch), and why."""

    since: int
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """How many records wait for another attempt, or behind one; how many keys are blocked; how much is dead."""

    retrying: int = 0
    parked: int = 0
    blocked: int = 0
    dead: int = 0


@dataclass(frozen=True, slots=True)
class Admitted:
    """An offset of the retry topic."""

    upto: int


@dataclass(frozen=True, slots=True)
class Opened:
    """How often in a row the partition was opened with the same log position committed.

    A record that crashes its worker is at that position, or little behind it.
    """

    position: int
    count: int


@dataclass(frozen=True, slots=True)
class Quarantined:
    """The record goes into the DLQ without an attempt; why."""

    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Noted:
    """What somebody wanted kept, and since when it is (ms since the epoch)."""

    since: int
    said: str | None = None


Mark = Halted | Counts | Opened | Quarantined | Noted | Admitted
M = TypeVar("M", bound=Mark)
_KINDS: dict[bytes, type[Mark]] = {
    PAUSED: Halted,
    DOWN: Halted,
    COUNTS: Counts,
    OPENED: Opened,
    NOTE: Noted,
    READY: Noted,
    ADMITTED: Admitted,
}


def encode(mark: Mark) -> bytes:
    """The stored form of a mark: a byte for the format's version, then JSON."""
    return bytes((_VERSION,)) + orjson.dumps(mark)


def decode(kind: type[M], row: bytes) -> M:
    """Read a stored mark of a kind that is known.

    Raises
    ------
    StateMismatch
        It is of a newer format, or no such mark.
    """
    _check_version(row)
    try:
        return kind(**orjson.loads(row[1:]))
    except (TypeError, ValueError):
        raise StateMismatch(f"a mark of {len(row)} bytes cannot be read") from None


def kind_of(key: bytes) -> type[Mark] | None:
    """What stands at a key; None for `STOPPED`, and for what this version does not know."""
    return Quarantined if quarantine_position(key) is not None else _KINDS.get(key)


def quarantine_key(position: int) -> bytes:
    """The key of the mark that keeps the record at a log position from being tried."""
    return QUARANTINE + _POSITION.pack(position)


def quarantine_position(key: bytes) -> int | None:
    """The log position in such a key; None for others."""
    if not key.startswith(QUARANTINE) or len(key) != len(QUARANTINE) + _POSITION.size:
        return None
    position: int = _POSITION.unpack(key[len(QUARANTINE) :])[0]
    return position


def encode_mark(stopped: bool) -> bytes:
    """The stored form of `STOPPED`: a byte for the format's version, and one for whether the owner left in order."""
    return bytes((_VERSION, stopped))


def decode_mark(row: bytes) -> bool:
    """Read the mark `STOPPED`.

    Raises
    ------
    StateMismatch
        It is of a newer format.
    """
    _check_version(row)
    _, stopped = row
    return bool(stopped)


def _check_version(row: bytes) -> None:
    if row[:1] != bytes((_VERSION,)):
        raise StateMismatch(
            f"a mark has format {row[0] if row else None}; this version of walstream reads format {_VERSION}"
        )

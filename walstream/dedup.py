"""Deduplication as decisions: which segment a time belongs to, what a row says, and what a look-up means.

An identity is stored with the ingress position of its first occurrence. It lives in the segment of the moment when it
was stored; a segment is half a window long, and the youngest three are looked into. So an identity is found for at
least one window and at most one and a half, and expiry is to drop a whole segment. The clock is the highest append time
that the partition has seen: neither the worker's nor the producers'.
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple

from walstream.errors import StateMismatch
from walstream.units import format_rfc3339

_VERSION = 1
_ROW = struct.Struct(">Bqq")
_pack, _unpack = _ROW.pack, _ROW.unpack

EXPIRED = -1
"""In place of a log position: the record had expired, when it came or when it was due."""
CANCELLED = -2
"""In place of a log position: a cancel came in time."""
ANSWERED = -3
"""In place of a log position: it was itself a cancel or a reschedule."""
_EARLIEST = 1_001  # µs since the epoch; no record is delayed until then, so smaller numbers are free for other words


class Row(NamedTuple):
    """What is stored for an identity.

    Parameters
    ----------
    position
        Where in the ingress it occurred first.
    destination
        Where in the log it went; or one of the words above; or minus the time (µs) until which it is pending.
    """

    position: int
    destination: int


class Verdict(enum.Enum):
    """What a look-up says about a record."""

    NEW = "new"  # not seen within the window
    REDELIVERY = "redelivery"  # this very record, read again: goes on as if it were new
    DUPLICATE = "duplicate"  # written before, at another position


NEW, REDELIVERY, DUPLICATE = Verdict.NEW, Verdict.REDELIVERY, Verdict.DUPLICATE


def _half_window(window_ms: int) -> int:
    """Half a window in whole seconds, at least one."""
    return max(1, -(-window_ms // 2_000))


def segment_of(clock_ms: int, window_ms: int) -> int:
    """The segment that a moment belongs to. Its number is the second since the epoch at which it ends.

    Numbers that are times keep their meaning when the window is changed: another one makes longer or shorter
    segments from then on, and nothing is forgotten too early or kept for ever.

    Parameters
    ----------
    clock_ms
        The partition's clock, ms since the epoch.
    window_ms
        How long an identity must be found, ms.
    """
    half = _half_window(window_ms)
    return (clock_ms // 1_000 // half + 1) * half


def span_of(window_ms: int) -> int:
    """How far (seconds) a segment may end before the youngest one does, and still be needed: three half windows.

    An identity that was stored at the very start of a segment is then found for three half windows, and one that was
    stored at its end for two of them, which is the window.
    """
    return 3 * _half_window(window_ms)


def pending_until(due_us: int) -> int:
    """The destination of a record that is pending until then, µs since the epoch."""
    return -max(due_us, _EARLIEST)


def describe(destination: int) -> int | str:
    """A destination for people: a log position, or a word."""
    if destination >= 0:
        return destination
    words = {EXPIRED: "expired", CANCELLED: "cancelled", ANSWERED: "answered"}
    return words.get(destination) or f"pending until {format_rfc3339(-destination)}"


def encode_row(position: int, destination: int) -> bytes:
    """The stored form of a row: a byte for the format's version, then both numbers in 64 bits, big-endian."""
    return _pack(_VERSION, position, destination)


def decode_row(row: bytes) -> Row:
    """Read a stored row.

    Raises
    ------
    StateMismatch
        The row is of a newer format, or is no row.
    """
    if len(row) != _ROW.size or row[0] != _VERSION:
        raise StateMismatch(
            f"a dedup row has format {row[0]}; this version of walstream reads format {_VERSION}"
            if row and row[0] > _VERSION
            else f"a dedup row of {len(row)} bytes cannot be read"
        )
    _, position, destination = _unpack(row)
    return Row(position, destination)


def decide(stored: Row | None, position: int) -> Verdict:
    """What a record is, given the row that is stored for its identity, and its own position in the ingress.

    A row of a later position is met when the ingress is read again from further back than the window; its identity has
    taken effect, so the record is a duplicate too. So is one that is not in the log: read again, what is pending does
    not wait twice, what was cancelled or has expired does not come back, and no cancel is answered again.
    """
    if stored is None:
        return NEW
    return REDELIVERY if stored.position == position and stored.destination >= 0 else DUPLICATE

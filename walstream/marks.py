"""Marks: what the owner of a partition leaves behind for the next one, as stored rows."""

from __future__ import annotations

from walstream.errors import StateMismatch

STOPPED = b"stopped"
"""The key of the mark that says whether the last owner left in order."""

_VERSION = 1


def encode_mark(stopped: bool) -> bytes:
    """The stored form of a mark: a byte for the format's version, and one for whether the owner left in order."""
    return bytes((_VERSION, stopped))


def decode_mark(row: bytes) -> bool:
    """Read a stored mark.

    Raises
    ------
    StateMismatch
        It is of a newer format.
    """
    version, stopped = row
    if version > _VERSION:
        raise StateMismatch(f"a mark has format {version}; this version of walstream reads format {_VERSION}")
    return bool(stopped)

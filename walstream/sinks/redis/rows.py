"""Mutation -> what the script is called with: the row's two keys, when it is written, and its columns as texts."""

from __future__ import annotations

from binascii import crc_hqx
from functools import cache

from walstream.entry import Entry
from walstream.errors import RecordRefused
from walstream.sinks.redis.script import COLUMNS_MAX, time_text
from walstream.sinks.rows import RowReader

PREFIX = b"walstream:"
"""What the keys of marks begin with."""
_OPENING, _CLOSING = b"{}"

# https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/ (key distribution model, hash tags)
SLOTS = 16_384


class Rows(RowReader):
    """How a target's mutations are called; parameters as of `RowReader`."""

    def arguments(self, entry: Entry) -> list[bytes] | None:
        """The row's two keys and its arguments, or None where the entry changes nothing of what is kept.

        Raises
        ------
        RecordRefused
            The entry is no mutation, or not one that this target can take.
        """
        write = self.read(entry)
        if write is None:
            return None
        key, op, time, columns = write
        if op == "delete":
            return [key, marks_key(key), time_text(time)]
        count = len(columns)
        if count > COLUMNS_MAX:
            raise RecordRefused("bad-mutation", f"it has {count} columns, and this sink takes {COLUMNS_MAX}")
        arguments = [key, marks_key(key), time_text(time) + b"%d" % count]
        for column in columns:
            arguments += column
        return arguments


def marks_key(key: bytes) -> bytes:
    """The key of a row's marks: in a cluster it is where the row's own key is."""
    tag = hash_tag(key) if _OPENING in key else None
    if tag is not None:
        return PREFIX + b"{%b}:" % tag + key
    if key and _CLOSING not in key:
        return PREFIX + b"{%b}" % key
    return PREFIX + b"{%d}:" % _tags()[slot(key)] + key


def hash_tag(key: bytes) -> bytes | None:
    """What decides a key's place in a cluster: the text in its first braces; None where that is the whole key."""
    _, opening, rest = key.partition(b"{")
    tag, closing, _ = rest.partition(b"}")
    return tag if opening and closing and tag else None


def slot(key: bytes) -> int:
    """A key's hash slot in a cluster."""
    return crc_hqx(hash_tag(key) or key, 0) % SLOTS


@cache
def _tags() -> dict[int, int]:
    """A number for each slot that as a hash tag leads to it: for the few keys that no braces can be put around."""
    tags: dict[int, int] = {}
    number = 0
    while len(tags) < SLOTS:
        tags.setdefault(crc_hqx(b"%d" % number, 0) % SLOTS, number)
        number += 1
    return tags

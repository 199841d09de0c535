"""Mutation -> what the script is called with: the row's two keys, and its columns as texts."""

from __future__ import annotations

from binascii import crc_hqx
from functools import cache
from typing import Any

import orjson

from walstream.entry import Entry
from walstream.errors import RecordRefused
from walstream.mutation import TYPE as MUTATION_TYPE
from walstream.mutation import KeyTemplate, parse_mutation, to_json
from walstream.sinks.redis.script import COLUMNS_MAX, time_text

PREFIX = b"walstream:"
"""What the keys of marks begin with."""

# https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/ (key distribution model, hash tags)
SLOTS = 16_384


class Rows:
    """How a target's mutations are keys and values.

    Parameters
    ----------
    key
        Template of the row's key.
    value
        ``json``, ``hash``, or the column whose value is the key's.
    table
        The only table that mutations may name, or None.
    remember
        How long (ms) the marks of a row that is deleted are kept.
    """

    def __init__(self, key: str, value: str, table: str | None, remember: int) -> None:
        self._template = KeyTemplate(key)
        self._columns = frozenset(self._template.columns)
        self._form = value if value in ("json", "hash") else "column"
        self._column = value
        self._table = table
        self._remember = b"%d" % remember

    def arguments(self, entry: Entry) -> list[bytes] | None:
        """The two keys and the arguments, or None where the entry changes nothing of what is kept.

        Raises
        ------
        RecordRefused
            The entry is no mutation, or not one that this target can take.
        """
        if entry.type != MUTATION_TYPE:
            raise RecordRefused("no-mutation", f"its type is {entry.type}, and this sink understands {MUTATION_TYPE}")
        mutation = parse_mutation(entry.payload)
        named = mutation.table
        if self._table is not None and named is not None and named != self._table:
            raise RecordRefused(
                "wrong-table", f"the mutation is for the table {named}, and the target is for {self._table}"
            )
        key = self._template.render(mutation.key)
        if len(mutation.key) > len(self._columns):
            more = ", ".join(sorted(mutation.key.keys() - self._columns))
            raise RecordRefused(
                "bad-key", f"not in {self._template.template}: {more}; rows that differ in it would be one key of Redis"
            )
        arguments = [key, marks_key(key), self._form.encode(), mutation.op.encode(), time_text(entry.time)]
        arguments.append(self._remember)
        if mutation.op == "delete":
            return arguments
        columns = mutation.key | mutation.set
        if len(columns) > COLUMNS_MAX:
            raise RecordRefused("bad-mutation", f"it has {len(columns)} columns, and this sink takes {COLUMNS_MAX}")
        if self._form == "json":
            for name, value in columns.items():
                arguments += (orjson.dumps(name), b"" if value is None else b"=" + to_json(value))
        elif self._form == "hash":
            for name, value in columns.items():
                arguments += (name.encode(), _text(value))
        elif self._column in columns:
            arguments += (self._column.encode(), _text(columns[self._column]))
        else:
            return None
        return arguments


def _text(value: Any) -> bytes:
    if value is None:
        return b""
    return b"=" + (value.encode() if isinstance(value, str) else to_json(value))


def marks_key(key: bytes) -> bytes:
    """The key of a row's marks: in a cluster it is where the row's own key is."""
    tag = hash_tag(key)
    if tag is not None:
        return PREFIX + b"{" + tag + b"}:" + key
    if key and b"}" not in key:
        return PREFIX + b"{" + key + b"}"
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

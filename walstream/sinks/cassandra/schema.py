"""What Cassandra itself says about a keyspace and its tables, read from `system_schema`.

Read there and not from the driver's copy, which is refreshed a while after a change: the question is asked exactly when
the copy may be wrong.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from cassandra.metadata import maybe_escape_name

_COLUMNS = (
    "SELECT column_name, kind, position, type FROM system_schema.columns WHERE keyspace_name=%s AND table_name=%s"
)
_KEYSPACE = "SELECT replication FROM system_schema.keyspaces WHERE keyspace_name=%s"
_TOKEN = re.compile(r'"(?:[^"]|"")*"|[^\s<>,]+|[<>,]')


@dataclass(frozen=True, slots=True)
class Table:
    """A table's columns: name -> CQL type, in the order of the primary key first."""

    keyspace: str
    name: str
    columns: dict[str, str]
    partition: tuple[str, ...]
    clustering: tuple[str, ...]
    static: frozenset[str] = frozenset()

    @property
    def key(self) -> tuple[str, ...]:
        """The columns of the primary key."""
        return self.partition + self.clustering

    @property
    def is_counter(self) -> bool:
        """Whether it holds counters, which are added to and cannot be written by time."""
        return "counter" in self.columns.values()

    def __str__(self) -> str:
        return f"{self.keyspace}.{self.name}"


def quote(name: str) -> str:
    """A name for use in CQL, exactly as it is: quoted where CQL would change it."""
    return str(maybe_escape_name(name))


def read_replication(session: Any, keyspace: str) -> dict[str, str] | None:
    """A keyspace's replication, or None where there is no such keyspace. Blocks."""
    row = session.execute(_KEYSPACE, (keyspace,)).one()
    return None if row is None else dict(row.replication)


def read_table(session: Any, keyspace: str, name: str) -> Table | None:
    """A table as it is now, or None where there is none. Blocks."""
    rows = list(session.execute(_COLUMNS, (keyspace, name)))
    if not rows:
        return None
    partition = sorted((row for row in rows if row.kind == "partition_key"), key=lambda row: row.position)
    clustering = sorted((row for row in rows if row.kind == "clustering"), key=lambda row: row.position)
    rest = sorted((row for row in rows if row.kind in ("regular", "static")), key=lambda row: row.column_name)
    return Table(
        keyspace,
        name,
        {row.column_name: row.type for row in (*partition, *clustering, *rest)},
        tuple(row.column_name for row in partition),
        tuple(row.column_name for row in clustering),
        frozenset(row.column_name for row in rows if row.kind == "static"),
    )


def normal_type(text: str) -> str:
    """A CQL type in the spelling of `system_schema`, so that two can be compared.

    Examples
    --------
    >>> normal_type("Map<VARCHAR,frozen<list<int>>>")
    'map<text, frozen<list<int>>>'
    """
    words = []
    for token in _TOKEN.findall(text):
        word = token if token.startswith('"') else token.lower()
        words.append("text" if word == "varchar" else f"{word} " if word == "," else word)
    return "".join(words)


def arguments(kind: str) -> list[str]:
    """What stands in a type's angle brackets, as types; none where there are no brackets.

    Examples
    --------
    >>> arguments("map<text, frozen<map<int, int>>>")
    ['text', 'frozen<map<int, int>>']
    """
    found, depth = [""], 0
    for token in _TOKEN.findall(kind.partition("<")[2].rpartition(">")[0]):
        depth += (token == "<") - (token == ">")
        if token == "," and depth == 0:
            found.append("")
        else:
            found[-1] += f"{token} " if token == "," else token
    return found if found != [""] else []

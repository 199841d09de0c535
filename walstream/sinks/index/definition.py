"""An index as its target and the base table's schema define it: which columns matter, and which entries a row has."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import Any, cast

import orjson

from walstream.sinks.cassandra import schema
from walstream.sinks.cassandra.provision import Create, PrimaryKey
from walstream.sinks.cassandra.types import SIMPLE, BadValue
from walstream.sinks.index import functions
from walstream.sinks.index.functions import Holds, Values
from walstream.sinks.index.options import By, IndexOptions

Entry = tuple[bytes, ...]
"""An entry's values of ``by``. The rest of its key is the base row's."""
Entries = frozenset[Entry]
NONE: Entries = frozenset()

_FORMAT = 1
# Of the values of an entry together, in bytes: a key of Cassandra has 64 KiB less one, with that of the base row.
_LONGEST = 32 * 1024


class BadDefinition(ValueError):
    """An index that the base table cannot have."""


class Definition:
    """An index of a base table.

    Parameters
    ----------
    base
        The base table, as it is now.
    types
        The driver's class of each of its columns' types, in their order.

    Attributes
    ----------
    tracked
        The columns outside the base table's key that matter, sorted; and in front of them, where ``by`` has key columns
        only, ``""``: a cell that every put writes, since the row itself is then what is indexed.
    partition, clustering, copied
        The index table's columns: its key, and the others.
    fingerprint
        Of `tracked`: rows of state that were made for other columns are not read.

    Raises
    ------
    BadDefinition
        A column does not exist, or is of a type that this cannot be done with.
    """

    def __init__(self, options: IndexOptions, base: schema.Table, types: Sequence[Any]) -> None:
        self.options, self.base = options, base
        self.types = list(types)
        self._types = dict(zip(base.columns, types, strict=True))
        columns = options.columns
        used = {by.column for by in columns} | {condition.column for condition in options.conditions}
        if missing := sorted((used | set(options.copy_)) - base.columns.keys()):
            raise BadDefinition(f"{base} has no column {', '.join(missing)}")
        if static := sorted((used | set(options.copy_)) & base.static):
            raise BadDefinition(f"static columns are of no row, and cannot be indexed or copied: {', '.join(static)}")
        if in_key := [column for column in options.copy_ if column in base.key]:
            raise BadDefinition(f"{', '.join(in_key)} in copy: the base table's key is in the index anyway")
        names = {by.name for by in columns}
        plain = {by.name for by in columns if not by.function and by.name == by.column}
        if taken := sorted((names - plain) & (set(base.key) | set(options.copy_)) | (plain & set(options.copy_))):
            raise BadDefinition(f"{', '.join(taken)} would be two columns of the index; write … as another name")

        cells = sorted((used | set(options.copy_)) - set(base.key))
        self.tracked = cells if any(by.column not in base.key for by in columns) else ["", *cells]
        self.fingerprint = zlib.crc32("\0".join(self.tracked).encode())
        # Values are looked at as those of the base's key, then the tracked ones.
        place = {column: i for i, column in enumerate((*base.key, *self.tracked))}
        self._by: list[tuple[int, Values | None]] = [(place[by.column], self._values(by)) for by in columns]
        self._conditions = [self._condition(condition, place) for condition in options.conditions]
        self._as_they_are = [place for place, function in self._by] if all(f is None for _, f in self._by) else None
        # Of most indexes: the one column, not of the key, whose value is the entry.
        own = [place - len(base.key) for place, function in self._by if function is None]
        self._only = own[0] if len(self._by) == len(own) == 1 and own[0] >= 0 and not self._conditions else None
        self.copied = tuple(options.copy_)
        self.copies = [self.tracked.index(column) for column in self.copied]

        leading = len(columns) if options.partition is None else options.partition
        by_names = [by.name for by in columns]
        rest = [column for column in base.key if column not in names]
        self.rest = [base.key.index(column) for column in rest]
        self.partition, self.clustering = tuple(by_names[:leading]), tuple(by_names[leading:] + rest)
        self._never_empty = leading == 1

    def entries(self, key: Sequence[bytes], values: Sequence[bytes | None]) -> Entries:
        """The entries of a row: none, one, or as many as a collection has.

        Parameters
        ----------
        key
            The base row's.
        values
            Those of the tracked columns; all null where there is no row.
        """
        if self._only is not None:
            value = values[self._only]
            return NONE if not value or len(value) > _LONGEST else frozenset(((value,),))
        row = [*key, *values]
        if self.tracked[0] == "" and values[0] is None:
            return NONE
        for place, check in self._conditions:
            if not check(row[place]):
                return NONE
        if self._as_they_are is not None:
            entry = tuple([row[place] for place in self._as_they_are])
            if None in entry:
                return NONE
            entries = frozenset((cast(Entry, entry),))
        else:
            found: list[Iterable[bytes]] = []
            for place, function in self._by:
                value = row[place]
                if value is None:
                    return NONE
                found.append((value,) if function is None else function(value))
            entries = frozenset(product(*found))
        return frozenset(filter(self._is_key, entries)) if not all(map(self._is_key, entries)) else entries

    def _is_key(self, entry: Entry) -> bool:
        """Whether Cassandra can have an entry: not if its partition is one empty value, or it is too long for a key."""
        if self._never_empty and not entry[0]:
            return False
        return sum(map(len, entry)) <= _LONGEST

    def create(self) -> Create:
        """The index's table, as `walstream apply` makes it."""
        columns = {by.name: self._by_type(by) for by in self.options.columns}
        columns |= {column: self.base.columns[column] for column in self.base.key}
        columns |= {column: frozen(self.base.columns[column]) for column in self.copied}
        key = PrimaryKey(partition=list(self.partition), clustering=list(self.clustering))
        return Create(columns=columns, primary_key=key)

    def describe(self) -> str:
        """The definition in a line, the same for definitions that mean the same: the table's comment."""
        options = self.options
        text = f"walstream index {_FORMAT} of {self.base} by {', '.join(map(str, options.columns))}"
        if len(self.partition) < len(options.by):
            text += f" partition {len(self.partition)}"
        if options.copy_:
            text += f" copy {', '.join(sorted(options.copy_))}"
        if options.where:
            text += f" where {orjson.dumps(options.where, default=str, option=orjson.OPT_SORT_KEYS).decode()}"
        return text

    def _values(self, by: By) -> Values | None:
        kind, name = self._kind(by.column)
        made: dict[tuple[str, str], Callable[[], Values | None]] = {
            ("lower", "text"): lambda: functions.lower,
            ("lower", "ascii"): lambda: functions.lower,
            ("bucket", "timestamp"): lambda: functions.bucket(by.width),
            ("entries", "set"): lambda: functions.elements,
            ("entries", "list"): lambda: functions.elements,
            ("entries", "map"): lambda: functions.map_entries,
            ("keys", "map"): lambda: functions.map_keys,
        }
        if by.function:
            if (by.function, name) not in made:
                able = " or ".join(other for function, other in made if function == by.function)
                raise BadDefinition(f"{by.function} is of a {able}, and {by.column} is {kind}")
            return made[by.function, name]()
        if name == "duration" or (name in ("set", "list", "map") and not kind.startswith("frozen<")):
            raise BadDefinition(
                f"{by.column} is {kind}, which cannot be in a key"
                + ("" if name == "duration" else f"; write entries({by.column})")
            )
        return None

    def _kind(self, column: str) -> tuple[str, str]:
        """A column's type, and its name without what is inside."""
        kind = self.base.columns[column]
        return kind, unfrozen(kind).partition("<")[0]

    def _by_type(self, by: By) -> str:
        kind = self.base.columns[by.column]
        if by.function not in ("entries", "keys"):
            return kind
        inside = schema.arguments(unfrozen(kind))
        return f"frozen<tuple<{', '.join(inside)}>>" if by.function == "entries" and len(inside) == 2 else inside[0]

    def _condition(self, condition: Any, place: dict[str, int]) -> tuple[int, Holds]:
        try:
            return place[condition.column], functions.holds(condition, self._types[condition.column])
        except BadValue as error:
            raise BadDefinition(f"where: {condition.column} ({self.base.columns[condition.column]}): {error}") from None


def unfrozen(kind: str) -> str:
    """A CQL type without ``frozen<…>`` around it."""
    return kind[7:-1] if kind.startswith("frozen<") else kind


def frozen(kind: str) -> str:
    """A CQL type as one cell holds it: what is copied is written whole, and read as before."""
    name = kind.partition("<")[0]
    if name in SIMPLE or name in ("frozen", "tuple", "vector"):
        return kind
    return f"frozen<{kind}>"

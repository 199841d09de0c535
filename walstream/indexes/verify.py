"""Compares an index with its base table, both ways, while writes go on.

Both tables are read once, with nothing held but sums (`buckets`), which name the entries that are in one of them only.
Where these are too many to be named, the two are read again, and what is in those buckets is compared entry by entry. A
reading takes a while, so most of what then differs has changed meanwhile. Therefore it is looked up by key,
and again when the index and the base table's own target have passed the end that the log had: what is the same both
times, and differs, differs indeed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cassandra.metadata import Murmur3Token

from walstream.indexes.buckets import Buckets, Name
from walstream.indexes.index import Index
from walstream.indexes.lookup import Lookup, Seen
from walstream.indexes.pages import RANGES, WHOLE, Range, Row, Scan
from walstream.indexes.positions import Positions
from walstream.indexes.rows import BaseRows, Entries, Key
from walstream.sinks.cassandra.statements import routing_key

PORTION = 100_000
"""Entries that are held and compared at a time, as far as buckets are not larger."""

LOOKED_UP = 10_000
"""Base rows that are looked up at a time."""

ROUNDS = 6
"""How often a row that changes again and again is looked at."""

Progress = Callable[[str, float], object]
"""Told what is being done, and which share of that is done."""

Found = dict[Key, set[Key]]
"""Base rows that are to be looked up, each with the entries that the index has of it."""


@dataclass(slots=True)
class Result:
    """What a comparison found.

    Parameters
    ----------
    rows, wanted, found
        How many base rows there are, entries that they should have, and entries in the index.
    differing
        Base rows whose entries are not what they should be.
    undecided
        Those that were changed whenever they were looked at.
    complete
        Whether that is all; else it was ended when there were as many as were asked for.
    """

    rows: int = 0
    wanted: int = 0
    found: int = 0
    differing: dict[Key, Seen] = field(default_factory=dict)
    undecided: list[Key] = field(default_factory=list)
    complete: bool = True


class Verification:
    """A comparison.

    Parameters
    ----------
    index
        Which.
    positions
        How far the targets are.
    within
        Of base rows only those with these tokens; of the index their entries, for which all of it is read.
    limit
        Base rows that differ, after which it ends; 0 is all.
    """

    def __init__(self, index: Index, positions: Positions, *, within: Range = WHOLE, limit: int = 0) -> None:
        self._index, self._positions, self._within, self._limit = index, positions, within, limit
        definition = index.definition
        self._definition = definition
        self._rows, self._entries = BaseRows(definition), Entries(definition)
        self._partition = len(definition.base.partition)
        self._base = Scan(index, index.options.base, self._rows.select, definition.base.partition)
        self._table = Scan(index, index.options.table, self._entries.select, definition.partition)
        self.lookup = Lookup(index)
        self._result = Result()

    def run(self, progress: Progress) -> Result:
        """Compare.

        Raises
        ------
        SinkError, Unreachable
            Cassandra or Kafka does not answer.
        Behind
            A target does not go on, so that what differs cannot be told from what has not come yet.
        """
        buckets = self._sum_up(progress)
        if not self._settle(self._found(buckets.names()), progress):
            return self._result
        left, entries = sorted(buckets.left()), self._result.wanted + self._result.found
        most = max(1, PORTION * buckets.count // max(1, entries))
        for start in range(0, len(left), most):
            names = self._compare(buckets, set(left[start : start + most]), progress)
            if not self._settle(self._found(names), progress):
                break
        return self._result

    # Sums

    def _sum_up(self, progress: Progress) -> Buckets:
        buckets, result = Buckets(), self._result
        add, take = buckets.add, buckets.take
        for rows, wanted in self._wanted("base table", progress):
            result.rows += rows
            result.wanted += len(wanted)
            add(wanted)
        for found in self._standing("index", progress):
            result.found += len(found)
            take(found)
        return buckets

    def _wanted(self, what: str, progress: Progress) -> Iterator[tuple[int, list[tuple[Name, Row]]]]:
        """How many base rows there are, the entries that they should have, and what is copied, page by page."""
        copies_at, entries_of = self._definition.copies, self._definition.entries
        key_of, values_of = self._rows.key, self._rows.values
        for rows in self._read(self._base, self._within, what, progress):
            wanted: list[tuple[Name, Row]] = []
            for row in rows:
                key, values = key_of(row), values_of(row)
                copies = tuple([values[place] for place in copies_at]) if copies_at else ()
                wanted += [(entry + key, copies) for entry in entries_of(key, values)]
            yield len(rows), wanted

    def _standing(self, what: str, progress: Progress) -> Iterator[list[tuple[Name, Row]]]:
        """The entries that stand in the index, and what is copied into each, page by page."""
        entry_of, key_of, copies_of = self._entries.entry, self._entries.key, self._entries.copies
        is_whole = self._within == WHOLE
        for rows in self._read(self._table, WHOLE, what, progress):
            yield [
                (entry_of(row) + key, copies_of(row))
                for row in rows
                for key in (key_of(row),)
                if is_whole or self._is_within(key)
            ]

    def _read(self, scan: Scan, within: Range, what: str, progress: Progress) -> Iterator[Sequence[Row]]:
        ranges = within.split(RANGES)
        done = 0
        for page in scan.pages(ranges):
            yield page.rows
            done += page.is_last
            progress(what, done / len(ranges))

    def _is_within(self, key: Key) -> bool:
        if self._within == WHOLE:
            return True
        token: int = Murmur3Token.hash_fn(routing_key(key[: self._partition]))
        return self._within.after < token <= self._within.upto

    # Entry by entry

    def _compare(self, buckets: Buckets, some: set[int], progress: Progress) -> Iterable[Name]:
        """Read both tables again, and name the entries in some buckets that differ."""
        bucket, missing = buckets.bucket, object()
        wanted: dict[Name, Row] = {}
        for _, entries in self._wanted("base table again", progress):
            wanted.update(entry for entry in entries if bucket(entry[0]) in some)
        found: dict[Name, Row] = {}
        for entries in self._standing("index again", progress):
            found.update(entry for entry in entries if bucket(entry[0]) in some)
        return [name for name in wanted.keys() | found.keys() if wanted.get(name, missing) != found.get(name, missing)]

    def _found(self, names: Iterable[Name]) -> Found:
        """The base rows of entries that differ: of all these the index may have an entry."""
        count = len(self._definition.options.columns)
        found: defaultdict[Key, set[Key]] = defaultdict(set)
        for name in names:
            found[name[count:]].add(name[:count])
        return found

    def _settle(self, candidates: Found, progress: Progress) -> bool:
        """Look at base rows that may differ; answer whether to go on."""
        keys = list(candidates)
        for start in range(0, len(keys), LOOKED_UP):
            progress("rows that differ", start / len(keys))
            some = {key: candidates[key] for key in keys[start : start + LOOKED_UP]}
            differing, undecided = self.confirm(some)
            self._result.differing |= differing
            self._result.undecided += undecided
            if self._limit and len(self._result.differing) >= self._limit:
                self._result.complete = False
                return False
        return True

    def confirm(self, candidates: Mapping[Key, set[Key]]) -> tuple[dict[Key, Seen], list[Key]]:
        """Look base rows up until it is clear of each whether it differs.

        Parameters
        ----------
        candidates
            Their keys, with the entries that the index has, or had.

        Returns
        -------
        tuple
            Those that differ, and those that were changed whenever they were looked at.
        """
        look, targets = self.lookup.look, (self._index.target, *self._index.bases)
        before = {key: seen for key, seen in look(candidates).items() if seen.differs}
        differing: dict[Key, Seen] = {}
        for _ in range(ROUNDS):
            if not before:
                break
            self._positions.wait(self._positions.ends(targets))
            now = look({key: candidates[key] | seen.found.keys() for key, seen in before.items()})
            left = {}
            for key, seen in now.items():
                if seen.differs:
                    if seen == before[key]:
                        differing[key] = seen
                    else:
                        left[key] = seen
            before = left
        return differing, list(before)

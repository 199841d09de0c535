"""Compares an index with its base table, both ways, while writes go on.

Both tables are read once, side by side with nothing held but sums (`buckets`). Where these differ, the two are read
again, and what is in those buckets is compared entry by entry. Both readings take a while, so most of what then differs
has changed meanwhile. Therefore it is looked up by key, and again when the index and the base table's own target have
passed the end that the log had: what is the same both times, and differs, differs indeed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cassandra.metadata import Murmur3Token

from walstream.indexes.buckets import Buckets, bucket_of
from walstream.indexes.index import Index
from walstream.indexes.lookup import Lookup, Seen
from walstream.indexes.pages import RANGES, WHOLE, Range, Row, Scan
from walstream.indexes.positions import Positions
from walstream.indexes.rows import BaseRows, Entries, Key
from walstream.sinks.cassandra.statements import routing_key

PORTION = 100_000
"""Entries of buckets that differ, which are held and compared at a time."""

LOOKED_UP = 2_000
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
        for group in buckets.differing(PORTION):
            candidates = self._compare(group, progress)
            self._settle(candidates, progress)
            if self._limit and len(self._result.differing) >= self._limit:
                self._result.complete = False
                break
        return self._result

    # Sums

    def _sum_up(self, progress: Progress) -> Buckets:
        buckets, result = Buckets(), self._result
        copies_at, entries_of = self._definition.copies, self._definition.entries
        key_of, values_of, add, take = self._rows.key, self._rows.values, buckets.add, buckets.take
        for rows in self._read(self._base, self._within, "base table", progress):
            for row in rows:
                key, values = key_of(row), values_of(row)
                entries = entries_of(key, values)
                if entries:
                    bucket = bucket_of(key)
                    rest = (*key, *[values[place] for place in copies_at])
                    result.wanted += len(entries)
                    for entry in entries:
                        add(bucket, entry + rest)
            result.rows += len(rows)
        table, is_whole = self._entries, self._within == WHOLE
        entry_of, base_key_of, copies_of = table.entry, table.key, table.copies
        for rows in self._read(self._table, WHOLE, "index", progress):
            for row in rows:
                key = base_key_of(row)
                if is_whole or self._is_within(key):
                    result.found += 1
                    take(bucket_of(key), entry_of(row) + key + copies_of(row))
        return buckets

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

    def _compare(self, group: set[int], progress: Progress) -> Found:
        """Read both tables again, and answer with the base rows in some buckets whose entries differ."""
        wanted: dict[Key, dict[Key, Row]] = {}
        definition, table = self._definition, self._entries
        for rows in self._read(self._base, self._within, "base table again", progress):
            for row in rows:
                key = self._rows.key(row)
                if bucket_of(key) in group:
                    values = self._rows.values(row)
                    copies = tuple([values[place] for place in definition.copies])
                    if entries := definition.entries(key, values):
                        wanted[key] = dict.fromkeys(entries, copies)
        found: defaultdict[Key, dict[Key, Row]] = defaultdict(dict)
        for rows in self._read(self._table, WHOLE, "index again", progress):
            for row in rows:
                key = table.key(row)
                if bucket_of(key) in group and self._is_within(key):
                    found[key][table.entry(row)] = table.copies(row)
        return {
            key: set(found.get(key, ()))
            for key in wanted.keys() | found.keys()
            if wanted.get(key, {}) != found.get(key, {})
        }

    def _settle(self, candidates: Found, progress: Progress) -> None:
        keys = list(candidates)
        for start in range(0, len(keys), LOOKED_UP):
            progress("rows that differ", start / len(keys))
            some = {key: candidates[key] for key in keys[start : start + LOOKED_UP]}
            differing, undecided = self.confirm(some)
            self._result.differing |= differing
            self._result.undecided += undecided
            if self._limit and len(self._result.differing) >= self._limit:
                break

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

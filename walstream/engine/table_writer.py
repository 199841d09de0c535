"""A table in the hands of a processor: its rows, with what is not committed yet, and its changes to the changelog."""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import islice

from walstream.engine.output import Output
from walstream.engine.store import Store
from walstream.engine.topology import TableSpec

SEGMENT = struct.Struct(">I")  # in front of the key, in the changelog of a table with segments


class Changes(dict[int, dict[bytes, bytes | None]]):
    """The changes of one checkpoint to one table: segment -> key -> value, or None for a delete."""

    __slots__ = ("_order",)

    def __init__(self) -> None:
        super().__init__()
        self._order: list[bytes] = []

    def between(self, start: bytes, stop: bytes, limit: int) -> list[tuple[bytes, bytes | None]]:
        """Changes of a table without segments with start <= key < stop, in the order of the keys, at most so many."""
        rows, order = self.get(0, {}), self._order
        if len(order) < len(rows):
            # A dict keeps the order of arrival, and no change is ever taken back: what is new stands at its end.
            order.extend(islice(rows, len(order), None))
            order.sort()
        first = bisect_left(order, start)
        return [
            (key, rows[key]) for key in order[first : bisect_left(order, stop, first, min(first + limit, len(order)))]
        ]


class TableWriter:
    """A table as a processor sees it: the store, and over it what is not committed yet.

    Parameters
    ----------
    spec, store
        The table, and where its committed rows are.
    changelog
        The output for its changes.
    layers
        Changes of earlier checkpoints that are being committed, the youngest first.
    """

    __slots__ = ("_changelog", "_layers", "_store", "spec", "writes")

    def __init__(
        self,
        spec: TableSpec,
        store: Store,
        changelog: Output,
        layers: Sequence[Changes],
    ) -> None:
        self.spec = spec
        self._store = store
        self._changelog = changelog
        self.writes = Changes()
        self._layers = [self.writes, *layers]

    def get(self, key: bytes) -> bytes | None:
        return self.get_many([key])[0]

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """Look keys up; None for what is not there. One look into the store for all of them."""
        found = self._store.get_many(self.spec.name, keys)
        for layer in reversed(self._layers):
            for segment in sorted(layer):
                rows = layer[segment]
                if rows.keys().isdisjoint(keys):  # which most are, and this is quick
                    continue
                for index, key in enumerate(keys):
                    if key in rows:
                        found[index] = rows[key]
        return found

    def newest_segment(self) -> int:
        return max([self._store.newest_segment(self.spec.name), *(max(layer, default=0) for layer in self._layers)])

    def items(self) -> list[tuple[bytes, bytes]]:
        """All rows in the order of their keys; for a small table without segments."""
        rows: dict[bytes, bytes | None] = {key: value for _, key, value in self._store.items(self.spec.name)}
        for layer in reversed(self._layers):
            rows.update(layer.get(0, {}))
        return sorted((key, value) for key, value in rows.items() if value is not None)

    def range(self, start: bytes, stop: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """The first rows of an ordered table with start <= key < stop, in the order of their keys.

        Parameters
        ----------
        start
            For a scan that is fast, no lower than the lowest row may be: RocksDB has to step over deleted rows.
        limit
            How many rows at most.
        """
        found: list[tuple[bytes, bytes]] = []
        while len(found) < limit and start < stop:
            # Each source gives so many at most, and is silent about what lies behind its last one. Deletes may hide
            # what was found, hence the next round.
            most = limit - len(found)
            stored = self._store.range(self.spec.name, start, stop, most)
            changes = [layer.between(start, stop, most) for layer in reversed(self._layers)]
            parts: list[Sequence[tuple[bytes, bytes | None]]] = [stored, *changes]
            known = min([stop, *(part[-1][0] + b"\0" for part in parts if len(part) == most)])
            rows: dict[bytes, bytes | None] = {}
            for part in parts:
                rows.update(part)
            kept = [(key, value) for key, value in rows.items() if value is not None and key < known]
            found += sorted(kept)[:most]
            start = known
        return found

    def put(self, key: bytes, value: bytes, timestamp: int, segment: int = 0) -> None:
        """Set a row, and write its change to the changelog (timestamp in ms)."""
        try:
            self.writes[segment][key] = value
        except KeyError:
            self.writes[segment] = {key: value}
        changelog_key = SEGMENT.pack(segment) + key if self.spec.span else key
        self._changelog.append(timestamp, changelog_key, value)

    def put_many(self, rows: Mapping[bytes, bytes], timestamp: int, segment: int = 0) -> None:
        """Set rows, and write their changes to the changelog (timestamp in ms)."""
        if not rows:
            return
        self.writes.setdefault(segment, {}).update(rows)
        self._changelog.append_rows(timestamp, list(rows.items()), SEGMENT.pack(segment) if self.spec.span else b"")

    def delete(self, key: bytes, timestamp: int) -> None:
        """Remove a row of a table without segments."""
        self.delete_many([key], timestamp)

    def delete_many(self, keys: list[bytes], timestamp: int) -> None:
        """Remove rows of a table without segments."""
        rows: dict[bytes, bytes | None] = dict.fromkeys(keys)
        self.writes.setdefault(0, {}).update(rows)
        self._changelog.append_rows(timestamp, list(rows.items()))

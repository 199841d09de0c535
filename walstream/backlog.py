"""What waits at a target, read from its changelogs in Kafka: so it is seen from anywhere, also while no worker runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import nsmallest
from typing import Any

from walstream import blocked, delivery_tables, schedule, topics
from walstream.namespace import Namespace
from walstream.scan import Scanner

Row = dict[str, Any]


class Backlog:
    """The tables of a target.

    A table is read twice, a partition at a time: first its keys, then the rows that are asked for. So what is held is a
    partition's keys and never its records.

    Parameters
    ----------
    scanner
        Reads its topics.
    namespace, target
        Whose they are.
    """

    def __init__(self, scanner: Scanner, namespace: Namespace, target: str) -> None:
        self._scanner, self._partitions = scanner, range(namespace.topics.partitions)
        changelogs = topics.target_changelogs(namespace, target)
        by_changelog = {spec.changelog: spec for spec in delivery_tables.specs(namespace, target)}
        self._specs = {table: by_changelog[topic.name] for table, topic in changelogs.items()}

    def retrying(self, *, limit: int = 0, key: str | None = None) -> Iterator[Row]:
        """What is to be tried again: with a limit those that are due first, in that order."""
        return self._rows("schedule", limit, key, lambda row: row != schedule.MARK)

    def blocked(self, *, limit: int = 0, key: str | None = None) -> Iterator[Row]:
        """Keys that wait, and what for."""
        wanted = None if key is None else blocked.key_hash(key.encode())
        return self._rows("blocked", limit, None, lambda row: wanted is None or row == wanted)

    def parked(self, *, limit: int = 0, key: str | None = None) -> Iterator[Row]:
        """Records that wait behind the head of their key: with a limit by key, and each key's in order."""
        wanted = b"" if key is None else blocked.key_hash(key.encode())
        return self._rows("parked", limit, None, lambda row: row.startswith(wanted))

    def _rows(self, table: str, limit: int, key: str | None, wanted: Callable[[bytes], bool]) -> Iterator[Row]:
        """Rows of a table as people see them; at most so many, where a limit is given, and else all in any order."""
        if not limit or key is not None:
            found = self._all(table, key, wanted)
            yield from (row for row, _ in zip(found, range(limit), strict=False)) if limit else found
            return
        spec = self._specs[table]
        first: list[tuple[bytes, int, int]] = []  # key, partition, offset
        for number in self._partitions:
            places = self._scanner.places((spec.changelog, number))
            candidates = ((row, number, offset) for row, offset in places.items() if wanted(row))
            first = nsmallest(limit, [*first, *nsmallest(limit, candidates)])
        rows: dict[tuple[bytes, int], Row] = {}
        for number in self._partitions:
            for found_ in self._scanner.at((spec.changelog, number), [offset for _, n, offset in first if n == number]):
                if (row := self._show(table, number, found_.key, found_.value)) is not None:
                    rows[found_.key or b"", number] = row
        yield from (rows[key_, number] for key_, number, _ in first if (key_, number) in rows)

    def _all(self, table: str, key: str | None, wanted: Callable[[bytes], bool]) -> Iterator[Row]:
        for number in self._partitions:
            partition = (self._specs[table].changelog, number)
            places = self._scanner.places(partition)
            for found in self._scanner.at(partition, [offset for row, offset in places.items() if wanted(row)]):
                row = self._show(table, number, found.key, found.value)
                if row is not None and (key is None or row.get("key") == key):
                    yield row

    def _show(self, table: str, number: int, key: bytes | None, value: bytes | None) -> Row | None:
        shown = None if value is None else self._specs[table].decode(key or b"", value)
        return None if shown is None else {"partition": number, **shown}

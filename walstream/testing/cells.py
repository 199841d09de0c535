"""A model of a table of Cassandra: cells and rows with times, by its rules."""

from __future__ import annotations

from typing import Any

from walstream.sinks.index.state import NEVER

Cells = dict[str, tuple[int, bytes | None]]


class Model:
    """A table: each statement can be applied at any time, and more than once."""

    def __init__(self) -> None:
        self.deleted: dict[Any, int] = {}
        self.cells: dict[Any, Cells] = {}

    def put(self, key: Any, values: dict[str, bytes | None], time: int) -> None:
        cells = self.cells.setdefault(key, {})
        for column, value in {"": b"", **values}.items():  # the first is the row's own liveness
            there = cells.get(column)
            if there is None or time > there[0] or (time == there[0] and _wins(value, there[1])):
                cells[column] = time, value

    def delete(self, key: Any, time: int) -> None:
        self.deleted[key] = max(self.deleted.get(key, NEVER), time)

    def rows(self) -> dict[Any, dict[str, bytes]]:
        """The rows that a SELECT would find, with the columns that are not null."""
        found = {}
        for key, cells in self.cells.items():
            alive = {
                column: value
                for column, (time, value) in cells.items()
                if value is not None and time > self.deleted.get(key, NEVER)
            }
            if alive.pop("", None) is not None or alive:
                found[key] = alive
        return found


def _wins(value: bytes | None, there: bytes | None) -> bool:
    return there is not None and (value is None or value > there)

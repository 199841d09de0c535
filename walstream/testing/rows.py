"""What a table must hold after the mutations of a log: a model of rows whose cells are settled by time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from walstream.testing.history import Observed, attributes_of
from walstream.testing.invariants import Violation

MUTATION = "walstream.mutation"
Key = tuple[Any, ...]
Row = dict[str, tuple[Any, int]]
"""Columns of a row that have a value, each with the time (microseconds) at which it was written."""


@dataclass
class _Model:
    """One row: when it was last inserted and removed, and each column's last value (None where it was deleted)."""

    inserted: int = -1
    removed: int = -1
    cells: Row = field(default_factory=dict)

    def apply(self, mutation: Mapping[str, Any], time: int) -> None:
        if mutation["op"] == "delete":
            self.removed = max(self.removed, time)
            return
        self.inserted = max(self.inserted, time)
        for column, value in mutation.get("set", {}).items():
            if column not in self.cells or self.cells[column][1] < time:
                self.cells[column] = (value, time)

    def row(self) -> Row | None:
        alive = {name: cell for name, cell in self.cells.items() if cell[0] is not None and cell[1] > self.removed}
        return alive if alive or self.inserted > self.removed else None


def expected_rows(log: Iterable[Observed], table: str, key: Iterable[str], target: str) -> dict[Key, Row]:
    """Rows of a table after all mutations of a log that are meant for a target, by effective time.

    Parameters
    ----------
    key
        The columns of the primary key.
    """
    columns = tuple(key)
    models: dict[Key, _Model] = {}
    for record in log:
        if attributes_of(record.content).get("type") != MUTATION or not record.is_for(target):
            continue
        mutation = json.loads(record.value or b"{}")
        if mutation.get("table") == table:
            name = tuple(mutation["key"][column] for column in columns)
            models.setdefault(name, _Model()).apply(mutation, record.time or 0)
    rows = {name: model.row() for name, model in models.items()}
    return {name: row for name, row in rows.items() if row is not None}


def wrong_rows(expected: Mapping[Key, Row], actual: Mapping[Key, Row], table: str) -> list[Violation]:
    """Invariants 1 and 5 at a table: its rows are those of the model, with each cell's time."""
    found = []
    for key in sorted(expected.keys() | actual.keys(), key=repr):
        want, have = expected.get(key), actual.get(key)
        if want is None:
            found.append(Violation(5, f"{table} {key}: there, and must not be: {have}"))
        elif have is None:
            found.append(Violation(1, f"{table} {key}: not there, and must be {want}"))
        elif want != have:
            cells = {name: (want.get(name), have.get(name)) for name in want.keys() | have.keys()}
            differ = {name: pair for name, pair in cells.items() if pair[0] != pair[1]}
            found.append(Violation(5, f"{table} {key}: (expected, found) by column: {differ}"))
    return found

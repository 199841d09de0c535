"""What became of the demo's mutations: rows and copied records, compared with what they must be.

Pure functions; who calls them reads the table and the topic.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

_TOLD = 10  # problems that are written out; the rest is counted


class Record(NamedTuple):
    """A record as it was written, or as a topic has it."""

    key: bytes | None
    id: bytes | None
    value: bytes | None


@dataclass
class Findings:
    """What a comparison found.

    Parameters
    ----------
    right
        How many were as they must be.
    wrong
        How many were not.
    problems
        Some of them in words.
    """

    right: int = 0
    wrong: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether all was right, and there was anything to compare."""
        return self.wrong == 0 and self.right > 0

    def add(self, problem: str) -> None:
        """Count something wrong."""
        self.wrong += 1
        if len(self.problems) < _TOLD:
            self.problems.append(problem)


def compare_rows(expected: Mapping[str, Mapping[str, Any]], found: Iterable[Mapping[str, Any]], key: str) -> Findings:
    """Compare every row of a table with what it must be, column by column.

    Parameters
    ----------
    expected
        All rows, by the value of their key column.
    found
        The rows that are there.
    key
        The key column.
    """
    findings = Findings()
    missing = dict(expected)
    for row in found:
        wanted = missing.pop(row[key], None)
        if wanted is None:
            findings.add(f"{row[key]} is in the table, and should not be")
        elif row == wanted:
            findings.right += 1
        else:
            differences = [
                f"{column} is {row.get(column)}, should be {wanted.get(column)}"
                for column in {**wanted, **row}
                if row.get(column) != wanted.get(column)
            ]
            findings.add(f"{row[key]}: {'; '.join(differences)}")
    for name in missing:
        findings.add(f"{name} is not in the table")
    return findings


def compare_records(written: Sequence[Record], found: Iterable[Record]) -> Findings:
    """Check that a topic has every record once and unchanged, and those of one key in the order of writing.

    Parameters
    ----------
    written
        Each record once, in the order of writing.
    found
        The topic's records, those of one key in their order.
    """
    findings = Findings()
    places = {record.id: place for place, record in enumerate(written)}
    seen: set[bytes | None] = set()
    last: dict[bytes | None, int] = {}
    for record in found:
        place = places.get(record.id)
        if place is None:
            findings.add(f"{_name(record)} was never written")
        elif record.id in seen:
            findings.add(f"{_name(record)} is there more than once")
        elif record != written[place]:
            findings.add(f"{_name(record)} was changed on the way")
        elif last.get(record.key, -1) > place:
            findings.add(f"{_name(record)} comes after {_name(written[last[record.key]])}, which was written later")
        else:
            findings.right += 1
            last[record.key] = place
        seen.add(record.id)
    for record in written:
        if record.id not in seen:
            findings.add(f"{_name(record)} is not there")
    return findings


def _name(record: Record) -> str:
    return "a record without id" if record.id is None else record.id.decode(errors="replace")

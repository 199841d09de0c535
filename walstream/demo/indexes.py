"""The demo's two indexes: what must be in them, what is, and what a reader finds by them."""

from __future__ import annotations

import datetime as dt
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from walstream.admin import Admin
from walstream.config import load_connections, load_namespaces
from walstream.demo.check import Findings, compare_rows
from walstream.indexes.index import index_options, open_index
from walstream.indexes.positions import Positions
from walstream.indexes.report import KINDS, Reporter
from walstream.indexes.verify import Verification
from walstream.kafka import KafkaConnection
from walstream.namespace import Namespace
from walstream.scan import Scanner
from walstream.sinks.index import IndexReader

if TYPE_CHECKING:
    from walstream.demo.flights import Step
    from walstream.demo.watch import Probe

BY_TAIL, BY_DAY = "by-tail", "by-day"
TAIL = "N14228"  # the aircraft that is asked for, where it flew in the month

Rows = Mapping[str, Mapping[str, Any]]
"""Rows of the base table, by flight."""


@dataclass
class Index:
    """One of the two, and what was found in it.

    Parameters
    ----------
    target, table
        Its target, and its table.
    entry
        What the index has of a base row; nothing where that row has no entry.
    rows
        The comparison with the data when everything is written.
    left
        How many entries there must be when the deletes are done,
    entries
        how many of the index were then compared with the base table, as `walstream index verify` does, and
    verified
        how many differ from it, by kind.
    """

    target: str
    table: str
    entry: Callable[[Mapping[str, Any]], dict[str, Any] | None]
    rows: Findings = field(default_factory=Findings)
    left: int = 0
    entries: int = 0
    verified: dict[str, int] = field(default_factory=dict)

    def expected(self, rows: Rows) -> dict[str, dict[str, Any]]:
        """What must be in its table, by flight: each flight has one entry at most."""
        entries = {flight: self.entry(row) for flight, row in rows.items()}
        return {flight: entry for flight, entry in entries.items() if entry is not None}

    def compare(self, cassandra: Any, rows: Rows) -> Findings:
        """Compare every entry with the data."""
        found = (row._asdict() for row in cassandra.execute(f"SELECT * FROM flights.{self.table}"))
        return compare_rows(self.expected(rows), found, "flight")

    @property
    def problems(self) -> list[str]:
        """What is wrong, in words."""
        found = [f"{self.target}: {problem}" for problem in self.rows.problems]
        found += [f"walstream index verify {self.target}: {n} {kind}" for kind, n in self.verified.items() if n]
        if not found and not (self.rows.ok and self.verified and self.entries == self.left > 0):
            found.append(f"{self.target}: {self.entries:,} entries were compared, and there must be {self.left:,}")
        return found

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"rows": asdict(self.rows), "left": self.left, "verified": {"entries": self.entries, **self.verified}}


def by_tail(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """The entry of a flight in the index by tail number; of some cancelled flights no aircraft is known."""
    if row["tailnum"] is None:
        return None
    return {name: row[name] for name in ("tailnum", "flight", "dest", "dep_time")}


def by_day(row: Mapping[str, Any]) -> dict[str, Any]:
    """The entry of a flight in the index by destination and day."""
    day = row["sched_dep"].replace(hour=0, minute=0, second=0)
    return {name: row[name] for name in ("dest", "sched_dep", "flight")} | {"day": day}


def both() -> list[Index]:
    """The two, nothing found yet."""
    return [Index(BY_TAIL, "flights_by_tail", by_tail), Index(BY_DAY, "flights_by_day", by_day)]


def probes(cassandra: Any) -> dict[str, Probe]:
    """Functions that tell whether the indexes show a flight that was scheduled."""
    tail = cassandra.prepare("SELECT flight FROM flights.flights_by_tail WHERE tailnum = ? AND flight = ?")
    day = cassandra.prepare(
        "SELECT flight FROM flights.flights_by_day WHERE dest = ? AND day = ? AND sched_dep = ? AND flight = ?"
    )

    def in_by_tail(step: Step) -> bool | None:
        if "tailnum" not in step.columns:
            return None
        return cassandra.execute(tail, (step.columns["tailnum"], step.flight)).one() is not None

    def in_by_day(step: Step) -> bool | None:
        if "sched_dep" not in step.columns:
            return None
        left = dt.datetime.fromisoformat(step.columns["sched_dep"])
        at = left.replace(hour=0, minute=0)
        return cassandra.execute(day, (step.columns["dest"], at, left, step.flight)).one() is not None

    return {BY_TAIL: in_by_tail, BY_DAY: in_by_day}


@dataclass
class Query:
    """All flights of an aircraft, as a reader asks for them: by the index, each compared with its base row.

    Parameters
    ----------
    tailnum
        The aircraft.
    found
        Its flights when everything was written,
    left
        and when the flights of a day were deleted.
    milliseconds
        How long the first took.
    problems
        What is wrong, in words.
    """

    tailnum: str
    found: list[dict[str, Any]] = field(default_factory=list)
    left: list[dict[str, Any]] = field(default_factory=list)
    milliseconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, rows: Rows) -> Query:
        """Choose an aircraft."""
        flown = Counter(row["tailnum"] for row in rows.values() if row["tailnum"] is not None)
        return cls(TAIL if TAIL in flown else max(flown, key=flown.__getitem__))

    def ask(self, reader: IndexReader, rows: Rows) -> list[dict[str, Any]]:
        """Ask, and see whether the flights that are found are those among the rows."""
        begin = time.perf_counter()
        found = list(reader.find(tailnum=self.tailnum, check=True))
        self.milliseconds = self.milliseconds or round((time.perf_counter() - begin) * 1000, 1)
        wanted = {flight for flight, row in rows.items() if row["tailnum"] == self.tailnum}
        if {row["flight"] for row in found} != wanted or len(found) != len(wanted):
            self.problems.append(f"{len(found)} flights of {self.tailnum} were found, and there are {len(wanted)}")
        return sorted(found, key=lambda row: str(row["flight"])[-len("2013-01-01") :])


def reader(cassandra: Any, namespace: Namespace) -> IndexReader:
    """What an application asks by tail number."""
    return IndexReader(cassandra, index_options(namespace, BY_TAIL))


def verify(config: Path, kafka: KafkaConnection, indexes: Sequence[Index]) -> None:
    """Compare indexes with the base table as `walstream index verify` does, one after the other."""
    namespace, connections = load_namespaces(config)["flights"], load_connections(config)
    scanner = Scanner(kafka, Admin(kafka))
    for index in indexes:
        with open_index(namespace, index.target, connections) as opened:
            result = Verification(opened, Positions(scanner.admin, namespace)).run(lambda what, share: None)
            report = Reporter(opened, scanner).explain(result)
        found = report.document()
        index.entries = result.found
        index.verified = {kind: found[kind] for kind in (*KINDS, "dead", "waiting", "undecided")}


def caught_up(kafka: KafkaConnection, namespace: Namespace) -> None:
    """Wait until the indexes have all that is in the log."""
    positions = Positions(Admin(kafka), namespace)
    positions.wait(positions.ends([BY_TAIL, BY_DAY]))

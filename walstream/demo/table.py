"""The demo's tables in Cassandra, as a reader sees them."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from walstream.config import load_connections
from walstream.demo.flights import STEPS

if TYPE_CHECKING:
    from walstream.demo.flights import Flights, Step
    from walstream.demo.purge import Gone
    from walstream.demo.watch import Probe


@contextlib.contextmanager
def session(config: Path) -> Iterator[Any]:
    """A session of Cassandra's driver, as the configuration says."""
    from walstream.sinks.cassandra.session import connect, disconnect

    connected = connect(load_connections(config)["main"], "LOCAL_QUORUM")  # type: ignore[arg-type]
    try:
        yield connected
    finally:
        disconnect(connected)


def row_probe(cassandra: Any) -> Probe:
    """A function that tells whether the table shows a step, or a later one of its flight."""
    statement = cassandra.prepare("SELECT status FROM flights.flights WHERE flight = ?")

    def probe(step: Step) -> bool:
        row = cassandra.execute(statement, (step.flight,)).one()
        return row is not None and STEPS.index(row.status) >= STEPS.index(step.status)

    return probe


def read_rows(cassandra: Any, flights: Flights) -> Iterator[dict[str, Any]]:
    """All rows of the table."""
    for row in cassandra.execute(f"SELECT {', '.join(flights.columns())} FROM flights.flights"):
        yield row._asdict()


def gone_reader(cassandra: Any) -> Gone:
    """A function that tells which flights have no row in the table."""
    from cassandra.concurrent import execute_concurrent_with_args

    statement = cassandra.prepare("SELECT status FROM flights.flights WHERE flight = ?")

    def read(flights: Collection[str]) -> set[str]:
        keys = list(flights)
        found = execute_concurrent_with_args(cassandra, statement, [(key,) for key in keys], concurrency=32)
        return {key for key, (_, rows) in zip(keys, found, strict=True) if rows.one() is None}

    return read

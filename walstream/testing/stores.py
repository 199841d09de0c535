"""Local stores against their changelogs: each store must be exactly what a prefix of its changelogs says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from walstream.engine.store import Store
from walstream.engine.table_writer import SEGMENT
from walstream.engine.topology import TableSpec
from walstream.testing.history import Observed
from walstream.testing.invariants import Violation, store_differs
from walstream.testing.readback import Readback


def rebuilt(changelog: Iterable[Observed], end: int, *, span: int) -> dict[bytes, bytes]:
    """Rows of one partition after the changelog's records below an offset.

    Parameters
    ----------
    span
        As the table has it; 0 for a table without segments.
    """
    rows: dict[bytes, bytes] = {}
    for record in changelog:
        if record.offset < end:
            if record.value is None:
                rows.pop(record.key or b"", None)
            else:
                rows[record.key or b""] = record.value
    if span and rows:
        newest = max(SEGMENT.unpack_from(key)[0] for key in rows)
        rows = {key: value for key, value in rows.items() if SEGMENT.unpack_from(key)[0] > newest - span}
    return rows


def local(store: Store, table: TableSpec) -> dict[bytes, bytes]:
    """Rows of a table in a store, with keys as in its changelog."""
    return {
        (SEGMENT.pack(segment) if table.span else b"") + key: value for segment, key, value in store.items(table.name)
    }


def wrong_stores(folder: Path, tables: Sequence[TableSpec], partitions: int, readback: Readback) -> Iterator[Violation]:
    """Invariant 8, for the stores of a worker that does not run.

    Parameters
    ----------
    folder
        Holds a store for each partition number that the worker had.
    """
    changelogs = {table.changelog: readback.records(table.changelog) for table in tables}
    for partition in range(partitions):
        if not (folder / str(partition)).exists():
            continue
        store = Store(folder / str(partition), tables)
        try:
            for table in tables:
                records = [record for record in changelogs[table.changelog] if record.partition == partition]
                wanted = rebuilt(records, store.offset(table.changelog), span=table.span)
                yield from store_differs(wanted, local(store, table), name=f"{table.name} {partition} in {folder}")
        finally:
            store.close()

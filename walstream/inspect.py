"""A look into a worker's tables on this machine's disk, beside the worker that runs, or without one.

RocksDB is opened as a secondary: nothing is locked and nothing is changed. What is seen is what was committed; and only
the partitions whose stores are here, which the answers name.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from walstream.engine.app import App
from walstream.engine.store import Store
from walstream.engine.topology import TableSpec, Topology
from walstream.errors import ConfigurationError


@dataclass(frozen=True)
class Found:
    """A table, and the stores of its partitions that are on this disk.

    Parameters
    ----------
    stores
        By partition number, where the freshest store of it is.
    """

    topology: Topology
    spec: TableSpec
    stores: dict[int, Path]

    @property
    def unseen(self) -> list[int]:
        """The partitions that are not here."""
        return [number for number in range(self.topology.partitions) if number not in self.stores]


def tables(app: App) -> list[Found]:
    """All tables of an app."""
    return [Found(t, spec, _stores(app, t, spec)) for t in app.engine.topologies for spec in t.tables]


def table(app: App, name: str) -> Found:
    """One table, by name.

    Raises
    ------
    ConfigurationError
        There is no such table.
    """
    found = {found.spec.name: found for found in tables(app)}
    if name not in found:
        raise ConfigurationError(f"there is no table {name}", remedy=f"there are: {', '.join(sorted(found))}")
    return found[name]


def _stores(app: App, topology: Topology, spec: TableSpec) -> dict[int, Path]:
    """The freshest store of each partition: supervised workers have a folder each, and standbys have copies."""
    own = app.engine.folder
    folders = [own, *(folder for folder in own.parent.glob(f"*/{own.name}") if folder.is_dir())]
    freshest: dict[int, tuple[int, Path]] = {}
    for folder in folders:
        for path in (folder / topology.name).glob("[0-9]*"):
            if not (path / "CURRENT").exists():
                continue
            with opened(topology, path) as store:
                offset = store.offset(spec.changelog)
            number = int(path.name)
            if number not in freshest or offset > freshest[number][0]:
                freshest[number] = offset, path
    return {number: path for number, (_, path) in sorted(freshest.items())}


@contextlib.contextmanager
def opened(topology: Topology, path: Path) -> Iterator[Store]:
    """A store for reading, as it is now."""
    scratch = Path(tempfile.mkdtemp(prefix="walstream-"))
    try:
        store = Store(path, topology.tables, secondary=scratch)
        try:
            store.catch_up()
            yield store
        finally:
            store.close()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def rows(
    found: Found, partition: int | None = None, *, until: int | None = None, key: str | None = None
) -> Iterator[dict[str, Any]]:
    """The rows, decoded, partition by partition, or those of one.

    Parameters
    ----------
    until
        Only rows of earlier times, µs since the epoch.
    key
        Only rows that have this key; of records that wait, for one, that is the record's.

    Raises
    ------
    ConfigurationError
        The table's rows have no time, or no key.
    """
    spec = found.spec
    if until is not None and spec.until is None:
        raise ConfigurationError(f"the rows of {spec.name} are not in the order of a time", remedy="leave out --until")
    stop = spec.until(until) if until is not None and spec.until is not None else None
    for number, path in found.stores.items():
        if partition is None or number == partition:
            with opened(found.topology, path) as store:
                for _, stored, value in store.items(spec.name, stop):
                    row = spec.decode(stored, value)
                    if row is None or (key is not None and _key(spec, row) != key):
                        continue
                    yield {"partition": number, **row}


def _key(spec: TableSpec, row: Mapping[str, Any]) -> Any:
    if "key" not in row:
        raise ConfigurationError(f"the rows of {spec.name} have no key, but {', '.join(row)}", remedy="leave out --key")
    return row["key"]


def get(found: Found, key: bytes) -> list[dict[str, Any]]:
    """The row of a key, in whichever partitions have one."""
    hits = []
    for number, path in found.stores.items():
        with opened(found.topology, path) as store:
            value = store.get(found.spec.name, key)
            row = None if value is None else found.spec.decode(key, value)
            if row is not None:
                hits.append({"partition": number, **row})
    return hits


def estimate(found: Found) -> tuple[int, int]:
    """About how many rows there are, and how many bytes they take."""
    count = size = 0
    for path in found.stores.values():
        with opened(found.topology, path) as store:
            part_count, part_size = store.estimate(found.spec.name)
            count, size = count + part_count, size + part_size
    return count, size

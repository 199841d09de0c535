"""Rows -> batches: which rows travel to Cassandra in one request.

A request costs the driver and Cassandra more than a row does. So rows of one partition travel together, which Cassandra
applies as one write; and so do a few small partitions that are kept by the same nodes, whichever of which the driver
asks: none of them is sent any further than it would be alone. All batches are unlogged. They need not be atomic, since
what fails is written again, nor ordered, since every row carries its effective time.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cassandra.query import BatchStatement, BatchType, BoundStatement

# Of one partition. Beyond some dozens there is nothing left to save.
PARTITION_ROWS = 50
PARTITION_BYTES = 64 * 1024
# Of several. Cassandra warns of batches with more than 10 partitions, or 5 KiB, and refuses those of more than 50 KiB;
# it counts some bytes for each value that the payload, by which we count, does not have.
PARTITIONS = 10
BYTES = 4 * 1024


@dataclass(slots=True, eq=False)
class Row:
    """One mutation on its way.

    Parameters
    ----------
    entry
        Which entry of a call it is.
    size
        About how many bytes it has.
    prepared, values, key
        What is to be executed, as `Statements.bind` makes it.
    """

    entry: int
    table: str
    size: int
    prepared: Any
    values: list[Any]
    key: bytes


_Partition = tuple[list[Row], int]
"""Rows of one partition, as many as one batch may have, and their size."""


@dataclass(slots=True, eq=False)
class _Batch:
    rows: list[Row] = field(default_factory=list)
    size: int = 0
    partitions: int = 0


def batches(rows: Sequence[Row], replicas: Callable[[bytes], Hashable | None]) -> list[list[Row]]:
    """Put rows into batches.

    Parameters
    ----------
    replicas
        Which nodes keep a partition, by its routing key: equal where they are the same ones, None where it is unknown.
    """
    found: list[list[Row]] = []
    filling: dict[Hashable, _Batch] = {}
    for own, size in _partitions(rows):
        nodes = None if size > BYTES else replicas(own[0].key)
        if nodes is None:
            found.append(own)
            continue
        batch = filling.get(nodes)
        if batch is None or batch.partitions == PARTITIONS or batch.size + size > BYTES:
            batch = filling[nodes] = _Batch()
            found.append(batch.rows)
        batch.rows += own
        batch.size += size
        batch.partitions += 1
    return found


def _partitions(rows: Sequence[Row]) -> list[_Partition]:
    parts: dict[tuple[str, bytes], list[Row]] = {}
    for row in rows:
        key = row.table, row.key
        if key in parts:
            parts[key].append(row)
        else:
            parts[key] = [row]
    if len(parts) == len(rows):
        return [(own, own[0].size) for own in parts.values()]
    return [part for own in parts.values() for part in _divided(own)]


def _divided(rows: list[Row]) -> list[_Partition]:
    """The rows of one partition, in as many parts as it takes."""
    found: list[_Partition] = []
    part: list[Row] = []
    size = 0
    for row in rows:
        if part and (len(part) == PARTITION_ROWS or size + row.size > PARTITION_BYTES):
            found.append((part, size))
            part, size = [], 0
        part.append(row)
        size += row.size
    return [*found, (part, size)]


def statement(rows: Sequence[Row]) -> Any:
    """What is sent for the rows of a batch."""
    if len(rows) == 1:
        return _bound(rows[0].prepared, rows[0].values)
    batch = BatchStatement(BatchType.UNLOGGED)
    batch.is_idempotent = True
    bound: dict[int, BoundStatement] = {}
    for row in rows:
        # A batch takes the values out of a bound statement, which may then carry those of the next row.
        carrier = bound.get(id(row.prepared))
        if carrier is None:
            carrier = bound[id(row.prepared)] = _bound(row.prepared, row.values)
        else:
            carrier.values = row.values
        batch.add(carrier)
    return batch


def _bound(prepared: Any, values: list[Any]) -> BoundStatement:
    """Bind values that are bytes already; the driver's own `bind` would encode Python objects."""
    bound = BoundStatement(prepared)
    bound.values = values
    return bound

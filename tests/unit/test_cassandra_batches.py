"""Which rows travel to Cassandra together."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from types import SimpleNamespace
from typing import Any

from cassandra.cqltypes import UTF8Type
from cassandra.protocol import ColumnMetadata
from cassandra.query import BoundStatement, PreparedStatement
from hypothesis import given
from hypothesis import strategies as st

from walstream.mutation import put
from walstream.sinks.cassandra.batches import (
    BYTES,
    PARTITION_BYTES,
    PARTITION_ROWS,
    PARTITIONS,
    Row,
    batches,
    statement,
)
from walstream.sinks.cassandra.schema import Table
from walstream.sinks.cassandra.statements import Statements


def row(entry: int, key: bytes = b"p", size: int = 10, table: str = "t") -> Row:
    return Row(entry, table, size, None, [], key)


def places(rows: list[Row], replicas: Callable[[bytes], Hashable | None] = lambda key: "all") -> list[list[int]]:
    return [[each.entry for each in batch] for batch in batches(rows, replicas)]


def test_rows_of_one_partition_travel_together_within_bounds() -> None:
    assert [len(batch) for batch in places([row(i, size=100) for i in range(120)])] == [50, 50, 20]
    assert places([row(i, size=40_000) for i in range(3)]) == [[0], [1], [2]]


def test_a_few_partitions_of_the_same_nodes_travel_together() -> None:
    assert [len(batch) for batch in places([row(i, b"%d" % i) for i in range(25)])] == [10, 10, 5]
    assert places([row(i, b"%d" % i, 1_500) for i in range(4)]) == [[0, 1], [2, 3]]


def test_partitions_of_different_nodes_do_not() -> None:
    keys = [b"a1", b"b1", b"a2", b"b2"]
    assert places([row(i, key) for i, key in enumerate(keys)], lambda key: key[:1]) == [[0, 2], [1, 3]]


def test_what_is_kept_by_nobody_knows_whom_travels_alone() -> None:
    assert places([row(i, b"%d" % (i // 2)) for i in range(4)], lambda key: None) == [[0, 1], [2, 3]]


def test_one_key_in_two_tables_is_two_partitions() -> None:
    rows = [row(i, b"p", table="t" if i % 2 else "u") for i in range(4)]
    assert places(rows, lambda key: None) == [[0, 2], [1, 3]]


@given(
    st.lists(st.tuples(st.sampled_from([b"%d" % i for i in range(40)]), st.integers(0, PARTITION_BYTES * 2))),
    st.integers(1, 4),
)
def test_every_row_is_in_one_batch_and_none_is_too_large(found: list[tuple[bytes, int]], nodes: int) -> None:
    rows = [row(i, key, size) for i, (key, size) in enumerate(found)]
    made = batches(rows, lambda key: key[-1] % nodes)
    assert sorted(each.entry for batch in made for each in batch) == list(range(len(rows)))
    for batch in made:
        keys = {each.key for each in batch}
        size = sum(each.size for each in batch)
        if len(keys) > 1:
            assert len(keys) <= PARTITIONS and size <= BYTES
            assert len({key[-1] % nodes for key in keys}) == 1
        elif len(batch) > 1:
            assert size <= BYTES or (len(batch) <= PARTITION_ROWS and size <= PARTITION_BYTES)


def prepared(*names: str, routing: list[int]) -> PreparedStatement:
    metadata = [ColumnMetadata("k", "t", name, UTF8Type) for name in names]
    return PreparedStatement(metadata, names[0].encode(), routing, "", "k", 4, metadata, None)


def test_a_batch_carries_every_rows_own_statement_and_values() -> None:
    insert, remove = prepared("insert", routing=[0]), prepared("delete", routing=[0])
    rows = [Row(i, "t", 1, (insert, remove)[i % 2], [b"%d" % i], b"%d" % i) for i in range(4)]
    made = statement(rows)
    assert made._statements_and_parameters == [(True, (b"insert", b"delete")[i % 2], [b"%d" % i]) for i in range(4)]
    assert made.routing_key == b"0"
    assert made.is_idempotent


def test_a_row_alone_is_no_batch() -> None:
    made = statement([Row(0, "t", 1, prepared("insert", routing=[0]), [b"x"], b"x")])
    assert isinstance(made, BoundStatement)
    assert (made.values, made.routing_key) == ([b"x"], b"x")


def test_the_key_of_several_columns_is_the_drivers() -> None:
    insert = prepared("a", "b", "c", "t", routing=[0, 1])
    columns = dict.fromkeys("abc", "text")
    session: Any = SimpleNamespace(prepare=lambda _: insert)
    statements = Statements(session, Table("k", "t", columns, ("a", "b"), ("c",)))
    bound, values, key = statements.bind(put(key={"a": "x", "b": "", "c": "z"}), 5)
    theirs = BoundStatement(bound)
    theirs.values = values
    assert key == theirs.routing_key

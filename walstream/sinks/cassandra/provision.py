"""The keyspace and table of a target: made where it asks for them, checked where they exist.

What exists is only ever added to. Another primary key or another type is another table, and is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from cassandra.encoder import Encoder
from pydantic import Field, model_validator

from walstream.changes import Action, Change
from walstream.namespace import Words, fault
from walstream.sinks.cassandra import schema


class PrimaryKey(Words):
    """Which columns name a partition, and which order the rows inside it.

    A list is read as CQL reads one: the first column, or list of columns, names the partition, the others order
    the rows.
    """

    partition: list[str] = Field(min_length=1)
    clustering: list[str] = Field(default_factory=list)
    order: dict[str, Literal["asc", "desc"]] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _as_in_cql(cls, value: Any) -> Any:
        if not isinstance(value, list) or not value:
            return value
        first, *others = value
        return {"partition": first if isinstance(first, list) else [first], "clustering": others}


class Create(Words):
    """A table as the target wants it; ``replication`` is needed where the keyspace does not exist yet."""

    columns: dict[str, str] = Field(min_length=1)
    primary_key: PrimaryKey
    replication: dict[str, str | int] | None = None

    @model_validator(mode="after")
    def _check(self) -> Create:
        key = [*self.primary_key.partition, *self.primary_key.clustering]
        if len(set(key)) < len(key):
            raise fault("a column stands twice in the primary key", "primary_key")
        if missing := sorted(set(key) - self.columns.keys()):
            raise fault(
                f"not in columns: {', '.join(missing)}", "primary_key", remedy="add it to columns, with its type"
            )
        if other := sorted(self.primary_key.order.keys() - set(self.primary_key.clustering)):
            raise fault(f"not in clustering: {', '.join(other)}", "primary_key", "order")
        if "counter" in map(schema.normal_type, self.columns.values()):
            raise fault(
                "a counter is added to, so it cannot be written twice with one result",
                "columns",
                remedy="write sums as bigint, or keep counters in a table that walstream does not write",
            )
        if self.replication is not None and "class" not in self.replication:
            raise fault(
                "replication has no class",
                "replication",
                remedy="write {class: NetworkTopologyStrategy, dc1: 3}, with your datacenter's name",
            )
        return self


Step = tuple[Change, str | None]
"""A change, and the CQL that makes it where there is something to be done."""


def plan(session: Any, keyspace: str, table: str | None, create: Create | None) -> list[Step]:
    """Compare what is there with what the target needs. Blocks."""
    steps = [_keyspace(schema.read_replication(session, keyspace), keyspace, create)]
    if table is not None:
        found = schema.read_table(session, keyspace, table)
        steps.append(_missing_table(keyspace, table, create) if found is None else _existing_table(found, create))
    return steps


def _keyspace(found: dict[str, str] | None, keyspace: str, create: Create | None) -> Step:
    wanted = None if create is None else create.replication
    if found is None:
        if wanted is None:
            return _refuse(
                "keyspace",
                keyspace,
                "it does not exist; make it, or give the target options.create.replication, such as "
                "{class: NetworkTopologyStrategy, dc1: 3}",
            )
        replication = Encoder().cql_encode_map_collection({key: str(value) for key, value in wanted.items()})
        cql = f"CREATE KEYSPACE IF NOT EXISTS {schema.quote(keyspace)} WITH replication = {replication}"
        return Change(Action.CREATE, "keyspace", keyspace, f"replication {_words(wanted)}", {"cql": cql}), cql
    if wanted is not None and not _same_replication(found, wanted):
        return _refuse(
            "keyspace",
            keyspace,
            f"its replication is {_words(found)}, and the target asks for {_words(wanted)}; "
            "alter and repair it yourself, or change options.create.replication",
        )
    return Change(Action.NONE, "keyspace", keyspace, f"replication {_words(found)}"), None


def _missing_table(keyspace: str, table: str, create: Create | None) -> Step:
    name = f"{keyspace}.{table}"
    if create is None:
        return _refuse("table", name, "it does not exist; make it, or describe it in the target's options.create")
    cql = table_cql(keyspace, table, create)
    key = create.primary_key
    if key.order:
        # CQL wants an order for every clustering column before the last one that has one.
        order = ", ".join(f"{schema.quote(column)} {key.order.get(column, 'asc').upper()}" for column in key.clustering)
        cql += f" WITH CLUSTERING ORDER BY ({order})"
    return Change(Action.CREATE, "table", name, f"{len(create.columns)} columns", {"cql": cql}), cql


def table_cql(keyspace: str, table: str, create: Create) -> str:
    """The CQL that makes a table where there is none, without its options."""
    columns = ", ".join(f"{schema.quote(column)} {kind}" for column, kind in create.columns.items())
    partition = ", ".join(map(schema.quote, create.primary_key.partition))
    clustering = "".join(f", {schema.quote(column)}" for column in create.primary_key.clustering)
    return (
        f"CREATE TABLE IF NOT EXISTS {schema.quote(keyspace)}.{schema.quote(table)} "
        f"({columns}, PRIMARY KEY (({partition}){clustering}))"
    )


def _existing_table(found: schema.Table, create: Create | None) -> Step:
    name = str(found)
    if found.is_counter:
        return _refuse("table", name, "it holds counters, which cannot be written twice with one result")
    if create is None:
        return Change(Action.NONE, "table", name), None
    key = create.primary_key
    if (found.partition, found.clustering) != (tuple(key.partition), tuple(key.clustering)):
        return _refuse(
            "table",
            name,
            f"its primary key is {key_words(found.partition, found.clustering)}, and the target asks for "
            f"{key_words(key.partition, key.clustering)}; a primary key cannot change: take another table",
        )
    wanted = {column: schema.normal_type(kind) for column, kind in create.columns.items()}
    different = [
        f"{column} is {found.columns[column]}, not {kind}"
        for column, kind in wanted.items()
        if column in found.columns and schema.normal_type(found.columns[column]) != kind
    ]
    if different:
        return _refuse("table", name, f"a column's type cannot change: {'; '.join(different)}")
    missing = {column: kind for column, kind in create.columns.items() if column not in found.columns}
    if not missing:
        return Change(Action.NONE, "table", name), None
    columns = ", ".join(f"{schema.quote(column)} {kind}" for column, kind in missing.items())
    cql = f"ALTER TABLE {schema.quote(found.keyspace)}.{schema.quote(found.name)} ADD {columns}"
    return Change(Action.ALTER, "table", name, f"add {', '.join(missing)}", {"cql": cql}), cql


def _refuse(kind: str, name: str, why: str) -> Step:
    return Change(Action.REFUSE, kind, name, why), None


def _same_replication(found: dict[str, str], wanted: dict[str, str | int]) -> bool:
    def parts(replication: dict[str, Any]) -> tuple[str, dict[str, str]]:
        rest = {key: str(value) for key, value in replication.items() if key != "class"}
        return str(replication["class"]).rpartition(".")[2], rest

    (strategy, factors), (wanted_strategy, wanted_factors) = parts(dict(found)), parts(dict(wanted))
    if strategy == wanted_strategy == "NetworkTopologyStrategy" and wanted_factors.keys() == {"replication_factor"}:
        # Cassandra replaces this shorthand by one factor for each datacenter that it knows.
        return set(factors.values()) == set(wanted_factors.values())
    return strategy == wanted_strategy and factors == wanted_factors


def _words(replication: dict[str, Any]) -> str:
    return ", ".join(f"{key}: {str(value).rpartition('.')[2]}" for key, value in replication.items())


def key_words(partition: Sequence[str], clustering: Sequence[str]) -> str:
    """A primary key as CQL writes one."""
    return f"(({', '.join(partition)}){''.join(f', {column}' for column in clustering)})"

"""What a target says of an index, and what that makes of rows."""

from __future__ import annotations

from typing import Any

import pytest
from cassandra.cqltypes import DecimalType, Int32Type, ListType, LongType, MapType, SetType, TimestampType, UTF8Type
from pydantic import ValidationError

from walstream.sinks.cassandra.schema import Table
from walstream.sinks.cassandra.types import encoder
from walstream.sinks.index.definition import BadDefinition, Definition, Entries, frozen
from walstream.sinks.index.options import By, IndexOptions, parse_by

COLUMNS: dict[str, tuple[str, Any]] = {
    "id": ("bigint", LongType),
    "name": ("text", UTF8Type),
    "at": ("timestamp", TimestampType),
    "size": ("int", Int32Type),
    "price": ("decimal", DecimalType),
    "tags": ("set<text>", SetType.apply_parameters([UTF8Type])),
    "path": ("frozen<list<int>>", ListType.apply_parameters([Int32Type])),
    "fares": ("map<text, int>", MapType.apply_parameters([UTF8Type, Int32Type])),
    "owner": ("text", UTF8Type),
}
TABLE = Table(
    "k", "base", {name: kind for name, (kind, _) in COLUMNS.items()}, ("id",), (), static=frozenset({"owner"})
)
TYPES = [kind for _, kind in COLUMNS.values()]


def options(**words: Any) -> IndexOptions:
    return IndexOptions.model_validate({"keyspace": "k", "base": "base", "table": "t", **words})


def definition(**words: Any) -> Definition:
    return Definition(options(**words), TABLE, TYPES)


def stored(column: str, value: Any) -> bytes | None:
    return None if value is None else encoder(COLUMNS[column][1])(value)


def entries(words: dict[str, Any], **row: Any) -> Entries:
    index = definition(**words)
    values = [b"" if column == "" else stored(column, row.get(column)) for column in index.tracked]
    return index.entries([stored("id", 7) or b""], values)


@pytest.mark.parametrize(
    ("text", "by"),
    [
        ("name", By("name", "name")),
        (" name as other ", By("name", "other")),
        ("lower(name)", By("name", "name_lower", "lower")),
        ("bucket( at , 12h )", By("at", "at_bucket", "bucket", 12 * 3_600_000)),
        ("bucket(at, 1d) as day", By("at", "day", "bucket", 86_400_000)),
        ("entries(tags)", By("tags", "tags_entry", "entries")),
        ("keys(fares)", By("fares", "fares_key", "keys")),
    ],
)
def test_a_word_of_by_is_read_and_written(text: str, by: By) -> None:
    assert parse_by(text) == by
    assert parse_by(str(by)) == by


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({"by": []}, "at least 1"),
        ({"by": ["upper(name)"]}, "no function upper"),
        ({"by": ["bucket(at)"]}, "width"),
        ({"by": ["lower(name, 1d)"]}, "one column"),
        ({"by": ["bucket(at, 0s)"]}, "more than nothing"),
        ({"by": ["name; DROP"]}, "neither a column"),
        ({"by": ["name", "name"]}, "two columns of one name"),
        ({"by": ["entries(tags)", "keys(fares)"]}, "one collection"),
        ({"by": ["name"], "partition": 2}, "by has 1"),
        ({"by": ["name"], "table": "base"}, "its own index"),
        ({"by": ["name"], "copy": ["size", "size"]}, "twice"),
        ({"by": ["name"], "where": {"size": {"~": 1}}}, "compared by"),
        ({"by": ["name"], "where": {"size": []}}, "empty"),
        ({"by": ["name"], "where": {"size": {"<": None}}}, "one value"),
        ({"by": ["name"], "where": {"size": [{"a": 1}]}}, "cannot be compared"),
    ],
)
def test_what_cannot_be_is_refused(words: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        options(**words)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({"by": ["colour"]}, "no column colour"),
        ({"by": ["owner"]}, "static"),
        ({"by": ["tags"]}, r"entries\(tags\)"),
        ({"by": ["keys(tags)"]}, "map"),
        ({"by": ["name"], "copy": ["id"]}, "in the index anyway"),
        ({"by": ["name"], "copy": ["name"]}, "two columns"),
        ({"by": ["lower(name) as id"]}, "two columns"),
        ({"by": ["name"], "where": {"size": 1.5}}, "where: size"),
        ({"by": ["name"], "where": {"tags": {">": "x"}}}, "where: tags"),
    ],
)
def test_what_the_base_table_cannot_have_is_refused(words: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadDefinition, match=reason):
        definition(**words)


def test_entries_are_made_of_values() -> None:
    assert entries({"by": ["name"]}, name="A") == {(b"A",)}
    assert entries({"by": ["name"]}) == entries({"by": ["name"]}, name="") == frozenset()
    assert entries({"by": ["name", "size"]}, name="", size=1) == {(b"", b"\0\0\0\1")}
    assert entries({"by": ["name", "size"]}, name="A") == frozenset()
    assert entries({"by": ["name"]}, name="A" * 40_000) == frozenset()
    assert entries({"by": ["lower(name)"]}, name="ÄRGER") == {("ärger".encode(),)}
    assert entries({"by": ["id"]}) == {(stored("id", 7),)}
    assert entries({"by": ["path"]}, path=[1]) == {(stored("path", [1]),)}


@pytest.mark.parametrize(
    ("time", "begins"),
    [
        ("2013-01-01T23:59:59.999Z", "2013-01-01T00:00:00Z"),
        ("2013-01-02T00:00:00Z", "2013-01-02T00:00:00Z"),
        ("1969-12-31T23:00:00Z", "1969-12-31T00:00:00Z"),
    ],
)
def test_a_bucket_has_what_comes_after_its_beginning(time: str, begins: str) -> None:
    assert entries({"by": ["bucket(at, 1d)"]}, at=time) == {(stored("at", begins),)}


def test_collections_have_an_entry_for_each_element() -> None:
    assert entries({"by": ["entries(tags)"]}, tags=["a", "b", "a"]) == {(b"a",), (b"b",)}
    assert entries({"by": ["entries(path)"]}, path=[1, 2, 1]) == {(b"\0\0\0\1",), (b"\0\0\0\2",)}
    assert entries({"by": ["entries(path)"]}, path=[]) == frozenset()
    assert entries({"by": ["keys(fares)", "name"]}, fares={"eco": 1, "first": 2}, name="A") == {
        (b"eco", b"A"),
        (b"first", b"A"),
    }
    pair = b"\0\0\0\3eco" + b"\0\0\0\4" + b"\0\0\0\1"
    assert entries({"by": ["entries(fares)"]}, fares={"eco": 1}) == {(pair,)}


@pytest.mark.parametrize(
    ("condition", "holds", "fails"),
    [
        (1, [1], [2, None]),
        ([1, None], [1, None], [2]),
        ({"not": None}, [0], [None]),
        ({"not": [1, None]}, [2], [1, None]),
        ({">": -1, "<=": 300}, [0, 300], [-1, 301, None]),
        ({">=": 2, "<": 3}, [2], [1, 3]),
    ],
)
def test_conditions(condition: Any, holds: list[Any], fails: list[Any]) -> None:
    words = {"by": ["name"], "where": {"size": condition}}
    assert all(entries(words, name="A", size=size) for size in holds)
    assert not any(entries(words, name="A", size=size) for size in fails)


def test_decimals_are_compared_as_numbers() -> None:
    assert entries({"by": ["name"], "where": {"price": 1.50}}, name="A", price="1.5")
    assert entries({"by": ["name"], "where": {"price": {">": 9}}}, name="A", price="10")


def test_the_table_has_by_then_the_bases_key() -> None:
    index = definition(by=["name", "bucket(at, 1d) as day", "entries(fares)"], partition=2, copy=["tags", "price"])
    create = index.create()
    assert create.columns == {
        "name": "text",
        "day": "timestamp",
        "fares_entry": "frozen<tuple<text, int>>",
        "id": "bigint",
        "tags": "frozen<set<text>>",
        "price": "decimal",
    }
    assert create.primary_key.partition == ["name", "day"]
    assert create.primary_key.clustering == ["fares_entry", "id"]


def test_definitions_that_mean_the_same_are_described_the_same() -> None:
    one = definition(by=["bucket(at, 24h)"], copy=["size", "name"], where={"price": 1, "size": 2})
    other = definition(by=[" bucket(at,1d) as at_bucket"], copy=["name", "size"], where={"size": 2, "price": 1})
    assert one.describe() == other.describe()
    assert one.fingerprint == other.fingerprint
    assert one.describe() != definition(by=["bucket(at, 1d)"], copy=["name", "size"]).describe()


@pytest.mark.parametrize(
    ("kind", "one_cell"),
    [
        ("text", "text"),
        ("list<int>", "frozen<list<int>>"),
        ("frozen<list<int>>", "frozen<list<int>>"),
        ("vector<float, 3>", "vector<float, 3>"),
        ("place", "frozen<place>"),
    ],
)
def test_what_is_copied_is_one_cell(kind: str, one_cell: str) -> None:
    assert frozen(kind) == one_cell

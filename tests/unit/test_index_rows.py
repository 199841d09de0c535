"""What is selected of base rows and entries, what is seen in it, and the records that are made of it."""

from __future__ import annotations

from typing import Any, cast

import pytest
from cassandra import cqltypes as ct

from walstream.attempt import read_attempt
from walstream.control import encode as encode_control
from walstream.control import read_control
from walstream.indexes.build import Mutations
from walstream.indexes.index import Index
from walstream.indexes.pages import MOST
from walstream.indexes.rows import BaseRows, Entries
from walstream.indexes.standing import SOURCE, Note, Standing, read_note
from walstream.murmur2 import partition_for
from walstream.mutation import parse_mutation
from walstream.namespace import Namespace
from walstream.sinks.cassandra.schema import Table
from walstream.sinks.cassandra.types import int64
from walstream.sinks.index import IndexOptions
from walstream.sinks.index.definition import Definition
from walstream.testing.raw_batch import record_on_wire
from walstream.wire import plain

COLUMNS = {"id": "text", "seq": "int", "dest": "text", "note": "text", "tags": "set<text>", "tail": "text"}
TYPES = [ct.UTF8Type, ct.Int32Type, ct.UTF8Type, ct.UTF8Type, ct.SetType.apply_parameters([ct.UTF8Type]), ct.UTF8Type]
TABLE = Table("flights", "flights", COLUMNS, ("id",), ("seq",))
KEY = (b"UA1", b"\0\0\0\7")


def definition(**options: Any) -> Definition:
    words = {"keyspace": "flights", "base": "flights", "table": "by", **options}
    return Definition(IndexOptions.model_validate(words), TABLE, TYPES)


def index(defined: Definition, partitions: int = 4) -> Index:
    target = {"sink": "index", "connection": "main", "options": {}}
    namespace = Namespace.model_validate(
        {"version": 1, "namespace": "flights", "key": "{id}-{seq}", "topics": {"partitions": partitions},
         "targets": {"by": target}}
    )  # fmt: skip
    return Index(namespace, "by", defined.options, defined, (), None, None)


def test_a_column_of_several_cells_has_the_time_of_the_last() -> None:
    rows = BaseRows(definition(by=["tail"], copy=["tags"]), times=True)
    assert rows.select == ["id", "seq", "tags", "tail", "MAXWRITETIME(tags)", "WRITETIME(tail)"]


def test_what_is_null_has_no_cell() -> None:
    rows = BaseRows(definition(by=["tail"], copy=["dest"]), times=True)
    row = (*KEY, None, b"N1", None, int64(5))
    assert rows.key(row) == KEY and rows.values(row) == (None, b"N1")
    assert rows.cells(row) == {"tail": (b"N1", 5)}
    assert rows.key_json(KEY) == {"id": "UA1", "seq": 7}


def test_a_row_that_is_indexed_by_its_key_has_the_time_of_its_last_write() -> None:
    defined = definition(by=["seq"], copy=["dest"])
    rows = BaseRows(defined, times=True)
    assert rows.select == [
        "id", "seq", "dest", "WRITETIME(dest)", "WRITETIME(note)", "MAXWRITETIME(tags)", "WRITETIME(tail)",
    ]  # fmt: skip
    assert rows.cells((*KEY, b"LAX", int64(5), int64(9), None, None)) == {"dest": (b"LAX", 5), "": (b"", 9)}
    assert rows.cells((*KEY, None, None, None, None, None)) == {"": (b"", 1)}
    assert defined.entries(KEY, rows.values((*KEY, None, None, None, None, None))) == {(KEY[1],)}


@pytest.mark.parametrize("by", [["tail"], ["seq"], ["tail", "lower(dest)"], ["seq", "tail"], ["entries(tags)", "id"]])
def test_an_entry_names_its_base_row(by: list[str]) -> None:
    defined = definition(by=by, copy=["note"])
    entries = Entries(defined)
    values = {"id": KEY[0], "seq": KEY[1], "tail": b"N1", "dest_lower": b"lax", "tags_entry": b"t"}
    row = (*(values[column] for column in entries.key_columns), b"note")
    assert entries.key(row) == KEY and entries.copies(row) == (b"note",)
    assert entries.entry(row) == tuple(values[name] for name in entries.names)
    assert tuple(entries.full_key(entries.entry(row), KEY)) == row[:-1]


def test_a_row_becomes_a_mutation_for_each_of_its_writes() -> None:
    of = index(definition(by=["tail"], copy=["dest", "tags"]))
    tags = b"\0\0\0\1\0\0\0\1a"
    row = (*KEY, b"LAX", tags, b"N1", int64(5), int64(7), int64(5))
    made = list(Mutations(of).of(row))
    assert list(Mutations(of).of(row)) != [] and len(made) == 2
    found = {}
    for number, message in made:
        assert number == partition_for(b"UA1-7", 4) and message.key == b"UA1-7"
        attempt = read_attempt(number, record_on_wire(plain, message))
        assert (attempt.count, attempt.due, attempt.age, attempt.entry.position) == (0, 0, 0, -1)
        mutation = parse_mutation(attempt.entry.payload)
        assert (mutation.op, mutation.table, mutation.key) == ("put", "flights", {"id": "UA1", "seq": 7})
        assert (attempt.entry.source, attempt.entry.type) == (SOURCE, "walstream.mutation")
        found[attempt.entry.time] = (mutation.set, attempt.entry.id)
    assert {time: columns for time, (columns, _) in found.items()} == {
        5: {"dest": "LAX", "tail": "N1"}, 7: {"tags": ["a"]},
    }  # fmt: skip
    again = {read_attempt(0, record_on_wire(plain, message)).entry.id for _, message in Mutations(of).of(row)}
    assert again == {id_ for _, id_ in found.values()} and len(again) == 2, "the ids are the same each time"


def test_a_row_of_which_nothing_matters_becomes_none() -> None:
    assert list(Mutations(index(definition(by=["tail"]))).of((*KEY, None, None))) == []


def test_a_note_is_kept_and_read() -> None:
    note = Note("abc", 1_000, token=0, rows=5, records=6)
    said = read_control(record_on_wire(plain, encode_control(note.control())))
    assert said is not None and read_note(said.reason) == note
    assert note.share == pytest.approx(0.5) and not note.is_complete
    for text in (None, "", "null", "{}", '{"build": 1, "more": 2}'):
        assert read_note(text) is None


def test_an_index_is_ready_when_all_is_behind_it_and_nothing_waits() -> None:
    half, whole = Note("a", 0, token=0), Note("a", 0, token=MOST)
    mark = ("a", 5)
    assert Standing(None, [None, None], 0, 0).state == "unbuilt"
    assert Standing(half, [None, None], 0, 0).state == "building"
    assert Standing(whole, [mark, None], 0, 0).state == "settling"
    assert Standing(whole, [mark, mark], 1, 0).state == "settling"
    ready = Standing(whole, [mark, ("a", 7)], 0, 0)
    assert ready.state == "ready" and ready.is_behind("a") and not ready.is_behind("b")
    assert cast(Any, ready.document()["ready_since"]).startswith("1970-01-01T00:00:00.007")
    assert Standing(half, [mark, mark], 0, 0).state == "ready", "a build anew makes nothing worse"

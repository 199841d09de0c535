"""An index is what its base table's cells say, whatever became of the requests: against a model of Cassandra."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from cassandra.cqltypes import BooleanType, Int32Type, SetType, UTF8Type
from hypothesis import given
from hypothesis import strategies as st

from walstream.sinks.cassandra.schema import Table
from walstream.sinks.index.definition import Definition
from walstream.sinks.index.options import IndexOptions
from walstream.sinks.index.state import NEVER, Codec, Row
from walstream.sinks.index.steps import Mend, Step, Taken, take_all
from walstream.testing.cells import Model

# Indexes of one base table

TAGS = SetType.apply_parameters([UTF8Type])
BASE = Table(
    "k",
    "flights",
    {
        "flight": "text",
        "leg": "int",
        "dest": "text",
        "gate": "text",
        "late": "boolean",
        "tags": "set<text>",
        "x": "int",
    },
    ("flight",),
    ("leg",),
)
TYPES = [UTF8Type, Int32Type, UTF8Type, UTF8Type, BooleanType, TAGS, Int32Type]
DEFINITIONS = {
    "one column": {"by": ["dest"]},
    "covering": {"by": ["dest"], "copy": ["gate", "tags"]},
    "several": {"by": ["dest", "gate"], "copy": ["late"]},
    "lower": {"by": ["lower(dest)"], "copy": ["dest"]},
    "entries": {"by": ["entries(tags)"], "copy": ["gate"]},
    "entries of some": {"by": ["dest", "entries(tags)"], "where": {"gate": {"not": None}}},
    "partial": {"by": ["dest"], "copy": ["gate"], "where": {"late": True}},
    "where null": {"by": ["dest"], "where": {"gate": None}},
    "key columns": {"by": ["leg"], "copy": ["dest"]},
    "key and where": {"by": ["leg as number"], "where": {"dest": ["A", "B"]}},
}
KEY = [b"UA1", b"\0\0\0\7"]


def definition(words: dict[str, Any]) -> Definition:
    options = IndexOptions.model_validate({"keyspace": "k", "base": "flights", "table": "t", **words})
    return Definition(options, BASE, TYPES)


DEFINED = {name: definition(words) for name, words in DEFINITIONS.items()}
defined = st.sampled_from(list(DEFINED.values()))


def some_tags(*tags: bytes) -> bytes:
    return len(tags).to_bytes(4, "big") + b"".join(len(tag).to_bytes(4, "big") + tag for tag in tags)


texts = st.sampled_from([None, b"A", b"a", b"B", b"C"])
seeds = st.integers(0, 2**32)
SET = {
    "dest": texts,
    "gate": texts,
    "late": st.sampled_from([None, b"\0", b"\1"]),
    "tags": st.sampled_from([None, some_tags(b"p"), some_tags(b"p", b"q"), some_tags(b"r")]),
}
puts = st.fixed_dictionaries({}, optional=SET)
changes = st.one_of(puts, puts, puts, st.none())  # None deletes the row
Change = dict[str, bytes | None] | None


def step(place: int, index: Definition, change: Change, time: int) -> Step:
    cells = None
    if change is not None:
        written = {"": b"", **change}
        cells = [(slot, written[column]) for slot, column in enumerate(index.tracked) if column in written]
    return Step(place, b"row", KEY, cells, time)


def expected(index: Definition, base: Model) -> dict[Any, dict[str, bytes]]:
    """The index, made anew of the base table."""
    row = base.rows().get("row")
    if row is None:
        return {}
    values = [b"" if column == "" else row.get(column) for column in index.tracked]
    copies = {column: row[column] for column in index.copied if column in row}
    return dict.fromkeys(index.entries(KEY, values), copies)


class Attempt:
    """The statements of a call; each may reach Cassandra at any time, or never."""

    def __init__(self, index: Definition, taken: Sequence[Taken]) -> None:
        self.statements: list[tuple[Any, dict[str, bytes | None] | None, int]] = []
        for row in taken:
            self.statements += [(entry, None, row.row.clock) for entry in row.removed]
            copies = {index.tracked[place]: value for place, value in row.copies.items()}
            self.statements += [(entry, copies, row.row.clock) for entry in row.written]
            assert row.has_statements == bool(self.statements)

    def reach(self, table: Model, which: Sequence[int] | None = None) -> None:
        for number in range(len(self.statements)) if which is None else which:
            entry, copies, time = self.statements[number]
            if copies is None:
                table.delete(entry, time)
            else:
                table.put(entry, copies, time)


def history(data: st.DataObject, *, ties: bool) -> list[tuple[Change, int]]:
    """Mutations in the order in which they come, with effective times that are in another one."""
    count = data.draw(st.integers(1, 8))
    times = data.draw(st.lists(st.integers(1, 5 if ties else 20), min_size=count, max_size=count, unique=not ties))
    return [(data.draw(changes), time) for time in times]


@given(st.data(), defined, st.booleans(), seeds)
def test_an_index_is_what_its_base_says(data: st.DataObject, index: Definition, ties: bool, seed: int) -> None:
    chance = random.Random(seed)
    codec = Codec(len(index.tracked), index.fingerprint)
    base, table = Model(), Model()
    done = history(data, ties=ties)
    done += data.draw(st.lists(st.sampled_from(done), max_size=3))  # they come once more
    stored: bytes | None = None
    late: list[Attempt] = []
    position = 0
    while position < len(done):
        size = chance.randint(1, 4)
        steps = [step(i, index, *done[position + i]) for i in range(min(size, len(done) - position))]
        (taken,) = take_all(index, codec, steps, {b"row": stored})
        attempt = Attempt(index, [taken])
        if chance.random() < 0.4:
            # The worker died, and some of its statements come now, some at the end; the steps are taken again.
            attempt.reach(table, [i for i in range(len(attempt.statements)) if chance.random() < 0.5])
            late.append(attempt)
            continue
        attempt.reach(table)
        settled = chance.randint(1, len(steps))  # a checkpoint may end between two entries of a call
        stored = next((row for row in reversed(taken.after[:settled]) if row is not None), stored)
        position += settled
        for change, time in done[position - settled : position]:
            apply(base, change, time)
    for attempt in chance.sample(late, len(late)):
        attempt.reach(table)
    assert table.rows() == expected(index, base)


@given(st.data(), defined)
def test_the_state_does_not_depend_on_the_order(data: st.DataObject, index: Definition) -> None:
    codec = Codec(len(index.tracked), index.fingerprint)
    done = history(data, ties=True)
    rows = []
    for order in (done, data.draw(st.permutations(done))):
        (taken,) = take_all(index, codec, [step(0, index, *each) for each in order], {b"row": None})
        rows.append((taken.row.values, taken.row.times, taken.row.deleted))
    assert rows[0] == rows[1]


@given(
    st.data(), st.sampled_from([DEFINED[name] for name in sorted(DEFINED.keys() - {"several", "where null"})]), seeds
)
def test_what_a_build_brings_may_have_come_later_in_an_attempt(
    data: st.DataObject, index: Definition, seed: int
) -> None:
    """What comes from outside the log is read first, when a partition opens again: not where it was read before.

    Where several columns that are written apart make up an entry, one may be left that none of them alone explains.
    """
    chance = random.Random(seed)
    codec = Codec(len(index.tracked), index.fingerprint)
    log = sorted(history(data, ties=False), key=lambda each: each[1])
    base, table = Model(), Model()
    for change, time in log[: chance.randint(0, len(log))]:
        apply(base, change, time)
    built = [
        ({} if column == "" else {column: value}, time)
        for column, (time, value) in base.cells.get("row", {}).items()
        if value is not None and time > base.deleted.get("row", NEVER)
    ]
    for change, time in log:
        apply(base, change, time)
    early, reached = chance.randint(0, len(log)), chance.randint(0, len(log))
    later = chance.randint(early, len(log))
    for order in ((log[:later] + built + log[later:])[:reached], log[:early] + built + log[early:]):
        stored = None
        for each in order:
            (taken,) = take_all(index, codec, [step(0, index, *each)], {b"row": stored})
            Attempt(index, [taken]).reach(table)
            stored = taken.after[0] or stored
    assert table.rows() == expected(index, base)


def apply(base: Model, change: Change, time: int) -> None:
    if change is None:
        base.delete("row", time)
    else:
        base.put("row", change, time)


@given(st.data(), defined, seeds)
def test_a_repair_makes_the_index_what_the_base_says(data: st.DataObject, index: Definition, seed: int) -> None:
    chance = random.Random(seed)
    codec = Codec(len(index.tracked), index.fingerprint)
    base, table = Model(), Model()
    stored = None
    for change, time in history(data, ties=True):
        if chance.random() < 0.7:
            apply(base, change, time)  # else the base table never had it
        if chance.random() < 0.7:
            (taken,) = take_all(index, codec, [step(0, index, change, time)], {b"row": stored})
            stored = taken.after[0] or stored
            Attempt(index, [taken]).reach(table)
    seen, above = 50, 70  # written after what was read, and before what comes
    for entry in chance.sample(sorted(table.rows()), len(table.rows()) // 2):
        if chance.random() < 0.5:
            table.delete(entry, above)
        else:
            table.put(entry, dict.fromkeys(index.copied, b"wrong"), above)
    table.put(tuple(b"wrong" for _ in index.options.by), {}, above)
    row = base.rows().get("row")
    cells = None
    if row is not None:
        times = base.cells["row"]
        there = {"": b"", **row}
        cells = {slot: (there[name], times[name][0]) for slot, name in enumerate(index.tracked) if name in there}
    mend = Mend(0, b"row", KEY, None, seen, cells, above, sorted(table.rows().keys() - expected(index, base).keys()))
    live = [(change, 100 + time) for change, time in history(data, ties=False)]
    tried: list[Attempt] = []
    for each in (mend, mend, *(step(0, index, *change) for change in live)):
        (taken,) = take_all(index, codec, [each], {b"row": stored})
        tried.append(Attempt(index, [taken]))
        tried[-1].reach(table)
        stored = taken.after[0] or stored
        if each is not mend:
            apply(base, *live[len(tried) - 3])
        assert table.rows() == expected(index, base)
    for attempt in chance.sample(tried, len(tried)):
        attempt.reach(table)
    assert table.rows() == expected(index, base)


def test_a_repair_leaves_what_came_since() -> None:
    row = Row([b"new", b"old", None], [60, 10, 20], 5)
    row.mend({0: (b"base", 9), 1: (b"base", 8)}, seen=50)
    assert (row.values, row.times, row.deleted) == ([b"new", b"base", None], [60, 8, 20], 5)
    row.mend({1: (b"older", 3)}, seen=50)
    assert (row.values, row.times, row.deleted) == ([b"new", b"older", None], [60, 3, 20], 2)
    row.mend(None, seen=50)
    assert (row.values, row.times, row.deleted) == ([b"new", None, None], [60, NEVER, NEVER], 20)
    row.delete(80)
    row.mend({1: (b"gone since", 3)}, seen=50)
    assert (row.values, row.deleted) == ([None, None, None], 80)


def test_what_changes_nothing_is_not_stored() -> None:
    index = DEFINED["covering"]
    codec = Codec(len(index.tracked), index.fingerprint)
    first = step(0, index, {"dest": b"A"}, 10)
    (taken,) = take_all(index, codec, [first, first], {b"row": None})
    assert taken.after[0] is not None
    assert taken.after[1] is None
    (again,) = take_all(index, codec, [first, step(1, index, {"gate": b"1"}, 9)], {b"row": taken.after[0]})
    assert again.after[0] is None
    assert again.after[1] is not None
    (newer,) = take_all(index, codec, [step(0, index, {"dest": b"A"}, 12)], {b"row": taken.after[0]})
    assert newer.after[0] is not None
    assert not newer.has_statements


def test_mutations_of_different_rows_do_not_meet() -> None:
    index = DEFINED["one column"]
    codec = Codec(len(index.tracked), index.fingerprint)
    one = Step(0, b"1", [b"UA1", b"\0\0\0\1"], [(0, b"A")], 10)
    other = Step(1, b"2", [b"UA2", b"\0\0\0\2"], [(0, b"B")], 20)
    first, second = take_all(index, codec, [one, other], {b"1": None, b"2": None})
    assert (set(first.written), first.row.clock) == ({(b"A",)}, 10)
    assert (set(second.written), second.row.clock) == ({(b"B",)}, 20)


def test_rows_are_read_as_they_were_written() -> None:
    codec = Codec(3, 7)
    row = Row([b"", None, b"value"], [5, 6, NEVER], 4, 11)
    read = codec.decode(codec.encode(row))
    assert (read.values, read.times, read.deleted, read.clock) == (row.values, row.times, 4, 11)

"""An index whose workers die is what its base says, whatever came from outside the log at the same time."""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from cassandra.cqltypes import UTF8Type
from hypothesis import given
from hypothesis import strategies as st

from walstream.entry import Entry
from walstream.indexes.records import Shape
from walstream.sinks.base import RETRY, SKIPPED, TARGET_DOWN, Applied, Outcome, Retry, SinkContext, State, StatefulSink
from walstream.sinks.cassandra.schema import Table
from walstream.sinks.index.definition import Definition
from walstream.sinks.index.options import IndexOptions
from walstream.sinks.index.sink import IndexSink
from walstream.sinks.index.state import NEVER, Codec
from walstream.sinks.index.steps import Step, take_all
from walstream.testing.cells import Model
from walstream.testing.delivering import Busy, DeliveryPartition, Down

COLUMNS = ("a", "b", "c")
BASE = Table("k", "rows", {"id": "text", **dict.fromkeys(COLUMNS, "text")}, ("id",), ())
DEFINED = [
    Definition(
        IndexOptions.model_validate({"keyspace": "k", "base": "rows", "table": "t", **words}), BASE, [UTF8Type] * 4
    )
    for words in (
        {"by": ["a", "b"], "copy": ["c"]},
        {"by": ["a"], "copy": ["b"], "where": {"c": None}},
        {"by": ["a"], "where": {"b": {"not": "X"}}},
    )
]
QUARTER = {"initial": "250ms", "max": "1s", "attempts": 100_000, "age": "300d"}
Change = dict[str, str | None] | None


class ModelSink(StatefulSink):
    """An index in a model of Cassandra, which fails now and then after some statements were executed."""

    errors: ClassVar = {Down: TARGET_DOWN, Busy: RETRY}
    late_writes_harmless = True
    replays_in_order = IndexSink.replays_in_order

    def __init__(self, index: Definition, draw: random.Random) -> None:
        super().__init__(SinkContext("flights", "base", None))
        self.index, self.draw, self.table = index, draw, Model()
        self.codec = Codec(len(index.tracked), index.fingerprint)
        self.failing = 0.0

    async def write_with(self, batch: Sequence[Entry], state: State) -> Sequence[Outcome]:
        steps = [self._step(place, entry) for place, entry in enumerate(batch)]
        keys = list({step.row_key: None for step in steps})
        if self.draw.random() < self.failing / 4:
            raise Down("it is down")
        stored = dict(zip(keys, state.get_many(keys), strict=True))
        outcomes: dict[int, Outcome] = {}
        for row in take_all(self.index, self.codec, steps, stored):
            fails = self.draw.random() < self.failing
            statements: list[tuple[Any, dict[str, bytes | None] | None]] = [(entry, None) for entry in row.removed]
            copies = {self.index.tracked[place]: value for place, value in row.copies.items()}
            statements += [(entry, copies) for entry in row.written]
            for entry, values in statements:
                if fails and self.draw.random() < 0.5:
                    continue
                if values is None:
                    self.table.delete((*entry, row.steps[0].row_key), row.row.clock)
                else:
                    self.table.put((*entry, row.steps[0].row_key), values, row.row.clock)
            for step, after in zip(row.steps, row.after, strict=True):
                applied = SKIPPED if after is None else Applied({step.row_key: after})
                outcomes[step.place] = Retry("it was slow") if fails else applied
        return [outcomes[place] for place in range(len(batch))]

    def _step(self, place: int, entry: Entry) -> Step:
        assert entry.key is not None
        change: Change = json.loads(entry.payload)
        cells = None if change is None else self._cells(change)
        return Step(place, entry.key, [entry.key], cells, entry.time)

    def _cells(self, change: dict[str, str | None]) -> list[tuple[int, bytes | None]]:
        written = {"": "", **change}
        return [
            (slot, None if (value := written[column]) is None else value.encode())
            for slot, column in enumerate(self.index.tracked)
            if column in written
        ]


class Base:
    """The base table, which takes the log at its own pace."""

    def __init__(self) -> None:
        self.log: list[tuple[bytes, Change, int]] = []

    def upto(self, count: int) -> Model:
        model = Model()
        for key, change, time in self.log[:count]:
            if change is None:
                model.delete(key, time)
            else:
                model.put(key, {name: None if v is None else v.encode() for name, v in change.items()}, time)
        return model


def built(base: Model) -> list[tuple[bytes, dict[str, str], int]]:
    """What a build makes of the base table's rows: a record for what each has of one write."""
    found = []
    for key, cells in base.cells.items():
        by_time: dict[int, dict[str, str]] = {}
        for column, (time, value) in cells.items():
            if value is not None and time > base.deleted.get(key, NEVER):
                columns = by_time.setdefault(time, {})
                if column:
                    columns[column] = value.decode()
        found += [(key, columns, time) for time, columns in by_time.items()]
    return found


def expected(index: Definition, base: Model) -> dict[Any, dict[str, bytes]]:
    entries: dict[Any, dict[str, bytes]] = {}
    for key, row in base.rows().items():
        values = [b"" if column == "" else row.get(column) for column in index.tracked]
        copies = {column: row[column] for column in index.copied if column in row}
        entries |= {(*entry, key): copies for entry in index.entries([key], values)}
    return entries


def change(draw: random.Random) -> Change:
    if draw.random() < 0.1:
        return None
    return {name: draw.choice(["X", "Y", "Z", None]) for name in COLUMNS if draw.random() < 0.5}


async def live(one: DeliveryPartition, sink: ModelSink, draw: random.Random, *, failing: float) -> None:
    """Writes and builds while workers die."""
    shape, base = Shape("flights.base", "t"), Base()
    await one.open()
    for number in range(draw.randint(5, 40)):
        match draw.randrange(8):
            case 0 | 1 | 2 | 3:
                for _ in range(draw.randint(1, 3)):
                    key, said = draw.choice([b"k", b"l"]), change(draw)
                    base.log.append((key, said, one.now - one.now % 10))
                    one.write(key, payload=json.dumps(said).encode())
                    one.now += 10 * draw.randint(1, 20_000)
            case 4:
                for key, columns, time in built(base.upto(draw.randint(0, len(base.log)))):
                    payload = json.dumps(columns).encode()
                    one.say(shape.message(key, payload, time, b"%d-%d" % (number, time)))
            case 5:
                sink.failing = failing
                await one.work(rounds=draw.randint(1, 6), commit=False)
                await one.crash()
            case 6:
                await one.work(rounds=draw.randint(1, 6), ahead=True)
                if draw.random() < 0.3:
                    await one.crash(committed=draw.random() < 0.5)
            case _:
                await one.work(rounds=draw.randint(1, 3))
        sink.failing = failing * draw.choice([0, 0, 1])
    sink.failing = 0
    await one.until_done()
    assert sink.table.rows() == expected(sink.index, base.upto(len(base.log)))


@given(st.sampled_from(DEFINED), st.integers(0, 2**32))
def test_nothing_is_left_behind_where_builds_and_crashes_meet(index: Definition, seed: int) -> None:
    draw = random.Random(seed)
    sink = ModelSink(index, draw)
    with tempfile.TemporaryDirectory() as folder:
        one = DeliveryPartition(Path(folder), sink=sink, fetch=draw.choice([2, 5, 100]), retry=QUARTER)
        try:
            asyncio.run(live(one, sink, draw, failing=draw.choice([0.0, 0.3])))
        finally:
            one.close()

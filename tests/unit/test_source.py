"""Sources: rows that a target is told to forget are read elsewhere, and written instead."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import orjson
import pytest

from walstream.config import check_folder
from walstream.entry import Entry
from walstream.errors import SinkError
from walstream.invalidation import TYPE
from walstream.mutation import put
from walstream.sinks.base import (
    APPLIED,
    SKIPPED,
    Applied,
    Dead,
    Outcome,
    Retry,
    Sink,
    SinkContext,
    State,
    StatefulSink,
    TargetDown,
)
from walstream.sinks.row import Row
from walstream.sinks.rows import RowReader
from walstream.sinks.source import Answer, Found, Gone, Source, Wanted, refresh
from walstream.testing.conformance import entry

CONTEXT = SinkContext("flights", "cache", None)
Rows = Callable[[Wanted], Answer]


class Store(Sink):
    """Keeps rows as stores do, by effective time."""

    forgets_deletes = True

    def __init__(self, context: SinkContext) -> None:
        super().__init__(context)
        self.rows: dict[bytes, Row] = {}
        self.calls: list[Sequence[Entry]] = []
        self.fails: Exception | None = None

    async def write(self, batch: Sequence[Entry]) -> Sequence[Outcome]:
        self.calls.append(batch)
        if self.fails is not None:
            raise self.fails
        return [self.apply(one) for one in batch]

    def apply(self, one: Entry) -> Outcome:
        write = RowReader("{k}", "json", None).read(one)
        assert write is not None
        before = self.rows.get(write.key, Row())
        after = before.delete(write.time) if write.op == "delete" else before.put(write.time, write.columns)
        self.rows[write.key] = after
        return SKIPPED if after is before else Applied({write.key: after.to_bytes()})

    def json(self) -> dict[str, Any]:
        found = {key.decode(): row.json() for key, row in self.rows.items()}
        return {key: orjson.loads(text) for key, text in found.items() if text is not None}


class Stateful(Store, StatefulSink):
    async def write_with(self, batch: Sequence[Entry], state: State) -> Sequence[Outcome]:
        return await Store.write(self, batch)


class Table(Source):
    """A table in memory."""

    batch_size = 2
    asked: ClassVar[list[list[Wanted]]]
    rows: ClassVar[Rows]
    events: ClassVar[list[str]]

    async def open(self) -> None:
        self.events.append("open")

    async def read(self, wanted: Sequence[Wanted]) -> Sequence[Answer]:
        self.asked.append(list(wanted))
        return [type(self).rows(row) for row in wanted]

    async def close(self) -> None:
        self.events.append("close")


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refresh, "PAUSES", (0.0, 0.0))


def make(rows: Rows, kind: type[Store] = Store, wait: int = 0, **words: Any) -> tuple[Any, type[Table]]:
    table = type("Table", (Table,), {"asked": [], "events": [], "rows": staticmethod(rows), **words})
    return refresh.refreshing(kind, table, CONTEXT, wait)(CONTEXT), table


def told(time: int, key: str = "a", table: str | None = None) -> Entry:
    members = {"key": {"k": key}} | ({} if table is None else {"table": table})
    return entry(time, key=b"k", payload=orjson.dumps(members), type=TYPE)


def written(time: int, key: str = "a", **columns: Any) -> Entry:
    return entry(time, key=b"k", payload=put(key={"k": key}, set=columns).to_bytes(), type="walstream.mutation")


def at(time: int) -> int:
    """The effective time of the entry at a position, as the conformance suite gives it."""
    return told(time).time


async def test_the_row_is_what_the_source_has() -> None:
    columns: dict[str, Any] = {"k": "a", "gate": "C3", "price": Decimal("1.10")}
    sink, table = make(lambda row: Found(columns, row.time))
    assert (await sink.write([written(1, gate="B1", stand="7"), told(2), written(3, bags=5)])) != []
    # What the source does not have is gone, what is newer stays.
    assert sink.json() == {"a": {"k": "a", "gate": "C3", "price": 1.1, "bags": 5}}
    assert [[(row.table, row.key, row.time) for row in call] for call in table.asked] == [[(None, {"k": "a"}, at(2))]]
    assert await sink.write([told(2)]) == [SKIPPED]
    assert await sink.write([told(4)]) == [Applied({b"a": sink.rows[b"a"].to_bytes()})]


async def test_the_row_is_never_gone_in_between() -> None:
    sink, _ = make(lambda row: Found({"v": 1}))
    await sink.write([told(2)])
    put_, delete = sink.calls[0]
    assert (put_.time, delete.time) == (at(2), at(2) - 1)
    assert orjson.loads(put_.payload) == {"op": "put", "key": {"k": "a"}, "set": {"v": 1}}
    assert orjson.loads(delete.payload) == {"op": "delete", "key": {"k": "a"}}


async def test_without_a_row_there_it_is_forgotten() -> None:
    sink, _ = make(lambda row: Gone(row.time))
    await sink.write([written(1, v=1), told(2, table="t")])
    assert sink.json() == {}
    assert orjson.loads(sink.calls[0][1].payload) == {"op": "delete", "table": "t", "key": {"k": "a"}}


async def test_a_row_is_read_once_in_a_call_and_many_in_calls_of_their_size() -> None:
    sink, table = make(lambda row: Found({"v": row.time}))
    outcomes = await sink.write([told(1), told(5, "b"), told(3), told(2), told(4, "c")])
    assert [type(outcome) for outcome in outcomes] == [type(SKIPPED), Applied, Applied, type(SKIPPED), Applied]
    assert [[(row.key["k"], row.time) for row in call] for call in table.asked] == [
        [("a", at(3)), ("b", at(5))], [("c", at(4))],
    ]  # fmt: skip


async def test_others_pass_untouched_and_need_no_source() -> None:
    sink, table = make(lambda row: Gone())
    batch = [written(1, v=1)]
    await sink.write(batch)
    assert sink.calls[0] is batch and table.events == []
    await sink.close()
    assert table.events == []


async def test_what_it_is_told_must_be_an_invalidation() -> None:
    sink, _ = make(lambda row: Gone())
    (outcome,) = await sink.write([entry(1, key=b"k", payload=b"[]", type=TYPE)])
    assert isinstance(outcome, Dead) and "invalidation" in outcome.reason


async def test_answers_about_one_row_are_its_outcomes() -> None:
    answers: Mapping[str, Answer] = {"a": Retry("locked", 3.0), "b": Dead("never"), "c": Found({"v": {1, object()}})}
    sink, _ = make(lambda row: answers[row.key["k"]])
    outcomes = await sink.write([told(1), told(2, "b"), told(3, "c"), written(4, "d", v=1)])
    assert outcomes[:2] == [Retry("locked", 3.0), Dead("never")]
    assert isinstance(outcomes[2], Dead) and "no form in JSON" in outcomes[2].reason
    assert sink.json() == {"d": {"k": "d", "v": 1}} and isinstance(outcomes[3], Applied)


async def test_rows_that_are_read_too_early_are_read_again() -> None:
    times = iter([1, 2])
    sink, table = make(lambda row: Found({"v": 1}, at(next(times))))
    assert isinstance((await sink.write([told(2)]))[0], Applied)
    assert len(table.asked) == 2


async def test_a_row_that_stays_too_old_waits() -> None:
    sink, table = make(lambda row: Found({"v": 1}, at(3)) if row.key["k"] == "a" else Gone(0))
    outcomes = await sink.write([told(3), told(4, "b"), written(5, "c", v=1)])
    assert isinstance(outcomes[0], Applied) and isinstance(outcomes[2], Applied)
    assert isinstance(outcomes[1], Retry) and outcomes[1].after == refresh.LATER_S
    assert [len(call) for call in table.asked] == [2, 1, 1]
    assert sink.json().keys() == {"a", "c"}


async def test_a_source_that_is_behind_is_waited_for() -> None:
    sink, _ = make(lambda row: Gone(0))
    with pytest.raises(TargetDown, match=r"behind.*'k': 'a'") as caught:
        await sink.write([told(3), told(4, "b"), written(5, "c", v=1)])
    assert caught.value.outcomes is not None
    assert caught.value.outcomes[:2] == [None, None] and isinstance(caught.value.outcomes[2], Applied)


async def test_a_source_that_does_not_know_how_new_it_is_has_time_to_hear_of_the_change() -> None:
    def fetched(offset: int, age: float) -> Entry:
        one, raw = told(7), SimpleNamespace(offset=offset, timestamp=(time.time() - age) * 1e3)
        return Entry(0, 7, one.key, one.value, one.headers, 0, one.time, 7, raw=cast(Any, raw))

    sink, _ = make(lambda row: Found({"v": 1}), wait=60_000)
    (outcome,) = await sink.write([fetched(7, 10)])
    assert isinstance(outcome, Retry) and outcome.after is not None and 40 < outcome.after < 51
    assert isinstance((await sink.write([fetched(3, 1)]))[0], Applied)  # from the retry topic
    assert await sink.write([fetched(7, 61)]) == [SKIPPED]


@pytest.mark.parametrize("error", [ConnectionResetError("cut"), SinkError("closed")])
async def test_a_source_that_is_away_is_a_target_that_is_down(error: Exception) -> None:
    def fail(row: Wanted) -> Answer:
        raise error

    sink, _ = make(fail)
    with pytest.raises(TargetDown, match="source cannot be read") as caught:
        await sink.write([told(1), written(2, "b", v=1)])
    assert caught.value.outcomes is not None
    assert caught.value.outcomes[0] is None and isinstance(caught.value.outcomes[1], Applied)


async def test_a_source_is_opened_when_it_is_needed_and_again_after_a_failure() -> None:
    ways = iter([ConnectionRefusedError("no"), None])

    async def open(self: Table) -> None:
        self.events.append("open")
        if (way := next(ways)) is not None:
            raise way

    sink, table = make(lambda row: Gone(), open=open)
    with pytest.raises(TargetDown, match="ConnectionRefusedError"):
        await sink.write([told(1)])
    assert table.events == ["open", "close"]
    await sink.write([told(1)])
    await sink.write([told(2)])
    await sink.close()
    assert table.events == ["open", "close", "open", "close"]


async def test_a_source_that_does_not_answer_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refresh, "READ_S", 0.01)
    opened = asyncio.Event()

    async def open(self: Table) -> None:
        self.events.append("open")
        await opened.wait()

    sink, table = make(lambda row: Gone(), open=open)
    for _ in range(2):
        with pytest.raises(TargetDown, match="did not answer"):
            await sink.write([told(1)])
    opened.set()
    monkeypatch.setattr(refresh, "READ_S", 10.0)
    await sink.write([told(1)])
    assert table.events == ["open"]  # it went on to be opened


async def test_what_is_in_no_table_is_not_hidden() -> None:
    def fail(row: Wanted) -> Answer:
        raise KeyError("bug")

    sink, _ = make(fail)
    with pytest.raises(KeyError):
        await sink.write([told(1)])
    assert sink.verdict(KeyError()) is None
    sink, _ = make(lambda row: None)  # type: ignore[arg-type,return-value]
    with pytest.raises(ValueError, match="one answer for each"):
        await sink.write([told(1)])


async def test_a_store_that_goes_down_in_the_middle() -> None:
    sink, _ = make(lambda row: Found({"v": 1}))
    sink.fails = TargetDown("cut", 2.0, [APPLIED, None, APPLIED])
    with pytest.raises(TargetDown, match="cut") as caught:
        await sink.write([told(1), written(2, "b", v=1)])
    assert (caught.value.outcomes, caught.value.after) == ([None, APPLIED], 2.0)
    sink.fails = TargetDown("cut")
    with pytest.raises(TargetDown) as caught:
        await sink.write([told(1)])
    assert caught.value.outcomes is None


async def test_a_sink_with_a_table_of_its_own() -> None:
    sink, _ = make(lambda row: Found({"v": 1}), Stateful)
    assert isinstance(sink, StatefulSink) and type(sink).stateful
    (outcome,) = await sink.write_with([told(1)], cast(Any, None))
    assert outcome == Applied({b"a": cast(Any, sink).rows[b"a"].to_bytes()})


# In the configuration

NAMESPACE = """
version: 1
namespace: flights
targets:
  cache:
    sink: redis
    connection: west
    options: {key: "flight:{flight}", value: json}
    source: {kind: redis, connection: east, options: {key: "flight:{flight}"}}
"""
CONNECTIONS = """
east: {sink: redis, host: east}
west: {sink: redis, host: west}
base: {sink: cassandra, hosts: [east]}
"""


def problems(path: Path, old: str = "", new: str = "") -> list[str]:
    (path / "flights.yaml").write_text(NAMESPACE.replace(old, new) if old else NAMESPACE)
    (path / "connections.yaml").write_text(CONNECTIONS)
    _, found = check_folder(path)
    assert all(problem.line is not None for problem in found)
    return [f"{problem.message}; {problem.remedy}" for problem in found]


def test_words_that_are_right(tmp_path: Path) -> None:
    assert problems(tmp_path) == []
    words = "kind: cassandra, connection: base, options: {keyspace: flights}, wait: 5s"
    assert problems(tmp_path, 'kind: redis, connection: east, options: {key: "flight:{flight}"}', words) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("kind: redis", "kind: rediss", "there is no source 'rediss'; did you mean redis?"),
        ("kind: redis", "kind: elsewhere", "installed are cassandra, redis"),
        ("kind: redis, connection: east", "kind: redis", "a source of kind redis needs a connection"),
        (
            "connection: east",
            "connection: base",
            "the connection base is for cassandra, not for redis; name one that is",
        ),
        ("connection: east", "connection: eats", "did you mean east?"),
        ("connection: east", "conection: east", "unknown word 'conection' in targets.cache.source"),
        ('{key: "flight:{flight}"}}', "{keys: k}}", "did you mean key?"),
        ('{key: "flight:{flight}"}}', '{key: "flight"}}', "targets.cache.source.options.key"),
        ("sink: redis", "sink: http", "a http target cannot have a source"),
    ],
)
def test_words_that_cannot_be(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert any(said in problem for problem in problems(tmp_path, old, new)), problems(tmp_path, old, new)

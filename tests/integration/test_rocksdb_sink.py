"""The rocksdb sink, and readers beside it: real databases, and a worker that is killed."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from walstream.entry import Entry
from walstream.errors import SinkError
from walstream.murmur2 import partition_for
from walstream.mutation import Mutation, delete, put
from walstream.sinks.base import APPLIED, SKIPPED, TARGET_DOWN, Sink, SinkContext
from walstream.sinks.rocksdb import Reader, RocksdbOptions, RocksdbSink
from walstream.sinks.rocksdb.database import Database
from walstream.sinks.rows import RowWrite
from walstream.testing.conformance import SinkConformance, entry
from walstream.testing.waiting import wait_until

REMEMBER = 60_000
PARTITIONS = 3


def target(path: Path, value: str = "json", **words: Any) -> SinkContext:
    options = RocksdbOptions(path=path, key="row:{k}", value=value)
    words = {"partitions": PARTITIONS, "key_template": "{k}", "remember": REMEMBER} | words
    return SinkContext("test", "cache", options, **words)


@asynccontextmanager
async def opened(context: SinkContext) -> AsyncIterator[RocksdbSink]:
    sink = RocksdbSink(context)
    await sink.open()
    try:
        yield sink
    finally:
        await sink.close()


def log(time: int, mutation: Mutation, **words: Any) -> Entry:
    return entry(time, **{"key": b"k", "payload": mutation.to_bytes(), "type": "walstream.mutation", **words})


def row(time: int, row: str = "a", /, **columns: Any) -> Entry:
    return log(time, put(key={"k": row}, set=columns), partition=partition_for(row.encode(), PARTITIONS))


def gone(time: int, row: str = "a") -> Entry:
    return log(time, delete(key={"k": row}), partition=partition_for(row.encode(), PARTITIONS))


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    with Reader(tmp_path / "test.cache", max_age=0) as reader:
        yield reader


def look(reader: Reader, row: str = "a") -> Any:
    text = reader.get({"k": row})
    return None if text is None else json.loads(text)


class RocksdbConformance(SinkConformance):
    last_write_wins = True
    value: ClassVar[str]

    @pytest.fixture
    def context(self, tmp_path: Path) -> SinkContext:
        return target(tmp_path, self.value)

    def make(self, context: SinkContext) -> Sink:
        return RocksdbSink(context)

    def entry(self, key: str, value: int, position: int) -> Entry:
        return row(position, key, v=value)

    def refused(self, key: str, position: int) -> Entry:
        return log(position, put(key={"k": key, "more": 1}, set={"v": 1}), key=key.encode())

    def unreachable(self, context: SinkContext) -> SinkContext:
        file = context.options.path / "file"
        file.touch()
        return replace(context, options=RocksdbOptions(path=file, key="{k}", value="json"))

    async def state(self, sink: Sink) -> Mapping[str, int]:
        assert isinstance(sink, RocksdbSink)
        with Reader(sink.folder) as reader:
            rows = {key.decode().removeprefix("row:"): json.loads(text) for key, text in reader.scan()}
        return {name: row["v"] if isinstance(row, dict) else row for name, row in rows.items()}


class TestJson(RocksdbConformance):
    value = "json"


class TestColumn(RocksdbConformance):
    value = "v"


# Which write stands


async def test_each_column_has_its_own_time_and_a_delete_is_remembered(tmp_path: Path, reader: Reader) -> None:
    async with opened(target(tmp_path)) as sink:
        assert await sink.write([row(5, a="new"), row(4, a="old", b="kept"), row(3, b="older")]) == [
            APPLIED, APPLIED, SKIPPED,
        ]  # fmt: skip
        assert look(reader) == {"k": "a", "a": "new", "b": "kept"}
        assert await sink.write([gone(4)]) == [APPLIED]
        assert look(reader) == {"k": "a", "a": "new"}
        assert await sink.write([gone(6), row(5, a="late")]) == [APPLIED, SKIPPED]
        assert look(reader) is None
    async with opened(target(tmp_path)) as sink:
        assert await sink.write([row(6, a="late")]) == [SKIPPED]
        assert await sink.write([row(7, a="again")]) == [APPLIED]
        assert look(reader) == {"k": "a", "a": "again"}


WRITES = st.lists(
    st.tuples(
        st.integers(0, 3), st.none() | st.dictionaries(st.sampled_from("vw"), st.none() | st.integers(0, 2), max_size=2)
    ),
    max_size=8,
)


@settings(deadline=None, max_examples=30)
@given(writes=WRITES, data=st.data())
def test_any_order_and_repetition_ends_the_same_way(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[int, dict[str, Any] | None]], data: st.DataObject
) -> None:
    entries = [gone(time) if columns is None else row(time, **columns) for time, columns in writes]
    orders = [entries, data.draw(st.permutations(entries + entries[:3]))]
    found = []
    for order in orders:
        path = tmp_path_factory.mktemp("any")
        sink = RocksdbSink(target(path))
        for item in order:
            sink._write([item])
        asyncio.run(sink.close())
        with Reader(sink.folder) as reader:
            found.append(reader.get({"k": "a"}))
    assert found[0] == found[1]


def test_what_was_deleted_long_ago_is_forgotten(tmp_path: Path) -> None:
    def put_(key: bytes, time: int, text: bytes) -> RowWrite:
        return RowWrite(key, "put", time, [(b"v", text)])

    def delete_(key: bytes, time: int) -> RowWrite:
        return RowWrite(key, "delete", time, [])

    database = Database(tmp_path / "db", remember=1)
    assert all(database.apply([put_(b"a", 1, b"=1"), delete_(b"a", 2), put_(b"b", 1, b""), delete_(b"c", 5)]))
    database.close()
    database = Database(tmp_path / "db", remember=REMEMBER)
    assert database.apply([put_(b"c", 4, b"=4")]) == [False]  # not forgotten by the call that asks for it
    time.sleep(0.01)
    database._forgets_at = 0
    assert database.apply([put_(b"x", 1, b"=1"), put_(b"c", 6, b"=6"), delete_(b"c", 7)]) == [True] * 3
    database._forgets_at = 0
    assert database.apply([put_(b"a", 1, b"=1"), put_(b"b", 1, b"=1")]) == [True, True]
    assert database.apply([put_(b"c", 6, b"=6")]) == [False], "deleted anew, and to be remembered for a minute"
    database.close()


# Readers


async def test_a_reader_follows_the_writer(tmp_path: Path, reader: Reader) -> None:
    assert look(reader) is None and list(reader.scan()) == []
    async with opened(target(tmp_path)) as sink:
        for i in range(30):
            await sink.write([row(i, "a", v=i), row(i, f"b{i}", v=i)])
            assert look(reader) == {"k": "a", "v": i}
            assert reader.get_many([{"k": f"b{i}"}, {"k": "never"}, {"k": "a"}])[1] is None
        for database in sink._databases.values():
            database._db.flush()
            database._db.compact_range(None, None)  # the files that the reader has open are replaced
        await sink.write([row(99, "a", v=99)])
        assert look(reader) == {"k": "a", "v": 99}
        assert len(list(reader.scan())) == 31
        await sink.leave(partition_for(b"a", PARTITIONS))
        await sink.write([row(100, "a", v=100)])
        assert look(reader) == {"k": "a", "v": 100}


async def test_a_reader_may_be_behind_until_it_is_told(tmp_path: Path) -> None:
    async with opened(target(tmp_path)) as sink:
        await sink.write([row(0, v=0)])
        with Reader(sink.folder, max_age=3600) as reader:
            assert look(reader) == {"k": "a", "v": 0}
            await sink.write([row(1, v=1)])
            assert look(reader) == {"k": "a", "v": 0}
            reader.refresh()
            assert look(reader) == {"k": "a", "v": 1}


@pytest.mark.parametrize("template", ["{k}", None])
async def test_a_row_is_found_wherever_its_producer_put_it(
    tmp_path: Path, reader: Reader, template: str | None
) -> None:
    async with opened(target(tmp_path, key_template=template)) as sink:
        await sink.write([log(i, put(key={"k": f"r{i}"}, set={"v": i}), partition=i) for i in range(PARTITIONS)])
        assert [look(reader, f"r{i}")["v"] for i in range(PARTITIONS)] == list(range(PARTITIONS))
        assert [text is not None for text in reader.find([b"row:r0", b"row:r2", b"r2"])] == [True, True, False]


# Who owns a database


async def test_one_writer_at_a_time(tmp_path: Path) -> None:
    context = target(tmp_path)
    async with opened(context) as former, opened(context) as next_:
        await former.write([row(0, v=0)])
        with pytest.raises(SinkError, match="another process has it") as caught:
            await next_.write([row(1, v=1)])
        assert next_.verdict(caught.value) is TARGET_DOWN
        await former.leave(partition_for(b"a", PARTITIONS))
        assert await next_.write([row(1, v=1)]) == [APPLIED]


async def test_a_call_that_was_given_up_writes_nothing_afterwards(tmp_path: Path) -> None:
    database = Database(tmp_path / "0", REMEMBER)
    database.close()
    with pytest.raises(SinkError, match="given up"):
        database.apply([])
    assert not (tmp_path / "0").exists()


async def test_other_options_need_another_folder(tmp_path: Path) -> None:
    async with opened(target(tmp_path)) as sink:
        await sink.write([row(0, v=0)])
    with pytest.raises(SinkError, match="other words"):
        await RocksdbSink(target(tmp_path, "v")).open()
    with pytest.raises(SinkError, match="other words"):
        await RocksdbSink(target(tmp_path, partitions=4)).open()


# A worker that is killed

WRITER = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.integration.test_rocksdb_sink import RocksdbSink, row, target

async def main():
    sink = RocksdbSink(target(Path(sys.argv[1])))
    await sink.open()
    i = int(sys.argv[2])
    while True:
        await sink.write([row(i + n, f"k{{n}}", v=i) for n in range(50)])
        print(i, flush=True)
        i += 50

asyncio.run(main())
"""


def test_what_was_answered_outlives_kill_9_and_the_reader_does_too(tmp_path: Path, reader: Reader) -> None:
    program = WRITER.format(root=str(Path(__file__).parents[2]))
    done = 0
    for _ in range(2):
        writer = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path), str(done + 50)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        try:
            for _ in range(20):
                done = int(writer.stdout.readline())
                seen = [json.loads(text)["v"] for text in reader.get_many([{"k": f"k{n}"} for n in range(50)]) if text]
                assert len(seen) == 50 and min(seen) >= done
        finally:
            writer.kill()
            rest = writer.stdout.read().split()
            writer.wait()
        done = int(rest[-1]) if rest else done
        values = {name.decode(): json.loads(text)["v"] for name, text in reader.scan()}
        assert len(values) == 50
        assert set(values.values()) <= {done, done + 50}
    sink = RocksdbSink(target(tmp_path))
    sink._write([row(done + 10_000, "k1", v=-1)])
    wait_until(lambda: look(reader, "k1")["v"] == -1, 10, "the reader sees the next owner's write")
    asyncio.run(sink.close())

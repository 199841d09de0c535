"""Two real stores of each kind, compared row by row."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from walstream.comparison import Difference, compare
from walstream.connections import CassandraConnection, RedisConnection
from walstream.mutation import Mutation, delete, put
from walstream.sinks.base import Readable, Sink, SinkContext
from walstream.sinks.cassandra import CassandraSink
from walstream.sinks.cassandra.sink import CassandraOptions
from walstream.sinks.redis import RedisOptions, RedisSink
from walstream.sinks.rocksdb import RocksdbOptions, RocksdbSink
from walstream.testing.conformance import entry
from walstream.testing.servers import Address, Server

COUNT = 2_500


@asynccontextmanager
async def opened(*sinks: Sink) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for sink in sinks:
            await sink.open()
            stack.push_async_callback(sink.close)
        yield


async def write(sink: Sink, mutations: Sequence[tuple[int, Mutation]]) -> None:
    entries = [entry(time, key=b"k", payload=m.to_bytes(), type="walstream.mutation") for time, m in mutations]
    for first in range(0, len(entries), 500):
        await sink.write(entries[first : first + 500])


async def differences(one: Any, other: Any) -> list[Difference]:
    assert isinstance(one, Readable) and isinstance(other, Readable)
    assert one.form == other.form
    return (await compare(one, other, settle=0)).differences


def rows(key: str = "k") -> list[tuple[int, Mutation]]:
    return [(i, put(key={key: f"r{i:04}"}, set={"v": i, "w": "ü"})) for i in range(COUNT)]


@pytest.mark.parametrize("value", ["json", "hash", "v"])
async def test_redis(make_redis: Any, value: str) -> None:
    server: Server = make_redis()
    prefix = f"[a*]{uuid.uuid4().hex[:8]}"

    def sink(db: int) -> RedisSink:
        connection = RedisConnection.model_validate({"sink": "redis", "url": f"redis://{server.address}/{db}"})
        options = RedisOptions(key=prefix + ":{k}", value=value)
        return RedisSink(SinkContext("test", "cache", options, connection))

    one, other = sink(0), sink(1)
    async with opened(one, other):
        for side in (one, other):
            await write(side, rows())
        with Redis(port=server.address.port, db=1) as client:
            client.set(f"{prefix}:theirs", "not written by a sink")
            assert await differences(one, other) == []
            await write(other, [(COUNT, delete(key={"k": "r0001"})), (COUNT, put(key={"k": "r2000"}, set={"v": -1}))])
            client.delete(f"{prefix}:r0003")
            client.delete(f"{prefix}:r0004")
            client.lpush(f"{prefix}:r0004", "of another type")
        found = await differences(one, other)
        assert [difference.key.decode().removeprefix(f"{prefix}:") for difference in found] == [
            "r0001", "r0003", "r0004", "r2000",
        ]  # fmt: skip
        assert [difference.second is None for difference in found] == [True, True, False, False]
        assert b"2000" in (found[-1].first or b"") and b"-1" in (found[-1].second or b"")


async def test_rocksdb_beside_its_writer_and_against_redis(make_redis: Any, tmp_path: Path) -> None:
    server: Server = make_redis()
    options = RocksdbOptions(path=tmp_path, key="row:{k}", value="json")
    one, beside = (RocksdbSink(SinkContext("test", "local", options)) for _ in range(2))
    connection = RedisConnection.model_validate({"sink": "redis", "url": f"redis://{server.address}"})
    other = RedisSink(SinkContext("test", "cache", RedisOptions(key="row:{k}", value="json"), connection))
    async with opened(one, beside, other):
        for side in (one, other):
            await write(side, rows())
        assert await differences(beside, other) == []
        await write(one, [(COUNT, delete(key={"k": "r0001"}))])
        (found,) = await differences(beside, other)
        assert found == Difference(b"row:r0001", None, b'{"k":"r0001","v":1,"w":"\xc3\xbc"}')


async def test_cassandra(cassandra: Address, cassandra_session: Any, keyspace: str) -> None:
    for name in ("east", "west"):
        cassandra_session.execute(
            f'CREATE TABLE {keyspace}.{name} (id text, "N" int, at timestamp, v int, w text, exact decimal, '
            'tags set<text>, "Caps" map<text, int>, PRIMARY KEY ((id, "N"), at))'
        )
    connection = CassandraConnection.model_validate({"sink": "cassandra", "hosts": [str(cassandra)]})

    def sink(table: str | None) -> CassandraSink:
        return CassandraSink(SinkContext("test", "base", CassandraOptions(keyspace=keyspace, table=table), connection))

    one, other = sink("east"), sink("west")
    mutations = [
        (i, put(key={"id": f'r"{i}', "N": i, "at": "2013-01-01T05:00:00Z"}, set={
            "v": i, "exact": "0.10000000000000000001", "tags": ["b", "a"], "Caps": {"x": 1}, "w": None,
        }))
        for i in range(1_200)
    ]  # fmt: skip
    async with opened(one, other):
        for side in (one, other):
            await write(side, mutations)
        assert await differences(one, other) == []
        await write(one, [(9_000, delete(key={"id": 'r"7', "N": 7, "at": "2013-01-01T05:00:00Z"}))])
        await write(other, [(9_000, put(key={"id": 'r"8', "N": 8, "at": "2013-01-01T05:00:00Z"}, set={"w": "new"}))])
        found = await differences(one, other)
        assert [difference.key[:9] for difference in found] == [b'{"id":"r\\', b'{"id":"r\\']
        assert found[0].first is None and b'"v":7' in (found[0].second or b"")
        assert b'"w"' not in (found[1].first or b"") and b'"w":"new"' in (found[1].second or b"")
        assert b'"exact":0.10000000000000000001' in (found[1].second or b"")
    whole = sink(None)
    async with opened(whole):
        pages = [page async for page in whole.scan()]
        assert sum(map(len, pages)) == 2_399
        assert b'"table":"east"' in pages[0][0][0]
        keys = [pages[0][0][0], pages[-1][0][0]]
        assert list(await whole.look_up(keys)) == [pages[0][0][1], pages[-1][0][1]]

"""Stores that are told keys only, and read rows in another region's store: real ones on both sides."""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from walstream.connections import CassandraConnection, RedisConnection
from walstream.entry import Entry
from walstream.invalidation import invalidation
from walstream.mutation import Mutation, delete, put
from walstream.sinks.base import APPLIED, SKIPPED, Dead, Outcome, Sink, SinkContext, TargetDown
from walstream.sinks.cassandra import session
from walstream.sinks.redis import RedisOptions, RedisSink
from walstream.sinks.rocksdb import RocksdbOptions, RocksdbSink
from walstream.sinks.source import Source, refresh
from walstream.sinks.source.cassandra import CassandraSource, CassandraSourceOptions
from walstream.sinks.source.redis import RedisSource, RedisSourceOptions
from walstream.testing.conformance import entry
from walstream.testing.servers import Server

KEY = "row:{k}"
NOW = int(time.time() * 1e6)


def log(position: int, mutation: Mutation) -> Entry:
    """An entry of the log of the region that has the rows."""
    time = NOW + position * 1_000
    return entry(position, key=b"k", payload=mutation.to_bytes(), type="walstream.mutation", time=time)


def told(one: Entry) -> Entry:
    """What the other region is sent of it."""
    message = invalidation(one)
    return Entry(0, one.position, message.key, message.value, message.headers, 0, one.time, 0, b"east")


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refresh, "PAUSES", (0.01,))


@pytest.fixture(scope="module")
def server(make_redis: Callable[..., Server]) -> Server:
    return make_redis()


@pytest.fixture
def at(server: Server, tmp_path: Path) -> tuple[SinkContext, SinkContext]:
    """Where the rows are, and where copies of them are to be."""
    connection = RedisConnection.model_validate({"sink": "redis", "url": f"redis://{server.address}"})
    name = uuid.uuid4().hex[:8]
    source = SinkContext("flights", "cache", RedisOptions(key=f"{name}:{KEY}", value="json"), connection)
    store = SinkContext("flights", "local", RocksdbOptions(path=tmp_path, key=f"{name}:{KEY}", value="json"))
    return source, store


@pytest_asyncio.fixture
async def east(at: tuple[SinkContext, SinkContext]) -> AsyncIterator[RedisSink]:
    sink = RedisSink(at[0])
    await sink.open()
    yield sink
    await sink.close()


@pytest_asyncio.fixture
async def west(at: tuple[SinkContext, SinkContext]) -> AsyncIterator[Any]:
    source, store = at
    context = SinkContext("flights", "local", RedisSourceOptions(key=source.options.key), source.connection)
    sink: Sink = refresh.refreshing(RocksdbSink, RedisSource, context, 0)(store)
    await sink.open()
    yield sink
    await sink.close()


async def rows(sink: Any) -> dict[bytes, Any]:
    return {key: json.loads(text) async for page in sink.scan() for key, text in page}


async def test_what_the_other_region_has(east: RedisSink, west: Any) -> None:
    first = log(1, put(key={"k": "a"}, set={"gate": "C3", "price": 1, "bags": [1, {"x": None}]}))
    with pytest.raises(TargetDown, match="behind"):
        await west.write([told(first)])
    await east.write([first])
    assert await west.write([told(first)]) == [APPLIED]
    assert await rows(west) == await rows(east) != {}
    second = log(2, put(key={"k": "a"}, set={"gate": None, "größe": "ß\n"}))
    third = log(3, put(key={"k": "b"}, set={}))
    await east.write([second, third])
    assert await west.write([told(second), told(third)]) == [APPLIED, APPLIED]
    assert await rows(west) == await rows(east)
    assert sorted((await rows(east)).values(), key=str)[0] == {
        "k": "a",
        "price": 1,
        "bags": [1, {"x": None}],
        "größe": "ß\n",
    }
    gone = log(4, delete(key={"k": "a"}))
    await east.write([gone])
    assert await west.write([told(first), told(gone)]) == [SKIPPED, APPLIED]
    assert await rows(west) == await rows(east) and len(await rows(east)) == 1
    (outcome,) = await west.write([told(log(5, put(key={"other": "a"})))])
    assert isinstance(outcome, Dead) and "has no key column" in outcome.reason


async def test_read_late_and_out_of_order_it_comes_to_the_same(east: RedisSink, west: Any, seed: int) -> None:
    """Each row's invalidations in order, those of different rows in any, each at any time after its write."""
    chance = random.Random(seed)
    waiting: dict[str, list[Entry]] = {}
    for position in range(1, 400):
        key = chance.choice("abcdefgh")
        columns = {name: chance.choice([None, position]) for name in chance.sample("vwxyz", 2)}
        written = log(position, put(key={"k": key}, set=columns) if chance.random() < 0.8 else delete(key={"k": key}))
        await east.write([written])
        waiting.setdefault(key, []).append(told(written))
        while chance.random() < 0.4 and waiting:
            some = chance.choice(list(waiting))
            batch = waiting.pop(some)
            assert {type(outcome) for outcome in await west.write(batch)} <= {type(APPLIED), type(SKIPPED)}
    await west.write([one for batch in waiting.values() for one in batch])
    assert await rows(west) == await rows(east)


async def test_a_redis_that_is_away(make_redis: Callable[..., Server], at: tuple[SinkContext, SinkContext]) -> None:
    server = make_redis()
    connection = RedisConnection.model_validate({"sink": "redis", "url": f"redis://{server.address}"})
    context = SinkContext("flights", "local", RedisSourceOptions(key=KEY), connection)
    west = refresh.refreshing(RocksdbSink, RedisSource, context, 0)(at[1])
    await west.open()
    one, own = log(10**6, put(key={"k": "a"})), log(1, put(key={"k": "b"}))
    for state in ("up", "down", "up"):
        server.stop() if state == "down" else None
        with pytest.raises(
            TargetDown, match="behind" if state == "up" else "cannot be read: ConnectionError"
        ) as caught:
            await west.write([told(one), own])
        assert caught.value.outcomes is not None and caught.value.outcomes[0] is None
        assert isinstance(caught.value.outcomes[1], type(APPLIED) | type(SKIPPED))
        server.start() if state == "down" else None
    await west.close()


# Cassandra


@pytest.fixture
def base(cassandra: str, keyspace: str, cassandra_session: Any, monkeypatch: pytest.MonkeyPatch) -> Source:
    monkeypatch.setattr(session, "CONNECT_FOR_S", 1.0)
    cassandra_session.execute(
        f"CREATE TABLE {keyspace}.rows (k text, at timestamp, b blob, d date, t time, n decimal, big varint, f double,"
        ' tags set<text>, "Map" map<int, text>, u uuid, yes boolean, PRIMARY KEY (k, at))'
    )
    options = CassandraSourceOptions(keyspace=keyspace, consistency="ONE")
    connection = CassandraConnection(sink="cassandra", hosts=[str(cassandra)])
    return CassandraSource(SinkContext("flights", "cache", options, connection))


async def test_rows_of_cassandra(base: Source, keyspace: str, cassandra_session: Any, at: Any, tmp_path: Path) -> None:
    cassandra_session.execute(
        f"INSERT INTO {keyspace}.rows JSON %s",
        (
            json.dumps({
                "k": "a", "at": "2013-01-01 10:00:00.250Z", "b": "0x00ff", "d": "2013-01-02", "t": "01:02:03.000000004",
                "n": "1.10", "big": 2**70, "f": 0.5, "tags": ["y", "x"], '"Map"': {"1": "one"},
                "u": "5b1a9a4e-6a0b-4b65-9c54-5d1b1c3b7a10", "yes": True,
            }),
        ),
    )  # fmt: skip
    key = {"k": "a", "at": "2013-01-01T10:00:00.250Z"}
    store = SinkContext("flights", "local", RocksdbOptions(path=tmp_path, key="{k}:{at}", value="json"))
    west: Any = refresh.refreshing(RocksdbSink, type(base), base.context, 0)(store)
    await west.open()
    batch = [
        put(key=key, table="rows"),
        put(key=key | {"k": "b"}, table="rows"),
        put(key=key | {"at": "never"}, table="rows"),
        put(key=key, table="others"),
        put(key=key),
    ]
    outcomes: Sequence[Outcome] = await west.write([told(log(i, mutation)) for i, mutation in enumerate(batch, 1)])
    assert outcomes[:2] == [APPLIED, APPLIED]
    for outcome, said in zip(outcomes[2:], ("RFC 3339", "there is no table", "names no table"), strict=True):
        assert isinstance(outcome, Dead) and said in outcome.reason
    (found,) = (await rows(west)).values()
    assert found == {
        "k": "a", "at": "2013-01-01T10:00:00.250Z", "b": "AP8=", "d": "2013-01-02", "t": "01:02:03.000000004",
        "n": 1.1, "big": 2**70, "f": 0.5, "tags": ["x", "y"], "Map": {"1": "one"},
        "u": "5b1a9a4e-6a0b-4b65-9c54-5d1b1c3b7a10", "yes": True,
    }  # fmt: skip
    cassandra_session.execute(f"TRUNCATE {keyspace}.rows")
    assert await west.write([told(log(9, batch[0]))]) == [APPLIED]
    assert await rows(west) == {}
    await west.close()


async def test_a_cassandra_that_is_away(base: Source, at: tuple[SinkContext, SinkContext]) -> None:
    away = CassandraConnection(sink="cassandra", hosts=["127.0.0.1:1"])
    context = SinkContext("flights", "cache", base.options, away)
    west = refresh.refreshing(RocksdbSink, CassandraSource, context, 0)(at[1])
    await west.open()
    with pytest.raises(TargetDown, match="does not answer"):
        await west.write([told(log(1, put(key={"k": "a"})))])
    await west.close()

"""A bad network between sinks and their real servers: nothing counts as applied that is not, and all of it heals."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest
import pytest_asyncio
from redis import Redis

from walstream.connections import CassandraConnection, MemcachedConnection, RedisConnection
from walstream.entry import Entry
from walstream.mutation import put
from walstream.sinks.base import TARGET_DOWN, Applied, Outcome, Sink, SinkContext, Skipped, StatefulSink
from walstream.sinks.cassandra import CassandraOptions, CassandraSink
from walstream.sinks.cassandra import session as cassandra_session_module
from walstream.sinks.memcached import MemcachedOptions, MemcachedSink
from walstream.sinks.memcached import client as memcached_client
from walstream.sinks.redis import RedisOptions, RedisSink
from walstream.sinks.redis import session as redis_session
from walstream.testing.conformance import Rows, entry
from walstream.testing.memcached_server import MemcachedServer
from walstream.testing.proxy import Direction, Proxy
from walstream.testing.servers import Address, Server

KEYS = [f"r{i}" for i in range(20)]
HEALS_WITHIN_S = 20.0

Fault = Callable[[Proxy], Awaitable[None]]


async def cut_requests(proxy: Proxy) -> None:
    proxy.cut(Direction.REQUESTS)


async def drop_requests(proxy: Proxy) -> None:
    proxy.drop(Direction.REQUESTS)


async def drop_answers(proxy: Proxy) -> None:
    proxy.drop(Direction.RESPONSES)


async def refuse(proxy: Proxy) -> None:
    proxy.refuse()
    proxy.reset()


async def reset_before_the_answers(proxy: Proxy) -> None:
    """What is written arrives, and then the connection is gone."""
    proxy.cut(Direction.RESPONSES)
    sent = proxy.passed[Direction.REQUESTS]
    while proxy.passed[Direction.REQUESTS] < sent + 100:  # noqa: ASYNC110 - the proxy sets no event
        await asyncio.sleep(0.005)
    proxy.refuse()
    proxy.reset()


FAULTS = [cut_requests, drop_requests, drop_answers, refuse, reset_before_the_answers]


class Proxied:
    """What holds for every sink: subclass it, and say how the sink is made and what its server holds."""

    kind: ClassVar[type[Sink]]

    @pytest_asyncio.fixture
    async def proxy(self, real: Address) -> AsyncIterator[Proxy]:
        async with Proxy(real.host, real.port) as proxy:
            yield proxy

    @pytest.fixture
    def real(self) -> Address:
        """The real server."""
        raise NotImplementedError

    def context(self, address: Address) -> SinkContext:
        raise NotImplementedError

    def state(self, context: SinkContext) -> Mapping[str, int]:
        """What the server holds, not by way of the proxy."""
        raise NotImplementedError

    @asynccontextmanager
    async def opened(self, proxy: Proxy) -> AsyncIterator[Sink]:
        sink = self.kind(self.context(Address(proxy.address)))
        self.table = Rows()
        await sink.open()
        try:
            yield sink
        finally:
            proxy.heal()
            await sink.close()

    async def write(self, sink: Sink, batch: Sequence[Entry]) -> Sequence[Outcome | None]:
        """Write as a delivery worker does, where what raises is not finished."""
        outcomes: Sequence[Outcome | None]
        try:
            if isinstance(sink, StatefulSink):
                outcomes = await sink.write_with(batch, self.table)
            else:
                outcomes = await sink.write(batch)
        except Exception as error:
            if sink.verdict(error) is not TARGET_DOWN:
                raise
            outcomes = getattr(error, "outcomes", None) or [None] * len(batch)
        settled = [outcome for outcome in outcomes if outcome is not None]
        self.table.settle(settled[: outcomes.index(None)] if None in outcomes else settled)
        return outcomes

    def batch(self, value: int) -> list[Entry]:
        """A new value for each row."""
        return [
            entry(
                100 * value + i, key=key.encode(), payload=put(key={"k": key}, set={"v": value}).to_bytes(),
                type="walstream.mutation",
            )
            for i, key in enumerate(KEYS)
        ]  # fmt: skip

    async def check(self, sink: Sink, batch: Sequence[Entry], outcomes: Sequence[Outcome | None], value: int) -> bool:
        """See whether what counts as applied is so; and whether that is all of it."""
        found = await asyncio.to_thread(self.state, sink.context)
        done = [isinstance(outcome, Applied | Skipped) for outcome in outcomes]
        for key, is_done in zip(KEYS, done, strict=True):
            assert not is_done or found[key] == value, key
        return all(done)

    async def heals(self, sink: Sink, value: int) -> None:
        """Write until all is applied."""
        batch = self.batch(value)
        async with asyncio.timeout(HEALS_WITHIN_S):
            while not await self.check(sink, batch, await self.write(sink, batch), value):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert await asyncio.to_thread(self.state, sink.context) == dict.fromkeys(KEYS, value)

    @pytest.mark.parametrize("fault", FAULTS)
    async def test_a_fault_that_heals(self, proxy: Proxy, fault: Fault) -> None:
        async with self.opened(proxy) as sink:
            await self.heals(sink, 1)
            batch = self.batch(2)
            writing = asyncio.create_task(self.write(sink, batch))
            breaking = asyncio.create_task(fault(proxy)) if fault is reset_before_the_answers else None
            if breaking is None:
                await fault(proxy)  # before the write begins
            outcomes = await writing
            if breaking is not None:
                await breaking
            assert not await self.check(sink, batch, outcomes, 2), "a fault that does nothing"
            await self.write(sink, batch)
            proxy.heal()
            # What was held back comes through now, beside what is newer.
            await self.heals(sink, 3)
            await self.heals(sink, 4)

    async def test_a_slow_network(self, proxy: Proxy) -> None:
        async with self.opened(proxy) as sink:
            await self.heals(sink, 1)
            proxy.delay = 0.03
            batch = self.batch(2)
            assert await self.check(sink, batch, await self.write(sink, batch), 2)


@pytest.fixture(scope="module")
def place(cassandra_session: Any) -> str:
    """A keyspace with a table."""
    keyspace = f"proxied_{uuid.uuid4().hex[:8]}"
    replication = {"class": "SimpleStrategy", "replication_factor": 1}
    cassandra_session.execute(f"CREATE KEYSPACE {keyspace} WITH replication = {replication}")
    cassandra_session.execute(f"CREATE TABLE {keyspace}.rows (k text PRIMARY KEY, v int)")
    return keyspace


@pytest.fixture(scope="module")
def redis_server(make_redis: Callable[[], Server]) -> Server:
    return make_redis()


@pytest.fixture(scope="module")
def memcached_server(make_memcached: Callable[[], MemcachedServer]) -> MemcachedServer:
    return make_memcached()


class TestCassandra(Proxied):
    kind = CassandraSink

    @pytest.fixture
    def real(self, cassandra: Address, cassandra_session: Any, place: str, monkeypatch: pytest.MonkeyPatch) -> Address:
        monkeypatch.setattr(cassandra_session_module, "CONNECT_FOR_S", 1.0)
        monkeypatch.setattr(cassandra_session_module, "REQUEST_TIMEOUT_S", 0.3)
        monkeypatch.setattr(cassandra_session_module, "RECONNECT_MAX_S", 0.3)
        self.cql, self.keyspace = cassandra_session, place
        cassandra_session.execute(f"TRUNCATE {place}.rows")
        return Address(cassandra)

    def context(self, address: Address) -> SinkContext:
        options = CassandraOptions(keyspace=self.keyspace, table="rows")
        return SinkContext("test", "base", options, CassandraConnection(sink="cassandra", hosts=[address]))

    def state(self, context: SinkContext) -> Mapping[str, int]:
        return {row.k: row.v for row in self.cql.execute(f"SELECT k, v FROM {self.keyspace}.rows")}


class TestRedis(Proxied):
    kind = RedisSink

    @pytest.fixture
    def real(self, redis_server: Server, monkeypatch: pytest.MonkeyPatch) -> Address:
        monkeypatch.setattr(redis_session, "CONNECT_S", 0.2)
        monkeypatch.setattr(redis_session, "ANSWER_S", 0.2)
        self.server = redis_server
        return redis_server.address

    def context(self, address: Address) -> SinkContext:
        connection = RedisConnection(sink="redis", host=address.host, port=address.port)
        options = RedisOptions(key=f"{uuid.uuid4().hex[:8]}:{{k}}", value="hash")
        return SinkContext("test", "base", options, connection)

    def state(self, context: SinkContext) -> Mapping[str, int]:
        with Redis(port=self.server.address.port, decode_responses=True) as client:
            found: dict[str, Any] = {key: client.hget(context.options.key.replace("{k}", key), "v") for key in KEYS}
        return {key: int(value) for key, value in found.items() if value is not None}


class TestMemcached(Proxied):
    kind = MemcachedSink

    @pytest.fixture
    def real(self, memcached_server: MemcachedServer, monkeypatch: pytest.MonkeyPatch) -> Address:
        monkeypatch.setattr(memcached_client, "CONNECT_S", 0.2)
        monkeypatch.setattr(memcached_client, "ANSWER_S", 0.2)
        self.server = memcached_server
        return memcached_server.address

    def context(self, address: Address) -> SinkContext:
        connection = MemcachedConnection(sink="memcached", host=address.host, port=address.port)
        options = MemcachedOptions(key=f"{uuid.uuid4().hex[:8]}:{{k}}", value="json")
        return SinkContext("test", "base", options, connection)

    def state(self, context: SinkContext) -> Mapping[str, int]:
        keys = {context.options.key.replace("{k}", key): key for key in KEYS}
        return {keys[key]: json.loads(text)["v"] for key, text in self.server.get(*keys).items()}

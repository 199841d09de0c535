"""The redis sink against a real Redis."""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import Redis, exceptions

from walstream.connections import RedisConnection
from walstream.entry import Entry
from walstream.errors import SinkError
from walstream.mutation import Mutation, delete, put
from walstream.sinks.base import APPLIED, SKIPPED, TARGET_DOWN, Applied, Dead, Retry, Sink, SinkContext, Skipped
from walstream.sinks.redis import RedisOptions, RedisSink
from walstream.sinks.redis import sink as redis_sink
from walstream.sinks.redis.call import BYTES, ROWS
from walstream.sinks.redis.rows import Rows, marks_key
from walstream.sinks.redis.script import LUA
from walstream.testing.conformance import SinkConformance, entry
from walstream.testing.proxy import Direction, Proxy
from walstream.testing.servers import Address, Server
from walstream.testing.waiting import wait_until

REMEMBER = 60_000
FORMS = ["json", "hash", "v"]
MakeServer = Callable[..., Server]


@pytest.fixture(scope="module")
def server(make_redis: MakeServer) -> Server:
    return make_redis()


@pytest.fixture(scope="module")
def redis(server: Server) -> Iterator[Redis]:
    """An ordinary client, to look with."""
    with Redis(port=server.address.port) as client:
        yield client


def target(address: str, value: str, prefix: str = "row", **words: Any) -> SinkContext:
    connection = RedisConnection.model_validate({"sink": "redis", "url": f"redis://{address}", **words})
    options = RedisOptions(key=f"{prefix}-{uuid.uuid4().hex[:8]}:{{k}}", value=value)
    return SinkContext("test", "cache", options, connection, remember=REMEMBER)


@asynccontextmanager
async def opened(context: SinkContext) -> AsyncIterator[RedisSink]:
    sink = RedisSink(context)
    await sink.open()
    try:
        yield sink
    finally:
        await sink.close()


def key_of(sink: Sink, row: str = "a") -> str:
    return str(sink.options.key.replace("{k}", row))


def log(time: int, mutation: Mutation, **words: Any) -> Entry:
    return entry(time, **{"key": b"k", "payload": mutation.to_bytes(), "type": "walstream.mutation", **words})


def row(time: int, row: str = "a", /, **columns: Any) -> Entry:
    return log(time, put(key={"k": row}, set=columns))


def gone(time: int, row: str = "a") -> Entry:
    return log(time, delete(key={"k": row}))


def look(redis: Redis, key: str, value: str) -> Any:
    """What an ordinary client finds: a dictionary of columns, or the column's text; None where there is no key."""
    if value == "hash":
        fields: Any = redis.hgetall(key)
        return {name.decode(): text.decode() for name, text in fields.items()} or None
    text: Any = redis.get(key)
    return text if text is None else json.loads(text) if value == "json" else text.decode()


class RedisConformance(SinkConformance):
    last_write_wins = True
    value: ClassVar[str]

    @pytest.fixture(autouse=True)
    def _keep(self, redis: Redis) -> None:
        self.redis = redis

    @pytest.fixture
    def context(self, server: Server) -> SinkContext:
        return target(server.address, self.value)

    def make(self, context: SinkContext) -> Sink:
        return RedisSink(context)

    def entry(self, key: str, value: int, position: int) -> Entry:
        return row(position, key, v=value)

    def refused(self, key: str, position: int) -> Entry:
        return log(position, put(key={"k": key, "more": 1}, set={"v": 1}), key=key.encode())

    def unreachable(self, context: SinkContext) -> SinkContext:
        return replace(context, connection=RedisConnection(sink="redis", host="127.0.0.1", port=1))

    async def state(self, sink: Sink) -> Mapping[str, int]:
        prefix = sink.options.key.replace("{k}", "")
        rows = {key.decode(): key.decode().removeprefix(prefix) for key in self.redis.scan_iter(f"{prefix}*", 1000)}
        found = {name: look(self.redis, key, self.value) for key, name in rows.items()}
        return {name: int(row["v"] if isinstance(row, dict) else row) for name, row in found.items()}


class TestJson(RedisConformance):
    value = "json"


class TestHash(RedisConformance):
    value = "hash"


class TestColumn(RedisConformance):
    value = "v"


# Which write stands


@pytest.mark.parametrize("value", FORMS)
async def test_what_is_older_is_refused_and_what_is_newer_is_not(server: Server, redis: Redis, value: str) -> None:
    async with opened(target(server.address, value)) as sink:
        key = key_of(sink)
        assert await sink.write([row(5, v="five"), row(4, v="four"), row(5, v="five")]) == [APPLIED, SKIPPED, SKIPPED]
        before = look(redis, key, value)
        assert before == ("five" if value == "v" else {"k": "a", "v": "five"})
        assert await sink.write([gone(4)]) == [APPLIED]  # it stands for what is older still
        assert look(redis, key, value) == before
        assert await sink.write([row(3, v="three"), gone(4), gone(6), row(5, v="five"), gone(6)]) == [
            SKIPPED, SKIPPED, APPLIED, SKIPPED, SKIPPED,
        ]  # fmt: skip
        assert redis.exists(key) == 0
        assert await sink.write([row(7, v="seven")]) == [APPLIED]
        assert look(redis, key, value) == ("seven" if value == "v" else {"k": "a", "v": "seven"})


@pytest.mark.parametrize("value", ["json", "hash"])
async def test_each_column_has_its_own_time(server: Server, redis: Redis, value: str) -> None:
    async with opened(target(server.address, value)) as sink:
        assert await sink.write([row(5, a="new"), row(4, a="old", b="kept"), row(3, b="older", c="x")]) == [APPLIED] * 3
        assert look(redis, key_of(sink), value) == {"k": "a", "a": "new", "b": "kept", "c": "x"}
        assert await sink.write([gone(4)]) == [APPLIED]
        assert look(redis, key_of(sink), value) == {"k": "a", "a": "new"}
        assert await sink.write([row(6, a=None), row(5, a="again"), row(6, b="b")]) == [APPLIED, SKIPPED, APPLIED]
        assert look(redis, key_of(sink), value) == {"k": "a", "b": "b"}


@pytest.mark.parametrize("value", FORMS)
@pytest.mark.parametrize(
    ("writes", "left"),
    [
        ([row(1, v="a"), gone(1)], None),
        ([row(1, v="a"), row(1, v="b")], "b"),
        ([row(1, v="9"), row(1, v="10")], "9"),
        ([row(1, v="a"), row(1, v="aa"), row(1, v="")], "aa"),
        ([row(1, v="Z"), row(1, v="a"), row(1, v="ä")], "ä"),
        ([row(1, v="a"), row(1, v=None)], "null"),
    ],
)
async def test_ties_end_the_same_way_in_any_order(
    server: Server, redis: Redis, value: str, writes: list[Entry], left: str | None
) -> None:
    for order in (writes, writes[::-1], writes[1:] + writes[:1]):
        async with opened(target(server.address, value)) as sink:
            await sink.write(order)
            found = look(redis, key_of(sink), value)
            if left == "null":
                assert found == (None if value == "v" else {"k": "a"})
            elif left is None or value == "v":
                assert found == left
            else:
                assert found == {"k": "a", "v": left}


# Mutations at distinct times: a delete, or a put of some columns to a value or null.
HISTORY = st.lists(
    st.none() | st.dictionaries(st.sampled_from("vwxyz"), st.none() | st.sampled_from(["", "1", "ü", "long" * 9])),
    min_size=1,
    max_size=8,
)


@pytest.mark.parametrize("value", FORMS)
@settings(deadline=None, max_examples=60)
@given(history=HISTORY, data=st.data())
def test_any_order_and_repetition_ends_as_the_order_of_time(
    redis: Redis, value: str, history: list[dict[str, str | None] | None], data: st.DataObject
) -> None:
    rows = Rows("any:{k}", value, None)
    form = rows.form.encode()
    entries = [gone(time) if columns is None else row(time, **columns) for time, columns in enumerate(history)]
    again = data.draw(st.lists(st.sampled_from(entries), max_size=6))
    script = redis.register_script(LUA)

    def write(order: Sequence[Entry], share: int = 1) -> tuple[Any, Any]:
        redis.delete("any:a", marks_key(b"any:a"))
        calls = [arguments for item in order if (arguments := rows.arguments(item)) is not None]
        for first in range(0, len(calls), share):
            together = calls[first : first + share]
            script(
                keys=[key for row in together for key in row[:2]],
                args=[form, REMEMBER, *(text for row in together for text in row[2:])],
            )
        return look(redis, "any:a", value), redis.hgetall(marks_key(b"any:a"))

    found = write(data.draw(st.permutations(entries + again)), data.draw(st.integers(1, 5)))
    assert found == write(entries)
    expected: dict[str, str | None] = {}
    for columns in history:
        if columns is None:
            expected.clear()
        else:
            expected |= {"k": "a", **columns}
    left = {name: text for name, text in expected.items() if text is not None}
    assert found[0] == (left.get("v") if value == "v" else left or None)


@pytest.mark.parametrize("value", FORMS)
async def test_the_marks_of_a_deleted_row_expire(server: Server, redis: Redis, value: str) -> None:
    async with opened(target(server.address, value)) as sink:
        key, marks = key_of(sink), marks_key(key_of(sink).encode())
        await sink.write([row(1, v=1)])
        assert redis.ttl(marks) == -1
        await sink.write([gone(2)])
        assert REMEMBER / 2 < redis.pttl(marks) <= REMEMBER  # type: ignore[operator]
        await sink.write([row(3, v=1)])
        assert redis.ttl(marks) == redis.ttl(key) == -1
        await sink.write([row(4, v=None)])
        assert (redis.ttl(marks) == -1) == (value != "v")


@pytest.mark.parametrize("value", FORMS)
async def test_a_delete_of_what_never_was_is_remembered(server: Server, redis: Redis, value: str) -> None:
    async with opened(target(server.address, value)) as sink:
        assert await sink.write([gone(2), row(1, v=1)]) == [APPLIED, SKIPPED]
        assert redis.exists(key_of(sink)) == 0


# What is read


async def test_values_as_ordinary_clients_read_them(server: Server, redis: Redis) -> None:
    payload = (
        '{"op":"put","key":{"k":"ü/1"},"set":{"text":"a \\"b\\"","big":123456789012345678901234567890,'
        '"exact":0.10000000000000000001,"yes":true,"empty":{},"none":[],"list":[1,null,{"a":[]}],"null":null}}'
    ).encode()
    for value in ("json", "hash", "big", "text", "list"):
        async with opened(target(server.address, value)) as sink:
            assert await sink.write([entry(0, key=b"k", payload=payload, type="walstream.mutation")]) == [APPLIED]
            key = key_of(sink, "ü/1")
            if value == "json":
                assert (
                    redis.get(key)
                    == (
                        '{"big":123456789012345678901234567890,"empty":{},"exact":0.10000000000000000001,"k":"ü/1",'
                        '"list":[1,null,{"a":[]}],"none":[],"text":"a \\"b\\"","yes":true}'
                    ).encode()
                )
            elif value == "hash":
                assert look(redis, key, "hash") == {
                    "k": "ü/1", "text": 'a "b"', "big": "123456789012345678901234567890", "yes": "true",
                    "exact": "0.10000000000000000001", "empty": "{}", "none": "[]", "list": '[1,null,{"a":[]}]',
                }  # fmt: skip
            else:
                texts = {"big": "123456789012345678901234567890", "text": 'a "b"', "list": '[1,null,{"a":[]}]'}
                assert look(redis, key, value) == texts[value]


async def test_many_columns(server: Server, redis: Redis) -> None:
    columns = {f"c{i}": i for i in range(999)}
    for value in ("json", "hash"):
        async with opened(target(server.address, value)) as sink:
            assert await sink.write([row(0, **columns), row(1, other=1), gone(0)]) == [APPLIED] * 3
            assert len(look(redis, key_of(sink), value)) == 2


async def test_a_put_without_the_column_changes_nothing(server: Server, redis: Redis) -> None:
    async with opened(target(server.address, "v")) as sink:
        assert await sink.write([row(0, other=1)]) == [SKIPPED]
        assert redis.exists(key_of(sink)) == 0


# What goes wrong


@pytest.mark.parametrize("value", FORMS)
async def test_a_key_that_is_not_ours_is_left_alone(server: Server, redis: Redis, value: str) -> None:
    async with opened(target(server.address, value)) as sink:
        redis.lpush(key_of(sink), "theirs")
        for outcome in await sink.write([row(0, v=1), gone(1)]):
            assert isinstance(outcome, Dead)
            assert "WRONGTYPE" in outcome.reason and "is a list" in outcome.reason
        assert redis.lrange(key_of(sink), 0, -1) == [b"theirs"]
        assert redis.exists(marks_key(key_of(sink).encode())) == 0


async def down(sink: Sink, kind: type[Exception]) -> None:
    with pytest.raises(kind) as caught:
        await sink.write([row(0, v=1), row(1, v=2)])
    assert sink.verdict(caught.value) is TARGET_DOWN


async def test_no_memory(server: Server, redis: Redis) -> None:
    async with opened(target(server.address, "hash")) as sink:
        redis.config_set("maxmemory", 1)
        try:
            await down(sink, exceptions.OutOfMemoryError)
        finally:
            redis.config_set("maxmemory", 0)
        assert redis.exists(key_of(sink)) == 0
        assert await sink.write([row(0, v=1)]) == [APPLIED]


async def test_a_master_that_became_a_replica(server: Server, redis: Redis) -> None:
    async with opened(target(server.address, "json")) as sink:
        redis.replicaof("127.0.0.1", 1)
        try:
            await down(sink, exceptions.ReadOnlyError)
        finally:
            redis.replicaof("NO", "ONE")
        assert await sink.write([row(0, v=1)]) == [APPLIED]


async def test_a_redis_that_is_busy(server: Server, redis: Redis) -> None:
    async with opened(target(server.address, "json")) as sink:
        redis.config_set("busy-reply-threshold", 10)
        with Redis(port=server.address.port, socket_timeout=60) as other:
            endless = asyncio.create_task(asyncio.to_thread(_endless, other))
            async with asyncio.timeout(30):
                while True:
                    try:
                        await asyncio.to_thread(redis.ping)
                    except exceptions.ResponseError:
                        break
            await down(sink, exceptions.ResponseError)
            redis.script_kill()
            await endless
        assert await sink.write([row(0, v=1)]) == [APPLIED]


def _endless(client: Redis) -> None:
    with pytest.raises(exceptions.ResponseError, match="killed"):
        client.eval("while true do end", 0)


async def test_users(server: Server, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_SECRET", "a secret")
    redis.acl_setuser("writer", enabled=True, passwords=["+a secret"], keys=["row-*"], commands=["+@all", "-info"])
    words: dict[str, Any] = {"username": "writer", "password": {"env": "REDIS_SECRET"}}
    try:
        async with opened(target(server.address, "json", **words)) as sink:
            await down(sink, exceptions.NoPermissionError)  # to the marks
            redis.acl_setuser("writer", enabled=True, keys=["walstream:*"])
            assert await sink.write([row(0, v=1)]) == [APPLIED]
        monkeypatch.setenv("REDIS_SECRET", "another")
        with pytest.raises(SinkError, match="AuthenticationError"):
            async with opened(target(server.address, "json", **words)):
                pass
    finally:
        redis.acl_deluser("writer")


async def test_says_that_marks_may_be_evicted(server: Server, redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with caplog.at_level(logging.WARNING):
            async with opened(target(server.address, "json")):
                pass
    finally:
        redis.config_set("maxmemory-policy", "noeviction")
    assert "maxmemory-policy allkeys-lru" in caplog.text


async def test_a_redis_that_was_restarted(make_redis: MakeServer) -> None:
    own = make_redis()
    async with opened(target(own.address, "json")) as sink:
        assert await sink.write([row(0, v=1)]) == [APPLIED]
        own.stop(kill=True)
        await down(sink, exceptions.ConnectionError)
        own.start()  # without the script, and without data
        assert await sink.write([row(0, v=1)]) == [APPLIED]


async def test_a_connection_that_was_cut_while_it_idled(server: Server) -> None:
    async with (
        Proxy(server.address.host, server.address.port) as proxy,
        opened(target(proxy.address, "json")) as sink,
    ):
        assert await sink.write([row(0, v=1)]) == [APPLIED]
        proxy.reset()
        assert await sink.write([row(1, v=1)]) == [APPLIED]


async def arrived(redis: Redis, key: str) -> None:
    await asyncio.to_thread(wait_until, lambda: redis.exists(key), 30, f"{key} is written", every=0.01)


async def test_a_connection_cut_before_the_answers(server: Server, redis: Redis) -> None:
    batch = [row(i, f"r{i}", v=i) for i in range(50)]
    async with (
        Proxy(server.address.host, server.address.port) as proxy,
        opened(target(proxy.address, "json")) as sink,
    ):
        proxy.cut(Direction.RESPONSES)
        writing = asyncio.create_task(sink.write(batch))
        await arrived(redis, key_of(sink, "r49"))
        proxy.refuse()
        proxy.reset()
        with pytest.raises(exceptions.ConnectionError) as caught:
            await writing
        assert sink.verdict(caught.value) is TARGET_DOWN
        proxy.heal()
        assert await sink.write([*batch, row(50, "r0", v=50)]) == [SKIPPED] * 50 + [APPLIED]


async def test_a_call_that_is_given_up_leaves_no_answers_behind(server: Server, redis: Redis) -> None:
    async with (
        Proxy(server.address.host, server.address.port) as proxy,
        opened(target(proxy.address, "json")) as sink,
    ):
        proxy.cut(Direction.RESPONSES)
        writing = asyncio.create_task(sink.write([row(0, v=0)]))
        await arrived(redis, key_of(sink))
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        proxy.heal()
        assert await sink.write([row(0, v=0), row(1, v=1), gone(0)]) == [SKIPPED, APPLIED, APPLIED]


async def test_a_batch_is_one_round_trip_on_one_connection(server: Server, redis: Redis) -> None:
    async with (
        Proxy(server.address.host, server.address.port) as proxy,
        opened(target(proxy.address, "json")) as sink,
    ):
        await sink.write([row(0, v=0)])
        connections = proxy.connections
        proxy.cut(Direction.RESPONSES)  # all calls must come without that one answer is seen
        writing = asyncio.create_task(sink.write([row(i, f"r{i}", v=i) for i in range(500)]))
        await arrived(redis, key_of(sink, "r499"))
        assert proxy.connections == connections
        proxy.heal()
        assert await writing == [APPLIED] * 500


# Rows that share a call


@contextmanager
def calls(redis: Redis) -> Iterator[list[int]]:
    """How many calls of a script there were, in the list when it is over."""
    found: list[int] = []
    redis.config_resetstat()
    yield found
    statistics: Any = redis.info("commandstats")
    found.append(statistics.get("cmdstat_evalsha", {"calls": 0})["calls"])


async def test_rows_share_calls_that_are_bounded(server: Server, redis: Redis) -> None:
    async with opened(target(server.address, "json")) as sink:
        with calls(redis) as small:
            assert await sink.write([row(i, f"r{i}", v=i) for i in range(2 * ROWS + 1)]) == [APPLIED] * (2 * ROWS + 1)
        assert small == [3]
        with calls(redis) as large:
            assert await sink.write([row(9, f"r{i}", v="x" * BYTES) for i in range(3)]) == [APPLIED] * 3
        assert large == [3]
        assert look(redis, key_of(sink, "r200"), "json") == {"k": "r200", "v": 200}
        assert look(redis, key_of(sink, "r2"), "json") == {"k": "r2", "v": "x" * BYTES}


@pytest.mark.parametrize("value", FORMS)
async def test_rows_of_one_key_in_one_call_take_effect_in_order(server: Server, redis: Redis, value: str) -> None:
    async with opened(target(server.address, value)) as sink:
        batch = [row(1, v="1"), row(1, "b", v="b"), row(3, v="3"), row(2, v="2"), gone(4), row(5, v="5"), row(5, v="5")]
        with calls(redis) as made:
            found = await sink.write(batch)
        assert found == [APPLIED, APPLIED, APPLIED, SKIPPED, APPLIED, APPLIED, SKIPPED]
        assert made == [1]
        assert look(redis, key_of(sink), value) == ("5" if value == "v" else {"k": "a", "v": "5"})


@pytest.mark.parametrize("value", FORMS)
async def test_a_row_that_cannot_be_leaves_others_of_its_call_alone(server: Server, redis: Redis, value: str) -> None:
    async with opened(target(server.address, value)) as sink:
        redis.lpush(key_of(sink, "theirs"), "x")
        redis.set(marks_key(key_of(sink, "marked").encode()), "x")
        await sink.write([row(2, "newer", v=2)])
        batch = [row(1, "a", v=1), row(1, "theirs", v=1), gone(1, "newer"), row(1, "newer", v=1), row(1, "marked", v=1)]
        with calls(redis) as made:
            found = await sink.write([*batch, gone(2, "theirs"), row(1, "z", v=1)])
        assert made == [1]
        assert [type(outcome) for outcome in found] == [Applied, Dead, Applied, Skipped, Dead, Dead, Applied]
        assert [name in repr(found[i]) for i, name in ((1, ":theirs is a list"), (4, ":marked} is a string"))] == [
            True
        ] * 2
        for name in "az":
            assert look(redis, key_of(sink, name), value) == ("1" if value == "v" else look_like(value, name))
        assert redis.exists(key_of(sink, "marked")) == 0


def look_like(value: str, name: str) -> Any:
    return {"k": name, "v": 1 if value == "json" else "1"}


async def test_no_memory_is_for_puts_alone(server: Server, redis: Redis) -> None:
    async with opened(target(server.address, "hash")) as sink:
        await sink.write([row(1, name, v=1) for name in "abc"])
        redis.config_set("maxmemory", 1)
        try:
            # A delete lets a script write, and must not let the puts behind it through.
            with calls(redis) as made:
                found = await sink.write(
                    [gone(2, "a"), row(3, "a", v=3), row(0, "b", v=0), row(2, "b", v=2), gone(2, "c")]
                )
            assert made == [1]
            assert [type(outcome) for outcome in found] == [Applied, Retry, Skipped, Retry, Applied]
            assert "OutOfMemoryError" in repr(found[1])
        finally:
            redis.config_set("maxmemory", 0)
        assert look(redis, key_of(sink, "b"), "hash") == {"k": "b", "v": "1"}
        assert redis.exists(key_of(sink, "a"), key_of(sink, "c")) == 0
        assert await sink.write([row(3, "a", v=3), row(2, "b", v=2)]) == [APPLIED] * 2


async def test_an_error_of_a_call_is_one_of_each_row(server: Server, redis: Redis) -> None:
    async with opened(target(server.address, "json")) as sink:
        await sink.write([row(1, v=1)])
        redis.replicaof("127.0.0.1", 1)
        try:
            with pytest.raises(exceptions.ReadOnlyError) as caught:
                await sink.write([row(i, f"r{i}", v=i) for i in range(ROWS + 1)])
            assert sink.verdict(caught.value) is TARGET_DOWN
            with calls(redis) as made:
                found = await sink.write([*(row(2, f"r{i}", v=i) for i in range(ROWS)), row(1, v=1)])
        finally:
            redis.replicaof("NO", "ONE")
        assert made == [2 + 32]  # by a new connection
        assert [type(outcome) for outcome in found] == [Retry] * ROWS + [Skipped]
        assert await sink.write([row(2, f"r{i}", v=i) for i in range(ROWS)]) == [APPLIED] * ROWS


async def test_a_write_that_does_nothing_is_not_replicated(server: Server, redis: Redis) -> None:
    async with opened(target(server.address, "json")) as sink:
        batch = [row(1, "a", v=1), row(1, "b", v=1)]
        await sink.write(batch)
        before: Any = redis.info("persistence")
        assert await sink.write(batch) == [SKIPPED] * 2
        after: Any = redis.info("persistence")
        assert after["rdb_changes_since_last_save"] == before["rdb_changes_since_last_save"]


async def test_each_row_has_its_own_call_where_the_server_does_not_say_what_it_is(server: Server, redis: Redis) -> None:
    redis.acl_setuser("writer", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-info"])
    words = {"username": "writer", "password": {"env": "REDIS_SECRET"}}
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("REDIS_SECRET", "any")
            async with opened(target(server.address, "json", **words)) as sink:
                await sink.write([row(0, v=0)])
                with calls(redis) as made:
                    found = await sink.write([row(1, v=1), row(1, "b", v=1), row(0, v=0)])
        assert (made, found) == ([3], [APPLIED, APPLIED, SKIPPED])
    finally:
        redis.acl_deluser("writer")


async def test_a_new_connection_may_lead_elsewhere(server: Server, redis: Redis) -> None:
    async with (
        Proxy(server.address.host, server.address.port) as proxy,
        opened(target(proxy.address, "json")) as sink,
    ):
        with calls(redis) as made:
            await sink.write([row(0, v=0), row(0, "b", v=0)])
        assert made == [1]
        proxy.reset()
        with calls(redis) as again:
            assert await sink.write([row(1, v=1), row(1, "b", v=1)]) == [APPLIED] * 2
        assert again == [32 + 1]


@pytest.fixture(scope="module")
def cluster(make_redis: MakeServer) -> Address:
    """A cluster of one."""
    own: Address = make_redis("--cluster-enabled", "yes").address
    with Redis(port=own.port) as client:
        client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
        wait_until(lambda: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok", 30, "the cluster is up")
    return own


async def test_a_cluster_finds_both_keys_in_one_place(cluster: Address) -> None:
    with Redis(port=cluster.port) as client:
        async with opened(target(cluster, "json")) as sink:
            names = ["a", "a}b", "}{", "{}", "{}a", "{tag}rest", "{a{b}c", "{", ""]
            with calls(client) as made:
                assert await sink.write([row(0, name, v=1) for name in names]) == [APPLIED] * len(names)
            assert made == [len(names)]
            for name in names:
                assert look(client, key_of(sink, name), "json") == {"k": name, "v": 1}


async def test_a_server_that_turns_out_to_be_a_cluster(cluster: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    async def wrong(*_: Any) -> bool:
        return True

    monkeypatch.setattr(redis_sink, "is_one_server", wrong)
    with Redis(port=cluster.port) as client:
        async with opened(target(cluster, "json")) as sink:
            assert await sink.write([row(1, name, v=1) for name in "abc"] + [row(0, v=0)]) == [APPLIED] * 3 + [SKIPPED]
            with calls(client) as made:
                assert await sink.write([row(2, name, v=2) for name in "abc"]) == [APPLIED] * 3
            assert made == [3]

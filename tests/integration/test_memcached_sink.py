"""The memcached sink against a real memcached."""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from walstream.connections import MemcachedConnection
from walstream.delivery import processor as delivery
from walstream.entry import Entry
from walstream.errors import ServerError, SinkError
from walstream.local.certificates import Certificates
from walstream.mutation import Mutation, delete, put
from walstream.sinks.base import TARGET_DOWN, Applied, Dead, Retry, Sink, SinkContext, TargetDown
from walstream.sinks.memcached import MemcachedOptions, MemcachedSink, client
from walstream.sinks.memcached.client import Misunderstood
from walstream.sinks.row import Row
from walstream.testing.conformance import Rows, SinkConformance, entry
from walstream.testing.delivering import DeliveryPartition
from walstream.testing.memcached_server import MemcachedServer
from walstream.testing.proxy import Direction, Proxy
from walstream.testing.servers import Address
from walstream.testing.waiting import wait_until

MakeServer = Callable[..., MemcachedServer]


@pytest.fixture(scope="module")
def server(make_memcached: MakeServer) -> MemcachedServer:
    return make_memcached()


def target(address: str, value: str = "json", **words: Any) -> SinkContext:
    where = Address(address)
    connection = MemcachedConnection.model_validate(
        {"sink": "memcached", "host": where.host, "port": where.port, **words}
    )
    options = MemcachedOptions(key=f"row-{uuid.uuid4().hex[:8]}:{{k}}", value=value)
    return SinkContext("test", "cache", options, connection)


class Target:
    """A sink with its table, as a delivery worker has them."""

    def __init__(self, sink: MemcachedSink, server: MemcachedServer | None) -> None:
        self.sink, self._server = sink, server
        self.table = Rows()

    async def write(self, *batch: Entry, settle: bool = True) -> list[str]:
        """Write, and answer with the outcomes' names."""
        outcomes = await self.sink.write_with(batch, self.table)
        if settle:
            self.table.settle(outcomes)
        return [type(outcome).__name__.lower() for outcome in outcomes]

    def key(self, row: str = "a") -> str:
        return str(self.sink.options.key.replace("{k}", row))

    def look(self, row: str = "a") -> Any:
        """What an ordinary client finds: the columns, or the column's text; None where there is no key."""
        assert self._server is not None
        text = self._server.get(self.key(row)).get(self.key(row))
        return text if text is None else json.loads(text) if self.sink.options.value == "json" else text.decode()

    def evict(self, row: str = "a") -> None:
        assert self._server is not None
        assert self._server.ask(b"delete %b\r\n" % self.key(row).encode()) == b"DELETED\r\n"


@asynccontextmanager
async def opened(context: SinkContext, server: MemcachedServer | None = None) -> AsyncIterator[Target]:
    sink = MemcachedSink(context)
    await sink.open()
    try:
        yield Target(sink, server)
    finally:
        await sink.close()


def log(time: int, mutation: Mutation, key: str = "a") -> Entry:
    return entry(time, key=key.encode(), payload=mutation.to_bytes(), type="walstream.mutation")


def row(time: int, row: str = "a", /, **columns: Any) -> Entry:
    return log(time, put(key={"k": row}, set=columns), row)


def gone(time: int, row: str = "a") -> Entry:
    return log(time, delete(key={"k": row}), row)


class MemcachedConformance(SinkConformance):
    last_write_wins = True
    value: ClassVar[str]

    @pytest.fixture(autouse=True)
    def _keep(self, server: MemcachedServer) -> None:
        self.server = server
        self.keys: set[str] = set()

    @pytest.fixture
    def context(self, server: MemcachedServer) -> SinkContext:
        return target(server.address, self.value)

    def make(self, context: SinkContext) -> Sink:
        return MemcachedSink(context)

    def entry(self, key: str, value: int, position: int) -> Entry:
        self.keys.add(key)
        return row(position, key, v=value)

    def refused(self, key: str, position: int) -> Entry:
        return log(position, put(key={"k": key, "more": 1}, set={"v": 1}), key)

    def unreachable(self, context: SinkContext) -> SinkContext:
        return replace(context, connection=MemcachedConnection(sink="memcached", host="127.0.0.1", port=1))

    async def state(self, sink: Sink) -> Mapping[str, int]:
        names = {str(sink.options.key.replace("{k}", key)): key for key in self.keys}
        found = {names[name]: json.loads(text) for name, text in self.server.get(*names).items()}
        return {name: text["v"] if self.value == "json" else text for name, text in found.items()}


class TestJson(MemcachedConformance):
    value = "json"


class TestColumn(MemcachedConformance):
    value = "v"


# Which write stands


@pytest.mark.parametrize("value", ["json", "v"])
async def test_what_is_older_is_refused_and_what_is_newer_is_not(server: MemcachedServer, value: str) -> None:
    async with opened(target(server.address, value), server) as one:
        assert await one.write(row(5, v="five"), row(4, v="four"), row(5, v="five")) == [
            "applied",
            "skipped",
            "skipped",
        ]
        assert one.look() == ({"k": "a", "v": "five"} if value == "json" else "five")
        assert await one.write(gone(4)) == ["applied"]  # it stands for what is older still
        assert await one.write(row(3, v="three"), gone(4), gone(6), row(6, v="six"), row(5, v="five")) == [
            "skipped", "skipped", "applied", "skipped", "skipped",
        ]  # fmt: skip
        assert one.look() is None
        assert await one.write(row(7, v="seven")) == ["applied"]
        assert one.look() == ({"k": "a", "v": "seven"} if value == "json" else "seven")


async def test_columns_have_their_own_times(server: MemcachedServer) -> None:
    async with opened(target(server.address), server) as one:
        await one.write(row(5, a="new"), row(4, a="old", b="kept"), row(3, b="older", c="x"))
        assert one.look() == {"k": "a", "a": "new", "b": "kept", "c": "x"}
        await one.write(gone(4))
        assert one.look() == {"k": "a", "a": "new"}
        assert await one.write(row(6, a=None), row(5, a="again"), row(6, b="b")) == ["applied", "skipped", "applied"]
        assert one.look() == {"k": "a", "b": "b"}


async def test_of_one_time_the_delete_then_null_then_the_larger_text_stands(server: MemcachedServer) -> None:
    async with opened(target(server.address, "v"), server) as one:
        assert await one.write(row(1, v="a"), row(1, v="b"), row(1, v="a")) == ["applied", "applied", "skipped"]
        assert one.look() == "b"
        assert await one.write(row(1, v=None), row(1, v="c")) == ["applied", "skipped"]
        assert one.look() is None
        assert await one.write(row(2, v="a"), gone(2), row(2, v="b")) == ["applied", "applied", "skipped"]
        assert one.look() is None


@pytest.mark.parametrize("value", ["json", "v"])
async def test_any_order_and_any_cut_ends_alike(server: MemcachedServer, value: str, seed: int) -> None:
    chance = random.Random(seed)
    entries = [
        gone(time, key) if chance.random() < 0.2 else row(time, key, **{chance.choice("vw"): chance.choice("123")})
        for time, key in ((chance.randrange(6), chance.choice("abc")) for _ in range(60))
    ]
    found = []
    for _ in range(3):
        chance.shuffle(entries)
        async with opened(target(server.address, value), server) as one:
            rest: Sequence[Entry] = list(entries)
            while rest:
                size = chance.randrange(1, 20)
                settled = chance.randrange(1, size + 1)
                outcomes = await one.sink.write_with(rest[:size], one.table)
                one.table.settle(outcomes[:settled])
                rest = rest[settled:]
                if chance.random() < 0.3 and one.look("a") is not None:
                    one.evict("a")
                    await one.write(row(6, "a"))  # the next write of the row brings all of it back
            await one.write(*(row(6, key, v="7") for key in "abc"))
            found.append([one.look(key) for key in "abc"])
    assert found[0] == found[1] == found[2]


async def test_the_next_write_brings_back_all_of_a_row_that_the_cache_lost(server: MemcachedServer) -> None:
    async with opened(target(server.address), server) as one:
        await one.write(row(1, a="1", b="1"))
        one.evict()
        assert await one.write(row(0, b="0")) == ["skipped"]
        assert one.look() is None
        await one.write(row(2, b="2"))
        assert one.look() == {"k": "a", "a": "1", "b": "2"}
        one.evict()
        await one.write(gone(3))
        assert await one.write(row(2, a="late")) == ["skipped"]
        assert one.look() is None


async def test_what_was_written_and_not_finished_is_written_again(server: MemcachedServer) -> None:
    async with opened(target(server.address), server) as one:
        batch = [row(1, v=1), gone(2), row(3, w=3)]
        await one.write(*batch, settle=False)
        assert await one.write(*batch) == ["applied"] * 3
        assert one.look() == {"k": "a", "w": 3}
        assert await one.write(*batch) == ["skipped"] * 3


# What the cache holds


async def test_every_digit_stays(server: MemcachedServer) -> None:
    payload = (
        b'{"op":"put","key":{"k":"a"},"set":{"big":123456789012345678901234567890,"exact":0.10000000000000000001,'
        b'"text":"\\r\\nset x 0 0 1\\r\\n\xc3\xbc"}}'
    )
    async with opened(target(server.address), server) as one:
        await one.write(entry(0, key=b"a", payload=payload, type="walstream.mutation"))
        assert server.get(one.key())[one.key()] == (
            '{"big":123456789012345678901234567890,"exact":0.10000000000000000001,"k":"a",'
            '"text":"\\r\\nset x 0 0 1\\r\\nü"}'.encode()
        )
    async with opened(target(server.address, "text"), server) as one:
        await one.write(entry(0, key=b"a", payload=payload, type="walstream.mutation"))
        assert one.look() == "\r\nset x 0 0 1\r\nü"


async def test_a_put_without_the_column_changes_nothing(server: MemcachedServer) -> None:
    async with opened(target(server.address, "v"), server) as one:
        assert await one.write(row(0, other=1)) == ["skipped"]
        assert one.look() is None


async def test_keys_that_memcached_does_not_take_are_dead(server: MemcachedServer) -> None:
    async with opened(target(server.address), server) as one:
        keys = ["a b", "a\nflush_all", "\x7f", "ü" * 120, "fine-ü"]
        outcomes = await one.sink.write_with([row(i, key, v=1) for i, key in enumerate(keys)], one.table)
        assert [type(outcome) for outcome in outcomes] == [Dead] * 4 + [Applied]
        assert "cannot be a key of memcached" in str(outcomes[0])
        assert one.look("fine-ü") == {"k": "fine-ü", "v": 1}


async def test_what_makes_a_row_too_large_is_dead_and_the_others_are_not(server: MemcachedServer) -> None:
    async with opened(target(server.address), server) as one:
        large = "x" * 600_000
        await one.write(row(0, v=1))
        batch = [row(1, a=large), row(2, b=large), row(3, c="c"), row(4, "b", v=4)]
        assert await one.write(*batch) == ["applied", "dead", "applied", "applied"]
        assert one.look() == {"k": "a", "a": large, "c": "c", "v": 1}
        assert await one.write(row(5, b=large)) == ["dead"]
        assert one.look() == {"k": "a", "a": large, "c": "c", "v": 1}  # and is not lost by it
        assert one.look("b") == {"k": "b", "v": 4}


# What goes wrong


async def down(one: Target, *batch: Entry) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - any that is in the table
        await one.sink.write_with(batch or [row(0, v=1), row(1, v=2)], one.table)
    assert one.sink.verdict(caught.value) is TARGET_DOWN
    return caught.value


async def test_no_memory(make_memcached: MakeServer) -> None:
    full = make_memcached("--disable-evictions", "--memory-limit=2")
    large = "x" * 100_000
    async with opened(target(full.address), full) as one:
        written = 0
        while (await one.sink._client.ask([b"ms fill%d %d\r\n%b\r\n" % (written, len(large), large.encode())])) == [
            b"HD"
        ]:
            written += 1
        assert written > 0
        error = await down(one, row(0, "large", v=large))
        assert "out of memory" in str(error)
        # Others are taken, so it is not the whole target.
        small, again = await one.sink.write_with([gone(2_000, "nothing"), row(1, "large", v=large)], one.table)
        assert isinstance(small, Applied)
        assert isinstance(again, Retry)


async def test_somebody_else_writes_the_key_all_the_time(server: MemcachedServer) -> None:
    """What was there when it was looked at is not there any more when it is to be replaced."""
    async with opened(target(server.address), server) as one:
        ask = one.sink._client.ask

        async def meddle(commands: Sequence[bytes]) -> list[client.Answer]:
            if commands[0].startswith(b"ms "):
                server.ask(b"set %b 0 0 6\r\ntheirs\r\n" % one.key().encode())
            return await ask(commands)

        one.sink._client.ask = meddle  # type: ignore[method-assign]
        outcomes = await one.sink.write_with([row(0, "b", v=1), row(1, v=1), row(0, v=0)], one.table)
        assert isinstance(outcomes[0], Applied)
        assert [type(outcome) for outcome in outcomes[1:]] == [Retry] * 2
        one.sink._client.ask = ask  # type: ignore[method-assign]
        assert await one.write(row(1, v=1)) == ["applied"]
        assert one.look() == {"k": "a", "v": 1}


async def test_a_memcached_that_was_restarted(make_memcached: MakeServer) -> None:
    own = make_memcached()
    async with opened(target(own.address), own) as one:
        await one.write(row(0, a=1))
        own.stop(kill=True)
        await down(one, row(1, b=1))
        own.start()
        await one.write(row(1, b=1))
        assert one.look() == {"k": "a", "a": 1, "b": 1}


async def test_a_connection_that_was_cut_while_it_idled(server: MemcachedServer) -> None:
    async with (
        Proxy(server.address.host, server.address.port) as proxy,
        opened(target(proxy.address), server) as one,
    ):
        await one.write(row(0, v=1))
        proxy.reset()
        assert await one.write(row(1, v=2)) == ["applied"]
        assert one.look() == {"k": "a", "v": 2}


@pytest.mark.parametrize(("newer", "counter"), [(row(2, v=2), "cas_badval"), (gone(2), "cas_misses")])
async def test_a_request_that_comes_late_changes_nothing_that_is_newer(
    server: MemcachedServer, monkeypatch: pytest.MonkeyPatch, newer: Entry, counter: str
) -> None:
    monkeypatch.setattr(client, "ANSWER_S", 0.2)
    async with (
        Proxy(server.address.host, server.address.port) as proxy,
        opened(target(proxy.address), server) as one,
    ):
        await one.write(row(0, v=0))
        ask = one.sink._client.ask

        async def hold_back(commands: Sequence[bytes]) -> list[client.Answer]:
            if commands[0].startswith(b"ms "):
                proxy.cut(Direction.REQUESTS)
            return await ask(commands)

        one.sink._client.ask = hold_back  # type: ignore[method-assign]
        error = await down(one, row(1, v=1))
        assert isinstance(error, TimeoutError)
        # Another worker goes on.
        other = Target(MemcachedSink(replace(one.sink.context, connection=target(server.address).connection)), server)
        other.table = one.table
        await other.write(row(1, v=1), newer)
        await other.sink.close()
        expected = other.look()
        refusals = server.count(counter)
        proxy.heal()
        await asyncio.to_thread(wait_until, lambda: server.count(counter) > refusals, 10, "it arrives", every=0.01)
        assert other.look() == expected


async def test_a_call_that_is_cancelled_leaves_nothing_behind(server: MemcachedServer) -> None:
    async with (
        Proxy(server.address.host, server.address.port) as proxy,
        opened(target(proxy.address), server) as one,
    ):
        proxy.cut(Direction.RESPONSES)
        writing = asyncio.create_task(one.write(row(0, v=1)))
        await asyncio.to_thread(wait_until, lambda: proxy.passed[Direction.REQUESTS] > 30, 10, "it asks", every=0.01)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        proxy.heal()
        assert await one.write(row(1, "b", v=1), row(2, v=2)) == ["applied"] * 2
        assert one.look() == {"k": "a", "v": 2}


async def test_what_was_answered_counts_though_the_connection_breaks() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readuntil(b"mn\r\nmn\r\n")
        writer.write(b"MN\r\nMN\r\n")
        await reader.readuntil(b"mn\r\n")
        writer.write(b"EN\r\n" * 3 + b"MN\r\n")
        await reader.readuntil(b"mn\r\n")
        writer.write(b"HD\r\nSERVER_ERROR too busy\r\n")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as raw:
        port = raw.sockets[0].getsockname()[1]
        async with opened(target(f"127.0.0.1:{port}")) as one:
            batch = [row(0, "a", v=1), row(1, "b", v=1), row(2, "c", v=1), row(3, "a", v=2)]
            error = await down(one, *batch)
            assert isinstance(error, TargetDown)
            assert error.outcomes is not None
            kinds = [type(outcome) for outcome in error.outcomes]
            assert kinds == [Applied, Retry, type(None), Applied]


@pytest.mark.parametrize("said", [b"ERROR\r\n", b"CLIENT_ERROR bad data chunk\r\n", b"EN\r\nEN\r\nMN\r\n"])
async def test_what_nobody_understands_holds(said: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"mn\r\nmn\r\n")
        writer.write(b"MN\r\nMN\r\n")
        await reader.readuntil(b"mn\r\n")
        writer.write(said)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as raw:
        port = raw.sockets[0].getsockname()[1]
        async with opened(target(f"127.0.0.1:{port}")) as one:
            with pytest.raises(Misunderstood) as caught:
                await one.write(row(0, v=1))
            assert one.sink.verdict(caught.value) is None


@pytest.mark.parametrize(
    "said", [b"ERROR\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"CLIENT_ERROR unauthenticated\r\n"]
)
async def test_what_is_not_a_memcached_that_we_can_use(said: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"mn\r\n")
        writer.write(said)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as raw:
        port = raw.sockets[0].getsockname()[1]
        with pytest.raises(SinkError, match=r"does not answer as memcached 1\.6"):
            async with opened(target(f"127.0.0.1:{port}")):
                pass


async def test_passwords(make_memcached: MakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "users").write_text("writer:secret\n")
    own = make_memcached(f"--auth-file={tmp_path / 'users'}")
    monkeypatch.setenv("MEMCACHED_SECRET", "secret")
    words: dict[str, Any] = {"username": "writer", "password": {"env": "MEMCACHED_SECRET"}}
    async with opened(target(own.address, **words)) as one:
        assert await one.write(row(0, v=1)) == ["applied"]
    monkeypatch.setenv("MEMCACHED_SECRET", "another")
    with pytest.raises(SinkError, match="does not take the user name and password"):
        async with opened(target(own.address, **words)):
            pass


async def test_tls(make_memcached: MakeServer, certificates: Certificates) -> None:
    try:
        own = make_memcached(
            "--enable-ssl", f"--extended=ssl_chain_cert={certificates.server},ssl_key={certificates.server}"
        )
    except ServerError as error:
        pytest.skip(f"this memcached has no TLS: {error}")
    async with opened(target(own.address, ssl={"cafile": str(certificates.authority)})) as one:
        assert await one.write(row(0, v=1)) == ["applied"]
    sink = MemcachedSink(target(own.address, ssl=True))
    with pytest.raises(ssl.SSLError) as caught:
        await sink.open()
    assert sink.verdict(caught.value) is TARGET_DOWN


# In a delivery


async def test_a_delivery_keeps_the_rows(
    server: MemcachedServer, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers die, with and without their last checkpoint; the cache loses keys; writes have any order of time."""
    monkeypatch.setattr(delivery, "SINK_DEADLINE", 0.0)  # nothing of a worker before is on its way
    chance = random.Random(seed)
    sink = MemcachedSink(target(server.address))
    at = DeliveryPartition(tmp_path, sink=sink, fetch=7)
    await at.open()
    one, expected, begin = Target(sink, server), {name: Row() for name in "abc"}, at.now
    for _ in range(12):
        for _ in range(chance.randrange(1, 15)):
            name, column, value = chance.choice("abc"), chance.choice("vw"), chance.choice("123")
            mutation = put(key={"k": name}, set={column: value}) if chance.random() < 0.8 else delete(key={"k": name})
            at.now = begin + 10 * chance.randrange(20)  # its effective time
            at.write(name.encode(), payload=mutation.to_bytes(), type="walstream.mutation")
            texts = [(b'"%b"' % c.encode(), b'="%b"' % v.encode()) for c, v in (("k", name), (column, value))]
            before = expected[name]
            expected[name] = before.put(at.now, texts) if mutation.op == "put" else before.delete(at.now)
        if chance.random() < 0.5:
            await at.work(rounds=chance.randrange(1, 3), commit=False)
            await at.crash()
        elif chance.random() < 0.5:
            await at.work(rounds=chance.randrange(1, 3), ahead=True)
            await at.crash(committed=chance.random() < 0.5)
        else:
            await at.settle()
        if one.look("a") is not None and chance.random() < 0.3:
            one.evict("a")
    at.now = begin + 1_000
    for name in "abc":
        at.write(name.encode(), payload=put(key={"k": name}).to_bytes(), type="walstream.mutation")
        expected[name] = expected[name].put(at.now, [(b'"k"', b'="%b"' % name.encode())])
    await at.settle()
    assert not at.waits
    for name, row_ in expected.items():
        assert json.dumps(one.look(name), separators=(",", ":")).encode() == row_.json()
    rows = {key.decode(): Row.from_bytes(value) for key, value in at.rows("state").items()}
    assert rows == {one.key(name): row_ for name, row_ in expected.items() if row_ != Row()}
    await at.stop()
    at.close()

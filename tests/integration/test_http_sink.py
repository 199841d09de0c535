"""The http sink against real HTTP servers: one that answers as a test says, the how-to's application, bad networks."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import orjson
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer

from walstream.connections import HttpConnection
from walstream.entry import Entry
from walstream.local.certificates import make_certificates
from walstream.sinks.base import (
    APPLIED,
    SKIPPED,
    TARGET_DOWN,
    UNTRIED,
    Applied,
    Dead,
    Retry,
    Sink,
    SinkContext,
    TargetDown,
    Untried,
)
from walstream.sinks.http import HttpOptions, HttpSink, sink
from walstream.testing.conformance import SinkConformance, entry
from walstream.testing.proxy import Direction, Proxy

PAGE = Path(__file__).parents[2] / "docs/how-to/send-to-an-application.md"
SOURCE = next(block for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S) if "# app.py" in block)

Handler = Callable[[web.Request], Awaitable[web.Response]]
MakeSink = Callable[..., Awaitable[HttpSink]]


def context_of(url: str, options: Mapping[str, Any], **connection: Any) -> SinkContext:
    words = {"sink": "http", "url": url, **connection}
    return SinkContext("ns", "app", HttpOptions.model_validate(options), HttpConnection.model_validate(words))


class TestTheHowTosApplication(SinkConformance):
    last_write_wins: ClassVar[bool] = True

    @pytest_asyncio.fixture
    async def url(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
        monkeypatch.chdir(tmp_path)
        self.code: dict[str, Any] = {"__name__": "app"}
        exec(compile(SOURCE, str(PAGE), "exec", dont_inherit=True), self.code)
        with contextlib.closing(self.code["database"]) as database:
            database.execute("PRAGMA synchronous = OFF")  # the tests lose no power
            async with TestServer(self.code["app"]) as server:
                yield str(server.make_url("")).rstrip("/")

    @pytest.fixture
    def context(self, url: str) -> SinkContext:
        return context_of(url, {"path": "/flights", "compares_times": True})

    def make(self, context: SinkContext) -> Sink:
        return HttpSink.for_context(context)

    def entry(self, key: str, value: int, position: int) -> Entry:
        return entry(position, key=key.encode(), payload=b'{"stock": %d}' % value)

    async def state(self, sink: Sink) -> Mapping[str, int]:
        rows = self.code["database"].execute("SELECT key, value FROM flights")
        return {key.decode(): orjson.loads(value)["stock"] for key, value in rows}

    def refused(self, key: str, position: int) -> Entry:
        return entry(position, key=key.encode(), payload=b"no JSON")

    def unreachable(self, context: SinkContext) -> SinkContext | None:
        return context_of("http://127.0.0.1:1", {})


class Application:
    """Answers as the test says, by key, and keeps what came."""

    def __init__(self) -> None:
        self.requests: list[web.Request] = []
        self.bodies: list[bytes] = []
        self.answers: dict[str, list[web.Response]] = {}  # of a key, one after the other; then 204
        self.hold = asyncio.Event()
        self.hold.set()
        self.open = self.most = 0

    @property
    def keys(self) -> list[str]:
        return [request.headers["walstream-key"] for request in self.requests]

    async def handle(self, request: web.Request) -> web.Response:
        self.requests.append(request)
        self.bodies.append(await request.read())
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            await self.hold.wait()
        finally:
            self.open -= 1
        answers = self.answers.get(request.headers.get("walstream-key", ""))
        return answers.pop(0) if answers else web.Response(status=204)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what the server's side does sets no event
            await asyncio.sleep(0.005)


@pytest.fixture
async def application() -> AsyncIterator[Application]:
    application = Application()
    yield application
    application.hold.set()


@contextlib.asynccontextmanager
async def serving(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[TestServer]:
    app = web.Application(client_max_size=2**24)
    app.router.add_route("*", "/{path:.*}", handler)
    server = TestServer(app, scheme="http" if tls is None else "https")
    await server.start_server(ssl=tls)
    try:
        yield server
    finally:
        await server.close()


@pytest.fixture
async def server(application: Application) -> AsyncIterator[TestServer]:
    async with serving(application.handle) as server:
        yield server


@pytest.fixture
async def proxy(server: TestServer) -> AsyncIterator[Proxy]:
    async with Proxy("127.0.0.1", int(server.port or 0)) as proxy:
        yield proxy


@pytest.fixture
async def make() -> AsyncIterator[MakeSink]:
    async with contextlib.AsyncExitStack() as stack:

        async def made(where: TestServer | Proxy | int, *, connection: Any = None, **options: Any) -> HttpSink:
            port = where if isinstance(where, int) else where.port
            words = {"url": f"http://127.0.0.1:{port}", **(connection or {})}
            sink = HttpSink(context_of(words.pop("url"), options, **words))
            await sink.open()
            stack.push_async_callback(sink.close)
            return sink

        yield made


def put(position: int, key: str | None, payload: bytes | None = b"{}") -> Entry:
    return entry(position, key=None if key is None else key.encode(), payload=payload)


async def test_what_arrives(
    application: Application, server: TestServer, make: MakeSink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("t0ken\n")
    words = {
        "url": f"http://127.0.0.1:{server.port}/base/",
        "token": {"file": str(tmp_path / "token")},
        "headers": {"X-Tenant": "a"},
    }
    opened = await make(server, connection=words, path="/flights?a=b%20c", method="PUT")
    event = b'{"specversion": "1.0", "id": "2", "source": "/s", "type": "t", "data": {"a": 1}}'
    announced = [("content-type", b"application/cloudevents+json")]
    batch = [
        entry(0, key=b"\x00k y\xff", payload=b"\x00\xff", type="type with spaces", content_type=None),
        Entry(1, 1, b"k", event, announced, 5, 6, 7),
        put(2, "k", None),
        put(3, None, b""),
    ]
    assert await opened.write(batch[:1]) == [APPLIED]
    assert await opened.write(batch[1:3]) == [APPLIED] * 2
    assert await opened.write(batch[3:]) == [APPLIED]
    assert {(request.method, request.raw_path) for request in application.requests} == {
        ("PUT", "/base/flights?a=b%20c")
    }
    assert application.bodies == [b"\x00\xff", event, b"", b""]
    binary, structured, null, unkeyed = (dict(request.headers) for request in application.requests)
    for headers in (binary, structured, null, unkeyed):
        assert headers["Authorization"] == "Bearer t0ken"
        assert headers["X-Tenant"] == "a"
        assert headers["User-Agent"] == "walstream"
    assert binary["walstream-key"] == "%00k%20y%FF"
    assert binary["ce-type"] == "type%20with%20spaces"
    assert "Content-Type" not in binary
    assert structured["Content-Type"] == "application/cloudevents+json"
    assert (structured["walstream-partition"], structured["walstream-time"]) == ("1", "6")
    assert null["walstream-null"] == "true"
    assert null["Content-Length"] == "0"
    assert not {"walstream-key", "walstream-null"} & set(unkeyed)


async def test_statuses_become_outcomes_in_their_order(
    application: Application, server: TestServer, make: MakeSink
) -> None:
    opened = await make(server)
    application.answers = {
        "new": [web.Response(status=202)],
        "known": [web.Response(status=208)],
        "bad": [web.Response(status=422, text="no such flight")],
        "soon": [web.Response(status=429, headers={"Retry-After": "7"})],
        "broken": [web.Response(status=500, text="oops " * 100_000)],
    }
    outcomes = await opened.write([put(i, key) for i, key in enumerate(application.answers)])
    *others, broken = outcomes
    assert others == [APPLIED, SKIPPED, Dead("HTTP 422: no such flight"), Retry("HTTP 429", 7.0)]
    assert isinstance(broken, Retry)
    assert len(broken.reason) < 400


async def test_a_conflict_is_skipped_where_the_target_says_so(
    application: Application, server: TestServer, make: MakeSink
) -> None:
    application.answers = {"a": [web.Response(status=409), web.Response(status=409)]}
    careful, sure = await make(server), await make(server, conflict="skip")
    assert await careful.write([put(0, "a")]) == [Retry("HTTP 409")]
    assert await sure.write([put(0, "a")]) == [SKIPPED]


async def test_what_follows_a_retry_is_not_sent_and_other_keys_are(
    application: Application, server: TestServer, make: MakeSink
) -> None:
    opened = await make(server)
    application.answers = {
        "a": [web.Response(), web.Response(status=500, headers={"Retry-After": "3"})],
        "b": [web.Response(status=400), web.Response()],
    }
    batch = [put(i, key) for i, key in enumerate("aabbaac")]
    outcomes = await opened.write(batch)
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [Applied, Retry, Dead, Applied, Untried, Untried, Applied]
    assert [outcome.after for outcome in outcomes if isinstance(outcome, Retry)] == [3.0]
    assert Counter(application.keys) == {"a": 2, "b": 2, "c": 1}


@pytest.mark.parametrize("hold", [False, True])
async def test_what_follows_a_dead_one_is_not_sent_where_it_holds_its_key(
    application: Application, server: TestServer, make: MakeSink, hold: bool
) -> None:
    opened = await make(server)
    opened.context = replace(opened.context, hold=hold)
    application.answers = {"a": [web.Response(), web.Response(status=400)]}
    outcomes = await opened.write([put(i, key) for i, key in enumerate("aaab")])
    third = Untried if hold else Applied
    assert [type(outcome) for outcome in outcomes] == [Applied, Dead, third, Applied]
    assert Counter(application.keys) == {"a": 2 if hold else 3, "b": 1}


@pytest.mark.parametrize("status", [502, 504])
async def test_what_a_gateway_says_of_one_request_and_of_all(make: MakeSink, status: int) -> None:
    others = 0

    async def handler(request: web.Request) -> web.Response:
        if request.headers["walstream-key"] != "a":
            return web.Response()
        await until(lambda: opened._answers >= others)
        return web.Response(status=status, headers={"Retry-After": "4"})

    async with serving(handler) as server:
        opened = await make(server)
        with pytest.raises(TargetDown) as caught:
            await opened.write([put(0, "a")])
        assert caught.value.after == 4.0
        others = 1
        assert await opened.write([put(1, "a"), put(2, "b")]) == [Retry(f"HTTP {status}", 4.0), APPLIED]


async def test_keys_go_in_order_and_at_the_same_time(
    application: Application, server: TestServer, make: MakeSink
) -> None:
    opened = await make(server, connections=10)
    application.hold.clear()
    batches = [[put(i, f"{n}-{i % 20}", b"%d" % i) for i in range(60)] for n in range(2)]
    batches.append([put(i, None, b"%d" % i) for i in range(20)])
    writing = [asyncio.create_task(opened.write(batch)) for batch in batches]
    await until(lambda: application.open == 10)
    application.hold.set()
    for outcomes, batch in zip(await asyncio.gather(*writing), batches, strict=True):
        assert outcomes == [APPLIED] * len(batch)
    assert application.most == 10
    by_key: dict[str, list[int]] = {}
    for request, body in zip(application.requests, application.bodies, strict=True):
        by_key.setdefault(request.headers.get("walstream-key", ""), []).append(int(body))
    assert sorted(by_key.pop("")) == list(range(20))
    assert len(by_key) == 40
    for key, values in by_key.items():
        assert values == list(range(int(key[2:]), 60, 20))


async def test_a_target_that_says_that_it_is_down_is_left_alone(
    application: Application, server: TestServer, make: MakeSink
) -> None:
    opened = await make(server, connections=4)
    application.answers = {f"k{i}": [web.Response(status=503, headers={"Retry-After": "9"})] for i in range(100)}
    with pytest.raises(TargetDown) as caught:
        await opened.write([put(i, f"k{i}") for i in range(100)])
    assert caught.value.after == 9.0
    assert opened.verdict(caught.value) is TARGET_DOWN
    assert len(application.requests) <= 4


async def test_what_was_applied_counts_though_the_target_goes_down(
    application: Application, server: TestServer, make: MakeSink
) -> None:
    opened = await make(server, connections=1)
    application.answers = {"b": [web.Response(status=503, text="bye", headers={"Retry-After": "9"})]}
    with pytest.raises(TargetDown, match="HTTP 503: bye") as caught:
        await opened.write([put(i, key) for i, key in enumerate("abc")])
    assert caught.value.outcomes == [APPLIED, None, None]
    assert caught.value.after == 9.0
    assert application.keys == ["a", "b"]


async def test_a_redirect_is_not_followed(application: Application, server: TestServer, make: MakeSink) -> None:
    opened = await make(server)
    application.answers = {"a": [web.Response(status=307, headers={"Location": "/there"})]}
    with pytest.raises(TargetDown, match="/there"):
        await opened.write([put(0, "a")])
    assert len(application.requests) == 1


async def test_a_new_token_is_read_when_the_old_one_is_refused(make: MakeSink, tmp_path: Path) -> None:
    async def doorman(request: web.Request) -> web.Response:
        return web.Response(status=200 if request.headers["Authorization"] == "Bearer new" else 401)

    token = tmp_path / "token"
    token.write_text("old")
    async with serving(doorman) as server:
        opened = await make(server, connection={"token": {"file": str(token)}})
        with pytest.raises(TargetDown, match="credentials"):
            await opened.write([put(0, "a")])
        token.write_text("new")
        assert await opened.write([put(0, "a")]) == [APPLIED]


async def test_one_slow_request_is_tried_again_and_the_target_is_up(make: MakeSink) -> None:
    never = asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        if request.headers["walstream-key"] == "slow":
            await never.wait()
        return web.Response()

    async with serving(handler) as server:
        opened = await make(server, timeout="300ms")
        slow, behind, other = await opened.write([put(0, "slow"), put(1, "slow"), put(2, "other")])
        never.set()
    assert other == APPLIED
    assert slow == Retry("TimeoutError: no answer within 0.3 s")
    assert behind is UNTRIED


async def test_a_target_that_answers_nothing_is_down(
    application: Application, server: TestServer, make: MakeSink
) -> None:
    opened = await make(server, timeout="200ms", connections=5)
    application.hold.clear()
    with pytest.raises(TimeoutError) as caught:
        await opened.write([put(i, f"k{i}") for i in range(50)])
    assert opened.verdict(caught.value) is TARGET_DOWN
    assert len(application.requests) == 5


async def test_a_call_ends_in_time(
    application: Application, server: TestServer, make: MakeSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = await make(server, timeout="20s")
    monkeypatch.setattr(sink, "CALL_S", 20.5)  # so that nothing is sent after half a second
    application.hold.clear()
    now = asyncio.get_running_loop().time
    end = now() + 0.6
    writing = asyncio.create_task(opened.write([put(i, "a") for i in range(5)]))
    await until(lambda: bool(application.requests) and now() > end)
    application.hold.set()
    assert await writing == [APPLIED] + [UNTRIED] * 4


async def test_a_call_that_is_cancelled_leaves_the_sink_as_it_was(
    application: Application, server: TestServer, make: MakeSink
) -> None:
    opened = await make(server, connections=2)
    application.hold.clear()
    writing = asyncio.create_task(opened.write([put(i, f"k{i}") for i in range(5)]))
    await until(lambda: application.open == 2)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    application.hold.set()
    assert await opened.write([put(i, f"k{i}") for i in range(5)]) == [APPLIED] * 5


async def test_connections_are_kept(application: Application, proxy: Proxy, make: MakeSink) -> None:
    opened = await make(proxy)
    texts = ["", "short", "x" * 50_000]
    application.answers = {"a": [web.Response(status=status, text=text) for status in (200, 400) for text in texts]}
    outcomes = await opened.write([put(i, "a") for i in range(6)])
    assert [type(outcome) for outcome in outcomes] == [Applied] * 3 + [Dead] * 3
    assert proxy.connections == 1


async def test_a_connection_that_broke_while_it_rested_is_replaced(
    application: Application, proxy: Proxy, make: MakeSink
) -> None:
    opened = await make(proxy)
    assert await opened.write([put(0, "a")]) == [APPLIED]
    proxy.reset()
    assert await opened.write([put(1, "a")]) == [APPLIED]


async def test_a_request_whose_answer_is_lost_comes_again_with_the_same_key(
    application: Application, proxy: Proxy, make: MakeSink
) -> None:
    opened = await make(proxy)
    proxy.cut(Direction.RESPONSES)
    writing = asyncio.create_task(opened.write([put(0, "a")]))
    await until(lambda: len(application.requests) == 1)
    proxy.reset()
    proxy.heal()
    assert await writing == [APPLIED]
    first, second = (request.headers["Idempotency-Key"] for request in application.requests)
    assert first == second


async def test_a_target_that_closes_every_connection_is_down(proxy: Proxy, make: MakeSink) -> None:
    opened = await make(proxy)
    proxy.refuse()
    with pytest.raises(Exception) as caught:  # noqa: PT011 - any that is in the table
        await opened.write([put(0, "a")])
    assert opened.verdict(caught.value) is TARGET_DOWN
    proxy.heal()
    assert await opened.write([put(0, "a")]) == [APPLIED]


@pytest.mark.parametrize(
    ("bytes_", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc", APPLIED),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 100\r\n\r\nabc", Dead("HTTP 404")),
        (b"HTTP/1.1 200 OK\r\nContent-", None),
        (b"SSH-2.0-OpenSSH\r\n", None),
    ],
)
async def test_answers_that_break_off(make: MakeSink, bytes_: bytes, expected: Any) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n{}")
        writer.write(bytes_)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as raw:
        opened = await make(raw.sockets[0].getsockname()[1])
        if expected is not None:
            assert await opened.write([put(0, "a")]) == [expected]
            return
        with pytest.raises(Exception) as caught:  # noqa: PT011 - any that is in the table
            await opened.write([put(0, "a")])
        assert opened.verdict(caught.value) is TARGET_DOWN


async def test_tls(application: Application, make: MakeSink, tmp_path: Path) -> None:
    files = make_certificates(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(files.authority))
    tls.load_cert_chain(files.server)
    tls.verify_mode = ssl.CERT_REQUIRED
    both = {"cafile": str(files.authority), "certfile": str(files.client), "keyfile": str(files.client_key)}
    async with serving(application.handle, tls) as server:
        url = f"https://127.0.0.1:{server.port}"
        opened = await make(server, connection={"url": url, "ssl": both})
        assert await opened.write([put(0, "a")]) == [APPLIED]
        for less in ({"cafile": both["cafile"]}, {"certfile": both["certfile"], "keyfile": both["keyfile"]}):
            opened = await make(server, connection={"url": url, "ssl": less})
            with pytest.raises(Exception) as caught:  # noqa: PT011 - any that is in the table
                await opened.write([put(0, "a")])
            assert opened.verdict(caught.value) is TARGET_DOWN, caught.value
    assert len(application.requests) == 1

"""The sinks of docs/how-to/write-a-sink.md, taken from the page and put through the conformance suite."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import orjson
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer

from walstream.entry import Entry
from walstream.sinks.base import Applied, Dead, Retry, Sink, SinkContext, TargetDown, Untried
from walstream.sinks.source import Found, Gone, Source, Wanted
from walstream.testing.conformance import SinkConformance, entry

PAGE = Path(__file__).parents[2] / "docs/how-to/write-a-sink.md"
CODE: dict[str, Any] = {"__name__": "sinks"}
for block in re.findall(r"```python\n(# \w+\.py\n.*?)```", PAGE.read_text(), re.S):
    exec(compile(block, str(PAGE), "exec", dont_inherit=True), CODE)


class TestSearch(SinkConformance):
    last_write_wins: ClassVar[bool] = True

    @pytest_asyncio.fixture
    async def url(self) -> AsyncIterator[str]:
        """A search engine that knows nothing but how to compare versions."""
        self.documents: dict[str, tuple[int, int]] = {}
        self.busy: dict[str, int] = {}  # the status of the next answer

        async def put(request: web.Request) -> web.Response:
            assert request.query["version_type"] == "external_gte"
            id_, version = request.match_info["id"], int(request.query["version"])
            if self.documents.get(id_, (0, 0))[0] > version:
                return web.Response(status=409)
            if id_ in self.busy:
                return web.Response(status=self.busy.pop(id_))
            try:
                self.documents[id_] = version, orjson.loads(await request.read())["stock"]
            except ValueError as error:
                return web.Response(status=400, text=str(error))
            return web.Response(status=201)

        app = web.Application()
        app.router.add_put("/documents/_doc/{id}", put)
        async with TestServer(app) as server:
            yield str(server.make_url("/"))

    @pytest.fixture
    def context(self, url: str) -> SinkContext:
        return SinkContext("shop", "search", CODE["Search"].Options(url=url))

    def make(self, context: SinkContext) -> Sink:
        sink: Sink = CODE["Search"](context)
        return sink

    def entry(self, key: str, value: int, position: int) -> Entry:
        return entry(position, key=key.encode(), payload=b'{"stock": %d}' % value)

    async def state(self, sink: Sink) -> Mapping[str, int]:
        return {key: value for key, (_, value) in self.documents.items()}

    def refused(self, key: str, position: int) -> Entry:
        return entry(position, key=key.encode(), payload=b"no JSON")

    def unreachable(self, context: SinkContext) -> SinkContext | None:
        return SinkContext("shop", "search", CODE["Search"].Options(url="http://127.0.0.1:1"))

    async def test_what_waits_is_not_overtaken(self, sink: Sink) -> None:
        self.busy = {"a": 429}
        batch = [self.entry("a", 1, 0), self.entry("a", 2, 1), self.entry("b", 3, 2)]
        assert [type(outcome) for outcome in await self.deliver(sink, batch)] == [Retry, Untried, Applied]
        assert await self.state(sink) == {"b": 3}
        self.busy = {"a": 503}
        with pytest.raises(TargetDown) as caught:
            await self.deliver(sink, batch)
        assert caught.value.after == 10.0


class TestChanges(SinkConformance):
    @pytest_asyncio.fixture
    async def url(self) -> AsyncIterator[str]:
        self.values: dict[str, int] = {}
        self.requests = 0

        async def post(request: web.Request) -> web.Response:
            self.requests += 1
            self.values[request.headers["key"]] = orjson.loads(await request.read())["stock"]
            return web.Response()

        app = web.Application()
        app.router.add_post("/", post)
        async with TestServer(app) as server:
            yield str(server.make_url("/"))

    @pytest.fixture
    def context(self, url: str) -> SinkContext:
        return SinkContext("shop", "changes", CODE["Changes"].Options(url=url))

    def make(self, context: SinkContext) -> Sink:
        sink: Sink = CODE["Changes"](context)
        return sink

    def entry(self, key: str, value: int, position: int) -> Entry:
        return entry(position, key=key.encode(), payload=b'{"stock": %d}' % value)

    async def state(self, sink: Sink) -> Mapping[str, int]:
        return self.values

    def unreachable(self, context: SinkContext) -> SinkContext | None:
        return SinkContext("shop", "changes", CODE["Changes"].Options(url="http://127.0.0.1:1"))

    async def test_what_says_nothing_new_is_not_sent(self, sink: Sink) -> None:
        await self.deliver(sink, [self.entry("a", value, i) for i, value in enumerate([1, 1, 2, 2, 1])])
        await self.deliver(sink, [self.entry("a", 1, 5)])
        assert self.requests == 3


async def test_the_source_of_the_page() -> None:
    async def rows(request: web.Request) -> web.Response:
        known = {"a": {"columns": {"stock": 5}, "time": 7}, "b": {"columns": None, "time": 8}}
        return web.json_response([known.get(key["item"], {"error": "no such item"}) for key in await request.json()])

    app = web.Application()
    app.router.add_post("/rows", rows)
    async with TestServer(app) as server:
        kind = CODE["Stock"]
        source: Source = kind(SinkContext("shop", "cache", kind.Options(url=str(server.make_url("/")))))
        await source.open()
        found = await source.read([Wanted(None, {"item": item}, 7) for item in "abc"])
        assert found == [Found({"stock": 5}, 7), Gone(8), Dead("no such item")]
        await source.close()

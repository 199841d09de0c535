"""The TCP proxy of the tests does what it says, in front of a server that echoes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from walstream.testing.proxy import Direction, Proxy

SOON = 0.2  # seconds in which something on loopback would have happened


@pytest.fixture
def heard() -> asyncio.Queue[bytes]:
    """Collect what the server hears."""
    return asyncio.Queue()


@pytest.fixture
async def proxy(heard: asyncio.Queue[bytes]) -> AsyncIterator[Proxy]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1024):
                heard.put_nowait(data)
                writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with Proxy("127.0.0.1", server.sockets[0].getsockname()[1]) as proxy:
        yield proxy
    server.close()


async def test_passes_everything(proxy: Proxy) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"x" * 1_000_000)
    assert await reader.readexactly(1_000_000) == b"x" * 1_000_000
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()


async def test_cut_holds_back_and_heal_delivers(proxy: Proxy, heard: asyncio.Queue[bytes]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    proxy.cut(Direction.RESPONSES)
    writer.write(b"hello")
    assert await heard.get() == b"hello"
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), SOON)
    proxy.heal()
    assert await reader.readexactly(5) == b"hello"
    writer.close()


async def test_cut_of_requests_keeps_them_from_the_server(proxy: Proxy, heard: asyncio.Queue[bytes]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    proxy.cut(Direction.REQUESTS)
    writer.write(b"hello")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), SOON)
    assert heard.empty()
    proxy.heal()
    assert await reader.readexactly(5) == b"hello"
    writer.close()


async def test_drop_loses_for_ever(proxy: Proxy, heard: asyncio.Queue[bytes]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    proxy.drop(Direction.RESPONSES)
    writer.write(b"lost")
    assert await heard.get() == b"lost"
    await asyncio.sleep(SOON)
    proxy.heal()
    writer.write(b"kept")
    assert await reader.readexactly(4) == b"kept"
    writer.close()


async def test_reset_ends_connections_and_refuse_new_ones(proxy: Proxy) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"a")
    assert await reader.readexactly(1) == b"a"
    proxy.reset()
    with pytest.raises(OSError):  # noqa: PT011 - which one depends on the kernel
        await reader.readexactly(1)
    writer.close()
    proxy.refuse()
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    with contextlib.suppress(OSError):
        assert await reader.read() == b""
    writer.close()


async def test_delay(proxy: Proxy) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    proxy.delay = 0.1
    before = asyncio.get_running_loop().time()
    writer.write(b"a")
    await reader.readexactly(1)
    assert asyncio.get_running_loop().time() - before >= 0.2  # there and back
    writer.close()

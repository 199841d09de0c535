"""A TCP proxy for tests: it stands between a client and a server, and does to the bytes what bad networks do.

The server must advertise the proxy's address (Kafka: ``advertised.listeners``), or clients go around it.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import socket
import struct
from types import TracebackType
from typing import Self

CHUNK = 64 * 1024  # bytes read at a time; small enough that a cut takes effect at once
_RESET_ON_CLOSE = struct.pack(
    "ii", 1, 0
)  # SO_LINGER with no time to linger: close() sends RST and drops what is unsent


class Direction(enum.Flag):
    """Which way bytes travel."""

    REQUESTS = enum.auto()  # from the client to the server
    RESPONSES = enum.auto()  # from the server to the client
    BOTH = REQUESTS | RESPONSES


class Proxy:
    """One listening port on loopback that forwards to one server.

    Parameters
    ----------
    host, port
        The server.
    listen_port
        The port to listen on; 0 takes a free one, which is in `port` after the start.

    Examples
    --------
    >>> async with Proxy("127.0.0.1", 9092) as proxy:  # doctest: +SKIP
    ...     proxy.cut(Direction.RESPONSES)  # requests arrive, answers do not
    ...     proxy.heal()
    """

    def __init__(self, host: str, port: int, *, listen_port: int = 0) -> None:
        self.host, self.server_port, self.port = host, port, listen_port
        self.delay = 0.0
        self.connections = 0
        self.passed = {Direction.REQUESTS: 0, Direction.RESPONSES: 0}
        self._dropping = Direction(0)
        self._open = {Direction.REQUESTS: asyncio.Event(), Direction.RESPONSES: asyncio.Event()}
        self._refusing = False
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.heal()

    @property
    def address(self) -> str:
        """``host:port`` for the client."""
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening, and end every connection."""
        if self._server is not None:
            self._server.close()
        self.reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    def cut(self, direction: Direction = Direction.BOTH) -> None:
        """Hold back the bytes of a direction, as when packets are lost; `heal` lets them through."""
        for one in direction:
            self._open[one].clear()

    def drop(self, direction: Direction) -> None:
        """Take the bytes of a direction and throw them away for ever."""
        self._dropping |= direction

    def refuse(self) -> None:
        """Close every new connection at once, as a server does that is going down."""
        self._refusing = True

    def heal(self) -> None:
        """Let everything through again, and what was held back first."""
        self.delay, self._dropping, self._refusing = 0.0, Direction(0), False
        for event in self._open.values():
            event.set()

    def reset(self) -> None:
        """End every connection with RST. What was held back or is on its way is lost."""
        for pair in self._pairs:
            for writer in pair:
                with contextlib.suppress(OSError):
                    sock: socket.socket = writer.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        try:
            if self._refusing:
                return
            upstream_reader, upstream = await asyncio.open_connection(self.host, self.server_port)
        except OSError:
            return
        else:
            pair = (writer, upstream)
            self._pairs.add(pair)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pump(reader, upstream, Direction.REQUESTS))
                    group.create_task(self._pump(upstream_reader, writer, Direction.RESPONSES))
            finally:
                self._pairs.discard(pair)
                upstream.close()
        finally:
            writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                if self.delay:
                    await asyncio.sleep(self.delay)
                await self._open[direction].wait()
                if direction in self._dropping:
                    continue
                writer.write(data)
                await writer.drain()
                self.passed[direction] += len(data)
            if writer.can_write_eof():
                writer.write_eof()

"""The way to a region's Kafka, which can be cut: a port of this machine from which all goes on to another.

The Kafka must tell its clients to come by this port (`KafkaOptions.advertised`), or they go around it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading

_CHUNK = 64 * 1024  # bytes


class Link:
    """A port that leads to a server, as soon as that is known.

    Attributes
    ----------
    port
        Where it listens, on loopback.
    """

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._to: tuple[str, int] | None = None
        self._is_cut = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"demo-link-{self.port}", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """``host:port`` for who comes this way."""
        return f"127.0.0.1:{self.port}"

    def lead_to(self, address: str) -> None:
        """Say where it leads: ``host:port``."""
        host, _, port = address.rpartition(":")
        self._to = (host, int(port))

    def cut(self) -> None:
        """End every connection, and let nobody through."""
        self._is_cut = True
        self._loop.call_soon_threadsafe(self._abort)

    def heal(self) -> None:
        """Let everybody through again."""
        self._is_cut = False

    def close(self) -> None:
        """End it with every connection."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._accept, sock=self._socket))
        self._loop.run_forever()
        server.close()
        self._abort()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    def _abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pair = {writer}
        try:
            if self._is_cut or self._to is None:
                return
            there_reader, there = await asyncio.open_connection(*self._to)
            pair.add(there)
            self._writers |= pair
            if self._is_cut:  # meanwhile
                self._abort()
            await asyncio.gather(self._pass_on(reader, there), self._pass_on(there_reader, writer))
        except OSError:
            pass  # nobody is there
        finally:
            self._writers -= pair
            for each in pair:
                each.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                writer.write(data)
                await writer.drain()
        writer.close()

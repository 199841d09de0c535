"""A way to a server that takes time: ``python -m benchmarks.link PORT HOST:PORT SECONDS``.

All that comes to the port goes on to the server that much later, and as late back; how much is on its way at a time is
bounded by memory only, as by a long way with large windows.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from pathlib import Path

import psutil

from benchmarks.processes import Processes
from walstream.local.ports import free_port, is_free

CHUNK = 256 * 1024  # bytes that are read at once, at most
START_LIMIT = 30.0  # s
WAITING = 2_000  # chunks on their way in one direction of a connection


class Link:
    """The way to a server, in a process of its own.

    Parameters
    ----------
    folder
        For its output.

    Attributes
    ----------
    port
        Where it begins, on loopback. The server must tell its clients to come there, or they go around it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: Processes | None = None
        self.port = free_port()

    def open(self, to: str, round_trip: float) -> None:
        """Lead to a server (``host:port``) from now on; `round_trip` in seconds."""
        self.close()
        command = [sys.executable, "-m", "benchmarks.link", str(self.port), to, str(round_trip / 2)]
        self._running = Processes(self._folder, [command]).__enter__()
        deadline = time.monotonic() + START_LIMIT
        while is_free(self.port):
            self._running.check()
            if time.monotonic() > deadline:
                raise TimeoutError(f"nobody listens on port {self.port}")
            time.sleep(0.02)

    def close(self) -> None:
        """End every connection."""
        if self._running is not None:
            self._running.stop()
            self._running = None

    def cpu(self) -> float:
        """Processor seconds that it has used since it was opened."""
        if self._running is None:
            return 0.0
        times = psutil.Process(self._running.pids[0]).cpu_times()
        return float(times.user + times.system)


async def lead(port: int, to: str, delay: float) -> None:
    """Listen on a port, and pass everything on, `delay` seconds late in each direction."""
    host, _, number = to.rpartition(":")

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, onward = await asyncio.open_connection(host, int(number), limit=CHUNK)
        except OSError:
            writer.close()
            return
        await asyncio.gather(_pass_on(reader, onward, delay), _pass_on(there, writer, delay))
        onward.close()
        writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", port, limit=CHUNK) as server:
        await server.serve_forever()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
    waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(WAITING)

    async def write() -> None:
        with contextlib.suppress(OSError):
            while True:
                due, data = await waiting.get()
                if (left := due - time.monotonic()) > 0:
                    await asyncio.sleep(left)
                if not data:
                    writer.write_eof()
                    return
                writer.write(data)
                await writer.drain()

    writing = asyncio.create_task(write())
    data = b"-"
    with contextlib.suppress(OSError):
        while data:
            data = await reader.read(CHUNK)
            await waiting.put((time.monotonic() + delay, data))
    if data:  # the connection broke, so the other direction's, too
        writing.cancel()
        writer.close()
    await asyncio.wait([writing])


if __name__ == "__main__":
    asyncio.run(lead(int(sys.argv[1]), sys.argv[2], float(sys.argv[3])))

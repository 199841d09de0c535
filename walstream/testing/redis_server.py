"""A real Redis for tests: a child process of this machine, that keeps nothing on disk."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from walstream.errors import ServerError
from walstream.local.ports import free_port
from walstream.local.processes import Identity, spawn
from walstream.testing.servers import Address

START_SECONDS = 20.0


def redis_binary() -> str | None:
    """The path of ``redis-server``, which Debian has in the package of that name."""
    return shutil.which("redis-server")


class RedisServer:
    """A server of one's own on a free port.

    Parameters
    ----------
    folder
        Empty; for its log.
    arguments
        More of its command line, such as ``--cluster-enabled yes``.
    """

    proxied = None

    def __init__(self, folder: Path, arguments: Sequence[str] = ()) -> None:
        self._folder, self._arguments = folder, arguments
        self.address = Address(f"127.0.0.1:{free_port()}")
        self.start()

    def start(self) -> None:
        """Start it, empty, and wait until it answers.

        Raises
        ------
        ServerError
            There is no ``redis-server``, or it does not answer.
        """
        binary = redis_binary()
        if binary is None:
            raise ServerError("there is no redis-server; on Debian and Ubuntu: apt-get install redis-server")
        log = self._folder / "redis.log"
        port = str(self.address.port)
        command = [binary, "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder)]
        self._process, self._identity = spawn(
            [*command, *self._arguments], log=log, folder=self._folder, owner=Identity.of(os.getpid())
        )
        deadline = time.monotonic() + START_SECONDS
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise ServerError(f"redis-server does not answer. The end of its log:\n{log.read_text()[-2000:]}")
            time.sleep(0.05)

    def stop(self, *, kill: bool = False) -> None:
        """Stop it; what it held is gone."""
        self._identity.end(kill=kill)
        self._process.wait()

    def close(self) -> None:
        """End it for good."""
        self.stop(kill=True)

    def _ready(self) -> bool:
        try:
            with socket.create_connection((self.address.host, self.address.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False

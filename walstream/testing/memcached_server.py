"""A real memcached for tests: a child process of this machine."""

from __future__ import annotations

import os
import pwd
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
MISSING = "there is no memcached; on Debian and Ubuntu: apt-get install memcached"


def memcached_binary() -> str | None:
    """The path of ``memcached``, which Debian has in the package of that name."""
    return shutil.which("memcached")


class MemcachedServer:
    """A server of one's own on a free port.

    Parameters
    ----------
    folder
        Empty; for its log.
    arguments
        More of its command line, such as ``--memory-limit=1``.
    """

    proxied = None

    def __init__(self, folder: Path, arguments: Sequence[str] = ()) -> None:
        self._folder, self._arguments = folder, arguments
        self.address = Address(f"127.0.0.1:{free_port()}")
        self.start()

    def start(self) -> None:
        """Start it, empty, and wait until it takes connections.

        Raises
        ------
        ServerError
            There is no ``memcached``, or it does not answer.
        """
        binary = memcached_binary()
        if binary is None:
            raise ServerError(MISSING)
        log = self._folder / "memcached.log"
        user = pwd.getpwuid(os.getuid()).pw_name  # as root it asks for one
        command = [binary, f"--port={self.address.port}", "--listen=127.0.0.1", f"--user={user}"]
        self._process, self._identity = spawn(
            [*command, *self._arguments], log=log, folder=self._folder, owner=Identity.of(os.getpid())
        )
        deadline = time.monotonic() + START_SECONDS
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise ServerError(f"memcached does not answer. The end of its log:\n{log.read_text()[-2000:]}")
            time.sleep(0.02)

    def stop(self, *, kill: bool = False) -> None:
        """Stop it; what it held is gone."""
        self._identity.end(kill=kill)
        self._process.wait()

    def close(self) -> None:
        """End it for good."""
        self.stop(kill=True)

    def ask(self, command: bytes) -> bytes:
        """Send one command of the text protocol, complete, and answer with what comes back, as an ordinary client."""
        end = b"END\r\n" if command.startswith((b"get", b"stats")) else b"\r\n"
        with socket.create_connection((self.address.host, self.address.port), timeout=10) as connection:
            connection.sendall(command)
            said = b""
            while not said.endswith(end):
                chunk = connection.recv(64 * 1024)
                if not chunk:
                    break
                said += chunk
            return said

    def get(self, *keys: str) -> dict[str, bytes]:
        """The values of keys; those that are not there are left out."""
        found: dict[str, bytes] = {}
        for key in keys:
            head, _, rest = self.ask(b"get %b\r\n" % key.encode()).partition(b"\r\n")
            if head.startswith(b"VALUE"):
                found[key] = rest[: int(head.split()[3])]
        return found

    def count(self, name: str) -> int:
        """One of the server's statistics."""
        return int(self.ask(b"stats\r\n").partition(b"STAT %b " % name.encode())[2].split()[0])

    def _ready(self) -> bool:
        try:
            with socket.create_connection((self.address.host, self.address.port), timeout=1):
                return True
        except OSError:
            return False

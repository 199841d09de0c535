"""A real memcached for tests, and a look into it as an ordinary client has it."""

from __future__ import annotations

import os
import pwd
import socket

from walstream.testing.child_server import ChildServer


class MemcachedServer(ChildServer):
    """A memcached of one's own."""

    program = "memcached"

    def options(self) -> list[str]:
        user = pwd.getpwuid(os.getuid()).pw_name  # as root it asks for one
        return [f"--port={self.address.port}", "--listen=127.0.0.1", f"--user={user}"]

    def is_ready(self, connection: socket.socket) -> bool:
        return True

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

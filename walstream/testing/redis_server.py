"""A real Redis for tests, that keeps nothing on disk."""

from __future__ import annotations

import socket

from walstream.testing.child_server import ChildServer


class RedisServer(ChildServer):
    """A Redis of one's own."""

    program = "redis-server"

    def options(self) -> list[str]:
        return ["--port", str(self.address.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self.folder)]

    def is_ready(self, connection: socket.socket) -> bool:
        connection.sendall(b"PING\r\n")
        return connection.recv(16).startswith(b"+PONG")

"""Free ports for servers that keep theirs."""

from __future__ import annotations

import random
import socket

# Below what Linux gives to outgoing connections (from 32768). A client that tries again and again to reach a stopped
# server would otherwise be given the server's own port one day, talk to itself, and keep the server from coming back.
LOWEST, HIGHEST = 20_000, 32_000


def is_free(port: int) -> bool:
    """Tell whether a server could listen on a port of the loopback address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """Give a port of the loopback address on which nothing listens."""
    while True:
        port = random.randrange(LOWEST, HIGHEST)
        if is_free(port):
            return port

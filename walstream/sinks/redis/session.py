"""A client of a Redis, made from an entry of ``connections.yaml``, and what is sent by it in one round trip."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from walstream.connections import RedisConnection

# Redis runs one command at a time; connections are for the way there. More partitions than that take turns.
CONNECTIONS = 32
# Each may pass twice, below the deadline of a sink's call.
CONNECT_S = 5.0
ANSWER_S = 10.0


def make_client(
    connection: RedisConnection, greet: Callable[[AbstractConnection], Awaitable[None]] | None = None
) -> Redis:
    """Make a client, which connects when it is used.

    Parameters
    ----------
    greet
        Logs in on a connection that was made, by its `on_connect`, and what is to be done besides.

    Raises
    ------
    ConfigurationError
        A secret is not there, or a certificate cannot be read.
    """
    options: dict[str, Any] = {
        "max_connections": CONNECTIONS,
        "timeout": None,  # a batch waits for a connection until the deadline of its call
        "socket_connect_timeout": CONNECT_S,
        "socket_timeout": ANSWER_S,
        "socket_keepalive": True,
        # Once more at once: a connection that idled may have been cut long ago, and writes may be repeated.
        "retry": Retry(NoBackoff(), 1),
        "client_name": "walstream",
        "username": connection.username,
        "password": None if connection.password is None else connection.password.read(),
        "redis_connect_func": greet,
    }
    tls = connection.ssl
    if tls is not None:
        tls.context()  # says which file cannot be read
        options |= {
            "ssl_ca_certs": None if tls.cafile is None else str(tls.cafile),
            "ssl_certfile": None if tls.certfile is None else str(tls.certfile),
            "ssl_keyfile": None if tls.keyfile is None else str(tls.keyfile),
            "ssl_password": None if tls.keypassword is None else tls.keypassword.read(),
            "ssl_check_hostname": tls.check_hostname,
        }
    return Redis.from_pool(BlockingConnectionPool.from_url(connection.address, **options))


async def exchange(connection: AbstractConnection, commands: Sequence[bytes]) -> list[Any]:
    """Send commands, and read the answer or error of each.

    The library's pipeline does so too, but takes longer for an argument than all else that is done with it.
    """
    await connection.send_packed_command(b"".join(commands))
    answers: list[Any] = []
    for _ in commands:
        try:
            answers.append(await connection.read_response())
        except ResponseError as error:
            answers.append(error)
    return answers

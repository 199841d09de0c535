"""A client of a memcached that sends many commands at once and has an answer for each.

It speaks the meta protocol (https://docs.memcached.org/protocols/meta/). Each command has one line as its answer, since
values are written and never read. `mn`, which says no more than that it was reached, ends each exchange, so that an
answer is never taken for that of another command.

The client libraries there are wait for each answer before the next command, or take a cancelled call for an answered
one, or block a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Sequence

from walstream.connections import MemcachedConnection
from walstream.errors import SinkError, WalstreamError

CONNECTIONS = 16
CONNECT_S = 5.0
# Without a byte of an answer; it may pass twice, below the deadline of a sink's call.
ANSWER_S = 10.0
_CHUNK = 64 * 1024
# SO_LINGER without time to linger: what the system has not sent yet is not sent any more.
_AT_ONCE = struct.pack("ii", 1, 0)

Answer = bytes | Exception
"""One line without its end, or why there is none."""


class Misunderstood(WalstreamError):
    """The server did not understand what it was sent, or answers what nobody asked for."""


class Client:
    """A pool of connections to one server.

    Parameters
    ----------
    connection
        Where it is, and what it asks for.
    """

    def __init__(self, connection: MemcachedConnection) -> None:
        self._to = connection
        self._free: list[_Connection] = []
        self._slots = asyncio.Semaphore(CONNECTIONS)

    async def ask(self, commands: Sequence[bytes]) -> list[Answer]:
        """Send commands and answer with what was said of each; of those behind a failure, with the failure.

        Parameters
        ----------
        commands
            Complete, with their data and ends of lines.
        """
        async with self._slots:
            if self._free:
                connection = self._free.pop()
                answers = await self._ask(connection, commands)
                if not (answers and isinstance(answers[0], ConnectionError)):
                    return answers
                # Not one answer: it may have been cut while it rested. All commands may be sent twice.
            try:
                connection = await self._connect()
            except (OSError, SinkError) as error:
                return [error] * len(commands)
            return await self._ask(connection, commands)

    async def _ask(self, connection: _Connection, commands: Sequence[bytes]) -> list[Answer]:
        try:
            answers = await connection.ask(commands)
        except BaseException:
            connection.abort()
            raise
        if connection.sound:
            self._free.append(connection)
        else:
            connection.abort()
        return answers

    async def check(self) -> None:
        """Connect, and see whether it is a memcached that can be used.

        Raises
        ------
        OSError, SinkError
            It cannot.
        """
        async with self._slots:
            self._free.append(await self._connect())

    async def _connect(self) -> _Connection:
        where = f"memcached at {self._to.address}"
        try:
            async with asyncio.timeout(CONNECT_S):
                return await self._greet(where)
        except TimeoutError:
            raise TimeoutError(f"{where} cannot be reached within {CONNECT_S:g} s") from None

    async def _greet(self, where: str) -> _Connection:
        to = self._to
        tls = None if to.ssl is None else to.ssl.context()
        connection = _Connection(*await asyncio.open_connection(to.host, to.port, ssl=tls))
        try:
            if to.password is not None:
                secret = f"{to.username} {to.password.read()}".encode()
                said = await connection.only(b"set auth 0 0 %d\r\n%b\r\n" % (len(secret), secret))
                if said != b"STORED":
                    raise SinkError(f"{where} does not take the user name and password: {shown(said)}")
            said = await connection.only(b"mn\r\n")
            if said != b"MN":
                raise SinkError(f"{where} does not answer as memcached 1.6 or later does: {shown(said)}")
        except BaseException:
            connection.abort()
            raise
        return connection

    def close(self) -> None:
        """End all connections."""
        while self._free:
            self._free.pop().abort()


class _Connection:
    """One connection, for one caller at a time.

    Attributes
    ----------
    sound
        Whether it can be used again.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.sound = True

    async def ask(self, commands: Sequence[bytes]) -> list[Answer]:
        """As `Client.ask`. When it fails, the connection is not sound."""
        answers: list[Answer] = []
        try:
            lines = await self._exchange(commands, answers)
            if lines != [b"MN"]:
                answers.clear()  # whatever they are about
                raise Misunderstood(f"memcached answers what it was not asked: {shown(b' '.join(lines))}")
            return answers
        except (OSError, Misunderstood) as error:
            self.sound = False
            return answers + [error] * (len(commands) - len(answers))

    async def only(self, command: bytes) -> Answer:
        """The answer to one command.

        Raises
        ------
        OSError
            There is none.
        """
        (said,) = await self.ask([command])
        if isinstance(said, OSError):
            raise said
        return said

    async def _exchange(self, commands: Sequence[bytes], answers: list[Answer]) -> list[bytes]:
        """Put an answer for each command into the list; what follows them is returned."""
        now = asyncio.get_running_loop().time
        rest = b""
        try:
            async with asyncio.timeout(ANSWER_S) as timeout:
                self._writer.writelines([*commands, b"mn\r\n"])
                await self._writer.drain()
                while True:
                    chunk = await self._reader.read(_CHUNK)
                    if not chunk:
                        raise ConnectionResetError("memcached closed the connection")
                    timeout.reschedule(now() + ANSWER_S)
                    *lines, rest = (rest + chunk).split(b"\r\n")
                    wanted = len(commands) - len(answers)
                    for line in lines[:wanted]:
                        if line == b"ERROR" or line.startswith(b"CLIENT_ERROR"):
                            # What stands behind the command may have been taken for commands.
                            raise Misunderstood(f"memcached says: {shown(line)}")
                        answers.append(line)
                    if len(lines) > wanted:
                        return lines[wanted:] + ([rest] if rest else [])
        except TimeoutError:
            raise TimeoutError(f"memcached did not answer for {ANSWER_S:g} s") from None

    def abort(self) -> None:
        """End it, and with it what is on its way there."""
        self.sound = False
        raw = self._writer.get_extra_info("socket")
        with contextlib.suppress(OSError):  # it is closed already
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self._writer.transport.abort()


def shown(said: Answer) -> str:
    return said[:200].decode(errors="replace") if isinstance(said, bytes) else f"{type(said).__name__}: {said}"

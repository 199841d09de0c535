"""Writes mutations to a Redis as ordinary keys, by effective time.

Rows share a call of the script where all keys are on one server (`place`). An error of a call is one of each of its
rows.

What becomes of an error (`RedisSink.errors`, and `CODES` for those that the library has no class for):

===================================================== ================================================================
Redis, or the library, says                           So
===================================================== ================================================================
no connection, no answer in time, LOADING, a          The target is down where nothing of the batch got through; else
password refused, NOPERM, READONLY, OOM, BUSY,        these entries are tried again. Both are harmless: the script
MISCONF, NOREPLICAS, CLUSTERDOWN, MASTERDOWN, MOVED   compares times.
TRYAGAIN, NOSCRIPT                                    These entries are tried again.
WRONGTYPE: the key holds what is not ours             Dead.
CROSSSLOT, of rows that shared a call                 From now on each has its own, and these too, at once.
any other                                             The partition is held, and the error reported.
===================================================== ================================================================

A mutation that is none, or that options do not fit, is dead.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, MutableMapping, Sequence
from typing import Any, ClassVar, Final
from weakref import WeakKeyDictionary

from pydantic import field_validator
from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection

from walstream.entry import Entry
from walstream.errors import SinkError
from walstream.mutation import KeyTemplate
from walstream.sinks.base import (
    DEAD,
    RETRY,
    TARGET_DOWN,
    Dead,
    Outcome,
    Readable,
    Retry,
    Sink,
    SinkContext,
    Verdict,
)
from walstream.sinks.redis import reading
from walstream.sinks.redis.call import LOAD, Row, call, read, shares
from walstream.sinks.redis.place import is_one_server
from walstream.sinks.redis.rows import PREFIX, Rows
from walstream.sinks.redis.session import exchange, make_client
from walstream.sinks.rows import RowOptions, read_all

log = logging.getLogger(__name__)

CODES: Final = {"BUSY": TARGET_DOWN, "MISCONF": TARGET_DOWN, "NOREPLICAS": TARGET_DOWN, "WRONGTYPE": DEAD}
"""What the first word of an answer means, where the library has no class of its own for it."""


class RedisOptions(RowOptions):
    """How a row becomes a key.

    Parameters
    ----------
    key
        Text with key columns in braces; ``{{`` and ``}}`` are braces.
    value
        ``json``: one text with all columns; ``hash``: a field for each; else the column whose value is kept.
    table
        The table whose mutations these are; others are refused. Without it, all are taken.
    """

    @field_validator("key")
    @classmethod
    def _of_its_own(cls, key: str) -> str:
        if key.startswith(PREFIX.decode()):
            raise ValueError(f"keys that begin with {PREFIX.decode()} are walstream's own; begin it with another word")
        return key


class RedisSink(Sink, Readable):
    """Every entry's payload is a mutation, which a script decides; one round trip per batch."""

    Options = RedisOptions
    needs_connection = True
    late_writes_harmless = True  # by its effective time, a late write changes nothing that is newer
    forgets_deletes = True
    errors: ClassVar = {
        exceptions.ConnectionError: TARGET_DOWN,  # also LOADING, and a password refused
        exceptions.TimeoutError: TARGET_DOWN,
        exceptions.NoPermissionError: TARGET_DOWN,
        exceptions.ReadOnlyError: TARGET_DOWN,
        exceptions.OutOfMemoryError: TARGET_DOWN,
        exceptions.ClusterDownError: TARGET_DOWN,  # also MASTERDOWN
        exceptions.AskError: TARGET_DOWN,  # also MOVED
        exceptions.TryAgainError: RETRY,
        exceptions.NoScriptError: RETRY,
        SinkError: TARGET_DOWN,
    }

    def __init__(self, context: SinkContext) -> None:
        super().__init__(context)
        options = self.options
        self._rows = Rows(options.key, options.value, options.table)
        self._prefix = KeyTemplate(options.key).prefix
        self._words = self._rows.form.encode(), b"%d" % context.remember
        self._client: Redis | None = None
        # Whether rows may share a call, by connection: an address may lead to another place the next time.
        self._shared: MutableMapping[AbstractConnection, bool] = WeakKeyDictionary()

    def verdict(self, error: BaseException) -> Verdict | None:
        if type(error) is exceptions.ResponseError:
            return CODES.get(str(error).partition(" ")[0])
        return super().verdict(error)

    async def open(self) -> None:
        where = self.context.connection.address
        self._client = make_client(self.context.connection, self._greet)
        try:
            memory = await self._client.info("memory")
            await self._run([])  # finds out where the keys are
        except exceptions.ResponseError:
            return  # not for this user, or not by way of a proxy; writes will show
        except exceptions.RedisError as error:
            raise SinkError(f"Redis at {where} cannot be used: {type(error).__name__}: {error}") from error
        policy = memory.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            log.warning(
                "%s.%s: Redis at %s evicts keys when its memory is full (maxmemory-policy %s), and with them what "
                "refuses older writes; set maxmemory-policy noeviction",
                self.context.namespace, self.context.target, where, policy,
            )  # fmt: skip

    async def close(self) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            await client.aclose()
            await client.connection_pool.disconnect()

    async def write(self, batch: Sequence[Entry]) -> Sequence[Outcome]:
        rows, outcomes = read_all(batch, self._rows.arguments)
        if rows:
            answers = await self._run(list(rows.values()))
            some_applied = any(not isinstance(answer, Exception) for answer in answers)
            for i, answer in zip(rows, answers, strict=True):
                outcomes[i] = self._failed(answer, some_applied) if isinstance(answer, Exception) else answer
        return [outcomes[i] for i in range(len(batch))]

    @property
    def form(self) -> str:
        return f"value: {self.options.value} of keys {self.options.key}"

    def scan(self) -> AsyncIterator[Sequence[tuple[bytes, bytes]]]:
        assert self._client is not None
        return reading.scan(self._client, self._prefix, self._rows.form)

    async def look_up(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        assert self._client is not None
        return await reading.look_up(self._client, keys, self._rows.form)

    async def _greet(self, connection: AbstractConnection) -> None:
        self._shared.pop(connection, None)
        await connection.on_connect()

    async def _run(self, rows: Sequence[Row]) -> list[Outcome | Exception]:
        """Write rows, and answer with what became of each, or why it cannot be."""
        assert self._client is not None
        pool: Any = self._client.connection_pool
        connection = await pool.get_connection()
        try:
            answers: list[Outcome | Exception] = await connection.retry.call_with_retry(
                lambda: self._send(connection, rows), lambda _: connection.disconnect()
            )
        finally:
            await pool.release(connection)
        if any(isinstance(answer, exceptions.ReadOnlyError) for answer in answers):
            # A master that became a replica keeps its connections; the name may lead to the new one by now.
            await pool.disconnect(inuse_connections=False)
        return answers

    async def _send(self, connection: AbstractConnection, rows: Sequence[Row]) -> list[Outcome | Exception]:
        """Write rows by a connection, in one round trip; one more where it is new.

        The script goes in front each time, which costs Redis a look into its list of scripts: so it is there after a
        restart and on a replica that was promoted.
        """
        if not connection.is_connected:
            await connection.connect()  # type: ignore[no-untyped-call]
        shared = self._shared.get(connection)
        if shared is None:
            shared = self._shared[connection] = await is_one_server(connection, self._prefix)
        calls: list[Sequence[Row]] = list(shares(rows)) if shared else [[row] for row in rows]
        loaded, *said = await exchange(connection, [LOAD, *(call(each, *self._words) for each in calls)])
        if isinstance(loaded, Exception):
            raise loaded
        answers = [answer for each, about in zip(calls, said, strict=True) for answer in read(about, len(each))]
        if shared:
            apart = [i for i, answer in enumerate(answers) if isinstance(answer, exceptions.ClusterCrossSlotError)]
            if apart:
                self._shared[connection] = False
                again = await self._send(connection, [rows[i] for i in apart])
                for i, answer in zip(apart, again, strict=True):
                    answers[i] = answer
        elif any(isinstance(answer, Exception) and self.verdict(answer) is TARGET_DOWN for answer in answers):
            self._shared.pop(connection, None)  # it may not have been able to tell
        return answers

    def _failed(self, error: Exception, some_applied: bool) -> Outcome:
        verdict = self.verdict(error)
        reason = f"{type(error).__name__}: {error}"
        if verdict is DEAD:
            return Dead(reason)
        if verdict is RETRY or (verdict is TARGET_DOWN and some_applied):
            return Retry(reason)
        raise error

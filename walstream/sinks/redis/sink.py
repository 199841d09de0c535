"""Writes mutations to a Redis as ordinary keys, by effective time.

What becomes of an error (`RedisSink.errors`, and `CODES` for those that the library has no class for):

===================================================== ================================================================
Redis, or the library, says                           So
===================================================== ================================================================
no connection, no answer in time, LOADING, a          The target is down where nothing of the batch got through; else
password refused, NOPERM, READONLY, OOM, BUSY,        these entries are tried again. Both are harmless: the script
MISCONF, NOREPLICAS, CLUSTERDOWN, MASTERDOWN, MOVED   compares times.
TRYAGAIN, NOSCRIPT                                    These entries are tried again.
WRONGTYPE: the key holds what is not ours             Dead.
any other                                             The partition is held, and the error reported.
===================================================== ================================================================

A mutation that is none, or that options do not fit, is dead.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any, ClassVar, Final

from pydantic import field_validator
from redis import exceptions
from redis.asyncio import Redis

from walstream.entry import Entry
from walstream.errors import SinkError
from walstream.mutation import KeyTemplate
from walstream.sinks.base import (
    APPLIED,
    DEAD,
    RETRY,
    SKIPPED,
    TARGET_DOWN,
    Dead,
    Outcome,
    Readable,
    Retry,
    Sink,
    SinkContext,
    Verdict,
)
from walstream.sinks.redis import reading, script
from walstream.sinks.redis.rows import PREFIX, Rows
from walstream.sinks.redis.session import make_client
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
    """Every entry's payload is a mutation; one script call per entry decides it, one round trip per batch."""

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
        self._rows = Rows(options.key, options.value, options.table, context.remember)
        self._client: Redis | None = None

    def verdict(self, error: BaseException) -> Verdict | None:
        if type(error) is exceptions.ResponseError:
            return CODES.get(str(error).partition(" ")[0])
        return super().verdict(error)

    async def open(self) -> None:
        where = self.context.connection.address
        self._client = make_client(self.context.connection)
        try:
            memory = await self._client.info("memory")
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
        calls, outcomes = read_all(batch, self._rows.arguments)
        if calls:
            answers = await self._run(list(calls.values()))
            some_applied = any(not isinstance(answer, Exception) for answer in answers)
            for i, answer in zip(calls, answers, strict=True):
                outcomes[i] = self._outcome(answer, some_applied)
        return [outcomes[i] for i in range(len(batch))]

    @property
    def form(self) -> str:
        return f"value: {self.options.value} of keys {self.options.key}"

    def scan(self) -> AsyncIterator[Sequence[tuple[bytes, bytes]]]:
        assert self._client is not None
        return reading.scan(self._client, KeyTemplate(self.options.key).prefix, self._rows.form)

    async def look_up(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        assert self._client is not None
        return await reading.look_up(self._client, keys, self._rows.form)

    async def _run(self, calls: Sequence[list[bytes]]) -> list[Any]:
        """Run the script once for each, in one round trip, and answer with what it said, or the error.

        The script goes in front each time, which costs Redis a look into its list of scripts: so it is there after a
        restart and on a replica that was promoted.
        """
        assert self._client is not None
        async with self._client.pipeline(transaction=False) as pipeline:
            pipeline.execute_command("SCRIPT LOAD", script.LUA)
            for arguments in calls:
                pipeline.execute_command("EVALSHA", script.SHA, 2, *arguments)
            loaded, *answers = await pipeline.execute(raise_on_error=False)
        if isinstance(loaded, Exception):
            raise loaded
        if any(isinstance(answer, exceptions.ReadOnlyError) for answer in answers):
            # A master that became a replica keeps its connections; the name may lead to the new one by now.
            await self._client.connection_pool.disconnect(inuse_connections=False)
        return answers

    def _outcome(self, answer: Any, some_applied: bool) -> Outcome:
        if not isinstance(answer, Exception):
            return APPLIED if answer == 1 else SKIPPED
        verdict = self.verdict(answer)
        reason = f"{type(answer).__name__}: {answer}"
        if verdict is DEAD:
            return Dead(reason)
        if verdict is RETRY or (verdict is TARGET_DOWN and some_applied):
            return Retry(reason)
        raise answer

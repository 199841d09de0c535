"""Reads rows in a Redis that a target of another region writes, with `value: json`.

What is read is a row's marks, which have each column's value with its time, and so in one step what the row is, and how
new it is (`walstream.sinks.redis.script`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, ClassVar

from pydantic import Field, field_validator
from redis import exceptions
from redis.asyncio import Redis

from walstream.errors import RecordRefused, SinkError
from walstream.mutation import KeyTemplate
from walstream.namespace import Words
from walstream.sinks.base import Dead
from walstream.sinks.redis.rows import marks_key
from walstream.sinks.redis.script import time_text
from walstream.sinks.redis.session import make_client
from walstream.sinks.source.base import Answer, Found, Gone, Source, Wanted

_WIDTH = len(time_text(0))


class RedisSourceOptions(Words):
    """Which rows of that Redis.

    Parameters
    ----------
    key
        The ``key`` of the target that writes them.
    """

    key: str = Field(min_length=1)

    @field_validator("key")
    @classmethod
    def _well_formed(cls, key: str) -> str:
        KeyTemplate(key)
        return key


class RedisSource(Source):
    """One round trip for all rows."""

    Options = RedisSourceOptions
    needs_connection = True
    connection_kind = "redis"
    unreachable: ClassVar = (exceptions.RedisError, OSError, SinkError)

    _client: Redis | None = None

    async def open(self) -> None:
        self._client = make_client(self.context.connection)
        await self._client.ping()

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            await self._client.connection_pool.disconnect()

    async def read(self, wanted: Sequence[Wanted]) -> Sequence[Answer]:
        assert self._client is not None
        template = KeyTemplate(self.options.key)
        found: list[Answer | None] = []
        async with self._client.pipeline(transaction=False) as pipeline:
            for row in wanted:
                try:
                    pipeline.hgetall(marks_key(template.render(row.key)))
                    found.append(None)
                except RecordRefused as refused:
                    found.append(Dead(str(refused)))
            marks = iter(await pipeline.execute())
        forgotten = (time.time() * 1e3 - self.context.remember) * 1e3
        return [
            answer if answer is not None else _answer(next(marks), row.time < forgotten)
            for answer, row in zip(found, wanted, strict=True)
        ]


def _answer(marks: dict[bytes, bytes], was_long_ago: bool) -> Answer:
    """What a row's marks say.

    Parameters
    ----------
    was_long_ago
        Whether so old a change may have been forgotten since, with the row.
    """
    if not marks:
        return Gone(None if was_long_ago else 0)
    newest = max(_time(mark[:_WIDTH]) for mark in marks.values())
    texts = {name: mark[_WIDTH + 1 :] for name, mark in marks.items() if name and len(mark) > _WIDTH}
    if not texts:
        return Gone(newest)
    columns: dict[str, Any] = {json.loads(name): json.loads(text, parse_float=Decimal) for name, text in texts.items()}
    return Found(columns, newest)


def _time(text: bytes) -> int:
    """The inverse of `time_text`."""
    return int(text[1:]) if text[:1] == b"1" else int(text[1:]) - 2**63

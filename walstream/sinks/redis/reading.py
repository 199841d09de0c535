"""Reads the rows of a target out of a Redis: those keys of its template that have marks."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

import orjson
from redis.asyncio import Redis

from walstream.sinks.redis.rows import PREFIX, marks_key

PAGE = 1_000
"""Keys that Redis is asked to look at in one call, during which it does nothing else."""


async def scan(client: Redis, prefix: bytes, form: str) -> AsyncIterator[list[tuple[bytes, bytes]]]:
    """All rows, in pages.

    Parameters
    ----------
    prefix
        What their keys begin with.
    form
        ``json``, ``hash`` or ``column``.
    """
    pattern = re.sub(rb"([\\*?\[\]])", rb"\\\1", prefix) + b"*"
    cursor: Any = 0
    while True:
        answer: Any = await client.scan(cursor, match=pattern, count=PAGE)
        cursor, keys = answer[0], [key for key in answer[1] if not key.startswith(PREFIX)]
        found = await look_up(client, keys, form)
        yield [(key, content) for key, content in zip(keys, found, strict=True) if content is not None]
        if not cursor:
            return


async def look_up(client: Redis, keys: Sequence[bytes], form: str) -> list[bytes | None]:
    """What rows have, in the order of their keys; None for keys that are not there, or were not written by the sink."""
    found: list[bytes | None] = []
    for first in range(0, len(keys), PAGE):
        page = keys[first : first + PAGE]
        async with client.pipeline(transaction=False) as pipeline:
            for key in page:
                pipeline.exists(marks_key(key))
                pipeline.hgetall(key) if form == "hash" else pipeline.get(key)
            answers = await pipeline.execute(raise_on_error=False)
        for ours, content in zip(answers[::2], answers[1::2], strict=True):
            if isinstance(ours, Exception):
                raise ours
            if not ours:
                found.append(None)
            elif isinstance(content, Exception):
                found.append(str(content).encode())  # such as a key of another type
            else:
                found.append(_text(content) if form == "hash" else content)
    return found


def _text(fields: dict[bytes, bytes]) -> bytes | None:
    """A hash as JSON, sorted."""
    if not fields:
        return None
    texts = {name.decode(errors="replace"): value.decode(errors="replace") for name, value in fields.items()}
    return orjson.dumps(texts, option=orjson.OPT_SORT_KEYS)

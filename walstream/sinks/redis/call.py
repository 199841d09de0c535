"""Calls of the script: rows that share one, as Redis's protocol has it, and what the answer says of each.

Redis serves nobody else while a script runs. From a connection it reads 16 KiB at a time, and runs all commands in them
before it turns to another: so a call that is no larger keeps others waiting no longer than small ones do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, Final

from walstream.sinks.base import APPLIED, SKIPPED, Outcome
from walstream.sinks.redis.script import LUA, SHA

ROWS: Final = 100
"""Rows that share a call, at most."""
BYTES: Final = 16 * 1024
"""Bytes of the rows that share a call, at most; a larger row has one of its own."""
_FRAME: Final = 8  # bytes around an argument, and what it costs besides

_OUTCOMES: Final[dict[int, Outcome]] = {ord("1"): APPLIED, ord("0"): SKIPPED}

Row = list[bytes]
"""The arguments of a row, its two keys in front."""


def shares(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """Rows that share a call, in their order."""
    for first in range(0, len(rows), ROWS):
        yield from _halved(rows[first : first + ROWS])


def _halved(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    size = sum(map(len, chain.from_iterable(rows))) + _FRAME * sum(map(len, rows))
    if size <= BYTES or len(rows) == 1:
        yield rows
    else:
        middle = len(rows) // 2
        yield from _halved(rows[:middle])
        yield from _halved(rows[middle:])


def call(rows: Sequence[Row], form: bytes, remember: bytes) -> bytes:
    """The command that writes rows.

    Parameters
    ----------
    form, remember
        What the script is told first.
    """
    arguments = [b"EVALSHA", SHA, b"%d" % (2 * len(rows))]
    for row in rows:
        arguments += row[:2]
    arguments += form, remember
    for row in rows:
        arguments += row[2:]
    return pack(arguments)


def pack(arguments: Sequence[bytes]) -> bytes:
    """A command as it is sent."""
    heads = map(_head, map(len, arguments))
    return b"*%d%b\r\n" % (len(arguments), b"".join(chain.from_iterable(zip(heads, arguments, strict=True))))


@lru_cache(1_000)
def _head(size: int) -> bytes:
    """What stands between an argument of that size and the one before."""
    return b"\r\n$%d\r\n" % size


LOAD: Final = pack([b"SCRIPT", b"LOAD", LUA.encode()])
"""The command that makes the script known."""


def read(answer: Any, rows: int) -> list[Outcome | Exception]:
    """What became of each row of a call: what was done, or why it cannot be.

    Parameters
    ----------
    answer
        What the script answered, or the error that the call as a whole has.
    """
    if isinstance(answer, Exception):
        return [answer] * rows
    codes, *errors = answer
    left = iter(errors)
    found = [_OUTCOMES[code] if code in _OUTCOMES else next(left) for code in codes]
    if len(found) != rows:
        raise ValueError(f"the script answers for {len(found)} rows, and was given {rows}")
    return found

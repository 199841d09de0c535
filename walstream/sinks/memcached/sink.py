"""Writes mutations to a memcached as ordinary keys, by effective times that are kept in the delivery's own table.

A cache may lose a key at any time, so nothing that decides is in it. The table has all columns of every row with their
times (`row`), and each write stores the whole row: after a loss the next write of the row brings all of it back.

What is stored is stored by compare-and-swap on what was there, so that a request that comes late, behind newer ones,
changes nothing. One case is left: a late one of a row that was not in the cache, and was deleted since, brings it back.

What becomes of an error (`MemcachedSink.errors`):

===================================================== ================================================================
memcached says                                        So
===================================================== ================================================================
no connection, no answer in time, a password          The target is down.
refused, not memcached 1.6 or later
SERVER_ERROR, such as ``out of memory storing         The target is down where nothing of the batch got through; else
object``                                              these entries are tried again.
SERVER_ERROR object too large for cache               The mutation that makes the row so large is dead.
somebody else changes the key again and again         These entries are tried again.
CLIENT_ERROR, ERROR, an answer too many               The partition is held, and the error reported.
===================================================== ================================================================

A mutation that is none, or that options do not fit, is dead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

from pydantic import field_validator

from walstream.entry import Entry
from walstream.errors import RecordRefused, SinkError
from walstream.sinks.base import (
    RETRY,
    SKIPPED,
    TARGET_DOWN,
    Applied,
    Dead,
    Outcome,
    Retry,
    SinkContext,
    State,
    StatefulSink,
    TargetDown,
)
from walstream.sinks.memcached.client import Client, Misunderstood, shown
from walstream.sinks.row import Row
from walstream.sinks.rows import RowOptions, RowReader, RowWrite, read_all

# https://docs.memcached.org/protocols/basic/ (keys): at most 250 bytes, no spaces, no control characters
_KEY: Final = re.compile(rb"[^\x00-\x20\x7f]{1,250}")
# How often a key is looked at anew that changed between the look and the write.
ROUNDS: Final = 3
_TOO_LARGE: Final = b"SERVER_ERROR object too large for cache"

Failure = Exception | None
"""Why a key is not as it should be; None where it is."""


class ServerRefused(SinkError):
    """The server understood a command, and says that it cannot do it now."""


class TooLarge(SinkError):
    """The value is larger than the server's largest."""


class Contended(SinkError):
    """Each time that the key is to be written it is not as it was a moment before."""


class MemcachedOptions(RowOptions):
    """How a row becomes a key.

    Parameters
    ----------
    key
        Text with key columns in braces; ``{{`` and ``}}`` are braces.
    value
        ``json``: one text with all columns; else the column whose value is kept.
    table
        The table whose mutations these are; others are refused. Without it, all are taken.
    """

    @field_validator("value")
    @classmethod
    def _no_hash(cls, value: str) -> str:
        if value == "hash":
            raise ValueError("memcached has no hashes; write json, or the name of a column")
        return value


class MemcachedSink(StatefulSink):
    """Every entry's payload is a mutation; a row's mutations of a batch are one write, two round trips for all rows."""

    Options = MemcachedOptions
    needs_connection = True
    forgets_deletes = True
    # False: a late request may bring back a row that was deleted meanwhile; see the module.
    late_writes_harmless = False
    errors: ClassVar = {OSError: TARGET_DOWN, SinkError: TARGET_DOWN, Contended: RETRY}

    def __init__(self, context: SinkContext) -> None:
        super().__init__(context)
        options = self.options
        self._rows = RowReader(options.key, options.value, options.table)
        self._client = Client(context.connection)

    async def open(self) -> None:
        await self._client.check()

    async def close(self) -> None:
        self._client.close()

    async def write_with(self, batch: Sequence[Entry], state: State) -> Sequence[Outcome]:
        writes, outcomes = read_all(batch, self._read)
        runs: dict[bytes, list[tuple[int, RowWrite]]] = {}
        for i, write in writes.items():
            runs.setdefault(write.key, []).append((i, write))
        keys = list(runs)
        known = [Row() if row is None else Row.from_bytes(row) for row in state.get_many(keys)] if keys else []
        changed: dict[bytes, bytes | None] = {}
        for key, row in zip(keys, known, strict=True):
            after = row
            for i, write in runs[key]:
                before, after = after, _after(after, write)
                outcomes[i] = SKIPPED if after is before else Applied({key: after.to_bytes()})
            if after is not row:
                changed[key] = self._value(after)
        failures = await self._store(changed)
        return await self._settle(batch, outcomes, failures, runs, dict(zip(keys, known, strict=True)))

    async def _settle(
        self,
        batch: Sequence[Entry],
        decided: Mapping[int, Outcome],
        failures: Mapping[bytes, Failure],
        runs: Mapping[bytes, Sequence[tuple[int, RowWrite]]],
        known: Mapping[bytes, Row],
    ) -> Sequence[Outcome]:
        """What was decided, but for the keys that could not be stored."""
        outcomes: dict[int, Outcome] = dict(decided)
        unfinished: set[int] = set()
        down: Exception | None = None
        some_applied = any(failure is None for failure in failures.values())
        for key, failure in failures.items():
            if failure is None:
                continue
            run = runs[key]
            verdict = self.verdict(failure)
            if isinstance(failure, TooLarge):
                outcomes |= await self._one_by_one(key, known[key], run)
            elif verdict is None or (verdict is TARGET_DOWN and not some_applied):
                raise failure
            else:
                # What is behind the first change was decided by what is not there.
                first = next(i for i, _ in run if isinstance(decided[i], Applied))
                behind = [i for i, _ in run if i >= first]
                if isinstance(failure, ServerRefused | Contended):
                    outcomes |= dict.fromkeys(behind, Retry(_reason(failure)))
                else:
                    down = failure
                    unfinished.update(behind)
        if down is not None:
            found = [None if i in unfinished else outcomes[i] for i in range(len(batch))]
            raise TargetDown(_reason(down), outcomes=found) from down
        return [outcomes[i] for i in range(len(batch))]

    def _read(self, entry: Entry) -> RowWrite | None:
        write = self._rows.read(entry)
        if write is not None and not _KEY.fullmatch(write.key):
            shown = write.key[:250].decode(errors="replace")
            raise RecordRefused(
                "bad-key",
                f"{shown!r} cannot be a key of memcached: it has 1 to 250 bytes, no space, no control character",
            )
        return write

    def _value(self, row: Row) -> bytes | None:
        return row.json() if self._rows.form == "json" else row.column()

    async def _one_by_one(self, key: bytes, row: Row, run: Sequence[tuple[int, RowWrite]]) -> dict[int, Outcome]:
        """Find the writes that make a row too large; they are dead, and the others as if they were not there."""
        outcomes: dict[int, Outcome] = {}
        for i, write in run:
            after = _after(row, write)
            if after is row:
                outcomes[i] = SKIPPED
                continue
            failure = (await self._store({key: self._value(after)}))[key]
            if failure is None:
                outcomes[i], row = Applied({key: after.to_bytes()}), after
                continue
            # Whatever could not be stored took with it what was there.
            back = (await self._store({key: self._value(row)}))[key]
            if not isinstance(failure, TooLarge) or back is not None:
                reason = Retry(_reason(back or failure))
                return outcomes | {i: reason for i, _ in run if i not in outcomes}
            outcomes[i] = Dead(f"the row is too large with it: {failure}")
        return outcomes

    async def _store(self, wanted: Mapping[bytes, bytes | None]) -> dict[bytes, Failure]:
        """Set keys to values, or remove them where there is none, unless they change meanwhile."""
        done: dict[bytes, Failure] = {}
        rest = list(wanted)
        for _ in range(ROUNDS):
            if not rest:
                return done
            seen = await self._client.ask([b"mg %b c\r\n" % key for key in rest])
            commands: dict[bytes, bytes] = {}
            for key, answer in zip(rest, seen, strict=True):
                value = wanted[key]
                if isinstance(answer, Exception):
                    done[key] = answer
                elif answer == b"EN":
                    if value is None:
                        done[key] = None  # it is not there
                    else:
                        commands[key] = b"ms %b %d ME\r\n%b\r\n" % (key, len(value), value)
                elif answer[:4] == b"HD c":
                    if value is None:
                        commands[key] = b"md %b C%b\r\n" % (key, answer[4:])
                    else:
                        commands[key] = b"ms %b %d C%b\r\n%b\r\n" % (key, len(value), answer[4:], value)
                else:
                    done[key] = _refusal(answer)
            rest = []
            answers = await self._client.ask(list(commands.values())) if commands else []
            for key, answer in zip(commands, answers, strict=True):
                if answer == b"HD":
                    done[key] = None
                elif answer in (b"NS", b"EX", b"NF"):
                    rest.append(key)
                elif isinstance(answer, Exception):
                    done[key] = answer
                else:
                    done[key] = _refusal(answer)
        return done | {key: Contended("somebody else writes the key all the time") for key in rest}


def _after(row: Row, write: RowWrite) -> Row:
    return row.delete(write.time) if write.op == "delete" else row.put(write.time, write.columns)


def _refusal(answer: bytes) -> Exception:
    said = f"memcached says: {shown(answer)}"
    if not answer.startswith(b"SERVER_ERROR"):
        return Misunderstood(said)
    return TooLarge(said) if answer == _TOO_LARGE else ServerRefused(said)


def _reason(failure: Exception) -> str:
    return f"{type(failure).__name__}: {failure}"

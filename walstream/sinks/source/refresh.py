"""Rows that have changed elsewhere are read there: a store's sink that makes writes of invalidations.

In place of an invalidation stand a put of what the source has, at the invalidation's effective time, and a delete a
microsecond before it, which takes away what the source does not have any more. In this order: so the row is never gone
in between. Where the source has no row there is a delete, as without a source. The sink tells old from new by effective
time, so it makes no difference in which order rows are read, and how often.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import ClassVar, Final

from walstream import mutation
from walstream.entry import Entry
from walstream.errors import RecordRefused
from walstream.invalidation import TYPE as INVALIDATION_TYPE
from walstream.invalidation import parse_invalidation
from walstream.sinks.base import (
    SKIPPED,
    Applied,
    Dead,
    Outcome,
    Retry,
    Sink,
    SinkContext,
    Skipped,
    State,
    StatefulSink,
    TargetDown,
)
from walstream.sinks.source.base import Answer, Found, Gone, Source, Wanted

READ_S: Final = 10.0
"""Seconds that a source is given for the rows of one call, below the deadline of a sink's call."""

PAUSES: Final = (0.1, 0.3)
"""Seconds after which rows are read again that were read too early, within one call."""

LATER_S: Final = 1.0
"""Seconds after which they are read again at the earliest, if they were read too early then, too."""

_HEADERS: Final = [
    ("ce_specversion", b"1.0"),
    ("ce_id", b"row"),
    ("ce_source", b"walstream"),
    ("ce_type", mutation.TYPE.encode()),
    ("content-type", mutation.CONTENT_TYPE.encode()),
]

Write = Callable[[Sequence[Entry]], Awaitable[Sequence[Outcome]]]


class Refresher:
    """Makes writes of invalidations, by what a source says.

    Parameters
    ----------
    kind, context
        The class of the source, and what it is told.
    wait
        How long (ms) after an invalidation came to the log a source is believed that does not know how new its rows
        are.
    """

    def __init__(self, kind: type[Source], context: SinkContext, wait: int) -> None:
        self._kind, self._context, self._wait = kind, context, wait
        self._source: Source | None = None
        self._opening: asyncio.Task[None] | None = None

    async def write(self, batch: Sequence[Entry], write: Write) -> Sequence[Outcome]:
        """The outcomes of a batch, of which `write` writes what it can."""
        wanted: dict[bytes | None, tuple[int, Wanted]] = {}  # the latest change of each row
        outcomes: dict[int, Outcome] = {}
        for i, entry in enumerate(batch):
            if entry.type != INVALIDATION_TYPE:
                continue
            try:
                change = parse_invalidation(entry.payload)
            except RecordRefused as refused:
                outcomes[i] = Dead(str(refused))
                continue
            latest = i, Wanted(change.table, change.key, entry.time)
            if (before := wanted.get(entry.payload)) is not None:
                latest, earlier = (latest, before) if before[1].time < entry.time else (before, latest)
                outcomes[earlier[0]] = SKIPPED  # what is read for the latest is what would be read for it
            wanted[entry.payload] = latest
        if not wanted and not outcomes:
            return await write(batch)
        rows = dict(wanted.values())
        answers, down = await self._read(rows, batch)
        entries: list[Entry] = []
        places: list[int] = []
        for i, entry in enumerate(batch):
            if i in outcomes or (i in rows and i not in answers):
                continue
            made = self._writes(entry, rows[i], answers[i]) if i in rows else [entry]
            if isinstance(made, Retry | Dead):
                outcomes[i] = made
            else:
                entries += made
                places += [i] * len(made)
        if entries:
            try:
                written: Sequence[Outcome | None] = await write(entries)
            except TargetDown as error:
                if error.outcomes is None:
                    raise
                known = _joined(places, error.outcomes, len(batch), outcomes)
                raise TargetDown(str(error), error.after, known) from error
            found = _joined(places, written, len(batch), outcomes)
        else:
            found = _joined([], [], len(batch), outcomes)
        if down is not None:
            raise TargetDown(down, outcomes=found)
        return [outcome for outcome in found if outcome is not None]

    async def _read(self, rows: Mapping[int, Wanted], batch: Sequence[Entry]) -> tuple[dict[int, Answer], str | None]:
        """What the source says, by the places of the rows; and why it says nothing of the others."""
        answers: dict[int, Answer] = {}
        early = dict(rows)
        try:
            async with asyncio.timeout(READ_S):
                source = await self._opened()
                for pause in (*PAUSES, None):
                    answers |= await self._ask(source, early)
                    early = {i: row for i, row in early.items() if _is_early(answers[i], row)}
                    if not early or pause is None:
                        break
                    await asyncio.sleep(pause)
        except TimeoutError:
            return {}, f"the source did not answer within {READ_S:g} s"
        except self._kind.unreachable as error:
            return {}, f"the source cannot be read: {type(error).__name__}: {error}"
        if early and len(early) == len(rows):
            # Not one of them: it is behind, and so it is better left alone. A record of which it never hears, since
            # it is dead there, is found out as one at fault.
            row = next(iter(early.values()))
            return {}, f"the source is behind: it does not have the change of {dict(row.key)} yet"
        now = time.time() * 1e3
        for i, row in early.items():
            answers[i] = Retry(f"the source does not have this change of {dict(row.key)} yet", LATER_S)
        for i, answer in answers.items():
            if isinstance(answer, Found | Gone) and answer.time is None and (rest := self._rest(batch[i], now)) > 0:
                answers[i] = Retry("it is not known whether the source has this change yet", rest / 1e3)
        return answers, None

    def _rest(self, entry: Entry, now: float) -> float:
        """How long (ms) an entry has to wait before a source is believed that does not know how new its rows are."""
        raw = entry.raw
        if raw is None or raw.offset != entry.position:
            return 0.0  # it comes from the retry topic, and has waited
        return raw.timestamp + self._wait - now

    async def _ask(self, source: Source, rows: Mapping[int, Wanted]) -> dict[int, Answer]:
        places = list(rows)
        calls = [places[first : first + source.batch_size] for first in range(0, len(places), source.batch_size)]
        found = await asyncio.gather(*(source.read([rows[i] for i in call]) for call in calls))
        for call, answers in zip(calls, found, strict=True):
            if len(call) != len(answers) or not all(isinstance(answer, Answer) for answer in answers):
                raise ValueError(f"the source did not give one answer for each of {len(call)} rows: {answers!r:.200}")
        return dict(zip(places, (answer for answers in found for answer in answers), strict=True))

    def _writes(self, entry: Entry, row: Wanted, answer: Answer) -> list[Entry] | Retry | Dead:
        """The writes that stand in place of an invalidation."""
        match answer:
            case Found(columns=columns):
                others = {name: value for name, value in columns.items() if name not in row.key}
                try:
                    put = mutation.put(key=row.key, set=others, table=row.table)
                except RecordRefused as refused:
                    return Dead(f"what the source has cannot be written: {refused}")
                forget = mutation.delete(key=row.key, table=row.table)
                return [_entry(entry, put, row.time), _entry(entry, forget, row.time - 1)]
            case Gone():
                return [_entry(entry, mutation.delete(key=row.key, table=row.table), row.time)]
            case _:
                return answer

    async def _opened(self) -> Source:
        """The source, opened when it is first needed: while it is away, what needs no source is written.

        It is opened once, however many wait for it, and goes on to be when their time is up.
        """
        if self._opening is None:
            self._source = self._kind(self._context)
            self._opening = asyncio.create_task(self._source.open())
        opening = self._opening
        try:
            await asyncio.shield(opening)
        except Exception:
            if opening.done() and self._opening is opening:
                await self.close()
            raise
        assert self._source is not None
        return self._source

    async def close(self) -> None:
        """Close the source, if it was opened."""
        source, opening, self._source, self._opening = self._source, self._opening, None, None
        if opening is not None:
            opening.cancel()
            await asyncio.wait([opening])
        if source is not None:
            await source.close()


class Refreshing(Sink):
    """In front of a store's sink: `refreshing` makes the class of both."""

    reads_at: ClassVar[tuple[type[Source], SinkContext, int]]

    def __init__(self, context: SinkContext) -> None:
        super().__init__(context)
        self._refresher = Refresher(*self.reads_at)

    async def write(self, batch: Sequence[Entry]) -> Sequence[Outcome]:
        return await self._refresher.write(batch, super().write)  # type: ignore[safe-super]

    async def close(self) -> None:
        await super().close()
        await self._refresher.close()


class RefreshingStateful(Refreshing, StatefulSink):
    """The same of a sink that keeps rows of its own."""

    async def write_with(self, batch: Sequence[Entry], state: State) -> Sequence[Outcome]:
        inner = super().write_with  # type: ignore[safe-super]
        return await self._refresher.write(batch, lambda entries: inner(entries, state))


def refreshing(kind: type[Sink], source: type[Source], context: SinkContext, wait: int) -> type[Sink]:
    """The class of a sink that reads rows at a source which it is told to forget.

    Parameters
    ----------
    kind
        The sink's class; it tells old from new by effective time (`Sink.forgets_deletes`).
    source, context, wait
        As of `Refresher`.
    """
    first = RefreshingStateful if issubclass(kind, StatefulSink) else Refreshing
    return type(kind.__name__, (first, kind), {"reads_at": (source, context, wait)})


def _is_early(answer: Answer, row: Wanted) -> bool:
    return isinstance(answer, Found | Gone) and answer.time is not None and answer.time < row.time


def _entry(entry: Entry, what: mutation.Mutation, time: int) -> Entry:
    return Entry(
        entry.partition, entry.position, entry.key, what.to_bytes(), _HEADERS, entry.timestamp, time,
        entry.ingress_position, entry.path,
    )  # fmt: skip


def _joined(
    places: Sequence[int], found: Sequence[Outcome | None], count: int, known: Mapping[int, Outcome]
) -> list[Outcome | None]:
    """One outcome for each of so many entries, of what became of the writes that stood in their places."""
    writes: dict[int, list[Outcome | None]] = {}
    for i, outcome in zip(places, found, strict=True):
        writes.setdefault(i, []).append(outcome)
    return [known[i] if i in known else _one(writes.get(i, [None])) for i in range(count)]


def _one(found: Sequence[Outcome | None]) -> Outcome | None:
    """The outcome of an entry whose writes had these."""
    for outcome in found:
        if not isinstance(outcome, Applied | Skipped):
            return outcome
    applied = [outcome for outcome in found if isinstance(outcome, Applied)]
    if not applied:
        return found[0]
    rows = {key: row for outcome in applied for key, row in (outcome.rows or {}).items()}
    return Applied(rows) if rows else applied[0]

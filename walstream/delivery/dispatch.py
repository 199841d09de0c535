"""Dispatch: entries become calls of a sink, and each call's answers become one outcome per entry.

A worker has one `Dispatcher` for its target, so that all its partitions share what is known about the target: whether
it is down (`breaker`), how many calls it takes at a time (`limiter`), and how much is on its way (`slots`).

Entries of one key are in one call, or in calls that follow each other; different keys may go at the same time.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, get_args

from walstream.delivery.breaker import PROBE, Breaker
from walstream.delivery.breaker import State as BreakerState
from walstream.delivery.deadline import Deadline
from walstream.delivery.limiter import Gradient
from walstream.delivery.metrics import DeliveryMetrics
from walstream.delivery.order import lanes, order_key
from walstream.delivery.slots import Slots
from walstream.engine.checkpoint import Checkpoint
from walstream.entry import Entry
from walstream.errors import Fenced, Held, RecordRefused
from walstream.marks import Counts
from walstream.namespace import Target
from walstream.sinks.base import (
    UNTRIED,
    Applied,
    CheckpointSink,
    Dead,
    Outcome,
    Retry,
    Sink,
    SinkContext,
    Skipped,
    State,
    StatefulSink,
    Verdict,
)
from walstream.sinks.shared import SharedSink

log = logging.getLogger(__name__)
T = TypeVar("T")

SINK_DEADLINE = 30.0  # s; no call may take longer, so that a checkpoint never waits for ever
STRETCH = 500  # entries that are worked on at once; a checkpoint may be between two
STRETCH_MOST = 2_000  # where a call has few, since a stretch ends when its last call is answered; more is a backlog
HEAD_OF_LINE = 10.0  # s in work, after which an entry is named

KINDS = frozenset(get_args(Outcome))


@dataclass(slots=True)
class Answers:
    """What became of a stretch of entries.

    Parameters
    ----------
    outcomes
        One per entry; None where it is not finished and must come again: nothing is known about it.
    held
        Why the partition has to be held, where that is so: what the sink did is in no table.
    """

    outcomes: list[Outcome | None]
    held: str | None = None


@dataclass(slots=True, eq=False)
class _Stretch:
    """Entries at work."""

    entries: Sequence[Entry]
    answers: Answers
    state: State | None
    careful: bool  # a call for each entry, to see which of them the target takes
    began: float
    number: int  # of those of the worker, in the order in which they began
    epoch: int  # the breaker's
    down: Exception | None = None  # what said that the target is
    stopped: bool = False  # nothing more is sent
    moot: bool = False  # it follows one that is not finished, and comes again with that


class Dispatcher:
    """The calls of a target's sink.

    Parameters
    ----------
    context, kind
        What the sink is told, and its class.
    target
        The target's words.
    metrics
        Where it counts.
    monotonic
        Its clock, seconds.
    """

    def __init__(
        self,
        context: SinkContext,
        kind: type[Sink],
        target: Target,
        metrics: DeliveryMetrics,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.monotonic = monotonic
        self._names = context.namespace, context.target
        self._name = f"{context.namespace}.{context.target}"
        self._shared = SharedSink(context, kind)
        self._note_time = metrics.timer(context.namespace, context.target)
        self._deadline = Deadline(SINK_DEADLINE)
        self._ordered = target.ordering == "key"
        self._hold = target.on_dead == "hold"
        limits = target.limits
        said = kind.in_flight is None or "in_flight" in limits.model_fields_set
        self._most = limits.in_flight if said else kind.in_flight or 0
        self._limiter = Gradient(self._most)
        self.slots = Slots(self._limiter.limit, self._most, limits.bytes)
        self._begun = 0  # stretches
        self._taken = 0  # the number of the latest of them that was answered
        self._suspects: dict[int, tuple[int, int]] = {}  # of a partition: log position, stretches begun until it failed
        self._has_failed = False  # whether the target was down for the last call, and is not left alone yet
        self._at_work: dict[int, list[_Stretch]] = {}
        self._counts: dict[int, Callable[[], Counts]] = {}
        self.breaker = Breaker(random.random, target.limits.dead)
        self.sink: Sink

    async def acquire(self, who: int, counts: Callable[[], Counts]) -> None:
        """A partition begins: open the sink, if no other has, and wait until it is; a target may be down.

        Parameters
        ----------
        counts
            Says what waits in the partition.
        """
        self._counts[who] = counts
        self.sink = await self._shared.acquire()

    async def release(self, who: int) -> None:
        """A partition ends; the sink is closed when it was the last."""
        self._counts.pop(who, None)
        self._suspects.pop(who, None)
        await self._shared.release(who)

    def counts(self) -> dict[int, Counts]:
        """What waits, by partition."""
        return {who: counts() for who, counts in self._counts.items()}

    @property
    def partitions(self) -> int:
        """How many partitions of this worker use the sink."""
        return max(self._shared.users, 1)

    @property
    def harmless(self) -> bool:
        """Whether a request that arrives late changes nothing that is newer."""
        return self.sink.late_writes_harmless

    @property
    def is_staged(self) -> bool:
        """Whether what the sink does is part of the checkpoint, and there are no calls to wait for."""
        return isinstance(self.sink, CheckpointSink)

    def size(self, who: int) -> int:
        """How many entries a partition should take at once, or 0 where it has to wait for the target.

        It may become the one that finds out whether the target is back: what it takes must be attempted then.
        """
        if self.breaker.state is not BreakerState.CLOSED:
            return PROBE if self.breaker.may_probe(self.monotonic(), who) else 0
        if who in self._suspects:
            return PROBE
        if self.is_staged:
            return STRETCH
        if self.sink.batch_size >= STRETCH:
            most = STRETCH if self.sink.in_flight is None else self.sink.batch_size
            return max(STRETCH, min(most, self._most // self.partitions))
        return max(STRETCH, min(STRETCH_MOST, self._most // self.partitions))

    def forget(self, who: int, position: int) -> None:
        """An entry has ended without an attempt."""
        if who in self._suspects and self._suspects[who][0] == position:
            del self._suspects[who]

    def oldest(self, who: int) -> tuple[float, Entry] | None:
        """For how long (s) the oldest entry of a partition that is not answered has been in work, and which it is."""
        for stretch in self._at_work.get(who, ()):
            for entry, found in zip(stretch.entries, stretch.answers.outcomes, strict=True):
                if not found:
                    return self.monotonic() - stretch.began, entry
        return None

    async def attempt(self, who: int, entries: Sequence[Entry], checkpoint: Checkpoint, table: State | None) -> Answers:
        """Attempt entries, in the order of their positions.

        Parameters
        ----------
        who
            The partition. While it waits for some entries it may attempt others that come after all of these in the
            log and have none of their keys; so it is not to attempt what it has waiting already.
        checkpoint
            Where a `CheckpointSink` puts its records.
        table
            That of a `StatefulSink`.

        Raises
        ------
        Held
            What a `CheckpointSink` put into the checkpoint is not what it should be.
        """
        try:
            return await self._attempt(who, entries, checkpoint, table) if entries else Answers([])
        finally:  # whatever happens: a prober that does not say so would keep all others from finding out
            self.breaker.probed(self.monotonic(), who)

    async def _attempt(
        self, who: int, entries: Sequence[Entry], checkpoint: Checkpoint, table: State | None
    ) -> Answers:
        sink = self.sink
        if isinstance(sink, CheckpointSink):
            epoch, outcomes = self.breaker.epoch, self._stage(sink, entries, checkpoint)
            self._took(outcomes, epoch)
            return Answers(outcomes)
        if not sink.late_writes_harmless:
            await checkpoint.make_sure()
        state = None if table is None else _Overlay(table)
        suspect, _ = self._suspects.get(who, (None, 0))
        careful = self.breaker.state is not BreakerState.CLOSED or (
            suspect is not None and any(entry.position == suspect for entry in entries)
        )
        self._begun += 1
        stretch = _Stretch(
            entries, Answers([None] * len(entries)), state, careful, self.monotonic(), self._begun, self.breaker.epoch
        )
        size = 1 if careful else min(sink.batch_size, self._most)
        at_work = self._at_work.setdefault(who, [])
        at_work.append(stretch)
        timer = asyncio.get_running_loop().call_later(HEAD_OF_LINE, self._report, who)
        try:
            await self._run(stretch, lanes(entries, size, self._ordered or state is not None))
            self._judge(who, stretch)
        finally:
            timer.cancel()
            at_work.remove(stretch)
            if not at_work:
                del self._at_work[who]
        return stretch.answers

    def _judge(self, who: int, stretch: _Stretch) -> None:
        """See whether the target is up; or what is wrong with entries that fail as if it were not."""
        outcomes, down = stretch.answers.outcomes, stretch.down
        answered = any(found is not None and found is not UNTRIED for found in outcomes)
        if answered:
            self._took(outcomes, stretch.epoch)
            self._taken = max(self._taken, stretch.number)
        first, *others = self._at_work[who]
        if down is not None and first is stretch:
            for other in others:
                other.moot = True
        # What is behind another is judged when it is tried again, as the first.
        if down is not None and stretch.answers.held is None and first is stretch and not stretch.moot:
            fault = Retry(_text(down), getattr(down, "after", None))
            if stretch.careful and answered:
                # The target took others at the same time: these fail by their own fault, and their attempts count.
                outcomes[:] = [found or fault for found in outcomes]
            elif stretch.careful and (place := self._suspect(who, stretch)) is not None:
                outcomes[place] = fault  # it took others since this one failed before
            else:
                self._failed(who, stretch, down)
        if who in self._suspects:
            position, _ = self._suspects[who]
            if any(e.position == position and found for e, found in zip(stretch.entries, outcomes, strict=True)):
                del self._suspects[who]

    def _took(self, outcomes: Sequence[Outcome | None], epoch: int) -> None:
        breaker = self.breaker
        kinds = Counter(map(type, outcomes))
        applied = kinds[Applied] + kinds[Skipped]
        dead = [found.reason for found in outcomes if isinstance(found, Dead)] if kinds[Dead] else []
        before = breaker.state
        last = dead[-1] if dead else ""
        breaker.took(self.monotonic(), epoch, applied=applied, dead=len(dead), last=last)
        if breaker.state is not before:
            if breaker.state is BreakerState.CLOSED:
                log.info("%s: the target is back", self._name)
            else:
                log.warning("%s: the target is left alone: %s", self._name, breaker.reason)

    def _suspect(self, who: int, stretch: _Stretch) -> int | None:
        """Which entry failed before as if the target were down, though it took others that were sent since then."""
        position, begun = self._suspects.get(who, (None, 0))
        if self._taken <= begun:
            return None
        return next((place for place, entry in enumerate(stretch.entries) if entry.position == position), None)

    def _failed(self, who: int, stretch: _Stretch, error: Exception) -> None:
        failed = (e.position for e, found in zip(stretch.entries, stretch.answers.outcomes, strict=True) if not found)
        position, after = next(failed), getattr(error, "after", None)
        if who not in self._suspects or self._suspects[who][0] != position:
            self._suspects[who] = position, self._begun
        if self.breaker.state is BreakerState.CLOSED:
            if after is None and not self._has_failed:
                # A connection that breaks once is no outage: it is seen by the next call, of this or another partition.
                self._has_failed = True
                return
            log.warning("%s: the target is down, and left alone for a while: %s", self._name, _text(error))
        self.breaker.failed(self.monotonic(), stretch.epoch, _text(error), after)

    async def _run(self, stretch: _Stretch, lines: list[list[list[int]]]) -> None:
        if len(lines) == 1:
            await self._follow(stretch, lines[0])
            return
        queue = deque(lines)

        async def pull() -> None:
            while queue and not stretch.stopped:
                await self._follow(stretch, queue.popleft())

        # A partition's share of the calls, and as many again for when others have nothing to send.
        most = max(2 * self._limiter.limit // sum(map(len, self._at_work.values())), 1)
        async with asyncio.TaskGroup() as group:
            for _ in range(min(len(lines), most)):
                group.create_task(pull())

    async def _follow(self, stretch: _Stretch, lane: list[list[int]]) -> None:
        """Make the calls of a lane, one after the other."""
        entries, outcomes = stretch.entries, stretch.answers.outcomes
        for number, places in enumerate(lane):
            if stretch.stopped:
                return
            batch = [entries[place] for place in places] if len(places) < len(entries) else entries
            found = await self._call(stretch, batch)
            for place, outcome in zip(places, found, strict=True):
                outcomes[place] = outcome
            if number + 1 == len(lane):
                return
            if None in found:
                return
            if self._ordered and any(isinstance(x, Retry) or (self._hold and isinstance(x, Dead)) for x in found):
                for place in (place for later in lane[number + 1 :] for place in later):
                    outcomes[place] = UNTRIED
                return

    async def _call(self, stretch: _Stretch, batch: Sequence[Entry]) -> Sequence[Outcome | None]:
        """Call the sink once, within what may be on its way, and turn whatever happens into outcomes."""
        count, size = len(batch), sum([entry.size for entry in batch])
        if not self.slots.take(count, size):
            await self.slots.acquire(count, size)
        began = self.monotonic()
        try:
            return await self._write(stretch, batch, began)
        finally:
            self.slots.limit = self._limiter.limit
            self.slots.release(count, size)

    async def _write(self, stretch: _Stretch, batch: Sequence[Entry], began: float) -> Sequence[Outcome | None]:
        sink, state = self.sink, stretch.state
        nothing: list[Outcome | None] = [None] * len(batch)
        try:
            if state is None:
                outcomes = await self._deadline.run(sink.write(batch))
            else:
                assert isinstance(sink, StatefulSink)
                outcomes = await self._deadline.run(sink.write_with(batch, state))
        except Fenced:
            raise
        except Exception as error:
            verdict = sink.verdict(error)
            if isinstance(error, TimeoutError):
                verdict = Verdict.TARGET_DOWN
            elif isinstance(error, RecordRefused):
                verdict = Verdict.DEAD
            if verdict is None:
                log.exception("%s: an error that is not in the sink's table holds the partition", self._name)
                return self._held(stretch, _text(error), nothing)
            self._limiter.sample(self.monotonic() - began, self.slots.calls, ok=verdict is Verdict.DEAD)
            if verdict is Verdict.TARGET_DOWN:
                stretch.down = stretch.down or error
                stretch.stopped = not stretch.careful
                known = getattr(error, "outcomes", None)  # where it went down in the middle
                return known if known is not None and len(known) == len(batch) else nothing
            if verdict is Verdict.RETRY:
                return [Retry(_text(error), getattr(error, "after", None))] * len(batch)
            if len(batch) == 1:
                return [Dead(_text(error))]
            return await self._one_by_one(stretch, batch)
        now = self.monotonic()
        self._limiter.sample(now - began, self.slots.calls, ok=True)
        self._note_time(now - began)
        if (wrong := _wrong(outcomes, len(batch))) is not None:
            log.error("%s: %s; the partition is held", self._name, wrong)
            return self._held(stretch, wrong, nothing)
        if isinstance(state, _Overlay):
            state.take(outcomes)
        return outcomes

    async def _one_by_one(self, stretch: _Stretch, batch: Sequence[Entry]) -> list[Outcome | None]:
        """One of them is at fault: each is tried by itself, in order. What follows one that must wait is not tried."""
        found: list[Outcome | None] = []
        waiting: set[bytes] = set()
        for entry in batch:
            key = order_key(entry) if self._ordered else None
            if stretch.stopped:
                found.append(None)
            elif key is not None and key in waiting:
                found.append(UNTRIED)
            else:
                (outcome,) = await self._write(stretch, [entry], self.monotonic())
                found.append(outcome)
                if key is not None and (
                    outcome is None or isinstance(outcome, Retry) or (self._hold and isinstance(outcome, Dead))
                ):
                    waiting.add(key)
        return found

    def _held(self, stretch: _Stretch, reason: str, nothing: list[T]) -> list[T]:
        stretch.answers.held = reason
        stretch.stopped = True
        return nothing

    def _stage(self, sink: CheckpointSink, entries: Sequence[Entry], checkpoint: Checkpoint) -> list[Outcome | None]:
        try:
            outcomes = sink.stage(entries, checkpoint)
        except Exception as error:
            raise Held(f"{self._name}: {_text(error)}") from error
        if (wrong := _wrong(outcomes, len(entries))) is not None:
            raise Held(f"{self._name}: {wrong}")
        return list(outcomes)

    def _report(self, who: int) -> None:
        """Name what is in work for too long."""
        if (found := self.oldest(who)) is None:
            return
        seconds, entry = found
        log.warning(
            "%s-%d: the record at log position %d, with the key %r, is in work for %.0f s",
            self._name, who, entry.position, entry.key, seconds,
        )  # fmt: skip


class _Overlay:
    """A sink's table, with what the answered calls of a stretch change in it."""

    __slots__ = ("_rows", "_table")

    def __init__(self, table: State) -> None:
        self._table = table
        self._rows: dict[bytes, bytes | None] = {}

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        rows = self._rows
        found = self._table.get_many(keys)
        if not rows:
            return found
        return [rows.get(key, value) for key, value in zip(keys, found, strict=True)]

    def take(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            if isinstance(outcome, Applied) and outcome.rows:
                self._rows.update(outcome.rows)


def _wrong(outcomes: object, count: int) -> str | None:
    """What is wrong with a sink's answer."""
    found = len(outcomes) if isinstance(outcomes, Sequence) else 0
    if found == count and KINDS.issuperset(map(type, outcomes)):  # type: ignore[call-overload]
        return None
    return f"the sink did not answer with one outcome for each of {count} entries, but with {found}"


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"

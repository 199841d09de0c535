"""One task: the work on one partition number of one topology, from its opening to its end.

Opening: fence the former owner, read the committed offsets, bring the store up to the changelogs' end, seek. The order
matters: only after the fence are offsets and changelogs what they will stay.

Work: fetches, and what falls due by the clock, are processed into a checkpoint while the one before is being committed.
Whatever goes wrong in between, the task throws everything away that is not committed, and opens again: Kafka then says
what took place.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import math
import time
from typing import TYPE_CHECKING

from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition
from faust.types import TP

from walstream.engine.changelog import recover
from walstream.engine.checkpoint import Checkpoint
from walstream.engine.fetch import Fetch, explained
from walstream.engine.gate import Gate
from walstream.engine.inbox import Inbox
from walstream.engine.producer import TransactionalProducer
from walstream.engine.source import Source
from walstream.engine.store import Store
from walstream.engine.topology import Processor, Topology
from walstream.errors import Fenced, Held, LostRange, Unreadable

if TYPE_CHECKING:
    from walstream.engine.engine import Engine

log = logging.getLogger(__name__)

CHECKPOINT_AGE = 1_000  # ms; a sink outside Kafka leaves no output, and a backlog must be committed as it is worked off
OFFSETS_AGE = 500  # ms; nobody waits for offsets alone, but they bound what comes again after a crash
BACKLOG = 64 << 10  # bytes that wait; with less, records wait no longer than the topology allows
REOPEN_DELAY, REOPEN_DELAY_MOST = 0.2, 5.0  # s
LOOK_LEAST = 10  # ms between two looks at what is done while other work is on its way, where nothing may wait
NOT_YET = 0.1  # s between two looks at whether an earlier source is wanted, while a later one is not read yet
RELEASE_TIMEOUT = 5.0  # s; a rebalance waits for it


class State(enum.Enum):
    """What a task is doing, for the watchdog."""

    WAITING = "waiting"  # for its turn to open, or for its processor, which may wait for a target that is down
    OPENING = "opening"
    IDLE = "idle"
    WORKING = "working"
    COMMITTING = "committing"
    ENDED = "ended"


class Task:
    """The work on one partition number.

    Parameters
    ----------
    engine
        Gives the group's consumer, the folder and the connection.
    topology, partition
        What to do, and on which partition number.
    checkpoint_size
        Bytes of output, not compressed, with which a checkpoint has enough.
    """

    def __init__(self, engine: Engine, topology: Topology, partition: int, checkpoint_size: int) -> None:
        self._engine = engine
        self.topology, self.partition = topology, partition
        self.name = f"{topology.name}-{partition}"
        self.sources = [TP(topic, partition) for topic in topology.sources]
        self.state, self.since = State.WAITING, time.monotonic()
        self._checkpoint_size = checkpoint_size
        self.committed: dict[str, int] = {}
        self._inbox = Inbox(engine, self.name, self.sources)
        self._wake = asyncio.Event()
        self._positions: dict[str, int] = {}
        self._noted: dict[str, int] = {}  # the position of each source, as a checkpoint has it
        self._ends: dict[str, int] = {}
        self._closing = False
        self._first = True  # whether nothing was committed since the opening
        self._committing: asyncio.Task[None] | None = None
        self._producer: TransactionalProducer | None = None
        self._store: Store | None = None
        self._processor: Processor | None = None
        self._runner: asyncio.Task[None] | None = None
        self._releasing: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; `close` ends it."""
        self._runner = asyncio.create_task(self._run(), name=f"walstream {self.name}")
        self._runner.add_done_callback(self._ended)

    def _ended(self, runner: asyncio.Task[None]) -> None:
        # Nobody waits for a runner: without this its partition would stand still, unnoticed.
        if not runner.cancelled() and (exc := runner.exception()) is not None:
            self._engine.fail(exc)

    def _now(self, state: State) -> None:
        self.state, self.since = state, time.monotonic()

    # Fetches come in

    def offer(self, fetch: Fetch) -> None:
        """Take a fetch in, if it is the next one. Never waits."""
        if self._inbox.offer(fetch):
            self._wake.set()

    def check_lost(self) -> None:
        """Seek back where a fetch left aiokafka long ago, and never arrived."""
        self._inbox.check_lost(self.state is State.IDLE)

    # The life of a task

    async def _run(self) -> None:
        delay = REOPEN_DELAY
        while True:
            try:
                async with self._engine.opening:
                    await self._open()
                await self._start_reading()
                delay = REOPEN_DELAY
                await self._work()
                return
            except (KafkaError, Fenced, Held, TimeoutError, OSError) as exc:
                log.warning("%s opens again after %r", self.name, exc)
            finally:
                self._releasing = asyncio.create_task(self._release())
                await asyncio.shield(self._releasing)
            if self._closing:
                return  # what could not be committed comes again, at the next owner
            self._now(State.WAITING)
            await asyncio.sleep(delay)
            delay = min(delay * 2, REOPEN_DELAY_MOST)
            await self._engine.check_topics()
            # A worker that was frozen may meet its own time-out before it learns that it was replaced. If it opened
            # again at once, it would fence its successor.
            while not await self._engine.consumer.is_member():  # noqa: ASYNC110 - only the broker knows
                await asyncio.sleep(0.5)

    async def _open(self) -> None:
        self._now(State.OPENING)
        began = time.monotonic()
        engine, consumer, topology = self._engine, self._engine.consumer, self.topology
        for tp in self.sources:
            consumer.gates[tp] = Gate(engine.fetch_size)
        await consumer.hold(self.sources)
        self._producer = TransactionalProducer(
            engine.connection, f"walstream.{topology.name}.{self.partition}", engine.clock
        )
        await self._producer.start()
        committed = await consumer.committed(self.sources)
        changelogs = [table.changelog for table in topology.tables]
        named = [*topology.sources, *changelogs, *topology.tracked]
        found = await consumer.bounds([TP(topic, self.partition) for topic in named])
        bounds = {tp.topic: bound for tp, bound in found.items()}
        self._store = engine.open_store(topology, self.partition)
        logged = {topic: bounds[topic] for topic in changelogs}
        recovered = await recover(engine.connection, self._store, topology.tables, self.partition, logged)
        has_state = any(end for _, end in logged.values())
        self.committed = {
            tp.topic: self._position(tp, committed.get(tp), bounds[tp.topic], has_state) for tp in self.sources
        }
        self._first = True
        self._positions = {topic: bounds[topic][1] for topic in topology.tracked}
        self._ends = {topic: bounds[topic][1] for topic in topology.sources}
        self._inbox.begin(self.committed, self._ends)
        self._noted = dict(self.committed)
        log.info("%s open after %.0f ms, %d changes recovered", self.name, (time.monotonic() - began) * 1e3, recovered)

    async def _start_reading(self) -> None:
        """Let the processor get ready, which may wait for a target that is down, and read from where it was."""
        self._now(State.WAITING)
        self._processor = self.topology.processor(self.partition)
        checkpoint = self._begin(None)
        await self._processor.open(checkpoint)
        if not checkpoint.is_empty:
            self._seal(checkpoint)
            await self._commit(checkpoint)
        if not self._closing:
            await self._engine.consumer.start_reading(self._inbox.due_sources())

    def _position(self, tp: TP, committed: int | None, bound: tuple[int, int], has_state: bool) -> int:
        first, end = bound
        where = f"{tp.topic}-{tp.partition}"
        if committed is None:
            if first == 0 and not has_state:
                return 0  # a new group on a topic that never lost a record
            raise LostRange(
                f"{where}: the group {self._engine.group} has no committed offset, but the topic was trimmed or the "
                "tables have rows. Brokers forget the offsets of a group that was long away; set them with "
                "kafka-consumer-groups.sh --reset-offsets to where it was"
            )
        if committed < first:
            raise LostRange(f"{where}: offsets {committed} to {first - 1} were to be read next, but are gone")
        if committed > end:
            raise LostRange(
                f"{where}: offset {committed} was to be read next, but the topic ends at {end}: was it re-created?"
            )
        return committed

    async def _work(self) -> None:
        assert self._processor is not None
        processor = self._processor
        building: Checkpoint | None = None
        before: Checkpoint | None = None
        held_until = math.inf  # monotonic seconds; where something is built that needs no commit before
        while not self._closing or building is not None:
            await self._wait_for_work(held_until)
            if building is None:
                if self._closing:
                    break
                building = self._begin(before)
            self._now(State.WORKING)
            began = time.monotonic()
            unreadable: Unreadable | None = None
            goes_on = not self._closing and self._has_work()
            # What is done does not wait for what is on its way for longer than for more to come.
            look_after = max(self.topology.latency, LOOK_LEAST) / 1_000
            timer = asyncio.get_running_loop().call_later(look_after, self._wake.set)
            while goes_on:
                self._wake.clear()  # a processor may wait for it with work on its way
                for source in self._inbox.sources:
                    if source.waits and unreadable is None and processor.wants(source.topic):
                        unreadable = await self._process(processor, source, building)
                if not self._closing and (sources := self._inbox.due_sources()):
                    await self._engine.consumer.start_reading(sources)
                if unreadable is None and self._is_due():
                    await processor.process_due(building)
                    self._note_positions(building)
                await asyncio.sleep(0)  # the other tasks' turn
                goes_on = unreadable is None and self._has_room(building, began)
            timer.cancel()
            if not self._closing and unreadable is None and building.is_offsets:
                held_until = min(held_until, began + OFFSETS_AGE / 1_000)
                if time.monotonic() < held_until:
                    continue
            processor.finish(building)
            if not building.is_empty:  # what was due may come to nothing, and all that was taken be put back
                self._now(State.COMMITTING)
                if self._committing is not None:
                    await self._committing
                self._seal(building)
                self._committing = asyncio.create_task(self._commit(building))
                self._committing.add_done_callback(lambda _: self._wake.set())
                before = building
            building, held_until = None, math.inf
            if unreadable is not None:
                if self._committing is not None:
                    await self._committing  # all that is before it
                raise unreadable
        if self._committing is not None:
            await self._committing
        last = self._begin(None)
        self._processor = None
        await processor.close(last)
        self._note_positions(last)
        if not last.is_empty:
            self._seal(last)
            await self._commit(last)

    async def _process(self, processor: Processor, source: Source, building: Checkpoint) -> Unreadable | None:
        """Work on what waits; give the error if what comes next in it cannot be read."""
        unreadable = None
        try:
            await processor.process(source, building)
        except Unreadable as exc:
            unreadable = explained(exc, self._engine.group)
        self._note_positions(building)
        return unreadable

    def _note_positions(self, building: Checkpoint) -> None:
        """Let a checkpoint have the positions that have moved since the one before."""
        for source in self._inbox.sources:
            if source.position != self._noted[source.topic]:
                building.offsets[source.topic] = self._noted[source.topic] = source.position

    def _has_room(self, building: Checkpoint, began: float) -> bool:
        """Whether more work goes into the checkpoint, and there is some."""
        if self._closing or not self._has_work() or building.size >= self._checkpoint_size:
            return False
        # A trickle that never ends must not keep what is done; a backlog is better committed in large pieces.
        is_backlog = self._inbox.wanted_size(self._wants) >= BACKLOG
        return (time.monotonic() - began) * 1_000 < (CHECKPOINT_AGE if is_backlog else self.topology.latency)

    def _wants(self, topic: str) -> bool:
        return self._processor is not None and self._processor.wants(topic)

    def _has_work(self) -> bool:
        return self._inbox.has_wanted(self._wants) or self._is_due()

    async def _wait_for_work(self, until: float) -> None:
        """Wait for work, for the end, or until a time (monotonic seconds)."""
        while True:
            if self._committing is not None and self._committing.done():
                self._committing.result()
                self._committing = None
            if self._closing or self._has_work() or time.monotonic() >= until:
                return
            self._wake.clear()
            if self._committing is None:
                self._now(State.IDLE)
            timer = self._set_timer(until)
            try:
                await self._wake.wait()
            finally:
                if timer is not None:
                    timer.cancel()

    # Work that comes of time

    def _is_due(self) -> bool:
        if self._processor is None or not self._inbox.reads_all:
            return False  # what people say of it may stand in the first source
        due = self._processor.due_at()
        return due is not None and due <= self._engine.clock.now()

    def _set_timer(self, until: float) -> asyncio.TimerHandle | None:
        assert self._processor is not None
        due, wait = self._processor.due_at(), until - time.monotonic()
        if due is not None:
            due_in = (due - self._engine.clock.now()) / 1e6
            wait = min(wait, max(due_in, 0 if self._inbox.reads_all else NOT_YET))
        if wait == math.inf:
            return None
        return asyncio.get_running_loop().call_later(wait, self._wake.set)

    def check_due(self) -> None:
        """Wake a task with work that no timer told of: clocks were set, the machine slept, a fetch is wanted now."""
        if self.state is State.IDLE and self._has_work():
            self._wake.set()

    # Checkpoints

    def _begin(self, before: Checkpoint | None) -> Checkpoint:
        assert self._producer is not None and self._store is not None
        return Checkpoint(
            self.partition, self._producer.new_batch, self._store, self.topology.tables, self._positions, before,
            self._engine.make_sure, self._engine.clock, self.committed, self._ends, self._wake,
        )  # fmt: skip

    def _seal(self, checkpoint: Checkpoint) -> None:
        """Close the checkpoint's batches. The next one may begin then, behind the marker of this one's transaction."""
        if self._first:
            # A table with rows and a group without an offset would look like a lost range to the next owner.
            self._first = False
            checkpoint.offsets = self.committed | checkpoint.offsets
        checkpoint.seal()
        for topic in self.topology.tracked:
            at = (topic, self.partition)
            position = checkpoint.outputs[at].position if at in checkpoint.batches else None
            if position is not None:
                self._positions[topic] = position + 1

    async def _commit(self, checkpoint: Checkpoint) -> None:
        assert self._producer is not None and self._store is not None
        batches, began = checkpoint.batches, time.monotonic()
        offsets = {TopicPartition(topic, self.partition): offset for topic, offset in checkpoint.offsets.items()}
        placed = await self._producer.commit(batches, offsets, self._engine.group)
        if batches:
            self._engine.pace.took(time.monotonic() - began)
        self._check_positions(checkpoint, placed)
        ends = {
            table.changelog: placed[at][-1] + batches[at][-1].record_count()
            for table in self.topology.tables
            if (at := (table.changelog, self.partition)) in placed
        }
        self._store.write(checkpoint.writes, ends)
        self.committed.update(checkpoint.offsets)
        checkpoint.is_committed = True

    def _check_positions(self, checkpoint: Checkpoint, placed: dict[tuple[str, int], list[int]]) -> None:
        """Make sure that the records stand where the tables say that they do."""
        for at, offsets in placed.items():
            start = checkpoint.outputs[at].start
            if start is not None and offsets[0] != start:
                # Somebody else wrote there. The changes are committed with wrong positions, which are hints for people
                # and never decide anything; the next checkpoints must be right again.
                raise KafkaError(f"{at[0]}-{at[1]}: expected offset {start}, got {offsets[0]}; who else writes there?")

    # The end

    async def close(self, timeout: float) -> None:
        """End at the next boundary of a checkpoint, or after the timeout (seconds) in the middle of one."""
        self._closing = True
        self._inbox.close()
        self._wake.set()
        if self._runner is not None:
            at_work = self.state not in (State.WAITING, State.OPENING)
            await asyncio.wait({self._runner}, timeout=timeout if at_work else 0)
            self._runner.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self._runner
        if self._releasing is not None:
            # Cancelled in the middle of it, the runner left it behind; the next owner may be a task of this process.
            await asyncio.wait({self._releasing})
        self._now(State.ENDED)

    async def _release(self) -> None:
        if self._committing is not None:
            self._committing.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self._committing
            self._committing = None
        self._inbox.close()
        self._inbox.clear()
        processor, self._processor = self._processor, None
        if processor is not None:
            # Whatever a sink does as it is closed, the producer and the store are given back.
            try:
                await asyncio.wait_for(processor.close(None), RELEASE_TIMEOUT)
            except Exception:
                log.exception("%s: while closing", self.name)
        if self._producer is not None:
            await self._producer.abandon()
            self._producer = None
        if self._store is not None:
            self._store.close()
            self._store = None

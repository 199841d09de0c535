"""Faust's Kafka transport, handing on whole fetches: one message per partition and fetch.

What Faust does on the side is switched off here: its offsets, its pause, its gaps, its seeks. Its commit would pass
records in flight and its pause loses records; the tasks do all of this themselves.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError, NoOffsetForPartitionError, OffsetOutOfRangeError
from aiokafka.structs import TopicPartition
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer, Transport
from faust.types import TP
from faust.types.tuples import ConsumerMessage

from walstream.engine.fetch import Fetch, drain, wait_ready
from walstream.engine.gate import Gate
from walstream.errors import LostRange

log = logging.getLogger(__name__)
T = TypeVar("T")

FETCH_LARGE = 128 << 10  # bytes of a fetch whose commit is long because it is large
FETCH_WAIT = 500  # ms that a fetch waits for a first record
FETCH_WAIT_LEAST = 5  # ms that it waits where what was fetched of other partitions is about to be taken
HEARTBEAT, SESSION, REBALANCE, REQUEST = 1_000, 10_000, 10_000, 20_000  # ms
MAX_POLL = 24 * 3600 * 1000  # ms; aiokafka leaves the group after it without a fetch and never comes back


class FetchConsumerThread(AIOKafkaConsumerThread):
    """The thread with the group's consumer. Its heartbeats go on while the main thread works."""

    app: Any
    consumer: FetchConsumer

    def _create_worker_consumer(self, transport: Transport) -> AIOKafkaConsumer:
        app = self.app
        self._assignor = app.assignor
        return AIOKafkaConsumer(
            **app.engine.connection,
            client_id=app.conf.id,
            group_id=app.conf.id,
            group_instance_id=app.engine.instance_id,
            partition_assignment_strategy=[self._assignor],
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            max_partition_fetch_bytes=app.engine.fetch_size,
            fetch_max_wait_ms=FETCH_WAIT,
            request_timeout_ms=REQUEST,
            session_timeout_ms=SESSION,
            rebalance_timeout_ms=REBALANCE,
            heartbeat_interval_ms=HEARTBEAT,
            max_poll_interval_ms=MAX_POLL,
            metadata_max_age_ms=30_000,
        )

    async def on_start(self) -> None:
        await super().on_start()
        self._follow_pace(self._ensure_consumer()._fetcher)

    def _follow_pace(self, fetcher: Any) -> None:
        """Have an aiokafka `Fetcher` fetch when it is time to."""
        # Data behind a closed gate must not keep the other partitions of its broker from being fetched.
        fetcher._prefetch_backoff = 0
        self._next_fetch = 0.0  # monotonic seconds; nothing is fetched before
        self._ready: set[TopicPartition] = set()  # partitions with data that is not taken
        self._moved_at = time.monotonic()  # when some came, or was taken
        find = fetcher._get_actions_per_node

        def find_due(assignment: Any) -> Any:
            fetcher._fetch_max_wait_ms = self._wait_of(fetcher)
            requests, resets, timeout, *others = find(assignment)
            if (early := self._next_fetch - time.monotonic()) > 0:
                requests, timeout = [], min(timeout, early)
            return requests, resets, timeout, *others

        fetcher._get_actions_per_node = find_due

    def _wait_of(self, fetcher: Any) -> int:
        """How long (ms) a broker may keep the next fetch if it has nothing.

        A broker answers one fetch after the other. If there is data of some partitions, the next fetch asks for the
        others only, and what is read next of those with data has to wait for its end. So as long as data comes and is
        taken, it is short; behind gates that stay closed it becomes as long as it is for all.
        """
        ready, now = set(fetcher._records), time.monotonic()
        if not ready <= self._ready:
            self._moved_at = now
            # Once it is taken, all are fetched together.
            self._next_fetch = max(self._next_fetch, now + FETCH_WAIT_LEAST / 1_000)
        self._ready = ready
        if not ready:
            return FETCH_WAIT
        return min(max(int((now - self._moved_at) * 1_000), FETCH_WAIT_LEAST), FETCH_WAIT)

    async def on_thread_stop(self) -> None:
        if self._consumer is not None:
            # A static member does not leave by itself; it would hold its partitions for the session timeout.
            self._consumer._coordinator._group_instance_id = None
        await super().on_thread_stop()

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Nothing: the engine has a watchdog of its own, and Faust's knows no fetches."""

    async def run(self, work: Callable[[AIOKafkaConsumer], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine with the consumer, in the consumer's thread. Does not queue behind a fetch that waits."""
        future = asyncio.run_coroutine_threadsafe(work(self._ensure_consumer()), self.thread_loop)
        return await asyncio.wrap_future(future)

    def wake(self) -> None:
        """Let a waiting `take` look again: a gate has room."""
        self.thread_loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if self._consumer is not None:
            fetcher = self._consumer._fetcher
            for waiter in list(fetcher._fetch_waiters):
                fetcher._notify(waiter)

    async def take(self, gates: Mapping[TP, Gate], timeout: float) -> list[Fetch]:
        """Wait for fetches (seconds) of partitions whose gates have room, and take them."""

        async def work(consumer: AIOKafkaConsumer) -> list[Fetch]:
            fetcher = consumer._fetcher
            fetches, errors = self._drain(fetcher, gates)
            if not fetches and not errors:
                await wait_ready(fetcher, timeout)
                fetches, errors = self._drain(fetcher, gates)
            for tp, error in errors.items():
                self._report(tp, error)
            self._pace(fetches)
            return fetches

        return await self.run(work)

    def _pace(self, fetches: Sequence[Fetch]) -> None:
        """Fetch next when enough time has passed for something to come, or at once if more is there by now.

        What comes after a pause is fetched as it comes, and so is what a transaction brought at once: only the time
        between two fetches is bounded.
        """
        if not fetches:
            return
        engine, self._moved_at = self.app.engine, time.monotonic()
        if max(fetch.size for fetch in fetches) > engine.fetch_size // 2:
            wait = 0  # there is more than a fetch may bring
        elif sum(fetch.size for fetch in fetches) > FETCH_LARGE:
            wait = engine.pace.least
        else:
            wait = engine.pace.wait
        self._next_fetch = self._moved_at + wait / 1_000

    def _drain(self, fetcher: Any, gates: Mapping[TP, Gate]) -> tuple[list[Fetch], dict[TopicPartition, Exception]]:
        if fetcher._subscriptions.reassignment_in_progress:
            return [], {}

        def room(tp: TopicPartition) -> int | None:
            gate = gates.get(TP(tp.topic, tp.partition))
            return gate.epoch if gate is not None and gate.has_room else None

        with fetcher._subscriptions.fetch_context():
            fetches, errors = drain(fetcher, room)
        for fetch in fetches:
            gates[TP(fetch.topic, fetch.partition)].take(fetch.size)
        return fetches, errors

    def _report(self, tp: TopicPartition, error: Exception) -> None:
        if isinstance(error, OffsetOutOfRangeError | NoOffsetForPartitionError):
            raise LostRange(f"{tp.topic}-{tp.partition}: the next position is not in the topic any more ({error})")
        if isinstance(error, KafkaError) and error.retriable:
            log.warning("%s-%d: %r", tp.topic, tp.partition, error)
            return
        raise error


class NothingRead(dict[Any, Any]):
    """Faust's memory of what it has read, always empty: with it Faust drops what a task has sought back to."""

    def __getitem__(self, key: Any) -> None:
        return None

    def __setitem__(self, key: Any, value: Any) -> None:
        pass


class FetchConsumer(Consumer):
    """Hands fetches to Faust's conductor, and does none of Faust's own bookkeeping."""

    app: Any
    _thread: FetchConsumerThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._read_offset = NothingRead()
        self.gates: dict[TP, Gate] = {}

    def _new_consumer_thread(self) -> FetchConsumerThread:
        return FetchConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, ConsumerMessage]]:
        """Yield the next fetches (timeout in seconds), each as one message."""
        self.app.engine.last_look = time.monotonic()
        try:
            fetches = await self._thread.take(self.gates, timeout)
        except asyncio.CancelledError:
            raise
        except Exception as exc:
            self.app.engine.fail(exc)
            raise
        for fetch in fetches:
            tp = TP(fetch.topic, fetch.partition)
            self.app.monitor.track_tp_end_offset(tp, fetch.next_offset)
            yield tp, self._message(tp, fetch)

    def _message(self, tp: TP, fetch: Fetch) -> ConsumerMessage:
        message: Any = ConsumerMessage
        return message(  # type: ignore[no-any-return]
            tp.topic, tp.partition, fetch.next_offset - 1, None, None, [], None, fetch, None, 0, fetch.size, tp,
            generation_id=self.app.consumer_generation_id,
        )  # fmt: skip

    async def commit(self, *args: Any, **kwargs: Any) -> bool:
        """Nothing: offsets are committed by the tasks, inside their transactions."""
        return False

    async def force_commit(self, *args: Any, **kwargs: Any) -> bool:
        """Nothing: see `commit`."""
        return False

    async def perform_seek(self) -> None:
        """Nothing: a task seeks its partitions itself."""

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Nothing: gaps are where transaction markers are."""

    def track_message(self, message: Any) -> None:
        """Nothing: a fetch is not acknowledged."""

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Nothing: see `FetchConsumerThread.verify_event_path`."""

    # What the tasks need of the group's consumer

    async def committed(self, tps: Iterable[TP]) -> dict[TP, int]:
        """The group's committed offsets; a partition without one is missing."""

        async def work(consumer: AIOKafkaConsumer) -> dict[TP, int]:
            wanted = [TopicPartition(*tp) for tp in tps]
            found = await consumer._coordinator.fetch_committed_offsets(wanted)
            return {TP(tp.topic, tp.partition): meta.offset for tp, meta in found.items()}

        return await self._thread.run(work)

    async def bounds(self, tps: Iterable[TP]) -> dict[TP, tuple[int, int]]:
        """The first offset of each partition, and the end that a reader of committed records sees."""

        async def work(consumer: AIOKafkaConsumer) -> dict[TP, tuple[int, int]]:
            wanted = [TopicPartition(*tp) for tp in tps]
            first = await consumer.beginning_offsets(wanted)
            end = await consumer.end_offsets(wanted)
            return {TP(tp.topic, tp.partition): (first[tp], end[tp]) for tp in wanted}

        return await self._thread.run(work)

    async def start_reading(self, positions: Mapping[TP, int]) -> None:
        """Seek partitions and let them be fetched. Their gates begin a new epoch."""

        async def work(consumer: AIOKafkaConsumer) -> None:
            assigned = consumer.assignment()
            for tp, position in positions.items():
                gate, partition = self.gates.get(tp), TopicPartition(*tp)
                if gate is None or partition not in assigned:
                    continue  # a rebalance took it away meanwhile
                consumer.seek(partition, position)
                gate.open()
                consumer._fetcher._records.pop(partition, None)
                consumer.resume(partition)
            self._thread._wake()

        await self._thread.run(work)

    async def hold(self, tps: Iterable[TP]) -> None:
        """Keep partitions from being fetched: those whose task is not open yet, and changelogs."""

        async def work(consumer: AIOKafkaConsumer) -> None:
            held = {TopicPartition(*tp) for tp in tps} & consumer.assignment()
            consumer.pause(*held)
            for partition in held:
                # Any position will do. Without one aiokafka asks for the group's committed offset again and again, and
                # fetches nothing from that broker in the meantime: a changelog never has one.
                consumer.seek(partition, 0)

        await self._thread.run(work)

    async def is_member(self) -> bool:
        """Ask the group whether this worker is a member of its current generation, with no rebalance at hand."""

        async def work(consumer: AIOKafkaConsumer) -> bool:
            coordinator = consumer._coordinator
            generation = coordinator.generation
            if generation != self.app.consumer_generation_id or not await coordinator._do_heartbeat():
                return False
            return coordinator.generation == generation and not coordinator._rejoin_needed_fut.done()

        return await self._thread.run(work)

    def wake(self) -> None:
        """A gate has room again."""
        self._thread.wake()


class FetchTransport(Transport):
    """Faust's aiokafka transport with a consumer that hands on whole fetches."""

    Consumer = FetchConsumer

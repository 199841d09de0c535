"""Runs tasks and standbys as Faust assigns and revokes their partitions."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import random
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from faust.types import TP
from rocksdict import Cache

from walstream.engine.clock import Clock
from walstream.engine.fetch import Fetch
from walstream.engine.pace import Pace
from walstream.engine.standby import Standby
from walstream.engine.store import WRITE_BUFFER, Store
from walstream.engine.task import State, Task
from walstream.engine.topology import Topology
from walstream.engine.watchdog import TASK_LIMIT, Watchdog
from walstream.errors import EngineError, Fenced, Unreachable, WalstreamError

if TYPE_CHECKING:
    from walstream.engine.app import App
    from walstream.engine.transport import FetchConsumer

log = logging.getLogger(__name__)

CACHE_SIZE = 64 << 20  # bytes of RocksDB blocks, for all stores together
FETCH_MEMORY = 32 << 20  # bytes that one fetch of all partitions may have, before partitions share it
FETCH_MOST, FETCH_LEAST = 2 << 20, 128 << 10  # bytes per partition and fetch
CHECKPOINT_MEMORY, CHECKPOINT_LEAST = 8 << 20, 512 << 10  # bytes of output being built, by all tasks and by each
WRITE_MEMORY = 64 << 20  # bytes of what RocksDB has not written to files, for each table of all stores together
CLOSE_TIMEOUT = 2.0  # s; a rebalance waits for the checkpoint at work, but not for a slow sink
STOP_TIMEOUT = 20.0  # s until a stop that hangs is ended hard
OPENINGS = 8  # tasks that open at once; each makes connections and opens files
SILENCE_LIMIT = 120.0  # s without a look for fetches, or without membership: a broker's restart takes some of it
UPKEEP_PERIOD = 600.0  # s
END_LIMIT = 60.0  # s until tasks that do not end are ended hard; the group waits for them meanwhile
FROZEN = 5.0  # s without a turn of the event loop; the group replaces a member after twice as long
TOPIC_CHECK = 10.0  # s between two looks at the topics while tasks meet trouble
MEMBER_CHECK = 15.0  # s between two questions whether the group still knows this worker


class Engine:
    """The tasks of one worker.

    Parameters
    ----------
    app
        The Faust app whose assignment is followed.
    topologies
        What the app runs.
    connection
        Options for aiokafka that say how to reach the cluster.
    datadir
        Where the folder of the app is; the command line wins over it.
    preflight
        Called before anything is read, in a thread: checks the topics, and gives the id of each.
    exit
        Ends the process.
    """

    def __init__(
        self,
        app: App,
        topologies: Sequence[Topology],
        connection: Mapping[str, Any],
        datadir: Path,
        preflight: Callable[[], Mapping[str, str]],
        exit: Callable[[int], Any] = os._exit,
    ) -> None:
        self.app = app
        self.topologies = list(topologies)
        self._connection = connection
        self._datadir = datadir
        self._preflight = preflight
        self._exit = exit
        self.cache = Cache(CACHE_SIZE)
        self.clock = Clock()
        self.pace = Pace(min((t.latency for t in self.topologies), default=0))
        self.topic_ids: Mapping[str, str] = {}
        self.tasks: dict[TP, Task] = {}
        self._standby: Standby | None = None
        self._spawned: set[asyncio.Task[Any]] = set()
        self._watchdog = Watchdog(self.stuck, self.fail)
        self.opening = asyncio.Semaphore(OPENINGS)
        self._ending_since: float | None = None
        self._stopping = False
        self.last_look = self._last_membership = self._turned = time.monotonic()
        self._woke = False
        self._topics_checked = time.monotonic()

    @property
    def connection(self) -> dict[str, Any]:
        return dict(self._connection)

    @property
    def consumer(self) -> FetchConsumer:
        return cast("FetchConsumer", self.app.consumer)

    @property
    def group(self) -> str:
        return str(self.app.conf.id)

    @property
    def topics(self) -> list[str]:
        """Everything that the group's consumer subscribes to."""
        return [topic for t in self.topologies for topic in (*t.sources, *(table.changelog for table in t.tables))]

    @property
    def partition_total(self) -> int:
        return sum(t.partitions * len(t.sources) for t in self.topologies)

    @property
    def fetch_size(self) -> int:
        """Bytes that are fetched of a partition at once, at most."""
        return max(FETCH_LEAST, min(FETCH_MOST, FETCH_MEMORY // max(self.partition_total, 1)))

    def open_store(self, topology: Topology, partition: int) -> Store:
        """Open the store of a partition number, for its task or its standby."""
        return Store(
            self.store_folder(topology, partition), topology.tables, self.topic_ids, cache=self.cache,
            write_buffer=max(1 << 20, min(WRITE_BUFFER, WRITE_MEMORY // self.partition_total)),
        )  # fmt: skip

    @property
    def instance_id(self) -> str:
        """The static membership of this data folder: a worker that is restarted quickly gets its partitions back."""
        path = self.folder / "instance-id"
        with contextlib.suppress(FileNotFoundError):
            return path.read_text().strip()
        path.write_text(f"{self.group}-{uuid.uuid4()}")
        return path.read_text().strip()

    @property
    def folder(self) -> Path:
        """The folder of this app."""
        # Faust hands its --datadir on in the environment, with a template where it was not given.
        said = os.environ.get("F_DATADIR", "{")
        return (self._datadir if "{" in said else Path(said)) / self.group

    def store_folder(self, topology: Topology, partition: int) -> Path:
        """Where the store of a partition number is."""
        return self.folder / topology.name / str(partition)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run something beside, and fail if it fails."""
        task = asyncio.create_task(work)
        self._spawned.add(task)

        def ended(task: asyncio.Task[Any]) -> None:
            self._spawned.discard(task)
            if not task.cancelled() and (exc := task.exception()) is not None:
                self.fail(exc)

        task.add_done_callback(ended)

    def fail(self, exc: BaseException) -> None:
        """End the process hard: what is not committed comes again, and no record is skipped."""
        with contextlib.suppress(Exception):
            if isinstance(exc, WalstreamError):
                print(f"walstream: {type(exc).__name__}: {exc}", file=sys.__stderr__, flush=True)
            else:
                print("walstream: an error that nobody foresaw ends this worker", file=sys.__stderr__)
                traceback.print_exception(exc, file=sys.__stderr__)
                sys.__stderr__.flush()  # type: ignore[union-attr]
        self._exit(1)

    # The life of a worker

    async def start(self) -> None:
        """Check the topics, and start the watchdog."""
        try:
            self.topic_ids = await asyncio.to_thread(self._preflight)
            self.lock = self._lock_folder()
        except Exception as exc:
            self.fail(exc)
            raise
        # Live objects are few and long-lived here; the default thresholds scan them for nothing, for half of the time.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 50, 100)
        self._watchdog.start()
        self.spawn(self._mind())
        self.spawn(self._keep_up())

    def _lock_folder(self) -> Any:
        import fcntl

        lock = (self.folder / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise WalstreamError(
                f"{self.folder} is in use by another worker; give each worker its own: faust --datadir FOLDER …"
            ) from None
        return lock

    async def make_sure(self) -> None:
        """Raise if this worker may have been frozen, and the group does not know it any more.

        Raises
        ------
        Fenced
            It may have been replaced.
        """
        if time.monotonic() - self._turned < FROZEN and not self._woke:
            return
        self._woke = True
        if not await self.consumer.is_member():
            raise Fenced("this worker did not run for a while, and may have been replaced meanwhile")
        self._woke, self._turned = False, time.monotonic()

    async def check_topics(self) -> None:
        """Look at the topics again, if nobody did just now: a task has met trouble, and one may be gone for good.

        Raises
        ------
        WalstreamError
            A topic is missing, is not what it must be, or was deleted and made again.
        """
        if time.monotonic() - self._topics_checked < TOPIC_CHECK:
            return
        self._topics_checked = time.monotonic()
        try:
            ids = await asyncio.to_thread(self._preflight)
        except Unreachable as exc:
            log.warning("%s", exc)
            return
        if ids != self.topic_ids:
            again = sorted(name for name, topic_id in ids.items() if topic_id != self.topic_ids[name])
            raise EngineError(f"{', '.join(again)} was deleted and made again under this worker")

    async def _mind(self) -> None:
        asked = time.monotonic()
        while True:
            self._watchdog.turned()
            # Whichever runs first after a freeze, this or a task that is about to call a sink, the freeze is seen.
            self._woke = self._woke or time.monotonic() - self._turned > FROZEN
            self._turned = time.monotonic()
            for task in set(self.tasks.values()):
                task.check_lost()
                task.check_due()
            if self.app.rebalancing or not self.tasks:
                self._last_membership = time.monotonic()
            elif time.monotonic() - asked > MEMBER_CHECK:
                asked = time.monotonic()
                if await self.consumer.is_member():
                    self._last_membership = time.monotonic()
            await asyncio.sleep(1)

    async def _keep_up(self) -> None:
        """Do each topology's upkeep now and then, where its partition 0 is."""
        while True:
            await asyncio.sleep(random.uniform(0.5, 1.5) * UPKEEP_PERIOD)
            for task in {task for task in self.tasks.values() if task.partition == 0}:
                if task.topology.upkeep is not None:
                    try:
                        await asyncio.to_thread(task.topology.upkeep)
                    except Exception as exc:
                        log.warning("the upkeep of %s is put off: %s", task.topology.name, exc)

    def stuck(self) -> str | None:
        """What has not moved for too long, or None."""
        now = time.monotonic()
        for task in list(self.tasks.values()):
            if task.state in (State.OPENING, State.COMMITTING) and now - task.since > TASK_LIMIT:
                return f"{task.name} is {task.state.value} since {now - task.since:.0f} s"
        if self._ending_since is not None and now - self._ending_since > END_LIMIT:
            return f"tasks have not ended for {now - self._ending_since:.0f} s; does a sink swallow its cancellation?"
        if self.tasks and now - self.last_look > SILENCE_LIMIT:
            return f"nothing looked for fetches for {now - self.last_look:.0f} s"
        if self.tasks and now - self._last_membership > SILENCE_LIMIT:
            return f"the group {self.group} has not known this worker for {now - self._last_membership:.0f} s"
        return None

    async def stop(self) -> None:
        """End all tasks, in order where that takes no longer than a rebalance may."""
        self._watchdog.stop()
        self._stopping = True
        asyncio.get_running_loop().call_later(STOP_TIMEOUT, self._exit, 1)
        try:
            await self.revoked(set())
        except Exception:
            log.exception("while stopping")
        for task in list(self._spawned):
            task.cancel()

    # Partitions come and go

    def offer(self, fetch: Fetch) -> None:
        """Hand a fetch to its task. Never waits."""
        task = self.tasks.get(TP(fetch.topic, fetch.partition))
        if task is not None:
            task.offer(fetch)

    async def revoked(self, revoked: set[TP]) -> None:
        """End all tasks and standbys. Kafka's protocol here is eager: every rebalance takes everything away."""
        tasks = set(self.tasks.values())
        self.tasks.clear()
        standby, self._standby = self._standby, None
        self._ending_since = time.monotonic()
        await asyncio.gather(
            *(task.close(CLOSE_TIMEOUT) for task in tasks), *([standby.close()] if standby is not None else [])
        )
        self._ending_since = None
        self.consumer.gates.clear()

    async def assigned(self, assigned: set[TP]) -> None:
        """Start a task for every partition number whose sources are all here; changelogs are not fetched."""
        await self.revoked(set())
        if self._stopping:
            return  # a rebalance that had begun before
        await self.consumer.hold(assigned)
        parts = [
            (topology, partition, sources)
            for topology in self.topologies
            for partition in range(topology.partitions)
            if assigned.issuperset(sources := [TP(topic, partition) for topic in topology.sources])
        ]
        # A worker with few partitions has them all in their commits at times, unless each commit is of more.
        size = max(CHECKPOINT_LEAST, CHECKPOINT_MEMORY // max(len(parts), 1))
        for topology, partition, sources in parts:
            task = Task(self, topology, partition, size)
            self.tasks.update(dict.fromkeys(sources, task))
            task.start()
        self._start_standby()

    def _start_standby(self) -> None:
        changelogs = {table.changelog: t for t in self.topologies for table in t.tables}
        parts = {
            (changelogs[tp.topic].name, tp.partition): (changelogs[tp.topic], tp.partition)
            for tp in self.app.assignor.assigned_standbys()
            if tp.topic in changelogs
        }
        own = {(task.topology.name, task.partition) for task in self.tasks.values()}
        if todo := [part for name, part in parts.items() if name not in own]:
            self._standby = Standby(self, todo)
            self._standby.start()

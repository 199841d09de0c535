"""What the demo does, from the start of the servers to the comparison of every row."""

from __future__ import annotations

import contextlib
import importlib.resources
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import orjson

from walstream.apply import apply
from walstream.changes import Action
from walstream.client import Client, Durable, Write
from walstream.config import load_connections, load_namespaces
from walstream.demo.check import Findings, Record, compare_records, compare_rows
from walstream.demo.flights import Flights, Step
from walstream.demo.folder import clear, own_folder
from walstream.demo.indexes import Index, Query, both, caught_up, probes, reader, verify
from walstream.demo.purge import DELAY, JITTER, Onlooker, Purge, id_of
from walstream.demo.table import gone_reader, read_rows, row_probe, session
from walstream.demo.watch import Watch
from walstream.demo.workers import Workers, environment
from walstream.errors import WalstreamError
from walstream.kafka import KafkaConnection
from walstream.local import CassandraOptions, KafkaOptions, Servers
from walstream.mutation import put
from walstream.namespace import Namespace

SOURCE = "walstream/demo"
COPY_TOPIC = "flights-copy"

RATE = 3_500  # writes a second; two cores have some time left then, so that latencies say something
CHUNK = 0.04  # seconds of writes that go out together
AGAIN = 0.03  # share of the writes that are repeated, with the same id
AGAIN_WITHIN = 4_000  # writes later, at most: so some repeat what has been overtaken by the flight's next step
SEED = 2013
KILLS = (
    (0.35, "router"),
    (0.55, "flights.base"),
    (0.75, "flights.by-tail"),
)  # how much is written when a worker is killed, and which

START_SECONDS = 60.0  # until the workers are members of their groups
STILL_SECONDS = 60.0  # without any progress: then what is missing will not come
ANSWER_SECONDS = 60.0  # until each write must be durable, and a cancel answered
COUNT = "faust -A topologies.router table flights.schedule count"
LATE_SECONDS = 30.0  # after the last delete is due: then what is missing will not come


class Audience(Protocol):
    """Who is shown the demo."""

    def stage(self, words: str) -> None:
        """A new part begins."""

    def event(self, words: str) -> None:
        """Something happened."""

    def console(self) -> Any:
        """The rich console for progress bars, or None."""

    def watching(self, watch: Watch, written: Written) -> contextlib.AbstractContextManager[None]:
        """Show how it goes, for the length of a with statement."""

    def following(self, purge: Purge) -> contextlib.AbstractContextManager[None]:
        """Show how the deletes come, for the length of a with statement."""


@dataclass
class Written:
    """How far the writing is.

    Parameters
    ----------
    total
        Writes to be made, the repeated ones included.
    done
        Writes that were acknowledged.
    again
        How many of these repeated an earlier one, on purpose.
    seconds
        How long it took so far.
    """

    total: int = 0
    done: int = 0
    again: int = 0
    seconds: float = 0.0


@dataclass
class Result:
    """What the demo found."""

    month: int
    flights: int = 0
    mutations: int = 0
    written: int = 0
    written_again: int = 0
    in_log: int = 0
    dropped: int = 0
    killed: list[str] = field(default_factory=list)
    rows: Findings = field(default_factory=Findings)
    copies: Findings = field(default_factory=Findings)
    indexes: list[Index] = field(default_factory=both)
    query: Query | None = None
    purge: Purge | None = None
    dead: dict[str, int] = field(default_factory=dict)
    latency_ms: dict[str, dict[str, float | int]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def problems(self) -> list[str]:
        """What is wrong, in words; nothing if all is right."""
        found = [f"row {problem}" for problem in self.rows.problems] + self.copies.problems
        found += [f"{topic} holds {count} records" for topic, count in self.dead.items()]
        if self.in_log != self.mutations:
            found.append(f"the log has {self.in_log} records of {self.mutations} mutations")
        # More may be: the client repeats what is not answered in time.
        if self.dropped < self.written_again:
            found.append(f"{self.dropped} records were dropped as duplicates, and {self.written_again} written again")
        found += [problem for index in self.indexes for problem in index.problems]
        found += ["nothing was asked by the index"] if self.query is None else self.query.problems
        return found + (["nothing was deleted"] if self.purge is None else self.purge.problems)

    @property
    def ok(self) -> bool:
        """Whether every row, copy and entry of an index is what it must be."""
        return self.rows.ok and self.copies.ok and not self.problems

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        purge = None if self.purge is None else self.purge.as_dict()
        own = {"indexes": {index.target: index.as_dict() for index in self.indexes}, "purge": purge}
        return {"ok": self.ok, **asdict(self), **own, "problems": self.problems}


class Demo:
    """The demo in a folder.

    Parameters
    ----------
    folder
        Where everything is kept; made if it does not exist.
    month
        Which month of 2013.
    keep
        Whether servers and workers go on afterwards.
    audience
        Who is shown what happens.
    """

    def __init__(self, folder: Path, *, month: int, keep: bool, audience: Audience) -> None:
        self.folder = folder.absolute()
        self._keep, self._audience = keep, audience
        self.result = Result(month)
        # Two minutes of life: compiling what runs would cost more than it saves.
        self.servers = Servers(
            self.folder / "local", kafka=KafkaOptions(quick=True), cassandra=CassandraOptions(quick=True)
        )
        self.settings: dict[str, str] = {}
        self.workers: Workers | None = None
        self.a_flight = ""

    def run(self) -> Result:
        """Do it all.

        Raises
        ------
        WalstreamError
            It could not be done to its end.
        """
        begin = time.monotonic()
        with own_folder(self.folder), contextlib.ExitStack() as stack:
            stack.callback(self._clean_up)
            clear(self.folder)
            with ThreadPoolExecutor(1) as pool, timed(self.result.seconds, "start"):
                reading = pool.submit(_read, self.result.month)
                kafka, namespace = self._start()
                flights, steps = reading.result()
            self.result.flights, self.result.mutations = len(flights), len(steps)
            self.a_flight = steps[-1].flight  # of the last day: the first is deleted
            with session(self.folder / "config") as cassandra:
                watch = Watch(kafka, namespace, COPY_TOPIC, {"base": row_probe(cassandra), **probes(cassandra)})
                self._write_and_wait(watch, kafka, steps)
                with timed(self.result.seconds, "check"):
                    self._check(cassandra, namespace, watch, flights, steps)
                with timed(self.result.seconds, "delete"):
                    self._purge(cassandra, kafka, namespace, flights)
            self.result.seconds["all"] = round(time.monotonic() - begin, 1)
            if self._keep:
                stack.pop_all()
        return self.result

    def _start(self) -> tuple[KafkaConnection, Any]:
        self._audience.stage("Starting Kafka and Cassandra")
        self.servers.up(detach=self._keep, console=self._audience.console())
        config = self.folder / "config"
        write_config(config, self.servers.cassandra)
        self.settings = {
            "WALSTREAM_BROKERS": self.servers.brokers,
            "WALSTREAM_CONFIG": str(config),
            "WALSTREAM_DATADIR": str(self.folder / "data"),
        }
        self._audience.event(f"Kafka answers at {self.servers.brokers}, Cassandra at {self.servers.cassandra}")
        kafka = KafkaConnection(brokers=(self.servers.brokers,))
        namespaces = load_namespaces(config)
        made = make_all(config, kafka)
        self._audience.event(f"walstream apply made {made} topics, offsets, keyspaces and tables")
        self.workers = Workers(self.folder, self.settings, detach=self._keep)
        return kafka, namespaces["flights"]

    def _write_and_wait(self, watch: Watch, kafka: KafkaConnection, steps: Sequence[Step]) -> None:
        writes = repeated(steps)
        written = Written(total=len(writes))
        with watch.looking():
            self._audience.stage("Starting the router and the targets")
            with timed(self.result.seconds, "workers"):
                self._await_workers(watch)
            self._audience.stage(f"Writing {self.result.flights:,} flights as {len(steps):,} mutations")
            with self._audience.watching(watch, written):
                with timed(self.result.seconds, "write"):
                    self._write(watch, kafka, writes, written)
                self._audience.stage("Waiting until every target has everything")
                with timed(self.result.seconds, "drain"):
                    self._drain(watch, len(steps))
        self.result.written, self.result.written_again = written.done, written.again

    def _await_workers(self, watch: Watch) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not watch.everybody_works():
            self._look(watch)
            if time.monotonic() > deadline:
                raise WalstreamError(f"the workers did not join their groups in {START_SECONDS:g} s")
            time.sleep(0.2)

    def _write(self, watch: Watch, kafka: KafkaConnection, writes: Sequence[Step], written: Written) -> None:
        kills = [(int(share * len(writes)), name) for share, name in KILLS]
        size = int(RATE * CHUNK)
        seen: set[str] = set()
        begin = time.monotonic()
        with Client(connection=kafka, config=self.folder / "config", source=SOURCE) as client:
            for first in range(0, len(writes), size):
                chunk = writes[first : first + size]
                handed_over = time.monotonic()
                write_all(client, [write_of(step) for step in chunk])
                watch.latest = (chunk[-1], handed_over)
                written.done += len(chunk)
                seen.update(step.id for step in chunk)
                written.again = written.done - len(seen)
                written.seconds = time.monotonic() - begin
                self._look(watch)
                while kills and written.done >= kills[0][0]:
                    self._kill(kills.pop(0)[1])
                time.sleep(max(0.0, begin + (first + size) / RATE - time.monotonic()))

    def _kill(self, name: str) -> None:
        assert self.workers is not None
        if name in self.workers.pids:
            pid = self.workers.kill(name)
            self.result.killed.append(name)
            self._audience.event(f"killed {name} (process {pid}) with SIGKILL, on purpose, while it works")

    def _drain(self, watch: Watch, mutations: int) -> None:
        last: tuple[int, ...] = ()
        changed = time.monotonic()
        while True:
            self._look(watch)
            place = watch.place()
            if min(place) >= mutations and not any(stage.lag for stage in watch.stages.values()):
                return
            if place != last:
                last, changed = place, time.monotonic()
            elif time.monotonic() - changed > STILL_SECONDS:
                self._audience.event(f"nothing has come for {STILL_SECONDS:g} s; what is missing will not come")
                return
            time.sleep(0.05)

    def _look(self, watch: Watch) -> None:
        watch.check()
        self._news()

    def _news(self) -> None:
        assert self.workers is not None
        for happened in self.workers.news():
            self._audience.event(happened.words)

    def _check(
        self, cassandra: Any, namespace: Namespace, watch: Watch, flights: Flights, steps: Sequence[Step]
    ) -> None:
        self._audience.stage("Comparing every row, every copy and every entry of the indexes")
        result = self.result
        result.in_log = watch.log.done
        result.dropped = watch.written_to_ingress() - watch.log.done
        result.dead = watch.dead()
        result.latency_ms = {name: stage.latencies.summary() for name, stage in watch.stages.items()}
        result.copies = compare_records([record_of(step) for step in steps], watch.copies)
        rows = flights.rows()
        result.rows = compare_rows(rows, read_rows(cassandra, flights), "flight")
        for index in result.indexes:
            index.rows = index.compare(cassandra, rows)
        result.query = Query.of(rows)
        result.query.found = result.query.ask(reader(cassandra, namespace), rows)

    def _purge(self, cassandra: Any, kafka: KafkaConnection, namespace: Namespace, flights: Flights) -> None:
        day, keys = flights.first_day()
        purge = self.result.purge = Purge.of(day, keys, SOURCE)
        onlooker = Onlooker(purge, gone_reader(cassandra))
        with onlooker.looking(kafka, namespace), self._audience.following(purge):
            self._audience.stage(
                f"Deleting the {purge.written:,} flights of {day}, each after {DELAY} s and up to {JITTER} s more"
            )
            with Client(connection=kafka, config=self.folder / "config", source=SOURCE) as client:
                write_all(client, purge.writes())
                counting = self._count_pending()
                self._think_better(client, purge)
            self._await_deletes(purge, onlooker, counting)
        self._audience.stage("Comparing what is left, and the indexes with it")
        counting = self._count_pending()
        left = {key: row for key, row in flights.rows().items() if key not in purge.due}
        purge.rows = compare_rows(left, read_rows(cassandra, flights), "flight")
        purge.left = _rows(counting)
        self._check_indexes(cassandra, kafka, namespace, left)

    def _check_indexes(
        self, cassandra: Any, kafka: KafkaConnection, namespace: Namespace, left: Mapping[str, dict[str, Any]]
    ) -> None:
        """Compare the indexes with the base table, which was compared with the data, and see what a reader finds."""
        assert self.result.query is not None
        caught_up(kafka, namespace)
        for index in self.result.indexes:
            index.left = len(index.expected(left))
        verify(self.folder / "config", kafka, self.result.indexes)
        self.result.query.left = self.result.query.ask(reader(cassandra, namespace), left)

    def _think_better(self, client: Client, purge: Purge) -> None:
        """Cancel one delete, reschedule another, and take up what the router answers."""
        cancel = client.cancel("flights", id_of(purge.kept), key=purge.kept, wait=ANSWER_SECONDS)
        reschedule = client.reschedule(
            "flights", id_of(purge.moved), key=purge.moved, deliver_at=purge.moved_to, wait=ANSWER_SECONDS
        )
        for flight, receipt in ((purge.kept, cancel), (purge.moved, reschedule)):
            answer = receipt.raise_for_durability().answer
            if answer is None:
                raise WalstreamError(f"what was asked about {id_of(flight)} was not answered: {receipt.error}")
            purge.answered(flight, answer)
            to = "" if answer.due is None else f" to {(answer.due - purge.at) / 1e6:g} s"
            self._audience.event(f"{answer.action} {answer.ref}: {answer.outcome}{to}")

    def _await_deletes(self, purge: Purge, onlooker: Onlooker, counting: subprocess.Popen[bytes]) -> None:
        end = max(purge.due.values()) / 1e6 + LATE_SECONDS
        while purge.waiting and time.time() < end:
            onlooker.look()
            self._news()
            if purge.pending is None and counting.poll() is not None:
                purge.pending = _rows(counting)
                self._audience.event(f"{COUNT}: {purge.pending}")

    def _count_pending(self) -> subprocess.Popen[bytes]:
        """Let the `faust` command count the rows of the schedule, beside the router that works with it."""
        return subprocess.Popen(
            [sys.executable, "-m", *COUNT.split(), "--json"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment({**self.settings, "WALSTREAM_DATADIR": str(self.folder / "data" / "router")}),
        )

    def _clean_up(self) -> None:
        if self.workers is not None:
            self._audience.stage("Stopping")
            self.workers.stop()
        self.servers.down()


@contextlib.contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Note under a name how long a with statement took."""
    begin = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - begin, 1)


def repeated(steps: Sequence[Step]) -> list[Step]:
    """The steps in order, some of them once more a little later, as a producer does that got no answer."""
    chance = random.Random(SEED)
    places: list[tuple[float, Step]] = [(place, step) for place, step in enumerate(steps)]
    places += [
        (place + chance.uniform(0.5, AGAIN_WITHIN), step) for place, step in enumerate(steps) if chance.random() < AGAIN
    ]
    places.sort(key=lambda at: at[0])
    return [step for _, step in places]


def write_of(step: Step) -> Write:
    """A step as it is handed to the client."""
    return Write(put(key={"flight": step.flight}, set=step.columns), id=step.id, time=step.time)


def record_of(step: Step) -> Record:
    """A step as it must stand in a topic."""
    mutation = put(key={"flight": step.flight}, set=step.columns)
    return Record(step.flight.encode(), step.id.encode(), mutation.to_bytes())


def make_all(config: Path, kafka: KafkaConnection, region: tuple[str | None, int] = (None, 0)) -> int:
    """Make what `walstream apply` makes, and tell how much that was.

    Raises
    ------
    WalstreamError
        It refuses something.
    """
    changes = apply(load_namespaces(config).values(), load_connections(config), kafka, region=region)
    refused = [f"{change.kind} {change.name}: {change.detail}" for change in changes if change.action is Action.REFUSE]
    if refused:
        raise WalstreamError("walstream apply refuses:\n  " + "\n  ".join(refused))
    return sum(change.action is Action.CREATE for change in changes)


def write_all(client: Client, writes: Sequence[Write]) -> None:
    """Write to the namespace ``flights``, and write again with the same ids what is not known to be durable."""
    deadline = time.monotonic() + ANSWER_SECONDS
    waiting = list(writes)
    while waiting:
        receipts = client.write_many("flights", waiting)
        if time.monotonic() > deadline:
            for receipt in receipts:
                receipt.raise_for_durability()
        pairs = zip(waiting, receipts, strict=True)
        waiting = [write for write, receipt in pairs if receipt.durable is not Durable.TRUE]


def _rows(counting: subprocess.Popen[bytes]) -> int | None:
    """What a count of rows said, once it has ended; None where it failed."""
    said, _ = counting.communicate()
    return int(orjson.loads(said)["rows"]) if counting.returncode == 0 else None


def _read(month: int) -> tuple[Flights, list[Step]]:
    flights = Flights.load(month)
    return flights, flights.steps()


def write_config(folder: Path, cassandra: str) -> None:
    """Write the namespace's file and ``connections.yaml``."""
    folder.mkdir(parents=True)
    namespace = importlib.resources.files("walstream.demo").joinpath("flights.yaml").read_text()
    (folder / "flights.yaml").write_text(namespace)
    (folder / "connections.yaml").write_text(f"main:\n  sink: cassandra\n  hosts: ['{cassandra}']\n")

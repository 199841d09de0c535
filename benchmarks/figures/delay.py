"""Delayed records: how late they come, how fast they are scheduled and sent, and what millions of them cost.

Five figures, each on its own: ``pending`` (lateness and memory with few and with many pending, and their rebuilding),
``scheduling``, ``overdue`` and ``emitted``.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME

from benchmarks.cluster import Cluster
from benchmarks.delayed import DAY, SPREAD, prepare, rows, writing_due
from benchmarks.deployment import Deployment, tail
from benchmarks.drain import drain
from benchmarks.figures.start import wait
from benchmarks.load import SENT_AT, Shape, fill, write
from benchmarks.processes import Processes
from benchmarks.results import Results, Spread, console
from benchmarks.table import flat
from walstream import topics
from walstream.config import load_namespaces
from walstream.engine.checkpoint import Checkpoint
from walstream.engine.producer import BATCH_SIZE
from walstream.engine.store import Store
from walstream.engine.table_writer import TableWriter
from walstream.engine.topology import TableSpec
from walstream.namespace import Namespace
from walstream.schedule import Schedule
from walstream.wire.builder import BatchBuilder

FEW = 10_000
LIMIT = 900.0  # s for a router to work everything off
ONES = 40  # records to an idle worker
ONES_EVERY = 150_000  # µs
SCHEDULED_LEAST = 4_000  # records/s at which records are to be scheduled before the first one falls due
UNBOUNDED = {"overdue_rate": "1000000000/s"}
CHECKPOINT = 4_000  # rows in a checkpoint of `emitted`
LAST = 1 << 62  # µs; everything is due by then


def pending(cluster: Cluster, *, partitions: int, pending: int, records: int, rate: float) -> None:
    """Lateness and memory with few and with many pending; the start of a worker that has to rebuild them, and of one
    that has not."""
    settings = {"pending": pending, "records": records, "rate": rate, "partitions": partitions}
    results = Results("delay pending", settings, cluster.out)
    measured: dict[str, Any] = {}
    for name, count in (("few", FEW), ("many", pending)):
        deployment = Deployment(cluster, f"pending-{name}", partitions=partitions)
        deployment.apply()
        now = time.time_ns() // 1_000
        begun = time.monotonic()
        prepare(cluster.brokers, namespace_of(deployment), count, now + DAY, now + 30 * DAY)
        console.print(f"{count:,} pending, prepared in {time.monotonic() - begun:.0f} s")
        with _started(deployment, 1) as first:
            found: dict[str, Any] = {"first_start_s": first.seconds, "first_start_cpu_s": first.cpu}
            found["resident_rebuilt_mb"] = first.resident_mb()
            found["lateness"] = _lateness(deployment, records, rate)
            found["one_by_one"] = _lateness(deployment, ONES, 1e6 / ONES_EVERY)
            found["resident_mb"] = first.resident_mb()
        with _started(deployment, 2) as again:
            found["start_after_clean_stop_s"] = again.seconds
            fill(cluster.brokers, deployment.ingress, Shape(), records, seed=2)
            wait(deployment, again.processes, again.routed + records)
            found["resident_after_clean_stop_mb"] = again.resident_mb()
        measured[name] = found
        shutil.rmtree(deployment.folder / "data-router-0")
        cluster.delete(deployment.name)
    few, many = measured["few"], measured["many"]
    # What a start costs with few is not the rebuilding.
    seconds = many["first_start_s"] - few["first_start_s"]
    measured["rebuild"] = {
        "pending_per_s": pending / seconds,
        "changes_per_s": 2 * pending / seconds,
        "cpu_us_per_change": (many["first_start_cpu_s"] - few["first_start_cpu_s"]) / pending / 2 * 1e6,
    }
    measured["more_resident_mb"] = {
        name: many[name] - few[name] for name in ("resident_rebuilt_mb", "resident_mb", "resident_after_clean_stop_mb")
    }
    _show(results, measured)
    results.save(measured)


def scheduling(cluster: Cluster, *, partitions: int, records: int, count: int, warm: float) -> None:
    """The router's work on delayed records against that on others, in turns: CPU is of the router alone."""
    settings = {"records": records, "rounds": count, "partitions": partitions, "warm": warm}
    results = Results("delay scheduling", settings, cluster.out)
    measured: dict[str, dict[str, list[Any]]] = {"undelayed": {"rounds": []}, "delayed": {"rounds": []}}
    shapes = {"undelayed": Shape(), "delayed": Shape(extra=SPREAD)}
    for name, shape in shapes.items():
        cluster.create(f"records-{name}", partitions)
        fill(cluster.brokers, f"records-{name}", shape, records)
    for number in range(count):
        for name in shapes if number % 2 == 0 else reversed(shapes):
            deployment = Deployment(cluster, f"{name}-{number}", partitions=partitions, ingress=f"records-{name}")
            deployment.apply()
            output = deployment.log
            if name == "delayed":
                output = topics.router_changelogs(namespace_of(deployment))["schedule"].name
            command, environment = deployment.command("router")
            with Processes(deployment.folder / "run", [command], [environment]) as router:
                found = drain(router, _progress(cluster, output), cluster.cpu, expected=records, warm=warm, limit=LIMIT)
            measured[name]["rounds"].append(asdict(found))
            cluster.delete(deployment.name)
            shutil.rmtree(deployment.folder)
    columns = ("", "records/s, warm", "CPU µs per record", "broker CPU µs per record")
    table = [
        (
            name,
            *(" / ".join(f"{each[what]:,.1f}" for each in found["rounds"]) for what in ("rate", "cpu", "broker_cpu")),
        )
        for name, found in measured.items()
    ]
    results.show(columns, table)
    results.save(measured)


def overdue(cluster: Cluster, *, partitions: int, records: int, warm: float) -> None:
    """How fast what fell due while nobody was there goes out, where the namespace does not bound it."""
    results = Results("delay overdue", {"records": records, "partitions": partitions, "warm": warm}, cluster.out)
    deployment = Deployment(cluster, "overdue", partitions=partitions, schedule=UNBOUNDED)
    deployment.apply()
    now = time.time_ns() // 1_000
    prepare(cluster.brokers, namespace_of(deployment), records, now - DAY, now - DAY // 2)
    command, environment = deployment.command("router")
    with Processes(deployment.folder / "run", [command], [environment]) as router:
        found = drain(router, _progress(cluster, deployment.log), cluster.cpu, expected=records, warm=warm, limit=LIMIT)
    measured = {
        name: value for name, value in asdict(found).items() if name in ("rate", "cpu", "broker_cpu", "peak_rss")
    }
    _show(results, measured)
    results.save(measured)


def emitted(folder: Path, out: Path, *, emitted: int, pending: int) -> None:
    """Whether taking what is due slows down by what was taken before: a store and a schedule, without Kafka."""
    results = Results("delay emitted", {"emitted": emitted, "pending": pending}, out)
    spec = TableSpec("schedule", "schedule.changelog", ordered=True)
    store = Store(folder / "emitted", [spec])
    values = [stored for *_, stored in rows(1_000, 0, 1, 1)]
    rng = random.Random(1)
    added = 0

    @contextmanager
    def table() -> Iterator[TableWriter]:
        """The table in a checkpoint of its own, which is in the store at the end."""
        checkpoint = Checkpoint(0, lambda: BatchBuilder(BATCH_SIZE, None, transactional=False), store, [spec], {})
        yield checkpoint.table(spec.name)
        schedule.finish(checkpoint.table(spec.name), 0)
        store.write(checkpoint.writes, {})

    def add(count: int) -> None:
        nonlocal added
        with table() as rows_of:
            for number in range(added, added + count):
                # As many as are pending are between the first and the last one.
                schedule.add(rows_of, number + rng.randrange(pending), number, values[number % len(values)], 0)
            added += count

    with table() as empty:
        schedule = Schedule.open(empty, 0)
    while added < pending:
        add(CHECKPOINT)
    parts: list[float] = []
    for _ in range(10):
        spent = left = 0.0
        taken = 0
        while taken < emitted // 10:
            add(CHECKPOINT)
            begun = time.perf_counter()
            with table() as rows_of:
                left = CHECKPOINT
                while left:
                    left -= len(schedule.take_due(rows_of, LAST, left, 0))
            spent += time.perf_counter() - begun
            taken += CHECKPOINT
        parts.append(taken / spent)
    store.close()
    _show(results, measured := {"rate": parts, "last_against_first": parts[-1] / parts[0]})
    results.save(measured)


def _lateness(deployment: Deployment, records: int, rate: float) -> dict[str, dict[str, float]]:
    """Milliseconds from when each record is due until the broker appended it, and until somebody has read it.

    Raises
    ------
    RuntimeError
        One came before its time, or did not come.
    """
    cluster = deployment.cluster
    consumer = tail(cluster.brokers, deployment.log, cluster.ends(deployment.log))
    consumer.poll(1)
    scheduled = _progress(cluster, topics.router_changelogs(namespace_of(deployment))["schedule"].name)
    before = scheduled()
    first = time.time_ns() // 1_000 + 5_000_000 + records * 1_000_000 // SCHEDULED_LEAST
    every = 1e6 / rate
    writer = writing_due(cluster.brokers, deployment.ingress, records, first, every)
    while scheduled() < before + records:
        if time.time_ns() // 1_000 > first:
            raise RuntimeError("records fell due before all were scheduled: the machine is too slow for so many")
        time.sleep(0.1)
    writer.join()
    times: dict[str, list[float]] = {"append": [], "read": []}
    deadline = (first + records * every) / 1e6 + 60
    while len(times["read"]) < records and time.time() < deadline:
        messages = consumer.consume(1_000, timeout=0.001)
        now = time.time_ns()
        for message in messages:
            if message.error() is not None:
                raise RuntimeError(f"reading {deployment.log}: {message.error()}")
            (due,) = SENT_AT.unpack_from(message.value() or b"")
            kind, appended = message.timestamp()
            if kind != TIMESTAMP_LOG_APPEND_TIME or (appended + 1) * 1_000_000 <= due:
                raise RuntimeError(f"a record that is due at {due} ns was appended at {appended} ms, type {kind}")
            times["append"].append(appended - due / 1e6)
            times["read"].append((now - due) / 1e6)
    consumer.close()
    if len(times["read"]) < records:
        raise RuntimeError(f"only {len(times['read']):,} of {records:,} records came")
    return {name: _points(sorted(found)) for name, found in times.items()}


def _points(found: list[float]) -> dict[str, float]:
    return {f"p{part * 100:g}": round(found[min(len(found) - 1, int(len(found) * part))], 2) for part in (0.5, 0.99, 1)}


@dataclass(frozen=True, slots=True)
class Started:
    """A router at work.

    Parameters
    ----------
    seconds, cpu
        From the start of its process to its first record in the log, and the processor seconds until then.
    routed
        How many records were in the log then.
    """

    processes: Processes
    seconds: float
    cpu: float
    routed: int

    def resident_mb(self) -> float:
        return self.processes.usage()[1] / 2**20


@contextmanager
def _started(deployment: Deployment, number: int) -> Iterator[Started]:
    cluster = deployment.cluster
    before = sum(cluster.ends(deployment.log).values())
    some = 10 * deployment.partitions
    write(cluster.brokers, deployment.ingress, Shape(), some, time.time_ns(), 0, "none")
    command, environment = deployment.command("router")
    begun = time.monotonic()
    with Processes(deployment.folder / f"start-{number}", [command], [environment]) as processes:
        wait(deployment, processes, before + some)
        yield Started(processes, time.monotonic() - begun, processes.usage()[0], before + some)


def namespace_of(deployment: Deployment) -> Namespace:
    """As its file says."""
    return load_namespaces(deployment.folder / "config")[deployment.name]


def _progress(cluster: Cluster, topic: str) -> Callable[[], int]:
    return lambda: sum(cluster.ends(topic).values())


def _show(results: Results, measured: Mapping[str, Any]) -> None:
    results.show(("", "measured"), [(name, Spread(values).text(2)) for name, values in flat(measured).items()])

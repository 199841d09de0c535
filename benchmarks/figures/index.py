"""Secondary indexes: kept live, built on a table that has rows, and compared with it.

Who writes the index's table without a log has its rows as Python values in memory, and sends the same statements by the
driver's callbacks: no state, no scan, no Kafka. Who reads both tables without comparing them does so by the driver's
paging. What a command takes to start and to end is in its time.
"""

from __future__ import annotations

import resource
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import orjson
from cassandra.query import SimpleStatement

from benchmarks.cluster import Cluster
from benchmarks.deployment import Deployment
from benchmarks.drain import drain
from benchmarks.figures.cassandra import KEYSPACE, connect
from benchmarks.figures.delivery import routed
from benchmarks.load import Shape, mutation
from benchmarks.processes import Processes
from benchmarks.results import Results, console
from walstream.client import Client, Write
from walstream.mutation import put

BASE = "CREATE TABLE {keyspace}.{name} (id text, seq int, note text, PRIMARY KEY (id, seq))"
BARE = "CREATE TABLE {keyspace}.{name} (note text, id text, seq int, PRIMARY KEY (note, id, seq))"
IN_FLIGHT = 256
WARM = 0.2
PAGE = 5_000
TARGET = "by-note"


def live(cluster: Cluster, *, records: int, count: int, partitions: int) -> None:
    """Mutations of a log against the same statements without one, in turns."""
    results = Results("index live", {"records": records, "rounds": count, "partitions": partitions}, cluster.out)
    session = _keyspace(cluster)
    session.execute(BASE.format(keyspace=KEYSPACE, name="live"))
    deployment, _ = routed(cluster, "index-live", records, partitions, "none", Shape(rows=1), key="{id}")
    _warm_up(cluster, session)
    rounds: list[dict[str, Any]] = []
    for number in range(count):
        found: dict[str, Any] = {}
        turns = ["walstream", "bare"] if number % 2 else ["bare", "walstream"]
        for who in turns:
            before = cluster.cpu("cassandra")
            if who == "bare":
                session.execute(BARE.format(keyspace=KEYSPACE, name=f"bare_{number}"))
                found[who] = _load(cluster, f"bare_{number}", records)
            else:
                found[who] = _deliver(cluster, deployment, f"index-{number}", f"live_{number}", records)
            found[who]["server"] = (cluster.cpu("cassandra") - before) / records * 1e6
            console.print(f"round {number + 1}: {who:<12} {found[who]['rate']:>9,.0f}/s {found[who]['cpu']:>6.1f} us")
        _check(session, f"live_{number}", records)
        rounds.append(found | {"ratio": found["walstream"]["rate"] / found["bare"]["rate"]})
    _show(results, rounds)
    results.save({"rounds": rounds})
    session.cluster.shutdown()


def existing(cluster: Cluster, *, rows: int, partitions: int, rate: float) -> None:
    """Build over rows that exist, and compare, with writes going on; against a bare loader and a bare scan."""
    results = Results("index existing", {"rows": rows, "partitions": partitions, "writes": rate}, cluster.out)
    session = _keyspace(cluster)
    session.execute(BASE.format(keyspace=KEYSPACE, name="rows"))
    session.execute(BARE.format(keyspace=KEYSPACE, name="bare"))
    _warm_up(cluster, session)
    _load(cluster, "rows", rows)
    bare = _load(cluster, "bare", rows)
    console.print(f"bare loader: {bare['rate']:,.0f} rows/s")
    targets = {
        "base": {"sink": "cassandra", "connection": "main", "options": {"keyspace": KEYSPACE, "table": "rows"}},
        TARGET: _index("rows", "rows_by_note"),
    }
    deployment = Deployment(cluster, "index-rows", partitions=partitions, key="{id}", targets=targets)
    deployment.apply()
    commands = [deployment.command(role) for role in ("router", "base", TARGET)]
    with (
        Processes(deployment.folder / "run", [c for c, _ in commands], [e for _, e in commands]) as workers,
        _writing(cluster, deployment, rows, rate),
    ):
        _wait_until_live(cluster, deployment)
        built, build, build_cpu = _command(cluster, deployment, "build", workers, rows)
        if built["state"] != "ready":
            raise RuntimeError(f"the index is {built['state']}")
        begun = time.perf_counter()
        for table in ("rows", "rows_by_note"):
            statement = SimpleStatement(f"SELECT * FROM {KEYSPACE}.{table}", fetch_size=PAGE)
            for _ in session.execute(statement):
                pass
        scan = time.perf_counter() - begun
        report, verify, verify_cpu = _command(cluster, deployment, "verify", workers, rows)
        if report["differences"] or report["rows"] != rows:
            raise RuntimeError(f"{len(report['differences'])} entries differ, of {report['rows']:,} rows")
    found = {
        "bare_loader": bare["rate"], "build": rows / build, "build_ratio": rows / build / bare["rate"],
        "bare_scan": rows / scan, "verify": rows / verify, "verify_ratio": scan / verify,
    }  # fmt: skip
    results.show(("", "rows/s"), [(name, f"{value:,.2f}") for name, value in found.items()])
    results.save(found | {"build_cpu": build_cpu, "verify_cpu": verify_cpu})
    session.cluster.shutdown()


def _keyspace(cluster: Cluster) -> Any:
    session = connect(cluster)
    replication = "{'class': 'SimpleStrategy', 'replication_factor': 1}"
    session.execute(f"CREATE KEYSPACE IF NOT EXISTS {KEYSPACE} WITH replication = {replication}")
    return session


def _index(base: str, table: str) -> dict[str, Any]:
    options = {"keyspace": KEYSPACE, "base": base, "table": table, "by": ["note"], "consistency": "ONE"}
    return {"sink": "index", "connection": "main", "options": options}


def _warm_up(cluster: Cluster, session: Any) -> None:
    session.execute(BARE.format(keyspace=KEYSPACE, name="warm"))
    _load(cluster, "warm", 50_000)
    session.execute(f"DROP TABLE {KEYSPACE}.warm")


def _load(cluster: Cluster, table: str, rows: int) -> dict[str, Any]:
    """Rows by the driver's callbacks."""
    arguments = [cluster.cassandra, KEYSPACE, table, rows, 1, "callbacks", IN_FLIGHT, WARM]
    command = [sys.executable, "-m", "benchmarks.contenders.driver", *map(str, arguments)]
    with Processes(cluster.folder / f"load-{table}", [command]) as processes:
        processes.wait()
        found: dict[str, Any] = orjson.loads(processes.log(0).read_bytes().splitlines()[-1])
        return found


def _deliver(cluster: Cluster, deployment: Deployment, target: str, table: str, records: int) -> dict[str, Any]:
    deployment.add_target(target, _index("live", table))
    command, environment = deployment.command(target)
    with Processes(deployment.folder / f"run-{target}", [command], [environment]) as processes:
        result = drain(
            processes,
            lambda: sum(cluster.committed(deployment.group(target), deployment.log).values()),
            lambda: cluster.cpu("cassandra"),
            expected=records,
            warm=WARM,
            limit=3600,
        )
    deployment.remove_target(target)
    return asdict(result)


def _command(
    cluster: Cluster, deployment: Deployment, name: str, workers: Processes, rows: int
) -> tuple[dict[str, Any], float, dict[str, float]]:
    """What a command says, how long it took (s), and who used how much processor time meanwhile (µs a row)."""
    workers.check()
    _, environment = deployment.command(TARGET)
    command = [sys.executable, "-m", "walstream", "index", name, f"{deployment.name}.{TARGET}", "--json"]

    def used() -> dict[str, float]:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return {
            "command": children.ru_utime + children.ru_stime, "workers": workers.usage()[0],
            "cassandra": cluster.cpu("cassandra"), "kafka": cluster.cpu("kafka"),
        }  # fmt: skip

    before, begun = used(), time.perf_counter()
    with Processes(deployment.folder / name, [command], [environment]) as processes:
        processes.wait()
        seconds = time.perf_counter() - begun
        text = processes.log(0).read_text()
    cpu = {who: (now - before[who]) / rows * 1e6 for who, now in used().items()}
    console.print(f"{name}: {seconds:.1f} s; us a row: {', '.join(f'{who} {used:.1f}' for who, used in cpu.items())}")
    found: dict[str, Any] = orjson.loads(text[text.index("{") :])
    return found, seconds, cpu


def _wait_until_live(cluster: Cluster, deployment: Deployment) -> None:
    """Wait until the workers take what is written: their start is no part of a build."""
    until = time.monotonic() + 60
    for target in ("base", TARGET):
        while not sum(cluster.committed(deployment.group(target), deployment.log).values()):
            if time.monotonic() > until:
                raise RuntimeError(f"{target} takes nothing")
            time.sleep(0.2)


@contextmanager
def _writing(cluster: Cluster, deployment: Deployment, rows: int, rate: float) -> Iterator[None]:
    """Write rows that exist anew, with other notes, at a rate."""
    stop = threading.Event()

    def run() -> None:
        number = 0
        with Client(cluster.brokers, config=deployment.folder / "config") as client:
            while not stop.wait(0.1):
                batch = []
                for _ in range(max(1, int(rate / 10))):
                    number = (number + 7_919) % rows
                    id_, seq, note = mutation(number, 1)
                    batch.append(Write(put(table="rows", key={"id": id_, "seq": seq}, set={"note": note[::-1]})))
                for receipt in client.write_many(deployment.name, batch):
                    receipt.raise_for_durability()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)


def _check(session: Any, table: str, records: int) -> None:
    """All entries must be there."""
    statement = SimpleStatement(f"SELECT note, id, seq FROM {KEYSPACE}.{table}", fetch_size=PAGE)
    found = 0
    for row in session.execute(statement):
        if (row.id, row.seq, row.note) != mutation(int(row.id.removeprefix("row-")), 1):
            raise RuntimeError(f"{table} has an entry that nobody wrote: {row}")
        found += 1
    if found != records:
        raise RuntimeError(f"{table} has {found:,} entries, and not {records:,}")


def _show(results: Results, rounds: list[dict[str, Any]]) -> None:
    results.show(
        ("round", "walstream/s", "bare/s", "CPU us", "bare's CPU us", "ratio"),
        [
            (
                str(number), f"{one['walstream']['rate']:,.0f}", f"{one['bare']['rate']:,.0f}",
                f"{one['walstream']['cpu']:.1f}", f"{one['bare']['cpu']:.1f}", f"{one['ratio']:.2f}",
            )
            for number, one in enumerate(rounds, 1)
        ],
    )  # fmt: skip

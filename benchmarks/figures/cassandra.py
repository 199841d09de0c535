"""Delivery to Cassandra, against the same statements by the driver's callbacks and by `execute_concurrent`.

Ours is a whole worker, which reads the log, parses every mutation, writes it and commits its checkpoints. The driver's
ways have their rows as Python values in memory, and no log: what they do is the least that anybody has to.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
from cassandra import cluster as driver
from cassandra.policies import WhiteListRoundRobinPolicy
from cassandra.query import SimpleStatement

from benchmarks.cluster import Cluster
from benchmarks.deployment import Deployment
from benchmarks.drain import drain
from benchmarks.figures.delivery import routed
from benchmarks.load import Shape, mutation
from benchmarks.processes import Processes
from benchmarks.results import Results, Spread, console

KEYSPACE = "bench"
TABLE = "CREATE TABLE {keyspace}.{name} (id text, seq int, note text, PRIMARY KEY (id, seq))"
WARM = 0.2
WARM_UP = 100_000  # rows that nobody counts


def measure(cluster: Cluster, *, records: int, count: int, partitions: int, rows: int, sweep: Sequence[int]) -> None:
    """Let everybody write the same rows, in turns, each time to a table of its own.

    Parameters
    ----------
    rows
        Of a partition of Cassandra's.
    sweep
        How many statements the driver's ways have in flight; the best is taken.
    """
    results = Results(
        "delivery to Cassandra",
        {"rows": records, "rows a partition": rows, "rounds": count, "sweep": list(sweep)},
        cluster.out,
    )
    session = connect(cluster)
    replication = "{'class': 'SimpleStrategy', 'replication_factor': 1}"
    session.execute(f"CREATE KEYSPACE IF NOT EXISTS {KEYSPACE} WITH replication = {replication}")
    _warm_up(cluster, session, rows, sweep[-1])
    deployment, _ = routed(cluster, f"cassandra-{rows}", records, partitions, "none", Shape(rows=rows), key="{id}")
    found: dict[str, list[dict[str, Any]]] = {}
    turns: list[tuple[str, int]] = [("walstream delivery", 0)]
    turns += [(way, concurrency) for way in ("callbacks", "execute_concurrent") for concurrency in sweep]
    for number in range(count):
        for way, concurrency in turns:
            name = f"{way}, {concurrency} in flight" if concurrency else way
            table = f"rows{rows}_{number}_{way.replace(' ', '_')}_{concurrency}"
            session.execute(TABLE.format(keyspace=KEYSPACE, name=table))
            before = cluster.cpu("cassandra")
            if concurrency:
                one = _by_driver(cluster, table, records, rows, way, concurrency)
            else:
                one = _by_walstream(cluster, deployment, f"t{number}", table, records)
            one["server"] = (cluster.cpu("cassandra") - before) / records * 1e6
            found.setdefault(name, []).append(one)
            console.print(f"round {number + 1}: {name:<36} {one['rate']:>9,.0f} rows/s {one['cpu']:>6.1f} us")
            _check(session, table, records, rows)
        turns.append(turns.pop(0))  # each round begins with another one
    results.show(
        ("who", "rows/s", "CPU us/row", "Cassandra's CPU us/row"),
        [
            (
                name,
                Spread([each["rate"] for each in rounds]).text(),
                Spread([each["cpu"] for each in rounds]).text(1),
                Spread([each["server"] for each in rounds]).text(1),
            )
            for name, rounds in found.items()
        ],
    )
    ours = Spread([each["rate"] for each in found["walstream delivery"]]).median
    best = max(
        Spread([each["rate"] for each in each_rounds]).median for name, each_rounds in found.items() if "," in name
    )
    console.print(f"walstream against the best of the driver's ways: {ours / best:.2f}x")
    results.save({"rounds": found, "ratio": ours / best})
    session.cluster.shutdown()


def connect(cluster: Cluster) -> Any:
    """A session with the Cassandra, patient with a busy one."""
    assert cluster.cassandra is not None
    host, _, port = cluster.cassandra.rpartition(":")
    profile = driver.ExecutionProfile(load_balancing_policy=WhiteListRoundRobinPolicy([host]), request_timeout=120)
    return driver.Cluster([host], port=int(port), execution_profiles={driver.EXEC_PROFILE_DEFAULT: profile}).connect()


def _warm_up(cluster: Cluster, session: Any, rows: int, concurrency: int) -> None:
    """Let Cassandra's Java machine compile before anybody is measured."""
    session.execute(TABLE.format(keyspace=KEYSPACE, name="warm"))
    _by_driver(cluster, "warm", WARM_UP, rows, "callbacks", concurrency)
    session.execute(f"DROP TABLE {KEYSPACE}.warm")


def _by_walstream(cluster: Cluster, deployment: Deployment, target: str, table: str, records: int) -> dict[str, Any]:
    options = {"keyspace": KEYSPACE, "table": table, "consistency": "ONE"}
    deployment.add_target(target, {"sink": "cassandra", "connection": "main", "options": options})
    command, environment = deployment.command(target)
    group = deployment.group(target)
    with Processes(deployment.folder / f"run-{target}", [command], [environment]) as processes:
        result = drain(
            processes,
            lambda: sum(cluster.committed(group, deployment.log).values()),
            lambda: cluster.cpu("cassandra"),
            expected=records,
            warm=WARM,
            limit=3600,
        )
    return asdict(result)


def _by_driver(cluster: Cluster, table: str, records: int, rows: int, way: str, concurrency: int) -> dict[str, Any]:
    folder: Path = cluster.folder / table
    arguments = [cluster.cassandra, KEYSPACE, table, str(records), str(rows), way, str(concurrency), str(WARM)]
    command = [sys.executable, "-m", "benchmarks.contenders.driver", *map(str, arguments)]
    with Processes(folder, [command]) as processes:
        processes.wait()
    found: dict[str, Any] = orjson.loads(processes.log(0).read_bytes().splitlines()[-1])
    return found


def _check(session: Any, table: str, records: int, rows: int) -> None:
    """All rows must be there, as they were written."""
    statement = SimpleStatement(f"SELECT id, seq, note FROM {KEYSPACE}.{table}", fetch_size=5_000)
    found = 0
    for row in session.execute(statement):
        number = int(row.id.removeprefix("row-")) * rows + row.seq
        if tuple(row) != mutation(number, rows):
            raise RuntimeError(f"{table} has a row that nobody wrote: {row}")
        found += 1
    if found != records:
        raise RuntimeError(f"{table} has {found:,} rows, and not {records:,}")
    session.execute(f"DROP TABLE {KEYSPACE}.{table}")

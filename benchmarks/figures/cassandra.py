"""Delivery to Cassandra, against the same statements by the driver's callbacks and by `execute_concurrent`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from benchmarks.cluster import Cluster
from benchmarks.drain import drain
from benchmarks.figures.delivery import routed
from benchmarks.load import Shape
from benchmarks.processes import Processes
from benchmarks.results import Results, Spread, console

KEYSPACE = "bench"
TABLE = "CREATE TABLE {keyspace}.{name} (id text, seq int, note text, PRIMARY KEY (id, seq))"
WARM = 0.2


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
    session = _connect(cluster)
    replication = "{'class': 'SimpleStrategy', 'replication_factor': 1}"
    session.execute(f"CREATE KEYSPACE IF NOT EXISTS {KEYSPACE} WITH replication = {replication}")
    deployment, _ = routed(cluster, f"cassandra-{rows}", records, partitions, "none", Shape(rows=rows), key="{id}")
    found: dict[str, list[dict[str, Any]]] = {}
    for number in range(count):
        table = f"rows{rows}_{number}_walstream"
        session.execute(TABLE.format(keyspace=KEYSPACE, name=table))
        target = f"t{number}"
        options = {"keyspace": KEYSPACE, "table": table, "consistency": "ONE"}
        deployment.add_target(target, {"sink": "cassandra", "connection": "main", "options": options})
        command, environment = deployment.command(target)
        group, before = deployment.group(target), cluster.cpu("cassandra")
        with Processes(deployment.folder / f"run-{target}", [command], [environment]) as processes:
            result = drain(
                processes,
                lambda group=group: sum(cluster.committed(group, deployment.log).values()),  # type: ignore[misc]
                lambda: cluster.cpu("cassandra"),
                expected=records,
                warm=WARM,
                limit=3600,
            )
        server = (cluster.cpu("cassandra") - before) / records * 1e6
        found.setdefault("walstream delivery", []).append(asdict(result) | {"server": server})
        _say(number, "walstream delivery", result.rate, result.cpu)
        _check(session, table, records)
        for way in ("callbacks", "execute_concurrent"):
            for concurrency in sweep:
                table = f"rows{rows}_{number}_{way}_{concurrency}"
                session.execute(TABLE.format(keyspace=KEYSPACE, name=table))
                before = cluster.cpu("cassandra")
                one = _by_driver(cluster, table, records, rows, way, concurrency)
                one["server"] = (cluster.cpu("cassandra") - before) / records * 1e6
                found.setdefault(f"{way}, {concurrency} in flight", []).append(one)
                _say(number, f"{way}, {concurrency} in flight", one["rate"], one["cpu"])
                _check(session, table, records)
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


def _connect(cluster: Cluster) -> Any:
    from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile
    from cassandra.policies import WhiteListRoundRobinPolicy

    assert cluster.cassandra is not None
    host, _, port = cluster.cassandra.rpartition(":")
    profile = ExecutionProfile(load_balancing_policy=WhiteListRoundRobinPolicy([host]), request_timeout=120)
    return Cluster([host], port=int(port), execution_profiles={EXEC_PROFILE_DEFAULT: profile}).connect()


def _by_driver(cluster: Cluster, table: str, records: int, rows: int, way: str, concurrency: int) -> dict[str, Any]:
    folder: Path = cluster.folder / table
    arguments = [cluster.cassandra, KEYSPACE, table, str(records), str(rows), way, str(concurrency), str(WARM)]
    command = [sys.executable, "-m", "benchmarks.contenders.driver", *map(str, arguments)]
    with Processes(folder, [command]) as processes:
        processes.wait()
    found: dict[str, Any] = orjson.loads(processes.log(0).read_bytes().splitlines()[-1])
    return found


def _check(session: Any, table: str, records: int) -> None:
    from cassandra.query import SimpleStatement

    statement = SimpleStatement(f"SELECT seq FROM {KEYSPACE}.{table}", fetch_size=5_000)
    found = sum(1 for _ in session.execute(statement))
    if found != records:
        raise RuntimeError(f"{table} has {found:,} rows, and not {records:,}")
    session.execute(f"DROP TABLE {KEYSPACE}.{table}")


def _say(number: int, name: str, rate: float, cpu: float) -> None:
    console.print(f"round {number + 1}: {name:<36} {rate:>9,.0f} rows/s {cpu:>6.1f} us")

"""A dedup table of many ids: its recovery from the changelog, and the start and the memory of a router that has it.

The ids go straight into the changelog, as a router would have written them; to route so many would take the time and
the disk of the records themselves.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import orjson
import psutil
from aiokafka import AIOKafkaProducer
from prometheus_client import CollectorRegistry

from benchmarks.cluster import Cluster
from benchmarks.deployment import Deployment
from benchmarks.load import WRITERS, Shape, fill, write
from benchmarks.processes import Processes
from benchmarks.results import Results
from walstream import topics
from walstream.config import load_namespaces
from walstream.dedup import encode_row, segment_of
from walstream.engine import changelog
from walstream.engine.store import Store
from walstream.engine.table_writer import SEGMENT
from walstream.router import tables as router_tables
from walstream.router.app import topology
from walstream.router.metrics import RouterMetrics

TIMEOUT = 600.0  # s until a router with a large table has read it
TRAFFIC = 200_000  # records through a started router, before its memory is looked at


def measure(cluster: Cluster, *, partitions: int, ids: int) -> None:
    """Write a changelog, recover it alone, then in a router; stop that cleanly, and start it again."""
    results = Results("start", {"ids": ids, "partitions": partitions}, cluster.out)
    deployment = Deployment(cluster, "start", partitions=partitions)
    deployment.apply()
    namespace = load_namespaces(deployment.folder / "config")["start"]
    dedup = topics.router_changelogs(namespace)["dedup"].name
    with ProcessPoolExecutor(WRITERS, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [
            pool.submit(_write, cluster.brokers, dedup, number, ids // partitions, namespace.dedup.window)
            for number in range(partitions)
        ]
        for future in futures:
            future.result()

    alone = _recover_alone(deployment, ids)
    first, _ = _start(deployment, 1)
    again, resident = _start(deployment, 2)
    measured = {
        "recovery_records_per_s": alone["rate"],
        "recovery_cpu_us": alone["cpu"],
        "recovery_peak_mb": alone["peak_mb"],
        "first_start_s": first,
        "start_after_clean_stop_s": again,
        "resident_mb": resident,
    }
    results.show(("figure", "value"), [(name, f"{value:,.2f}") for name, value in measured.items()])
    results.save(measured)


def _write(brokers: str, topic: str, partition: int, count: int, window: int) -> None:
    """Rows of ids that nobody will ask for, as old as the window allows: they fill its segments to the same height."""

    async def run() -> None:
        now = int(time.time() * 1000)
        segments = [SEGMENT.pack(segment_of(now - age * window // 2, window)) for age in (2, 1, 0)]
        producer = AIOKafkaProducer(
            bootstrap_servers=brokers, acks="all", compression_type="lz4", max_batch_size=1_000_000
        )
        async with producer:
            batch, futures = producer.create_batch(), []
            for number in range(count):
                segment = segments[number * len(segments) // count]
                key, value = segment + os.urandom(16), encode_row(number, number)
                if batch.append(key=key, value=value, timestamp=None) is None:
                    futures.append(await producer.send_batch(batch, topic, partition=partition))
                    batch = producer.create_batch()
                    batch.append(key=key, value=value, timestamp=None)
            futures.append(await producer.send_batch(batch, topic, partition=partition))
            await asyncio.gather(*futures)

    asyncio.run(run())


def _recover_alone(deployment: Deployment, ids: int) -> dict[str, Any]:
    """Recover in a fresh process, one partition after the other."""
    ends = json.dumps(deployment.cluster.ends(topics.router_changelogs(_namespace(deployment.folder))["dedup"].name))
    command = [sys.executable, "-m", "benchmarks.figures.start", deployment.cluster.brokers, str(deployment.folder)]
    with Processes(deployment.folder / "recovery", [[*command, ends]]) as processes:
        processes.wait()
    found: dict[str, Any] = orjson.loads(processes.log(0).read_bytes().splitlines()[-1])
    if found["records"] != ids // deployment.partitions * deployment.partitions:
        raise RuntimeError(f"{found['records']:,} rows were recovered, and not {ids:,}")
    return found


def _namespace(folder: Path) -> Any:
    return load_namespaces(folder / "config")["start"]


def recover(brokers: str, folder: Path, ends: dict[int, int]) -> dict[str, Any]:
    """Recover the table of every partition into an empty store."""
    namespace = _namespace(folder)
    tables = topology(namespace, 0, RouterMetrics(CollectorRegistry())).tables
    spec = next(table for table in tables if table.name == router_tables.dedup(namespace))
    stores = [Store(folder / "recovered" / str(number), [spec]) for number in ends]

    async def run() -> int:
        return sum(
            [
                await changelog.recover(
                    {"bootstrap_servers": brokers}, store, [spec], number, {spec.changelog: (0, end)}
                )
                for store, (number, end) in zip(stores, ends.items(), strict=True)
            ]
        )

    begun, cpu = time.perf_counter(), time.process_time()
    records = asyncio.run(run())
    seconds, used = time.perf_counter() - begun, time.process_time() - cpu
    peak = psutil.Process().memory_info().rss / 2**20
    return {"records": records, "rate": records / seconds, "cpu": used / records * 1e6, "peak_mb": peak}


def _start(deployment: Deployment, number: int) -> tuple[float, float]:
    """Seconds from the start of the process to the first record in the log, and MB after some traffic; stops it."""
    cluster = deployment.cluster
    before = sum(cluster.ends(deployment.log).values())
    write(cluster.brokers, deployment.ingress, Shape(), 100, number, 0, "none")
    command, environment = deployment.command("router")
    begun = time.monotonic()
    with Processes(deployment.folder / f"start-{number}", [command], [environment]) as router:
        wait(deployment, router, before + 1)
        seconds = time.monotonic() - begun
        fill(cluster.brokers, deployment.ingress, Shape(), TRAFFIC, seed=number)
        wait(deployment, router, before + 100 + TRAFFIC)
        return seconds, router.usage()[1] / 2**20


def wait(deployment: Deployment, router: Processes, records: int) -> None:
    """Wait until a router has put so many records into its log, markers of transactions included."""
    deadline = time.monotonic() + TIMEOUT
    while sum(deployment.cluster.ends(deployment.log).values()) < records:
        router.check()
        if time.monotonic() > deadline:
            raise TimeoutError(f"the router did not get so far within {TIMEOUT:.0f} s")
        time.sleep(0.02)


if __name__ == "__main__":
    given = {int(number): end for number, end in json.loads(sys.argv[3]).items()}
    print(json.dumps(recover(sys.argv[1], Path(sys.argv[2]), given)))

"""How many records a client writes, acknowledged by `write_many`."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any

import orjson

from benchmarks.cluster import Cluster
from benchmarks.deployment import Deployment
from benchmarks.processes import Processes
from benchmarks.results import Results, Spread
from walstream.client import AsyncClient, Durable
from walstream.client.write import Write

NAMESPACE = "client"
CHUNK = 50_000  # records of one call
VALUE = 150  # bytes, which with key and attributes make about 300


def measure(cluster: Cluster, *, records: int, count: int, partitions: int) -> None:
    """Write from a process of its own, some times."""
    results = Results("client", {"records": records, "rounds": count, "partitions": partitions}, cluster.out)
    deployment = Deployment(cluster, NAMESPACE, partitions=partitions)
    deployment.apply()
    rounds = []
    for number in range(count):
        command = [sys.executable, "-m", "benchmarks.figures.client", cluster.brokers, str(records)]
        before = sum(cluster.ends(deployment.ingress).values())
        with Processes(deployment.folder / f"run-{number}", [command]) as processes:
            processes.wait()
        found: dict[str, Any] = orjson.loads(processes.log(0).read_bytes().splitlines()[-1])
        written = sum(cluster.ends(deployment.ingress).values()) - before
        if written != found["acknowledged"] or written < records:
            raise RuntimeError(f"{written:,} records are in the topic, and {found['acknowledged']:,} were acknowledged")
        rounds.append(found)
    results.show(
        ("client", "records/s", "CPU us/record"),
        [("write_many", *(Spread([each[name] for each in rounds]).text(d) for name, d in (("rate", 0), ("cpu", 2))))],
    )
    results.save(rounds)


async def run(brokers: str, records: int) -> dict[str, Any]:
    """Write; the first call warms up, and is not in the time."""
    rows = [(f"key-{number % 100_000:08d}", os.urandom(VALUE)) for number in range(CHUNK)]
    acknowledged = 0
    async with AsyncClient(brokers) as client:
        for number in range(-(-records // CHUNK) + 1):
            if number == 1:
                begun, cpu, first = time.perf_counter(), time.process_time(), acknowledged
            receipts = await client.write_many(NAMESPACE, (Write(value, key=key) for key, value in rows))
            acknowledged += sum(receipt.durable is Durable.TRUE for receipt in receipts)
    seconds, used, count = time.perf_counter() - begun, time.process_time() - cpu, acknowledged - first
    return {"acknowledged": acknowledged, "rate": count / seconds, "cpu": used / count * 1e6}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(sys.argv[1], int(sys.argv[2])))))

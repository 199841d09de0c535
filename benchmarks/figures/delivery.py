"""Delivery to a Kafka topic, against a loop that consumes and produces."""

from __future__ import annotations

import sys

from benchmarks.cluster import Cluster
from benchmarks.compare import Contender, Run, rounds
from benchmarks.contenders.job import Job
from benchmarks.deployment import Deployment
from benchmarks.drain import drain
from benchmarks.load import Shape, fill
from benchmarks.processes import Processes
from benchmarks.results import Results
from benchmarks.verify import read


def measure(
    cluster: Cluster,
    *,
    records: int,
    count: int,
    partitions: int,
    shape: Shape,
    warm: float,
    limit: float,
) -> None:
    """Let a router write a log, let everybody deliver it in turns, and report."""
    results = Results(
        "delivery to Kafka",
        {"records": records, "rounds": count, "partitions": partitions, "duplicates": shape.duplicates, "warm": warm},
        cluster.out,
    )
    deployment, distinct = routed(cluster, "delivery", records, partitions, "none", shape)

    def walstream(name: str) -> Run:
        deployment.add_target(name, {"sink": "kafka", "options": {"topic": f"{name}.copy"}})
        command, environment = deployment.command(name)
        return Run([command], [environment], f"{name}.copy")

    def by_hand(name: str) -> Run:
        cluster.create(f"{name}.copy", partitions)
        job = Job(cluster.brokers, deployment.log, f"{name}.copy", "", f"{name}.group", "")
        return Run([[sys.executable, "-m", "benchmarks.contenders.copy", job.argument()]], [{}], f"{name}.copy")

    contenders = [Contender("walstream delivery", walstream), Contender("aiokafka loop, by hand", by_hand)]
    given = read(cluster.brokers, deployment.log, cluster.ends(deployment.log))
    rounds(cluster, contenders, given, expected=distinct, count=count, warm=warm, limit=limit, results=results)


def routed(
    cluster: Cluster, name: str, records: int, partitions: int, compression: str, shape: Shape, key: str | None = None
) -> tuple[Deployment, int]:
    """A namespace whose log holds so many records, and how many distinct ones they are."""
    deployment = Deployment(cluster, name, partitions=partitions, key=key)
    deployment.apply()
    return deployment, route(deployment, records, compression, shape)


def route(deployment: Deployment, records: int, compression: str, shape: Shape) -> int:
    """Write records and route them, and return how many distinct ones they are."""
    cluster = deployment.cluster
    distinct = fill(cluster.brokers, deployment.ingress, shape, records, compression)
    command, environment = deployment.command("router")
    with Processes(deployment.folder / "run-router", [command], [environment]) as processes:
        drain(
            processes,
            lambda: sum(cluster.ends(deployment.log).values()),
            cluster.cpu,
            expected=distinct,
            warm=0.1,
            limit=3600,
        )
    return distinct

"""The router's work: consume, understand, look up, write the log, the table and its changelog."""

from __future__ import annotations

import sys
from collections.abc import Callable

from benchmarks import environments, java
from benchmarks.cluster import SETTLED, Cluster
from benchmarks.compare import Contender, Run, rounds
from benchmarks.contenders.job import COMPRESSION, Job
from benchmarks.deployment import Deployment
from benchmarks.load import Shape, fill
from benchmarks.results import Results, console
from benchmarks.verify import read

SOURCE = "records"


def measure(
    cluster: Cluster,
    *,
    records: int,
    count: int,
    partitions: int,
    compression: str,
    shape: Shape,
    warm: float,
    limit: float,
    only: tuple[str, ...],
) -> None:
    """Fill a topic, let everybody drain it in turns, and report."""
    settings = {
        "records": records,
        "rounds": count,
        "partitions": partitions,
        "compression": compression,
        "duplicates": shape.duplicates,
        "warm": warm,
    }
    results = Results("router", settings, cluster.out)
    everybody = contenders(cluster, partitions)
    chosen = [each for each in everybody if not only or any(word in each.name for word in only)]
    cluster.create(SOURCE, partitions)
    distinct = fill(cluster.brokers, SOURCE, shape, records, compression)
    given = read(cluster.brokers, SOURCE, cluster.ends(SOURCE))
    console.print(f"{records:,} records, {distinct:,} distinct, {given.records:,} read back")
    rounds(cluster, chosen, given, expected=distinct, count=count, warm=warm, limit=limit, results=results)
    cluster.delete(SOURCE)


def contenders(cluster: Cluster, partitions: int) -> list[Contender]:
    """Everybody that this machine can run."""

    def job(name: str) -> Job:
        cluster.create(f"{name}.log", partitions)
        cluster.create(f"{name}.changelog", partitions, SETTLED | {"cleanup.policy": "compact"})
        folder = cluster.folder / name / "state"
        folder.mkdir(parents=True)
        return Job(cluster.brokers, SOURCE, f"{name}.log", f"{name}.changelog", f"{name}.group", str(folder))

    def program(module: str, python: str = sys.executable) -> Callable[[str], Run]:
        def prepare(name: str) -> Run:
            given = job(name)
            command = [python, "-m", f"benchmarks.contenders.{module}", given.argument(), str(partitions)]
            return Run([command], [{}], given.output)

        return prepare

    def walstream(workers: int) -> Callable[[str], Run]:
        def prepare(name: str) -> Run:
            deployment = Deployment(cluster, name, partitions=partitions, ingress=SOURCE)
            deployment.apply()
            commands, environments = zip(*(deployment.command("router", each) for each in range(workers)), strict=True)
            return Run(commands, environments, deployment.log)

        return prepare

    def streams(start: list[str], guarantee: str, threads: int) -> Callable[[str], Run]:
        def prepare(name: str) -> Run:
            given = job(name)
            arguments = [given.brokers, given.source, given.output, given.group, COMPRESSION, given.folder]
            return Run([[*start, *arguments, guarantee, str(threads)]], [{}], given.output)

        return prepare

    found = [
        Contender("walstream router", walstream(1)),
        Contender("walstream router, 2 workers", walstream(2)),
        Contender("aiokafka loop, by hand", program("loop")),
        Contender("Faust agent, one by one", program("plain_faust"), slow=True),
        Contender("Quix Streams", program("quix", str(environments.quix())), slow=True),
    ]
    start = java.build(cluster.folder / "java")
    if start is None:
        console.print("[yellow]there is no javac: Kafka Streams is left out")
        return found
    for guarantee in ("at_least_once", "exactly_once_v2"):
        for threads in (1, 2):
            name = f"Kafka Streams {guarantee}, {threads} thread{'s' if threads > 1 else ''}"
            found.append(Contender(name, streams(start, guarantee, threads)))
    return found

"""Replication from one region's log to another region's ingress: two Kafkas, and a proxy that makes the way longer."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import redis

from benchmarks.cluster import Cluster
from benchmarks.compare import Contender, Run, rounds
from benchmarks.contenders.job import COMPRESSION, Job
from benchmarks.contenders.loop import BATCH
from benchmarks.deployment import Deployment
from benchmarks.figures.delivery import route
from benchmarks.java import mirror
from benchmarks.link import Link
from benchmarks.load import Shape, paced, write
from benchmarks.processes import Processes
from benchmarks.results import Results, console
from benchmarks.table import BY_HAND, FAR, MIRROR, NEAR, REPLICATION, REPLICATOR
from benchmarks.verify import read
from walstream.testing.redis_server import RedisServer

EAST, WEST = ("east", 0), ("west", 1)
NAME = "replication"
START_LIMIT = 120.0  # s
WARM = 60.0  # s that are not counted: two JVMs compile meanwhile
FIRST = 100_000_000  # number of a row that is none of those measured
WINDOW = 128  # rows that are looked for at a time
LOOKED_FOR = 100  # rows of those that are written in a second: looking must not take the processors
LOOK = 0.01  # s between two looks; each takes the time of the Redis, and of this machine
GATHERED = 10  # ms, by the writer: librdkafka sends a request for each partition, which the two cores would spend on it

MIRRORING = """\
clusters = {name}, west
{name}.bootstrap.servers = {east}
west.bootstrap.servers = {west}
{name}->west.enabled = true
west->{name}.enabled = false
{name}->west.topics = {log}
{name}->west.emit.checkpoints.enabled = false
{name}->west.emit.heartbeats.enabled = false
emit.heartbeats.enabled = false
tasks.max = 2
replication.factor = 1
offset-syncs.topic.replication.factor = 1
config.storage.replication.factor = 1
offset.storage.replication.factor = 1
status.storage.replication.factor = 1
sync.topic.acls.enabled = false
{name}.consumer.isolation.level = read_committed
{name}.consumer.max.poll.records = 20000
{name}.consumer.max.partition.fetch.bytes = {batch}
west.producer.compression.type = {compression}
west.producer.batch.size = 262144
west.producer.linger.ms = 20
west.producer.acks = all
"""


class Regions:
    """Two Kafkas, quick or not (see `Cluster`), and the way from the east to the west."""

    def __init__(self, folder: Path, out: Path, *, quick: bool) -> None:
        self.link = Link(folder / "link")
        self.east = Cluster(folder / "east", out, quick=quick, console=console)
        try:
            self.west = Cluster(folder / "west", out, advertised=self.link.port, quick=quick, console=console)
        except BaseException:
            self.east.close()
            raise

    @property
    def connection(self) -> dict[str, Any]:
        """The west, seen from the east."""
        return {"sink": "kafka", "brokers": [self.way], "rank": WEST[1]}

    @property
    def way(self) -> str:
        """Where the way to the west begins."""
        return f"127.0.0.1:{self.link.port}"

    def lengthen(self, round_trip: float) -> None:
        """Make it take so many seconds there and back."""
        assert self.west.proxied is not None
        self.link.open(self.west.proxied, round_trip)

    def cpu(self) -> float:
        """Processor seconds of all that stands around a contender."""
        return self.east.cpu() + self.west.cpu() + self.link.cpu()

    def close(self) -> None:
        """End all of it."""
        self.link.close()
        self.west.close()
        self.east.close()


@contextmanager
def regions(folder: Path, out: Path, *, quick: bool) -> Iterator[Regions]:
    """Both, for the length of a figure."""
    found = Regions(folder, out, quick=quick)
    try:
        yield found
    finally:
        found.close()


def throughput(both: Regions, *, records: int, count: int, partitions: int, warm: float, limit: float) -> None:
    """A full log to the other region, against a loop by hand, in turns."""
    settings = {"records": records, "rounds": count, "partitions": partitions, "duplicates": 0.0, "warm": warm}
    results = Results(REPLICATION, settings, both.east.out)
    deployment = _deployment(both, both.west.brokers, partitions)

    def by_hand(name: str) -> Run:
        both.west.create(f"{name}.copy", partitions)
        job = Job(both.east.brokers, deployment.log, f"{name}.copy", "", f"{name}.group", "", there=both.west.brokers)
        return Run([[sys.executable, "-m", "benchmarks.contenders.replicate", job.argument()]], [{}], f"{name}.copy")

    contenders = [
        Contender(REPLICATOR, _walstream(both, deployment, None)),
        Contender(BY_HAND, by_hand),
        Contender(MIRROR, _mirror(both, deployment), once=False),
    ]
    _in_turns(both, deployment, contenders, results, records=records, count=count, warm=warm, limit=limit)


def distance(
    both: Regions, *, records: int, count: int, partitions: int, warm: float, limit: float, latency: float
) -> None:
    """The same by a proxy that makes the way longer, and by one that does not."""
    settings = {
        "records": records, "rounds": count, "partitions": partitions, "duplicates": 0.0, "warm": warm,
        "latency": latency,
    }  # fmt: skip
    results = Results("replication with latency", settings, both.east.out)
    deployment = _deployment(both, both.way, partitions)
    contenders = [
        Contender(NEAR, _walstream(both, deployment, 0.0)),
        Contender(FAR, _walstream(both, deployment, latency)),
    ]
    _in_turns(both, deployment, contenders, results, records=records, count=count, warm=warm, limit=limit)


def readable(both: Regions, *, partitions: int, rate: float, seconds: float, latency: float) -> None:
    """Rows written in the east until they can be read in the west's Redis."""
    settings = {"rate": rate, "seconds": seconds, "partitions": partitions, "latency": latency, "warm": WARM}
    results = Results("replication to Redis", settings, both.east.out)
    both.lengthen(latency)
    (folder := both.west.folder / "redis").mkdir(parents=True)
    store = RedisServer(folder)
    try:
        found, cores = _follow(both, store, partitions, rate, seconds)
    finally:
        store.close()
    found.sort()
    points = {
        f"p{point * 100:g}": found[min(len(found) - 1, int(len(found) * point))] for point in (0.5, 0.9, 0.99, 0.999, 1)
    }
    one_way = latency * 1e3 / 2
    measured = {
        "readable": {name: round(value, 2) for name, value in points.items()},
        "beyond": {name: round(value - one_way, 2) for name, value in points.items()},
    }
    rows = [(name, *(f"{value:.1f}" for value in found.values())) for name, found in measured.items()]
    results.show(("ms", *points), rows)
    results.save(measured | {"cores": cores})
    console.print(f"cores in use: {cores}")


def _deployment(both: Regions, way: str, partitions: int) -> Deployment:
    connections = {"west": {"sink": "kafka", "brokers": [way], "rank": WEST[1]}}
    return Deployment(both.east, NAME, partitions=partitions, key="{id}", connections=connections, region=EAST)


def _walstream(both: Regions, deployment: Deployment, round_trip: float | None) -> Callable[[str], Run]:
    """Prepares a run, by the proxy if there is to be a round trip (s)."""

    def prepare(name: str) -> Run:
        if round_trip is not None:
            both.lengthen(round_trip)
        both.west.create(f"{name}.copy", deployment.partitions)
        deployment.add_target(name, _target(topic=f"{name}.copy"))
        command, environment = deployment.command(name)
        deployment.remove_target(name)
        return Run([command], [environment], f"{name}.copy")

    return prepare


def _mirror(both: Regions, deployment: Deployment) -> Callable[[str], Run]:
    """Prepares a run of MirrorMaker 2, as a process of its own with a task for each two partitions."""
    command = mirror(both.east.folder / "mirror")

    def prepare(name: str) -> Run:
        # What it writes is called after the region that it comes from.
        output = f"{name}.{deployment.log}"
        both.west.create(output, deployment.partitions)
        (folder := both.east.folder / "mirror" / name).mkdir(parents=True)
        (properties := folder / "mirror.properties").write_text(
            MIRRORING.format(
                name=name, east=both.east.brokers, west=both.west.brokers, log=deployment.log, compression=COMPRESSION,
                batch=BATCH,
            )
        )  # fmt: skip
        return Run([[*command, str(properties)]], [{}], output)

    return prepare


def _target(**options: Any) -> dict[str, Any]:
    return {"sink": "replicate", "connection": "west", "options": {"region": "west", **options}}


def _in_turns(
    both: Regions,
    deployment: Deployment,
    contenders: list[Contender],
    results: Results,
    *,
    records: int,
    count: int,
    warm: float,
    limit: float,
) -> None:
    deployment.apply()
    distinct = route(deployment, records, "none", Shape())
    given = read(both.east.brokers, deployment.log, both.east.ends(deployment.log))
    rounds(
        both.west, contenders, given, expected=distinct, count=count, warm=warm, limit=limit, results=results,
        broker_cpu=both.cpu,
    )  # fmt: skip


def _follow(
    both: Regions, store: RedisServer, partitions: int, rate: float, seconds: float
) -> tuple[list[float], dict[str, float]]:
    """Milliseconds of each row that was looked for, once warm; and how many cores were in use, by whom."""
    east = _deployment(both, both.way, partitions)
    west = Deployment(
        both.west, NAME, partitions=partitions, key="{id}", region=WEST,
        connections={"store": {"sink": "redis", "host": store.address.host, "port": store.address.port}},
    )  # fmt: skip
    west.apply()
    west.add_target(
        "store", {"sink": "redis", "connection": "store", "options": {"key": "{id}:{seq}", "value": "note"}}
    )
    east.apply()
    east.add_target("to-west", _target())
    commands = [
        east.command("router"), east.command("to-west"), west.command("router"), west.command("store"),
    ]  # fmt: skip
    client = redis.Redis(host=store.address.host, port=store.address.port)
    with Processes(
        both.east.folder / "run", [command for command, _ in commands], [environment for _, environment in commands]
    ) as workers:
        shape = Shape(rows=1, stamped=True)
        write(both.east.brokers, east.ingress, shape, 10 * partitions, time.time_ns(), FIRST, "none")
        probes = [_key(FIRST + number) for number in range(10 * partitions)]
        deadline = time.monotonic() + START_LIMIT
        while None in client.mget(probes):
            workers.check()
            if time.monotonic() > deadline:
                raise TimeoutError("what was written in the east does not come to the west's Redis")
            time.sleep(0.05)
        before, servers = workers.usage()[0], both.cpu()
        psutil.cpu_percent()
        writer = paced(both.east.brokers, east.ingress, shape, rate, seconds + WARM, GATHERED)
        every = max(1, int(rate // LOOKED_FOR))
        numbers = range(0, round(rate * (seconds + WARM)), every)
        found = look_for(client, numbers, rate, seconds + WARM + 60, workers.check)
        writer.join()
        lasted = seconds + WARM
        cores = {
            "workers": round((workers.usage()[0] - before) / lasted, 2),
            "servers": round((both.cpu() - servers) / lasted, 2),
            "all": round(psutil.cpu_percent() / 100 * (os.cpu_count() or 1), 2),
        }
    client.close()
    return [late for number, late in found if number >= rate * WARM], cores


def look_for(
    client: Any, numbers: range, rate: float, limit: float, check: Callable[[], None]
) -> list[tuple[int, float]]:
    """Look for rows until all were read, and tell how many milliseconds each took from its write.

    Parameters
    ----------
    client
        Of the Redis.
    rate
        Numbers that are written in a second from now on, at most.
    limit
        Seconds after which it is given up.
    check
        Raises where it is of no use to go on.
    """
    source = iter(numbers)
    wanted: list[int] = []
    found: list[tuple[int, float]] = []
    began, upcoming = time.monotonic(), next(source, None)
    deadline = began + limit
    while len(found) < len(numbers):
        written = (time.monotonic() - began) * rate
        while len(wanted) < WINDOW and upcoming is not None and upcoming <= written:
            wanted.append(upcoming)
            upcoming = next(source, None)
        answers = client.mget([_key(number) for number in wanted]) if wanted else []
        now = time.time_ns()
        if all(answer is None for answer in answers):
            check()
            if time.monotonic() > deadline:
                raise TimeoutError(f"only {len(found):,} of {len(numbers):,} rows came to the other region's Redis")
        found += [
            (number, (now - int(answer)) / 1e6)
            for number, answer in zip(wanted, answers, strict=True)
            if answer is not None
        ]
        wanted = [number for number, answer in zip(wanted, answers, strict=True) if answer is None]
        time.sleep(LOOK)
    return found


def _key(number: int) -> str:
    return f"row-{number:09d}:0"

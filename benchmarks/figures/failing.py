"""A delivery whose target fails: some records, one key, all of it, or by being slow.

The target is a sink that costs next to nothing (`benchmarks.failing`), so what failures cost is not hidden by it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from benchmarks.cluster import Cluster
from benchmarks.deployment import Deployment
from benchmarks.drain import drain
from benchmarks.entries import count_key, fill_log
from benchmarks.failing import Target, installed
from benchmarks.load import Shape
from benchmarks.processes import Processes
from benchmarks.results import Results, Spread
from benchmarks.table import flat

SHARE = 0.01  # of the records that fail once
BROKEN = "key-00000007"
KEYS = 100_000
LIMIT = 600.0  # s
WAIT = 120.0  # s for what takes a moment
SETTLE = 10.0  # s of idling, and of waiting records, before memory is looked at
TRAFFIC = 400_000  # records before memory is looked at
SLICE = 500_000  # records that come at a time, while the target is down


class Failures:
    """A namespace with a full log, and targets that begin with its first entry.

    Parameters
    ----------
    environment
        What workers need to find the sinks.
    """

    def __init__(self, cluster: Cluster, environment: Mapping[str, str], partitions: int, shape: Shape) -> None:
        self.cluster, self.partitions, self._shape = cluster, partitions, shape
        self._environment = dict(environment)
        self._deployment = Deployment(cluster, "failing", partitions=partitions)
        self._deployment.apply()

    def fill(self, records: int, *, distinct: bool = True) -> None:
        """Put entries into the log."""
        log = self._deployment.log
        fill_log(self.cluster.brokers, log, self.partitions, self._shape, records, distinct=distinct)

    def waiting(self, name: str, topic: str) -> int:
        """How many records were ever written to a topic of a target; markers of transactions are counted, too."""
        return sum(self.cluster.ends(f"failing.{name}.{topic}").values())

    @contextmanager
    def running(self, name: str, target: Target) -> Iterator[Processes]:
        """A worker of a new target; its topics and files are gone afterwards."""
        self._deployment.add_target(name, target.document)
        command, environment = self._deployment.command(name)
        folder = self._deployment.folder
        try:
            with Processes(folder / f"run-{name}", [command], [environment | self._environment]) as processes:
                yield processes
        finally:
            self._deployment.remove_target(name)
            self.cluster.delete(f"failing.{name}.")
            shutil.rmtree(folder / f"data-{name}-0")

    def drain(self, name: str, target: Target, expected: int, warm: float) -> dict[str, Any]:
        """Let a target take everything, and see how."""
        with self.running(name, target) as processes:
            found = drain(
                processes, target.applied, self.cluster.cpu, expected=expected, warm=warm, limit=LIMIT,
            )  # fmt: skip
            dead = self.waiting(name, "dlq")
        seen = target.seen
        if not found.complete or seen.applied != expected:
            raise RuntimeError(f"{seen.applied:,} of {expected:,} records were applied")
        if target.document["ordering"] == "key" and seen.misordered:
            raise RuntimeError(f"{seen.misordered:,} records were applied in another order than that of their key")
        return asdict(found) | {"seen": asdict(seen), "in_dlq": dead}


@contextmanager
def failures(cluster: Cluster, partitions: int, keys: int) -> Iterator[Failures]:
    """An empty log, and the sinks."""
    with installed(cluster.folder / "sinks") as environment:
        yield Failures(cluster, environment, partitions, Shape(keys=keys))


def transient(
    cluster: Cluster, *, partitions: int, records: int, keys: int, count: int, warm: float, ordering: str
) -> None:
    """One record in a hundred fails once, against none."""
    kinds = {"none failing": {"share": 0.0}, "failing": {"share": SHARE}}
    settings = {"ordering": ordering, "share": SHARE}
    expected = dict.fromkeys(kinds, records)
    _in_turns(cluster, "failing transient", settings, kinds, expected, partitions, records, keys, count, warm)


def stuck(cluster: Cluster, *, partitions: int, records: int, keys: int, count: int, warm: float) -> None:
    """One key of many fails for ever; how fast the others go, against none failing."""
    kinds: dict[str, dict[str, Any]] = {"none failing": {}, "failing": {"broken": BROKEN}}
    lost = count_key(BROKEN.encode(), partitions, Shape(keys=keys), records)
    if not lost:
        raise RuntimeError(f"there is no record of {BROKEN}: take more records, or fewer keys")
    expected = {"none failing": records, "failing": records - lost}
    settings = {"ordering": "key"}
    _in_turns(cluster, "failing key", settings, kinds, expected, partitions, records, keys, count, warm)


def outage(cluster: Cluster, *, partitions: int, records: int, seconds: float) -> None:
    """The target goes down in the middle of a backlog, and comes back; nothing may be dead, or be tried again."""
    settings = {"records": records, "seconds": seconds, "partitions": partitions}
    results = Results("failing outage", settings, cluster.out)
    with failures(cluster, partitions, KEYS) as log:
        log.fill(records)
        target = Target(cluster.folder / "outage", options={}, ordering="key")
        with log.running("outage", target) as processes:

            def wait(what: Callable[[], bool], limit: float = WAIT) -> float:
                return _wait(processes, what, limit)

            wait(lambda: target.applied() >= records // 4)
            target.stop()
            wait(lambda: target.seen.refused > 0)
            before = target.seen
            if before.applied >= records:
                raise RuntimeError("everything was applied before the target went down: take more records")
            cpu = processes.usage()[0]
            time.sleep(seconds)
            cpu = processes.usage()[0] - cpu
            after = target.seen
            target.start()
            first = wait(lambda: target.applied() > before.applied)
            all_ = wait(lambda: target.applied() >= records, LIMIT)
            measured = {
                "applied_before": before.applied,
                "calls_while_down": after.calls - before.calls,
                "cpu_while_down_percent": cpu / seconds * 100,
                "until_first_s": first,
                "until_all_s": first + all_,
                "applied": target.applied(),
                # Markers of transactions are none of the retries; where there are none, there are no markers.
                "on_retry_topic": log.waiting("outage", "retry"),
                "in_dlq": log.waiting("outage", "dlq"),
                "misordered": target.seen.misordered,
            }
    _show(results, measured)
    results.save(measured)


def waiting(cluster: Cluster, *, partitions: int, records: int) -> None:
    """Memory of a worker while its target is down and millions of records wait, against the same worker before."""
    results = Results("failing memory", {"records": records, "partitions": partitions}, cluster.out)
    with failures(cluster, partitions, KEYS) as log:
        log.fill(TRAFFIC, distinct=False)
        target = Target(cluster.folder / "memory", options={}, ordering="key")
        with log.running("memory", target) as processes:
            _wait(processes, lambda: target.applied() >= TRAFFIC, WAIT)
            time.sleep(SETTLE)
            idle = processes.usage()[1]
            target.stop()
            peak, done = idle, 0
            while done < records:
                log.fill(min(SLICE, records - done), distinct=False)
                done += SLICE
                peak = max(peak, processes.usage()[1])
            until = time.monotonic() + SETTLE
            while time.monotonic() < until:
                processes.check()
                peak = max(peak, processes.usage()[1])
                time.sleep(0.1)
            measured = {
                "idle_mb": idle / 2**20,
                "waiting_mb": processes.usage()[1] / 2**20,
                "peak_mb": peak / 2**20,
                "more_mb": (peak - idle) / 2**20,
                "applied_meanwhile": target.applied() - TRAFFIC,
                "in_dlq": log.waiting("memory", "dlq"),
            }
    _show(results, measured)
    results.save(measured)


def slow(cluster: Cluster, *, partitions: int, records: int, count: int, warm: float, latency: float) -> None:
    """A target that takes one record a call, and some time for each; one worker."""
    settings = {"records": records, "latency": latency, "rounds": count, "partitions": partitions, "warm": warm}
    results = Results("failing slow", settings, cluster.out)
    measured: dict[str, Any] = {"rounds": []}
    with failures(cluster, partitions, KEYS) as log:
        log.fill(records)
        for number in range(count):
            name = f"slow-{number}"
            target = Target(cluster.folder / name, "slow", options={"latency": latency}, ordering="key")
            measured["rounds"].append(log.drain(name, target, records, warm))
            results.save(measured, done=number + 1 == count)
    _show(results, measured)


def _in_turns(
    cluster: Cluster, figure: str, settings: dict[str, Any], kinds: Mapping[str, Mapping[str, Any]],
    expected: Mapping[str, int], partitions: int, records: int, keys: int, count: int, warm: float,
) -> None:  # fmt: skip
    """Targets take the same log, one after the other; every other round goes backwards."""
    settings |= {"records": records, "keys": keys, "rounds": count, "partitions": partitions, "warm": warm}
    results = Results(figure, settings, cluster.out)
    measured: dict[str, Any] = {name: {"rounds": []} for name in kinds}
    with failures(cluster, partitions, keys) as log:
        log.fill(records)
        for number in range(count):
            for place, kind in enumerate(kinds if number % 2 == 0 else reversed(list(kinds))):
                name = f"round-{number}-{place}"
                target = Target(cluster.folder / name, options=kinds[kind], ordering=settings["ordering"])
                measured[kind]["rounds"].append(log.drain(name, target, expected[kind], warm))
            results.save(measured, done=number + 1 == count)
    _show(results, measured)


def _show(results: Results, measured: Mapping[str, Any]) -> None:
    results.show(("", "measured"), [(name, Spread(values).text(2)) for name, values in flat(measured).items()])


def _wait(processes: Processes, what: Callable[[], bool], limit: float) -> float:
    """Wait until something is so; how long that took, in seconds."""
    begun = time.monotonic()
    while not what():
        processes.check()
        if time.monotonic() - begun > limit:
            raise TimeoutError(f"not so after {limit:.0f} s")
        time.sleep(0.02)
    return time.monotonic() - begun

"""How long a record takes from its write until it stands, committed, in the target's Kafka topic."""

from __future__ import annotations

import time

from benchmarks.cluster import Cluster
from benchmarks.deployment import Deployment, tail
from benchmarks.load import SENT_AT, Shape, paced
from benchmarks.results import Results

WARM = 40.0  # s that are not counted: a JVM that has just started compiles for as long, and takes a core for it


def measure(cluster: Cluster, *, partitions: int, rate: float, seconds: float) -> None:
    """Write at a rate, and take the time at the log and at the copy."""
    results = Results("latency", {"rate": rate, "seconds": seconds, "partitions": partitions}, cluster.out)
    copy = "latency-copy"
    target = {"sink": "kafka", "options": {"topic": copy}}
    deployment = Deployment(cluster, "latency", partitions=partitions, targets={"copy": target})
    deployment.apply()
    times: dict[str, list[float]] = {}
    # One after the other: who reads both topics at once would disturb what is measured.
    with deployment.running("router", "copy", output=copy) as workers:
        for name, topic in (("log", deployment.log), ("target", copy)):
            times[name] = _listen(cluster, deployment.ingress, topic, rate, seconds)
            for worker in workers:
                worker.check()
    rows = []
    for name, found in times.items():
        found.sort()
        points = {point: found[min(len(found) - 1, int(len(found) * point))] for point in (0.5, 0.9, 0.99, 0.999, 1)}
        rows.append((f"write to {name}", *(f"{points[point]:.1f}" for point in points), f"{len(found):,}"))
        results.settings[name] = {f"p{point * 100:g}": round(value, 2) for point, value in points.items()}
    measured = {name: results.settings.pop(name) for name in times}
    results.show(("ms", "p50", "p90", "p99", "p99.9", "most", "records"), rows)
    results.save(measured)


def _listen(cluster: Cluster, ingress: str, topic: str, rate: float, seconds: float) -> list[float]:
    """Milliseconds of each record that was written after the warm-up."""
    expected = round(rate * (seconds + WARM))
    consumer = tail(cluster.brokers, topic, cluster.ends(topic))
    consumer.poll(1)
    writer = paced(cluster.brokers, ingress, Shape(), rate, seconds + WARM)
    found, seen, first = [], 0, 0
    deadline = time.monotonic() + seconds + WARM + 60
    while seen < expected and time.monotonic() < deadline:
        messages = consumer.consume(1_000, timeout=0.005)  # a shorter wait spins, and takes the workers' time
        now = time.time_ns()
        for message in messages:
            if message.error() is not None:
                raise RuntimeError(f"reading {topic}: {message.error()}")
            (sent,) = SENT_AT.unpack_from(message.value() or b"")
            first = first or sent
            if sent - first > WARM * 1e9:
                found.append((now - sent) / 1e6)
        seen += len(messages)
    writer.join()
    consumer.close()
    if seen < expected:
        raise RuntimeError(f"only {seen:,} of {expected:,} records arrived in {topic}")
    return found

"""What workers use while there is little to do: idle, and at a low rate. Router and one delivery."""

from __future__ import annotations

import time
from collections.abc import Sequence

from benchmarks.cluster import Cluster
from benchmarks.deployment import Deployment
from benchmarks.load import Shape, paced
from benchmarks.processes import Processes
from benchmarks.results import Results

SETTLE = 5.0  # s between a change of the load and the measurement


def measure(cluster: Cluster, *, partitions: int, rate: float, seconds: float) -> None:
    """Measure per cent of a core, and memory."""
    results = Results("quiet", {"rate": rate, "seconds": seconds, "partitions": partitions}, cluster.out)
    copy = "quiet-copy"
    target = {"sink": "kafka", "options": {"topic": copy}}
    deployment = Deployment(cluster, "quiet", partitions=partitions, targets={"copy": target}, latency="50ms")
    deployment.apply()
    with deployment.running("router", "copy", output=copy) as workers:
        time.sleep(SETTLE)
        idle = _percent(workers, seconds)
        writer = paced(cluster.brokers, deployment.ingress, Shape(), rate, seconds + 2 * SETTLE)
        time.sleep(SETTLE)
        busy = _percent(workers, seconds)
        writer.join()
        resident = [worker.usage()[1] / 2**20 for worker in workers]
    names = ("router", "delivery")
    results.show(
        ("worker", "idle, % of a core", f"{rate:,.0f} records/s, % of a core", "MB"),
        [
            *((names[i], f"{idle[i]:.1f}", f"{busy[i]:.1f}", f"{resident[i]:,.0f}") for i in range(2)),
            ("both", f"{sum(idle):.1f}", f"{sum(busy):.1f}", f"{sum(resident):,.0f}"),
        ],
    )
    results.save({names[i]: {"idle": idle[i], "at rate": busy[i], "resident_mb": resident[i]} for i in range(2)})


def _percent(workers: Sequence[Processes], seconds: float) -> list[float]:
    before, begun = [worker.usage()[0] for worker in workers], time.monotonic()
    time.sleep(seconds)
    after, elapsed = [worker.usage()[0] for worker in workers], time.monotonic() - begun
    return [(b - a) / elapsed * 100 for a, b in zip(before, after, strict=True)]

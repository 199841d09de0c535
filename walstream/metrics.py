"""What a worker counts, for Prometheus: per fetch and per batch, never per record.

The worker's web server shows it under ``/metrics``. Each app has a registry of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from walstream.breaker import Breaker, State
from walstream.engine.app import App
from walstream.engine.engine import Engine
from walstream.entry import Entry
from walstream.marks import Counts
from walstream.slots import Slots

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SINK_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # s


class RouterMetrics:
    """What became of the records that a router read, and of those that waited.

    Parameters
    ----------
    registry
        Where the metrics are.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ["namespace", "outcome"]
        self._records = Counter(
            "walstream_router_records", "Records of the ingress, by what became of them", labels, registry=registry
        )
        self._due = Counter(
            "walstream_router_due", "What had waited for its time, by what became of it", labels, registry=registry
        )
        self._answers = Counter(
            "walstream_router_answers", "Answers to cancels and reschedules", labels, registry=registry
        )

    def read(self, namespace: str, numbers: Mapping[str, int]) -> None:
        """Count a stretch of records of the ingress, by what became of them."""
        _count(self._records, namespace, numbers)

    def due(self, namespace: str, numbers: Mapping[str, int]) -> None:
        """Count a stretch of what was due, by what became of it."""
        _count(self._due, namespace, numbers)

    def answered(self, namespace: str, numbers: Mapping[str, int]) -> None:
        """Count answers, by outcome."""
        _count(self._answers, namespace, numbers)


def _count(counter: Counter, namespace: str, numbers: Mapping[str, int]) -> None:
    for outcome, number in numbers.items():
        if number:
            counter.labels(namespace, outcome).inc(number)


class Watched(Protocol):
    """What a `TargetCollector` looks at."""

    breaker: Breaker
    slots: Slots

    def counts(self) -> Mapping[int, Counts]:
        """What waits, by partition."""

    def oldest(self, who: int) -> tuple[float, Entry] | None:
        """For how long (s) a partition's oldest entry has been at the sink, and which it is."""


class DeliveryMetrics:
    """What a target answered.

    Parameters
    ----------
    registry
        Where the metrics are.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._entries = Counter(
            "walstream_delivery_entries", "Entries of the log, by what the target answered; retry counts each attempt",
            ["namespace", "target", "outcome"], registry=registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "walstream_sink_seconds", "How long a call of the sink took",
            ["namespace", "target"], registry=registry, buckets=SINK_BUCKETS,
        )  # fmt: skip

    def count(self, namespace: str, target: str, outcome: str, number: int) -> None:
        """Count some entries of a batch."""
        self._entries.labels(namespace, target, outcome).inc(number)

    def timer(self, namespace: str, target: str) -> Callable[[float], None]:
        """What notes how long (s) a call of the target's sink took."""
        return self._seconds.labels(namespace, target).observe  # looked up once: there are calls of one record


class TargetCollector:
    """What waits at a target and what is in work, read when somebody asks.

    Parameters
    ----------
    namespace, target
        Whose it is.
    dispatcher
        Has the breaker, the limiter, and what is in work.
    """

    def __init__(self, namespace: str, target: str, dispatcher: Watched) -> None:
        self._names = [namespace, target]
        self._dispatcher = dispatcher

    def collect(self) -> Iterator[Metric]:
        labels, watched = ["namespace", "target"], self._dispatcher
        state = GaugeMetricFamily("walstream_target_state", "1 for what the breaker is", labels=[*labels, "state"])
        for known in State:
            state.add_metric([*self._names, known.value], float(watched.breaker.state is known))
        calls = GaugeMetricFamily("walstream_sink_calls", "Calls of the sink that are not answered", labels=labels)
        calls.add_metric(self._names, watched.slots.calls)
        limit = GaugeMetricFamily("walstream_sink_calls_limit", "How many there may be by now", labels=labels)
        limit.add_metric(self._names, watched.slots.limit)
        labels = [*labels, "partition"]
        waiting = GaugeMetricFamily(
            "walstream_target_records",
            "Records that are not applied: being retried, parked, dead",
            labels=[*labels, "state"],
        )
        blocked = GaugeMetricFamily("walstream_target_blocked_keys", "Keys with records that wait", labels=labels)
        seconds = GaugeMetricFamily(
            "walstream_delivery_in_work_seconds", "Since when the oldest record is at the sink", labels=labels
        )
        position = GaugeMetricFamily(
            "walstream_delivery_in_work_position", "The log position of that record; -1 if it is of none", labels=labels
        )
        for partition, counts in watched.counts().items():
            names = [*self._names, str(partition)]
            for name, number in (("retrying", counts.retrying), ("parked", counts.parked), ("dead", counts.dead)):
                waiting.add_metric([*names, name], number)
            blocked.add_metric(names, counts.blocked)
            if (oldest := watched.oldest(partition)) is not None:
                seconds.add_metric(names, oldest[0])
                position.add_metric(names, oldest[1].position)
        yield from (state, calls, limit, waiting, blocked, seconds, position)


class TaskCollector:
    """What the tasks of a worker are doing, read when somebody asks.

    Parameters
    ----------
    engine
        Has the tasks.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        labels = ["topology", "partition"]
        state = GaugeMetricFamily("walstream_task_state", "1 for what the task is doing", labels=[*labels, "state"])
        since = GaugeMetricFamily("walstream_task_state_seconds", "For how long it has been doing it", labels=labels)
        offset = GaugeMetricFamily("walstream_task_committed_offset", "The committed offset", labels=[*labels, "topic"])
        for task in set(self._engine.tasks.values()):
            name = [task.topology.name, str(task.partition)]
            state.add_metric([*name, task.state.value], 1)
            since.add_metric(name, time.monotonic() - task.since)
            for topic, position in task.committed.items():
                offset.add_metric([*name, topic], position)
        yield from (state, since, offset)


def serve(app: App, registry: CollectorRegistry) -> None:
    """Show the metrics under ``/metrics`` of the worker's web server, and under ``/health`` whether it works."""
    registry.register(TaskCollector(app.engine))

    @app.page("/metrics", name="metrics")
    async def metrics(web: Any, request: Any) -> Any:
        return web.bytes(generate_latest(registry), content_type="text/plain")

    @app.page("/health", name="health")
    async def health(web: Any, request: Any) -> Any:
        reason = app.engine.stuck()
        return web.json({"ok": reason is None, "reason": reason}, status=200 if reason is None else 503)

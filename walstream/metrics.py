"""What a worker shows of itself, for Prometheus: counted per fetch and per batch, never per record.

The worker's web server shows it under ``/metrics``. Each app has a registry of its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from walstream.engine.app import App
from walstream.engine.engine import Engine


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

"""What a delivery counts, and what its dispatcher says of itself when somebody asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric

from walstream.delivery.breaker import Breaker, State
from walstream.delivery.slots import Slots
from walstream.entry import Entry
from walstream.marks import Counts

SINK_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # s


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

"""What a router counts."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter


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

"""An onlooker: what has arrived where, how far behind everybody is, and how long it took, seen from outside.

It asks no worker. It reads the log and the copies as they grow, the groups' committed offsets, and rows of the table.
"""

from __future__ import annotations

import bisect
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import Message

from walstream import topics
from walstream.admin import Admin, Partition
from walstream.demo.check import Record
from walstream.demo.flights import Step
from walstream.demo.onlooker import Onlooker
from walstream.errors import Unreachable
from walstream.headers import POSITION_HEADER, TIMESTAMP_HEADER
from walstream.kafka import KafkaConnection
from walstream.namespace import Namespace

_LAG_EVERY = 0.5  # seconds between two looks at the committed offsets
_UNCLEAR = 1.0  # seconds for which a group's offsets are waited for
_PROBE_EVERY = 0.05  # seconds between two looks at rows that are followed into the tables
_PROBES = 2  # rows in one look, of each table
_FOLLOWED = 6  # rows that are followed at a time, into each table
_RECENT = 500  # latencies from which the live percentiles are taken

Probe = Callable[[Step], bool | None]
"""Tells whether a table shows a step, or a later one of its flight; None where it does not show that one at all."""


class Latencies:
    """Durations in milliseconds."""

    def __init__(self) -> None:
        self._values = array("d")

    def add(self, milliseconds: float) -> None:
        self._values.append(max(0.0, milliseconds))

    def percentile(self, percent: float, *, recent: bool = False) -> float | None:
        """The value below which so many percent are; None where there are none."""
        values = sorted(self._values[-_RECENT:] if recent else self._values)
        return values[min(len(values) - 1, int(len(values) * percent / 100))] if values else None

    def summary(self) -> dict[str, float | int]:
        """Count, and percentiles in milliseconds."""
        found = {f"p{percent}": self.percentile(percent) for percent in (50, 90, 99, 100)}
        return {"count": len(self._values)} | {
            name: round(value, 1) for name, value in found.items() if value is not None
        }


@dataclass
class Stage:
    """How far a group has come.

    Parameters
    ----------
    name
        ``log`` for the router, or a target's name.
    done
        Records that are through.
    lag
        How many it still has before it.
    """

    name: str
    done: int = 0
    lag: int = 0
    latencies: Latencies = field(default_factory=Latencies)


class Offsets:
    """How far groups are: each in one topic.

    Parameters
    ----------
    groups
        Each group with its topic.
    partitions
        Of every topic.

    Attributes
    ----------
    committed
        The committed offsets of each group, as they were last seen.
    lags
        How many positions it has still before it.
    """

    def __init__(self, kafka: KafkaConnection, groups: Iterable[tuple[str, str]], partitions: Iterable[int]) -> None:
        # What a worker that was killed was about to commit is unclear until it is settled. The others do not wait.
        self._admin = Admin(kafka, _UNCLEAR)
        self._groups = {group: [(topic, number) for number in partitions] for group, topic in groups}
        self.committed: dict[str, dict[Partition, int]] = {group: {} for group in self._groups}
        self.lags = dict.fromkeys(self._groups, 0)

    def look(self) -> None:
        """Look anew."""
        for group, places in self._groups.items():
            with suppress(Unreachable):
                self.committed[group] = self._admin.committed(group, places)
        with suppress(Unreachable):  # later, so that nobody is ahead of them
            ends = self._admin.offsets({place for places in self._groups.values() for place in places}, "latest")
            for group, places in self._groups.items():
                self.lags[group] = sum(ends[place] - self.committed[group].get(place, 0) for place in places)


class Watch(Onlooker):
    """Looks on until it is closed.

    Parameters
    ----------
    kafka, namespace
        What to look at.
    copy
        The topic with the copies, of the target ``copy``.
    probes
        Looks into the tables of other targets.
    """

    def __init__(self, kafka: KafkaConnection, namespace: Namespace, copy: str, probes: Mapping[str, Probe]) -> None:
        super().__init__(kafka, namespace)
        self._copy, self._probes = copy, probes
        self._log_topic = topics.log(namespace).name
        self._groups = {"log": (topics.router_app_id(), topics.ingress(namespace).name)} | {
            name: (topics.delivery_app_id(namespace, name), self._log_topic) for name in namespace.targets
        }
        self._offsets: dict[int, list[int]] = {number: [] for number in self._partitions}  # of the log's records
        self._covered = dict.fromkeys(self._partitions, 0)  # of the ingress, by what the log has
        self.stages = {name: Stage(name) for name in self._groups}
        self.log, self.copy = self.stages["log"], self.stages["copy"]
        self.copies: list[Record] = []
        self.latest: tuple[Step, float] | None = None  # what was written last, and when; set by who writes

    @property
    def dropped(self) -> int:
        """Records that the router has passed by, as far as later ones show it."""
        return max(0, sum(self._covered.values()) - self.log.done)

    def works(self) -> Iterable[Callable[[], None]]:
        return self._read_topics, self._read_lags, self._probe_rows

    def place(self) -> tuple[int, ...]:
        """How many records each stage has done."""
        return tuple(stage.done for stage in self.stages.values())

    def written_to_ingress(self) -> int:
        """How many records the ingress holds."""
        return self.size(topics.ingress(self._namespace).name)

    def _read_topics(self) -> None:
        for message in self.messages(self._log_topic, self._copy):
            if message.topic() == self._copy:
                self._take_copy(message)
            else:
                self._take_log(message)

    def _take_log(self, message: Message) -> None:
        headers: dict[str, Any] = dict(message.headers() or ())
        partition = _number(message.partition())
        self._offsets[partition].append(_number(message.offset()))
        self._covered[partition] = max(self._covered[partition], int(headers[POSITION_HEADER]) + 1)
        # Both are the broker's: when the record came into the ingress, and when into the log.
        self.log.latencies.add(message.timestamp()[1] - int(headers[TIMESTAMP_HEADER]))
        self.log.done += 1

    def _take_copy(self, message: Message) -> None:
        headers: dict[str, Any] = dict(message.headers() or ())
        # A copy keeps the record's own timestamp, so it has arrived when somebody sees it.
        self.copy.latencies.add(time.time() * 1000 - message.timestamp()[1])
        self.copies.append(Record(message.key(), headers.get("ce_id"), message.value()))
        self.copy.done += 1

    def _read_lags(self) -> None:
        offsets = Offsets(self._kafka, self._groups.values(), self._partitions)
        while not self._closing.wait(_LAG_EVERY):
            offsets.look()
            for name, stage in self.stages.items():
                group = self._groups[name][0]
                place, stage.lag = offsets.committed[group], offsets.lags[group]
                if name in self._probes:
                    # Offsets have gaps, where transactions end; so records are counted below the committed one.
                    stage.done = sum(
                        bisect.bisect_left(self._offsets[number], offset) for (_, number), offset in place.items()
                    )

    def _probe_rows(self) -> None:
        followed: dict[str, deque[tuple[Step, float]]] = {name: deque() for name in self._probes}
        newest = None
        while not self._closing.wait(_PROBE_EVERY):
            latest = self.latest
            for name, probe in self._probes.items():
                waiting = followed[name]
                if latest is not None and latest is not newest and len(waiting) < _FOLLOWED:
                    waiting.append(latest)
                for _ in range(min(_PROBES, len(waiting))):
                    step, written = waiting.popleft()
                    seen = probe(step)
                    if seen:
                        self.stages[name].latencies.add((time.monotonic() - written) * 1000)
                    elif seen is not None:
                        waiting.append((step, written))
            newest = latest


def _number(value: int | None) -> int:
    assert value is not None  # of a message without error
    return value

"""What a task has fetched and not worked on yet, and the order in which its sources are read.

A fetch is taken in if it is the next one of its source; where one is missing, the source is sought back. The gates
bound how many wait, also those of a source that the processor does not want for now.

What stands in an earlier source when the task opens is worked on before a later source is read at all. So an earlier
source that is not wanted keeps the later ones from being read until then: it simply takes longer.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from faust.types import TP

from walstream.engine.fetch import Fetch
from walstream.engine.gate import Gate
from walstream.engine.source import Source

if TYPE_CHECKING:
    from walstream.engine.engine import Engine

log = logging.getLogger(__name__)

LOST_FETCH = 5.0  # s; a fetch that left aiokafka and has not arrived by then never will


class Inbox:
    """The sources of a task.

    Parameters
    ----------
    engine
        Gives the group's consumer, and runs what is done beside.
    name
        The task's, for the log.
    sources
        The task's source partitions, in the order in which they are read.
    """

    def __init__(self, engine: Engine, name: str, sources: Sequence[TP]) -> None:
        self._engine, self._name = engine, name
        self.sources = tuple(Source(tp.topic, tp.partition, self._released) for tp in sources)
        self._by_topic = {source.topic: source for source in self.sources}
        self._read = 0  # how many sources are being read
        self._lost_since: dict[TP, float] = {}

    def begin(self, positions: Mapping[str, int], ends: Mapping[str, int]) -> None:
        """Be empty, with where each source is to be read from and where it ends now; `due_sources` starts it."""
        self._read = 0
        self._lost_since.clear()
        for source in self.sources:
            source.begin(positions[source.topic], ends[source.topic])

    def due_sources(self) -> dict[TP, int]:
        """The sources that are to be read from now on, and where from; each of them once."""
        due: dict[TP, int] = {}
        while self._read < len(self.sources):
            if self._read:
                before = self.sources[self._read - 1]
                if before.position < before.end:
                    break
            source = self.sources[self._read]
            due[source.tp] = source.expected
            self._read += 1
        return due

    @property
    def reads_all(self) -> bool:
        """Whether each source is being read: what stood in the earlier ones at the opening is done."""
        return self._read == len(self.sources)

    def offer(self, fetch: Fetch) -> bool:
        """Take a fetch in, if it is the next one; whether it was. Never waits."""
        source = self._by_topic[fetch.topic]
        gate = self._gate(source)
        if gate is None or fetch.epoch != gate.epoch or not gate.is_open:
            return False  # it was taken before the last seek, or after the task's end
        if fetch.offset != source.expected:
            # Faust drops fetches around a rebalance. What was dropped is fetched again.
            log.info("%s: %s at %d instead of %d; seeking back", self._name, fetch.topic, fetch.offset, source.expected)
            self._seek_back(source, gate)
            return False
        source.append(fetch)
        return True

    def _released(self, fetch: Fetch) -> None:
        """A fetch was read to its end: another one may come in."""
        gate = self._gate(self._by_topic[fetch.topic])
        if gate is not None and fetch.epoch == gate.epoch:  # the gate has forgotten those from before a seek
            gate.done(fetch.size)
            self._engine.consumer.wake()

    def has_wanted(self, wants: Callable[[str], bool]) -> bool:
        """Whether something waits that is wanted."""
        return any(source.waits and wants(source.topic) for source in self.sources)

    def wanted_size(self, wants: Callable[[str], bool]) -> int:
        """Bytes of the fetches that wait and are wanted."""
        return sum(source.size for source in self.sources if source.waits and wants(source.topic))

    def check_lost(self, is_idle: bool) -> None:
        """Seek back where a fetch left aiokafka long ago, and never arrived at a task that was idle all the time."""
        now, lost_since = time.monotonic(), self._lost_since
        for source in self.sources:
            gate = self._gate(source)
            if gate is None or not gate.is_open or not is_idle or not self._misses(source, gate):
                lost_since.pop(source.tp, None)
            elif now - lost_since.setdefault(source.tp, now) > LOST_FETCH:
                log.warning("%s: a fetch of %s never arrived; seeking back", self._name, source.topic)
                del lost_since[source.tp]
                self._seek_back(source, gate)

    def close(self) -> None:
        """Let nothing in any more."""
        for source in self.sources:
            if gate := self._gate(source):
                gate.close()

    def clear(self) -> None:
        """Forget what waits."""
        for source in self.sources:
            source.begin(source.expected, source.end)

    def _gate(self, source: Source) -> Gate | None:
        return self._engine.consumer.gates.get(source.tp)

    def _misses(self, source: Source, gate: Gate) -> bool:
        return gate.waiting > sum(fetch.epoch == gate.epoch for fetch in source.fetches)

    def _seek_back(self, source: Source, gate: Gate) -> None:
        gate.close()
        self._engine.spawn(self._engine.consumer.start_reading({source.tp: source.expected}))

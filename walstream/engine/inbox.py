"""What a task has fetched and not worked on yet: a queue for each source, and the order in which sources are read.

A fetch is taken in if it is the next one of its source; where one is missing, the source is sought back. The gates
bound how many wait, also those of a source that the processor does not want for now.

What stands in an earlier source when the task opens is worked on before a later source is read at all. So an earlier
source that is not wanted keeps the later ones from being read until then: it simply takes longer.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from faust.types import TP

from walstream.engine.fetch import Fetch
from walstream.engine.gate import Gate

if TYPE_CHECKING:
    from walstream.engine.engine import Engine

log = logging.getLogger(__name__)

LOST_FETCH = 5.0  # s; a fetch that left aiokafka and has not arrived by then never will


class Queue:
    """The fetches of one source that wait.

    Attributes
    ----------
    tp, topic
        The source.
    fetches
        What waits; the first one may be worked on in part.
    expected
        Where the next fetch must begin.
    position
        Up to where records were worked on.
    end
        Where the source ended when the task opened.
    """

    __slots__ = ("end", "expected", "fetches", "lost_since", "position", "topic", "tp")

    def __init__(self, tp: TP) -> None:
        self.tp, self.topic = tp, tp.topic
        self.fetches: deque[Fetch] = deque()
        self.expected = self.position = self.end = 0
        self.lost_since: float | None = None


class Inbox:
    """The queues of a task.

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
        self.queues = tuple(Queue(tp) for tp in sources)
        self._by_topic = {queue.topic: queue for queue in self.queues}
        self._read = 0  # how many sources are being read

    def begin(self, positions: Mapping[str, int], ends: Mapping[str, int]) -> None:
        """Be empty, with where each source is to be read from and where it ends now; `due_sources` starts it."""
        self._read = 0
        for queue in self.queues:
            queue.fetches.clear()
            queue.expected = queue.position = positions[queue.topic]
            queue.end = ends[queue.topic]
            queue.lost_since = None

    def due_sources(self) -> dict[TP, int]:
        """The sources that are to be read from now on, and where from; each of them once."""
        due: dict[TP, int] = {}
        while self._read < len(self.queues):
            if self._read:
                before = self.queues[self._read - 1]
                if before.position < before.end:
                    break
            queue = self.queues[self._read]
            due[queue.tp] = queue.expected
            self._read += 1
        return due

    @property
    def reads_all(self) -> bool:
        """Whether each source is being read: what stood in the earlier ones at the opening is done."""
        return self._read == len(self.queues)

    def offer(self, fetch: Fetch) -> bool:
        """Take a fetch in, if it is the next one; whether it was. Never waits."""
        queue = self._by_topic[fetch.topic]
        gate = self._gate(queue)
        if gate is None or fetch.epoch != gate.epoch or not gate.is_open:
            return False  # it was taken before the last seek, or after the task's end
        if fetch.offset != queue.expected:
            # Faust drops fetches around a rebalance. What was dropped is fetched again.
            log.info("%s: %s at %d instead of %d; seeking back", self._name, fetch.topic, fetch.offset, queue.expected)
            self._seek_back(queue, gate)
            return False
        queue.expected = fetch.next_offset
        queue.fetches.append(fetch)
        return True

    def front(self, queue: Queue) -> Fetch:
        """What is to be worked on next: the first fetch, and with it those behind it, up to the size of a large one."""
        fetches, most = queue.fetches, self._engine.fetch_size
        while len(fetches) > 1 and fetches[0].join(fetches[1], most):
            del fetches[1]
        return fetches[0]

    def done(self, queue: Queue) -> None:
        """Let go of the first fetch of a queue: another one may be read."""
        fetch, gate = queue.fetches.popleft(), self._gate(queue)
        if gate is not None and fetch.epoch == gate.epoch:  # the gate has forgotten those from before a seek
            gate.done(fetch.count, fetch.size)
            self._engine.consumer.wake()

    def has_wanted(self, wants: Callable[[str], bool]) -> bool:
        """Whether a fetch waits that is wanted."""
        return any(queue.fetches and wants(queue.topic) for queue in self.queues)

    def wanted_size(self, wants: Callable[[str], bool]) -> int:
        """Bytes of the fetches that wait and are wanted."""
        return sum(
            fetch.size for queue in self.queues if queue.fetches and wants(queue.topic) for fetch in queue.fetches
        )

    def check_lost(self, is_idle: bool) -> None:
        """Seek back where a fetch left aiokafka long ago, and never arrived at a task that was idle all the time."""
        for queue in self.queues:
            gate = self._gate(queue)
            if gate is None or not gate.is_open or not is_idle or not self._misses(queue, gate):
                queue.lost_since = None
            elif queue.lost_since is None:
                queue.lost_since = time.monotonic()
            elif time.monotonic() - queue.lost_since > LOST_FETCH:
                log.warning("%s: a fetch of %s never arrived; seeking back", self._name, queue.topic)
                queue.lost_since = None
                self._seek_back(queue, gate)

    def close(self) -> None:
        """Let nothing in any more."""
        for queue in self.queues:
            if gate := self._gate(queue):
                gate.close()

    def clear(self) -> None:
        """Forget what waits."""
        for queue in self.queues:
            queue.fetches.clear()

    def _gate(self, queue: Queue) -> Gate | None:
        return self._engine.consumer.gates.get(queue.tp)

    def _misses(self, queue: Queue, gate: Gate) -> bool:
        return gate.waiting > sum(fetch.count for fetch in queue.fetches if fetch.epoch == gate.epoch)

    def _seek_back(self, queue: Queue, gate: Gate) -> None:
        gate.close()
        self._engine.spawn(self._engine.consumer.start_reading({queue.tp: queue.expected}))

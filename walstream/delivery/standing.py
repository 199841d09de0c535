"""Standing: how a partition of a target stands, as rows that its next owner and people read (`marks`).

What people said (paused, quarantined), whether the target is down, how much waits, and whether the last owner left in
order. A record that ends its workers again and again is named.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from walstream import delivery_tables, marks, topics
from walstream.delivery.breaker import Breaker, State
from walstream.engine.checkpoint import Checkpoint
from walstream.engine.clock import now_ms
from walstream.marks import Admitted, Counts, Halted, Noted, Opened, Quarantined
from walstream.namespace import Namespace
from walstream.wire import Record as KafkaRecord

log = logging.getLogger(__name__)

NEWS = 1.0  # s between two notes of how much waits; and how long a target is down before it is noted
CRASHES = 3  # openings in a row at one position of the log, after which its record is named


class Standing:
    """How a partition stands. `open` comes first.

    Parameters
    ----------
    namespace, target, partition
        Of what.

    Attributes
    ----------
    paused
        Since when people have paused the target, and why; None where they have not.
    """

    def __init__(self, namespace: Namespace, target: str, partition: int) -> None:
        self._name, self._partition = f"{namespace.name}.{target}", partition
        self._table = delivery_tables.marks(namespace, target)
        self._log = topics.log(namespace).name
        self.paused: Halted | None = None
        self._quarantined: dict[int, Quarantined] = {}
        self._said_down = False
        self._said, self._said_at = Counts(), float("-inf")
        self._opened = Opened(0, 0)
        self.admitted = 0  # the offset of the retry topic that was promised at last

    def open(self, checkpoint: Checkpoint) -> bool:
        """Take up what the table has; answer whether the former owner may have left something on its way.

        It always writes a row.
        """
        table = checkpoint.table(self._table)
        found = dict(table.items())
        if (row := found.get(marks.PAUSED)) is not None:
            self.paused = marks.decode(Halted, row)
        self._said_down = marks.DOWN in found
        if (row := found.get(marks.ADMITTED)) is not None:
            self.admitted = marks.decode(Admitted, row).upto
        if (row := found.get(marks.COUNTS)) is not None:
            self._said = marks.decode(Counts, row)
        for key, row in found.items():
            if (position := marks.quarantine_position(key)) is not None:
                self._quarantined[position] = marks.decode(Quarantined, row)
        before = marks.decode(Opened, found[marks.OPENED]) if marks.OPENED in found else Opened(-1, 0)
        position = checkpoint.committed.get(self._log, 0)
        self._opened = Opened(position, before.count + 1 if before.position == position else 1)
        table.put(marks.OPENED, marks.encode(self._opened), now_ms())
        stopped = found.get(marks.STOPPED)
        return stopped is not None and not marks.decode_mark(stopped)

    def stopped(self, checkpoint: Checkpoint, in_order: bool) -> None:
        """Note whether what this owner has sent is surely done with."""
        checkpoint.table(self._table).put(marks.STOPPED, marks.encode_mark(in_order), now_ms())

    def close(self, checkpoint: Checkpoint) -> None:
        """The owner leaves in order: no record has ended it."""
        checkpoint.table(self._table).put(marks.OPENED, marks.encode(Opened(self._opened.position, 0)), now_ms())

    def name_suspect(self, records: Sequence[KafkaRecord]) -> None:
        """Name the first of these if workers have ended there again and again; they are about to be worked on."""
        if self._opened.count < CRASHES or not records:
            return
        first, where = records[0], f"{self._partition}:{records[0].offset}"
        self._opened = Opened(self._opened.position, 0)
        log.error(
            "%s: workers have ended %d times at log position %s, whose record has the key %r. If it is what ends them: "
            "walstream target quarantine %s %s", self._name, CRASHES, where, first.key, self._name, where,
        )  # fmt: skip

    # What people say

    def pause(self, reason: str | None, checkpoint: Checkpoint) -> None:
        """Attempt nothing, until `resume`."""
        self.paused = Halted(now_ms(), reason)
        checkpoint.table(self._table).put(marks.PAUSED, marks.encode(self.paused), now_ms())

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on."""
        self.paused = None
        checkpoint.table(self._table).delete(marks.PAUSED, now_ms())

    def note(self, name: bytes, said: str | None, checkpoint: Checkpoint) -> None:
        """Keep what somebody says who fills the target, as the mark of that name."""
        checkpoint.table(self._table).put(name, marks.encode(Noted(now_ms(), said)), now_ms())

    def admit(self, upto: int, checkpoint: Checkpoint) -> None:
        """Promise that what stands on the retry topic before an offset goes before all else (`admission`)."""
        self.admitted = upto
        checkpoint.table(self._table).put(marks.ADMITTED, marks.encode(Admitted(upto)), now_ms())

    def quarantine(self, position: int, reason: str | None, checkpoint: Checkpoint) -> None:
        """Attempt the record at a log position no more."""
        self._quarantined[position] = Quarantined(reason)
        checkpoint.table(self._table).put(marks.quarantine_key(position), marks.encode(Quarantined(reason)), now_ms())

    @property
    def has_quarantined(self) -> bool:
        """Whether there is any record that is not to be attempted."""
        return bool(self._quarantined)

    def quarantined(self, position: int) -> str | None:
        """Why a record is not to be attempted; None where it is."""
        if not self._quarantined or (found := self._quarantined.get(position)) is None:
            return None
        return f"quarantined: {found.reason}" if found.reason else "quarantined"

    def ended(self, position: int, checkpoint: Checkpoint) -> None:
        """A record is finished, and its quarantine over."""
        if self._quarantined and self._quarantined.pop(position, None) is not None:
            checkpoint.table(self._table).delete(marks.quarantine_key(position), now_ms())

    # What people can read

    def news_at(self, counts: Counts, breaker: Breaker, now: float) -> float | None:
        """When there is something to note (monotonic seconds, as `now`); at once is in the past."""
        times = []
        if breaker.state is State.CLOSED:
            if self._said_down:
                times.append(now - NEWS)
        elif not self._said_down:
            times.append(breaker.since + NEWS)
        if counts != self._said:
            times.append(max(self._said_at + NEWS, now - NEWS))
        return min(times, default=None)

    def tell(self, counts: Counts, breaker: Breaker, now: float, checkpoint: Checkpoint) -> None:
        """Note what is new: whether the target is down, and how much waits."""
        table, is_down = checkpoint.table(self._table), breaker.state is not State.CLOSED
        if is_down and not self._said_down and now >= breaker.since + NEWS:
            since = now_ms() - int((now - breaker.since) * 1000)
            table.put(marks.DOWN, marks.encode(Halted(since, breaker.reason)), now_ms())
            self._said_down = True
        elif self._said_down and not is_down:
            table.delete(marks.DOWN, now_ms())
            self._said_down = False
        if now >= self._said_at + NEWS and counts != self._said:
            table.put(marks.COUNTS, marks.encode(counts), now_ms())
            self._said, self._said_at = counts, now

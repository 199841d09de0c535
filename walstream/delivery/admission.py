"""Admission: when records from outside the log may be attempted, where a sink needs the same order after a crash.

The log has an order, and the retry topic has one; which of them is read first after a crash is chance. For most sinks
that does not matter. One whose requests depend on all that it was given before (an index: what it removes is what it
wrote) must find, as often as the work is done again, each record at the place where it was when its request was sent.

So what comes from outside is admitted first: on the retry topic up to an offset that is promised, in the schedule as
rows that are due at 0. It is attempted when the checkpoint with that is committed: all of the log that was worked on
before is committed with it. From then on nothing else is attempted until the admitted are done, those of the topic
first. Whoever opens the partition meanwhile finds them admitted.
"""

from __future__ import annotations

from walstream.delivery.parking import Parking
from walstream.engine.checkpoint import Checkpoint

MOST = 2_000
"""Records that are admitted at once: the log waits for them."""

LEAD = 20_000
"""Offsets that the log may be worked on ahead of what is committed of it."""


class Admission:
    """Who goes first in one partition.

    Parameters
    ----------
    parking
        Where the admitted of the schedule wait.
    checkpoint
        That of the opening.
    log, retries
        The names of both topics.
    upto
        The offset of the retry topic that was promised at last.
    """

    def __init__(self, parking: Parking, checkpoint: Checkpoint, log: str, retries: str, upto: int) -> None:
        self._parking, self._committed, self._log = parking, checkpoint.committed, log
        self._position, self._upto = self._committed.get(retries, 0), upto
        self._log_position = self._committed.get(log, 0)
        # The owner before may have been so far, and nothing that it had not admitted may come before that.
        self._catch_up = min(self._log_position + LEAD, checkpoint.ends.get(log, 0))
        # The checkpoint with which those who are in were admitted; None while it is not complete.
        self._gate = checkpoint if self._has_some else None

    @property
    def has_caught_up(self) -> bool:
        """Whether the log was read as far as it can have been read before; nobody is admitted until then."""
        return self._log_position >= self._catch_up

    @property
    def limit(self) -> int:
        """The offset from which on nothing of the log may be attempted before more of it is committed."""
        return self._committed.get(self._log, 0) + LEAD

    @property
    def is_ahead(self) -> bool:
        """Whether the log was read up to there."""
        return self._log_position >= self.limit

    def read_log(self, position: int) -> None:
        """The log was read up to an offset."""
        self._log_position = position

    @property
    def is_promised(self) -> bool:
        """Whether some of the retry topic are admitted."""
        return self._position < self._upto

    @property
    def _has_some(self) -> bool:
        return self.is_promised or self._parking.admitted > 0

    @property
    def is_turn(self) -> bool:
        """Whether it is the turn of the admitted: nothing else may be attempted, and nobody admitted."""
        return self._gate is not None

    @property
    def is_sure(self) -> bool:
        """Whether the admitted are so for good, and may be attempted."""
        return self._gate is not None and self._gate.is_committed

    @property
    def next_due(self) -> int | None:
        """When something is to be tried, as `Parking.next_due`; None also where that waits for the admitted."""
        if self.is_promised or (self._parking.admitted and not self.is_sure):
            return None
        return self._parking.next_due()

    def has(self, offset: int) -> bool:
        """Whether the record at an offset of the retry topic is admitted."""
        return offset < self._upto

    def promise(self, upto: int) -> None:
        """Admit what stands on the retry topic before an offset; that is to be noted in the checkpoint."""
        self._upto = upto

    def passed(self, position: int) -> None:
        """The retry topic was read up to an offset."""
        self._position = position
        self.attempted()

    def attempted(self) -> None:
        """Some of the admitted were attempted."""
        if not self._has_some:
            self._gate = None

    def finish(self, checkpoint: Checkpoint) -> None:
        """Nothing more comes into a checkpoint."""
        if self._gate is None and self._has_some:
            self._gate = checkpoint

"""Admission: when records from outside the log may be attempted, where a sink needs the same order after a crash.

The log has an order, and the retry topic has one; which of them is read first after a crash is chance. For most sinks
that does not matter. One whose requests depend on all that it was given before (an index: what it removes is what it
wrote) must find, as often as the work is done again, each record at the place where it was when its request was sent.

So what comes from outside is admitted first, as rows of the schedule that are due at 0, and attempted when the
checkpoint in which they were admitted is committed: all of the log that was worked on before is committed with it. From
then on nothing else is attempted until they are done. Whoever opens the partition meanwhile finds them admitted.
"""

from __future__ import annotations

from walstream.engine.checkpoint import Checkpoint
from walstream.parking import Parking

MOST = 2_000
"""Records that are admitted at once: the log waits for them."""


class Admission:
    """Who goes first in one partition.

    Parameters
    ----------
    parking
        Where the admitted wait.
    checkpoint
        That of the opening.
    """

    def __init__(self, parking: Parking, checkpoint: Checkpoint) -> None:
        self._parking = parking
        # The checkpoint with which those who are in were admitted; None while it is not complete.
        self._gate = checkpoint if parking.admitted else None

    @property
    def is_full(self) -> bool:
        """Whether no more should be admitted before those who are in were attempted."""
        return self.is_turn or self._parking.admitted >= MOST

    @property
    def is_turn(self) -> bool:
        """Whether it is the turn of the admitted: nothing else may be attempted, and nobody admitted."""
        return self._gate is not None

    @property
    def next_due(self) -> int | None:
        """When something is to be tried, as `Parking.next_due`; None also where that waits for a commit."""
        if self._parking.admitted and not self.is_sure:
            return None
        return self._parking.next_due()

    @property
    def is_sure(self) -> bool:
        """Whether the admitted are so for good, and may be attempted."""
        return self._gate is not None and self._gate.is_committed

    def attempted(self) -> None:
        """Some of the admitted were attempted."""
        if not self._parking.admitted:
            self._gate = None

    def finish(self, checkpoint: Checkpoint) -> None:
        """Nothing more comes into a checkpoint."""
        if self._gate is None and self._parking.admitted:
            self._gate = checkpoint

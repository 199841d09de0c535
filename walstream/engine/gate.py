"""A gate in front of a source partition: it bounds what is read ahead.

Faust's own pause loses records (paused partitions are fetched and dropped), so it is not used. Behind a closed gate the
fetched bytes stay where aiokafka put them, and aiokafka fetches no more of that partition until they are taken.
"""

from __future__ import annotations


class Gate:
    """How many fetches of a partition may wait undecoded.

    The consumer's thread calls `open` and `take`, the main thread `done`, and never while `open` is under way, so no
    lock is needed.

    Parameters
    ----------
    limit
        Fetches that may be under way or waiting at once.
    """

    __slots__ = ("_done", "_is_open", "_limit", "_taken", "epoch")

    def __init__(self, limit: int = 2) -> None:
        self._limit = limit
        self._taken = self._done = 0
        self._is_open = False
        self.epoch = 0

    def open(self) -> None:
        """Let fetches through, from the position that was just sought: what was taken before is of an older epoch."""
        self.epoch += 1
        self._done = self._taken
        self._is_open = True

    def close(self) -> None:
        """Let nothing through any more."""
        self._is_open = False

    @property
    def is_open(self) -> bool:
        return self._is_open

    @property
    def has_room(self) -> bool:
        return self._is_open and self._taken - self._done < self._limit

    @property
    def waiting(self) -> int:
        """Fetches that were taken and are not done."""
        return self._taken - self._done

    def take(self) -> None:
        """Count a fetch that leaves aiokafka."""
        self._taken += 1

    def done(self) -> None:
        """Count a fetch whose work is done, or that was refused."""
        if self._done < self._taken:
            self._done += 1

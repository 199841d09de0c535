"""A gate in front of a source partition: it bounds what is read ahead.

Faust's own pause loses records (paused partitions are fetched and dropped), so it is not used. Behind a closed gate the
fetched bytes stay where aiokafka put them, and aiokafka fetches no more of that partition until they are taken.
"""

from __future__ import annotations

MANY = 64  # small fetches; behind a target that is down, a trickle would have no end of them


class Gate:
    """How many fetches of a partition may wait undecoded; more of them, while all together are no larger than one.

    What comes in while a target far away takes its time is then worked on together, and does not wait for its own turn.

    The consumer's thread calls `open` and `take`, the main thread `done`, and never while `open` is under way, so no
    lock is needed.

    Parameters
    ----------
    size
        Bytes of a large fetch; with less in all of them, there may be more.
    limit
        Fetches that may be under way or waiting at once.
    """

    __slots__ = ("_done", "_is_open", "_limit", "_passed", "_size", "_taken", "_worked_off", "epoch")

    def __init__(self, size: int, limit: int = 2) -> None:
        self._size, self._limit = size, limit
        self._taken = self._done = 0
        self._passed = self._worked_off = 0  # bytes
        self._is_open = False
        self.epoch = 0

    def open(self) -> None:
        """Let fetches through, from the position that was just sought: what was taken before is of an older epoch."""
        self.epoch += 1
        self._done, self._worked_off = self._taken, self._passed
        self._is_open = True

    def close(self) -> None:
        """Let nothing through any more."""
        self._is_open = False

    @property
    def is_open(self) -> bool:
        return self._is_open

    @property
    def has_room(self) -> bool:
        return self._is_open and (
            self.waiting < self._limit or (self.waiting < MANY and self._passed - self._worked_off < self._size)
        )

    @property
    def waiting(self) -> int:
        """Fetches that were taken and not read to their end."""
        return self._taken - self._done

    def take(self, size: int) -> None:
        """Count a fetch of so many bytes that leaves aiokafka."""
        self._taken += 1
        self._passed += size

    def done(self, size: int) -> None:
        """Count a fetch of so many bytes that was read to its end."""
        self._done = min(self._done + 1, self._taken)
        self._worked_off = min(self._worked_off + size, self._passed)

"""How fast what is due may go: at once what is on time, at a bounded rate what is overdue. Time is given in."""

from __future__ import annotations

import math

LATE_US = 1_000_000
"""What is late by more (µs) is overdue: it fell due while nobody was there, and there may be millions like it."""

_BURST = 0.1  # s; what an unused rate adds up to
_GRAIN = 0.02  # s; so much is waited for at once, since one row at a time costs more than many


class TokenBucket:
    """A bound on how many a second.

    Parameters
    ----------
    rate
        Per second.
    """

    __slots__ = ("_burst", "_grain", "_level", "_rate", "_updated")

    def __init__(self, rate: float) -> None:
        self._rate = rate / 1_000_000  # per µs
        self._burst = max(1.0, rate * _BURST)
        self._grain = max(1.0, rate * _GRAIN)
        self._level = self._burst
        self._updated: int | None = None

    def available(self, now_us: int) -> int:
        """How many may go now: none, until it is worth while."""
        if self._updated is None or now_us < self._updated:  # a clock that went back gives nothing, and takes nothing
            self._updated = now_us
        self._level = min(self._level + (now_us - self._updated) * self._rate, self._burst)
        self._updated = now_us
        return int(self._level) if self._level >= self._grain else 0

    def take(self, count: int) -> None:
        """Say that so many went."""
        self._level -= count

    def ready_at(self, now_us: int) -> int:
        """When `available` says some, µs: at the earliest now."""
        self.available(now_us)
        return now_us + max(0, math.ceil((self._grain - self._level) / self._rate))


class Pace:
    """Which of the rows that are due may go.

    Parameters
    ----------
    overdue_rate
        How many overdue ones a second.
    """

    __slots__ = ("_bucket",)

    def __init__(self, overdue_rate: float) -> None:
        self._bucket = TokenBucket(overdue_rate)

    def due_at(self, first_us: int | None, now_us: int) -> int | None:
        """When there is something that may go, µs, where the first row is due at that time."""
        if first_us is None or now_us - first_us <= LATE_US:
            return first_us
        return self._bucket.ready_at(now_us)

    def admit(self, first_us: int, now_us: int, limit: int) -> tuple[int, int]:
        """What may go now: rows that were due until when (µs), and how many at most."""
        if now_us - first_us <= LATE_US:
            return now_us, limit
        return now_us - LATE_US - 1, min(limit, self._bucket.available(now_us))

    def went(self, first_us: int, now_us: int, count: int) -> None:
        """Say how many went of what was admitted, with the same first row and the same time."""
        if now_us - first_us > LATE_US:
            self._bucket.take(count)

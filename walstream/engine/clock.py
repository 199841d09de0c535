"""The time by which work falls due: never ahead of a broker's clock, whatever the worker's own does.

A worker's wall clock may jump or be wrong. The brokers' clocks are what append times come from, so they decide what is
early. They are known from the append times in the answers to what was produced, and carried on by a clock that neither
jumps nor stops while the machine is suspended.
"""

from __future__ import annotations

import time
from collections.abc import Callable

SLEW = 500e-6  # what a clock that is being corrected may gain or lose; the most that NTP's algorithm does
FORGET = 3_600_000_000  # µs; a broker that was not heard from for so long leads nothing here any more
BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # elsewhere than on Linux, this one counts a suspension


def now_ms() -> int:
    """The worker's own time, ms since the epoch: for timestamps of changes, which decide nothing."""
    return time.time_ns() // 1_000_000


def _wall() -> int:
    return time.time_ns() // 1_000


def _boot() -> int:
    return time.clock_gettime_ns(BOOT) // 1_000


class Clock:
    """The clock of a worker. All times are integers, in µs.

    Parameters
    ----------
    wall
        The worker's time since the epoch.
    boot
        The time since the worker's machine was started, suspensions included.
    """

    __slots__ = ("_brokers", "_wall", "boot")

    def __init__(self, wall: Callable[[], int] = _wall, boot: Callable[[], int] = _boot) -> None:
        self._wall = wall
        self.boot = boot
        self._brokers: dict[int, tuple[int, int]] = {}  # by id: its time less `boot`, at least; and when it was learned

    def now(self) -> int:
        """Time since the epoch: the wall clock's, or that of the broker which is most behind, if that is less.

        Before the first witness it is 0, so that nothing is due by a wall clock that nobody has confirmed.
        """
        if not self._brokers:
            return 0
        return min(self._wall(), self.boot() + min([ahead for ahead, _ in self._brokers.values()]))

    def witness(self, appended: int, sent: int, broker: int) -> None:
        """Learn a broker's time from its answer, which has just come.

        Parameters
        ----------
        appended
            The append time in the answer, in ms as Kafka has it, rounded down.
        sent
            What `boot` said before the request was sent.
        broker
            The id of the partition's leader.
        """
        came = self.boot()
        # Somewhere between the two the broker read its clock.
        least, most = appended * 1_000 - came, (appended + 1) * 1_000 - sent
        ahead, learned = self._brokers.get(broker, (least, came))
        if ahead <= most:
            # What a quicker answer said still holds, but for what the clocks have drifted since. Else the broker's
            # clock was set back. (By less than this answer took, that is seen with a quicker one.)
            least = max(least, ahead - int((came - learned) * SLEW))
        self._brokers[broker] = (least, came)
        for other, (_, heard) in list(self._brokers.items()):
            if came - heard > FORGET:
                del self._brokers[other]

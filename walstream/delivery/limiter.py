"""How many calls a target is given at the same time, learned from how long they take and how many fail.

After the Gradient2 limit of Netflix's concurrency-limits (github.com/Netflix/concurrency-limits): the limit shrinks by
how much longer calls take than usual, and otherwise grows by the queue that is allowed. There the usual time slowly
follows the measured one, so that a queue that stays is in time what is usual, and the limit goes on growing. Here the
usual time is measured anew now and then, at half of the limit; so it is the target's own, and not that of a queue.
That holds for the queue of this worker; what many others cause at the same target looks as if the target were slow.
"""

from __future__ import annotations

import math

TOLERANCE = 1.2  # a call may take that much longer than usual before the limit shrinks
SMOOTHING = 0.2  # how much of a new limit counts at a time
STEEPEST = 0.5  # no new limit is less than that much of the old one, before smoothing
FAILURE = 0.9  # what the limit is multiplied by where calls fail, once a window
WINDOW = 20  # calls, at least, whose time is averaged; more of them where more go at the same time
MEASURE_EVERY, MEASURE_FOR = 50, 2  # windows between two measurements of the usual time, and of one
MEASURE_AT = 0.5  # of the limit


class Gradient:
    """A limit of the calls at the same time.

    Parameters
    ----------
    most
        What the limit never exceeds; it is never less than 1.
    initial
        What it begins with.

    Attributes
    ----------
    limit
        As it is now.
    """

    def __init__(self, most: int, initial: int = 20) -> None:
        self._most = most
        self._estimate = float(min(initial, most))
        self._usual: float | None = None  # s
        self._unmeasured = 0  # windows since it was measured
        self._measuring = False
        self._leaving = int(self._estimate)  # calls that are left out, before a measurement: those of another limit
        self.limit = int(self._estimate)
        self._ended = self._answered = self._most_in_flight = 0  # in this window
        self._seconds = 0.0  # of the answered ones
        self._failed = False

    def sample(self, seconds: float, in_flight: int, ok: bool) -> None:
        """Take a call into account that has ended.

        Parameters
        ----------
        seconds
            How long it took.
        in_flight
            How many were at the target when it ended, itself included.
        ok
            Whether it was answered. An answer that refuses single records is one; a timeout, or one that says that the
            target is overloaded, is none.
        """
        if not ok and not self._failed:
            self._failed = True  # one round trip's failures have one cause
            self._estimate = max(1.0, self._estimate * FAILURE)
            self._set_limit()
        if self._leaving:
            self._leaving -= 1
            return
        self._ended += 1
        self._most_in_flight = max(self._most_in_flight, in_flight)
        if ok:
            self._answered += 1
            self._seconds += seconds
        windows = MEASURE_FOR if self._usual is None or self._measuring else 1
        if self._ended >= windows * max(WINDOW, self.limit):
            self._window_is_over()
            self._clear()
            self._set_limit()

    def _clear(self) -> None:
        self._ended = self._answered = self._most_in_flight = 0
        self._seconds = 0.0
        self._failed = False

    def _set_limit(self) -> None:
        self.limit = max(1, int(self._estimate * (MEASURE_AT if self._measuring else 1.0)))

    def _window_is_over(self) -> None:
        if not self._answered:
            return
        seconds = max(self._seconds / self._answered, 1e-9)
        if self._usual is None or self._measuring:
            self._usual = seconds
            self._measuring, self._unmeasured = False, 0
            return
        if self._failed or self._most_in_flight < self.limit / 2:
            return  # where less goes than may, it is not known what more would do
        slope = max(STEEPEST, min(1.0, TOLERANCE * self._usual / seconds))
        wanted = self._estimate * slope + math.sqrt(self._estimate)
        self._estimate = min(max(1.0, self._estimate + SMOOTHING * (wanted - self._estimate)), float(self._most))
        self._unmeasured += 1
        if self._unmeasured >= MEASURE_EVERY:
            self._measuring, self._leaving = True, self._most_in_flight

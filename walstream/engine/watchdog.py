"""Ends the process hard when it is stuck, so that its supervisor starts it again.

Faust and its clients stall silently in known ways, after a broker's restart for one. The watchdog is a thread of its
own, so that it also sees an event loop that does not turn any more.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from walstream.errors import Stuck

PERIOD = 1.0  # s
LOOP_LIMIT = 60.0  # s without a turn of the event loop
TASK_LIMIT = 180.0  # s in one state in which a task has no reason to stay; a broker's restart takes some of it


class Watchdog(threading.Thread):
    """Watches the event loop and the tasks.

    Parameters
    ----------
    stuck
        Called once a period; says what is stuck, or None.
    fail
        Called with the reason; ends the process.
    """

    def __init__(self, stuck: Callable[[], str | None], fail: Callable[[BaseException], None]) -> None:
        super().__init__(name="walstream watchdog", daemon=True)
        self._stuck, self._fail = stuck, fail
        self._turned = time.monotonic()
        self._ended = threading.Event()

    def turned(self) -> None:
        """The event loop turns."""
        self._turned = time.monotonic()

    def stop(self) -> None:
        self._ended.set()

    def run(self) -> None:
        woke = thawed = time.monotonic()
        while not self._ended.wait(PERIOD):
            slept, woke = time.monotonic() - woke, time.monotonic()
            if slept > 10 * PERIOD:
                self._turned = thawed = woke  # the whole process was frozen; it looks around before it is judged
            if woke - self._turned > LOOP_LIMIT:
                self._fail(Stuck(f"the event loop has not turned for {woke - self._turned:.0f} s"))
            if woke - thawed > LOOP_LIMIT and (reason := self._stuck()):
                self._fail(Stuck(reason))

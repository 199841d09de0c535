"""How long to wait before something is tried again in place, and how often to say so."""

from __future__ import annotations

import logging
import random
import time

from walstream.namespace import RetryOptions

log = logging.getLogger(__name__)

REPORT_EVERY = 30.0  # s between two reports of the same trouble


class Backoff:
    """Growing waits with full jitter, and reports that do not flood the log.

    Full jitter as in "Exponential Backoff And Jitter", Marc Brooker, AWS Architecture Blog, 2015.
    """

    def __init__(self, options: RetryOptions) -> None:
        self._options = options
        self._wait = options.initial / 1000
        self._reported = float("-inf")

    def next(self) -> float:
        """Seconds to wait now."""
        wait, self._wait = self._wait, min(self._wait * self._options.multiplier, self._options.max / 1000)
        return random.uniform(0, wait)

    def report(self, message: str) -> None:
        """Log a warning, if none was logged just now."""
        if time.monotonic() - self._reported >= REPORT_EVERY:
            self._reported = time.monotonic()
            log.warning("%s", message)

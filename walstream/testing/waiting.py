"""Waiting for a condition, with a deadline and a reason."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(
    condition: Callable[[], object], timeout: float, what: str | Callable[[], str], *, every: float = 0.1
) -> None:
    """Ask until a condition is true.

    Parameters
    ----------
    timeout, every
        Seconds in all, and between two questions.
    what
        What is waited for, for the error's text; a function is called when time is up.

    Raises
    ------
    TimeoutError
        It did not come true. What the condition itself raises goes through.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= deadline:
            raise TimeoutError(f"after {timeout:g} s still not: {what() if callable(what) else what}")
        time.sleep(every)

"""How long records may wait for more that then share a transaction.

A transaction costs the worker and the brokers far more than the records in it. Where processors are short, more and
smaller transactions make all of them slower, until each partition does nothing but commit. So a worker whose commits
take longer than usual gathers for longer: of its time, commits take no more than a share.
"""

from __future__ import annotations

COMMITS = 2  # gather that many times as long as a commit takes
MOST = 250.0  # ms
SMOOTHING = 0.1  # how much of a commit's time counts at a time


class Pace:
    """How long a worker gathers, learned from its commits.

    Parameters
    ----------
    least
        ms; with 0, nothing waits for anything.

    Attributes
    ----------
    least
        The same.
    """

    def __init__(self, least: int) -> None:
        self.least = least
        self._commit = 0.0  # ms

    def took(self, seconds: float) -> None:
        """Take into account how long a commit took."""
        self._commit += SMOOTHING * (min(seconds * 1_000, MOST) - self._commit)

    @property
    def wait(self) -> int:
        """How long to gather, ms."""
        if not self.least:
            return 0
        return max(self.least, int(min(COMMITS * self._commit, MOST)))

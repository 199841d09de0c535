"""How far targets are: whether what stood in the log and on retry topics at some time is finished."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from walstream import topics
from walstream.admin import Admin, Partition
from walstream.errors import WalstreamError
from walstream.namespace import Namespace
from walstream.scan import Scanner
from walstream.status import Health

POLL = 0.2
"""Seconds between two looks."""

PATIENCE = 60.0
"""Seconds without any progress after which it is not waited for any more."""


class Behind(WalstreamError):
    """A target has not finished what it has to, and does not go on."""


@dataclass(frozen=True, slots=True)
class Ends:
    """The ends of the log and of targets' retry topics at some time, by the target that has to pass them."""

    by_target: Mapping[str, Mapping[Partition, int]]


class Positions:
    """The targets of a namespace.

    Raises
    ------
    Unreachable
        From every method: Kafka does not answer.
    """

    def __init__(self, admin: Admin, namespace: Namespace) -> None:
        self._admin, self._namespace = admin, namespace

    def ends(self, targets: Iterable[str]) -> Ends:
        """Where log and retry topics end now."""
        numbers = range(self._namespace.topics.partitions)
        log = [(topics.log(self._namespace).name, number) for number in numbers]
        retries = {t: [(topics.retry(self._namespace, t).name, number) for number in numbers] for t in targets}
        found = self._admin.offsets([*log, *(place for places in retries.values() for place in places)], "latest")
        return Ends({t: {place: found[place] for place in [*log, *places]} for t, places in retries.items()})

    def behind(self, target: str, ends: Mapping[Partition, int]) -> int:
        """How many positions a target has yet to finish until it is there."""
        committed = self._admin.committed(topics.delivery_app_id(self._namespace, target), list(ends))
        return sum(max(0, end - committed.get(place, 0)) for place, end in ends.items())

    def wait(self, ends: Ends, progress: Callable[[int], object] | None = None, patience: float = PATIENCE) -> None:
        """Wait until all targets have passed the ends.

        Parameters
        ----------
        progress
            Told now and then how many positions are left.

        Raises
        ------
        Behind
            One of them makes no progress.
        """
        for target, places in ends.by_target.items():
            self.wait_below(target, places, 0, progress, patience)

    def wait_below(
        self,
        target: str,
        ends: Mapping[Partition, int],
        most: int,
        progress: Callable[[int], object] | None = None,
        patience: float = PATIENCE,
    ) -> None:
        """Wait until a target has at most so many positions left; parameters and errors as of `wait`."""
        least, moved = None, time.monotonic()
        while (left := self.behind(target, ends)) > most:
            if progress is not None:
                progress(left)
            if least is None or left < least:
                least, moved = left, time.monotonic()
            elif time.monotonic() - moved > patience:
                raise Behind(
                    f"{self._namespace.name}.{target} has {left:,} positions left and makes no progress\n"
                    f"  remedy: see what walstream status says; does a worker run, is the target paused or down?"
                )
            time.sleep(POLL)

    def waiting(self, scanner: Scanner, target: str) -> int:
        """How many records wait at a target, to be tried again or behind one of their key."""
        changelog = topics.target_changelogs(self._namespace, target)["marks"]
        rows = scanner.newest([(changelog.name, number) for number in range(changelog.partitions)])
        counts = Health.of({(place[1], name): row for (place, name), row in rows.items()}).counts
        return counts.retrying + counts.parked

    def wait_for_retries(
        self,
        scanner: Scanner,
        target: str,
        most: int = 0,
        progress: Callable[[int], object] | None = None,
        patience: float = PATIENCE,
    ) -> None:
        """Wait until at most so many records wait at a target; parameters and errors as of `wait`."""
        least, moved = None, time.monotonic()
        while (left := self.waiting(scanner, target)) > most:
            if progress is not None:
                progress(left)
            if least is None or left < least:
                least, moved = left, time.monotonic()
            elif time.monotonic() - moved > patience:
                name = f"{self._namespace.name}.{target}"
                raise Behind(
                    f"{left:,} records wait at {name}, and do not become fewer\n"
                    f"  remedy: see walstream status, and walstream retry list {name}"
                )
            time.sleep(5 * POLL)

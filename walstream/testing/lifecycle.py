"""What was said about each write - its delay, cancels, reschedules - and what may have become of it by that."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import TypeVar

from walstream.testing.history import History, Identity, Observed, Position, Reply

K = TypeVar("K")
T = TypeVar("T")
Once = tuple[int, Identity]
"""A partition and an identity: deduplication is by partition."""

NOBODY = Identity(None, "", "")


class Lifecycle:
    """Writes and what was said about them, each as it stands first in its partition's ingress; and the answers."""

    def __init__(self, history: History) -> None:
        refused = refused_at(history)
        self.writes: dict[Once, Observed] = {}
        self.actions: dict[Once, Observed] = {}
        self._about: dict[Once, list[Observed]] = defaultdict(list)
        for record in history.ingress:
            once = one(record)
            if once is None or record.position in refused or once in self.writes or once in self.actions:
                continue
            if not record.is_action:
                self.writes[once] = record
            elif record.ref is not None:
                self.actions[once] = record
                self._about[record.partition, record.ref].append(record)
        replies = history.replies
        self.replies = groups(replies, lambda reply: (reply.partition, reply.identity))
        self.readable = {(reply.partition, reply.offset) for reply in replies}
        self._cancelled = {(reply.partition, reply.ref) for reply in replies if reply.outcome == "cancelled"}
        self._moved = {(reply.partition, reply.identity): reply for reply in replies if reply.outcome == "rescheduled"}
        self._ended_us = history.ended * 1000

    def cancelled(self, record: Observed) -> bool:
        """Whether somebody was told that it is cancelled."""
        return one(record) in self._cancelled

    def ended(self, record: Observed) -> bool:
        """Whether it, or what was written first with its identity, may rightly be in neither the log nor the DLQ."""
        if self.cancelled(record):
            return True
        write = self._first(record)
        if write.expiry is None or write.expiry > self._ended_us:
            return False
        return write.expiry <= write.timestamp * 1000 or write.is_delayed or one(write) in self._about

    def may_wait(self, record: Observed) -> bool:
        """Whether it is a write that declares a time, or that something was said about, or that expires."""
        write = self._first(record)
        return not record.is_action and (write.is_delayed or write.expiry is not None or one(write) in self._about)

    def _first(self, record: Observed) -> Observed:
        return self.writes.get(one(record) or (-1, NOBODY), record)

    def due(self, record: Observed) -> int | None:
        """When the write is due at the earliest, µs, by the newest of what was accepted; None is at once."""
        once = one(record)
        if once is None or once not in self.writes:
            return None
        moved = [action for action in self._about.get(once, ()) if one(action) in self._moved]
        if moved:
            return self._moved[one(max(moved, key=_newness)) or (-1, NOBODY)].due
        return self.writes[once].due[0] if self.writes[once].is_delayed else None

    def expired_before(self, record: Observed) -> bool:
        """Whether it had expired when it came, or when it was due."""
        write = self.writes.get(one(record) or (-1, NOBODY))
        if write is None or write.expiry is None:
            return False
        return write.expiry <= max(write.timestamp * 1000, self.due(record) or 0)

    def cancelled_before(self, record: Observed) -> bool:
        """Whether the newest of what came before the write is a cancel that is not older than it."""
        before = [
            action
            for action in self._about.get(one(record) or (-1, NOBODY), ())
            if action.offset < (-1 if record.ingress_position is None else record.ingress_position)
            and action.write_time >= record.write_time
        ]
        return bool(before) and max(before, key=_newness).attributes["walaction"] == "cancel"

    def has_cancel(self, reply: Reply) -> bool:
        """Whether there is a cancel that may have done it: of the same write, and not older than it."""
        about = reply.partition, reply.ref
        return about in self.writes and any(
            action.attributes["walaction"] == "cancel" and action.write_time >= self.writes[about].write_time
            for action in self._about[about]
        )

    def has_newer(self, action: Observed) -> bool:
        """Whether something newer was said about the same write, or the write itself is newer."""
        about = (action.partition, action.ref or NOBODY)
        others = [*self._about[about], *([self.writes[about]] if about in self.writes else ())]
        return any(_newness(other) > _newness(action) for other in others)


@lru_cache(maxsize=1)
def lifecycle(history: History) -> Lifecycle:
    """Give what was said in a history; most checks ask for it, one after the other."""
    return Lifecycle(history)


def _newness(record: Observed) -> tuple[int, int]:
    return record.write_time, record.offset


def refused_at(history: History) -> dict[Position, Observed]:
    """The namespace's DLQ by the position in the ingress."""
    return {
        (record.partition, -1 if record.ingress_position is None else record.ingress_position): record
        for record in history.refused
    }


def one(record: Observed) -> Once | None:
    return None if record.identity is None else (record.partition, record.identity)


def groups(records: Iterable[T], of: Callable[[T], K]) -> dict[K, list[T]]:
    grouped: dict[K, list[T]] = defaultdict(list)
    for record in records:
        grouped[of(record)].append(record)
    return grouped

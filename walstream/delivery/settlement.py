"""Settlement: what follows from outcomes, written into the checkpoint in which the entries are finished."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from walstream import blocked, delivery_tables, topics
from walstream.attempt import Attempt, next_due, retry_message
from walstream.blocked import Blocked
from walstream.delivery.graveyard import Graveyard
from walstream.delivery.order import order_key
from walstream.delivery.parking import Parking, Scheduled
from walstream.delivery.standing import Standing
from walstream.engine.checkpoint import Checkpoint
from walstream.engine.clock import now_ms
from walstream.entry import Entry
from walstream.namespace import Namespace
from walstream.sinks.base import SKIPPED, Applied, Dead, Outcome, Retry, Skipped, Untried


@dataclass(slots=True, eq=False)
class Item:
    """An entry that is attempted.

    Parameters
    ----------
    scheduled
        What it was in the schedule, if it comes from there.
    attempt
        What is known of earlier attempts, of one that is tried again.
    row
        Its key, if it comes from those that are parked.
    """

    entry: Entry
    attempt: Attempt | None = None
    scheduled: Scheduled | None = None
    row: Blocked | None = None


class Settlement:
    """What follows from outcomes, in one partition.

    Parameters
    ----------
    namespace, target
        Of what.
    parking, graveyard, standing
        Where things go.

    Attributes
    ----------
    in_order
        Whether a record from outside the log, too, blocks its key while it is to be tried again
        (`Sink.replays_in_order`).
    """

    def __init__(
        self, namespace: Namespace, target: str, parking: Parking, graveyard: Graveyard, standing: Standing
    ) -> None:
        options = namespace.targets[target]
        self._name, self._retry = f"{namespace.name}.{target}", options.retry
        self._ordered, self._hold = options.ordering == "key", options.on_dead == "hold"
        self._retries = topics.retry(namespace, target).name
        self._state_table = delivery_tables.state(namespace, target) if options.stateful else None
        self._parking, self._graveyard, self._standing = parking, graveyard, standing
        self._state_rows: dict[bytes, bytes | None] = {}
        self.in_order = False

    def settle(self, items: Sequence[Item], outcomes: Sequence[Outcome | None], checkpoint: Checkpoint) -> None:
        """Do what follows from outcomes, in the order of the entries."""
        unfinished: set[bytes] = set()
        fresh: set[bytes | None] = set()  # keys that are blocked by one of these
        has_quarantined, keys = self._standing.has_quarantined, self._parking.blocked
        for item, found in zip(items, outcomes, strict=True):
            if (
                (found is SKIPPED or type(found) is Applied)
                and not has_quarantined
                and item.row is None
                and (item.entry.key not in fresh if item.attempt is None else not keys)
            ):
                if type(found) is Applied and found.rows:
                    self._state_rows.update(found.rows)
                continue  # nothing else follows, for most by far
            if found is None:
                if item.scheduled is not None:
                    self._parking.put_back(item.scheduled)
                elif item.row is not None:
                    unfinished.add(item.row.key)
                elif item.attempt is None:
                    break  # what is behind it in the log comes again
                continue
            if item.attempt is not None:
                self._tried(item.attempt, found, checkpoint)
            elif item.row is not None:
                if item.row.state is blocked.State.RELEASED and item.row.key not in unfinished:
                    self._follower(item.entry, item.row, found, checkpoint)
            elif (key := self._from_log(item.entry, found, checkpoint)) is not None:
                fresh |= {key, None}  # whose key is not the record's is looked at
        self._parking.settle(checkpoint, now_ms())
        if self._state_rows and self._state_table is not None:
            self._write_state(checkpoint)

    def _from_log(self, entry: Entry, found: Outcome, checkpoint: Checkpoint) -> bytes | None:
        """Settle one that came from the log; answer with its key if that is blocked from now on."""
        if (row := self._parking.blocked_by(entry)) is not None:
            self._parking.park(row, entry)  # if it is applied, that was ahead of one that it follows
            return None
        state = self._end(entry, Attempt(entry), found, checkpoint)
        if state is blocked.State.RELEASED or (key := order_key(entry)) is None:
            return None
        self._parking.block(key, entry.position, state)
        return key

    def _follower(self, entry: Entry, row: Blocked, found: Outcome, checkpoint: Checkpoint) -> None:
        state = self._end(entry, Attempt(entry), found, checkpoint)
        self._parking.unpark(row, entry.position)
        if state is not blocked.State.RELEASED or not row.count:
            self._parking.turn(row, state)

    def _tried(self, attempt: Attempt, found: Outcome, checkpoint: Checkpoint) -> None:
        state = self._end(attempt.entry, attempt, found, checkpoint)
        if attempt.entry.position < 0 and state is blocked.State.HELD:
            state = blocked.State.RELEASED  # nobody could release it
        # The key waits no more where the same attempt came twice, since somebody copied it.
        if (row := self._parking.waits_for(attempt)) is not None:
            self._parking.turn(row, state)
        elif self.in_order and state is blocked.State.RETRYING:
            key = order_key(attempt.entry)
            if key is not None and key not in self._parking.blocked:
                self._parking.block(key, attempt.front, state)

    def _end(self, entry: Entry, before: Attempt, found: Outcome, checkpoint: Checkpoint) -> blocked.State:
        """Write down what an outcome causes; answer what the entry's key waits for then, where it is at the front."""
        self._standing.ended(entry.position, checkpoint)
        match found:
            case Applied(rows):
                if rows:
                    self._state_rows.update(rows)
            case Skipped():
                pass
            case Untried():
                raise AssertionError("what was not tried has no end")
            case Retry(reason, after):
                count, first = before.count + 1, before.first
                again = next_due(self._retry, count, before.age, after, checkpoint.clock.now(), random.random())
                if again is None:
                    return self._bury(before, reason, count, checkpoint)
                due, age = again
                message = retry_message(
                    entry, target=self._name, count=count, age=age, due=due, reason=reason, first=first, now=now_ms()
                )
                output = checkpoint.output(self._retries)
                output.append(entry.timestamp, message.key, message.value, message.headers)
                return blocked.State.RETRYING if self._ordered else blocked.State.RELEASED
            case Dead(reason):
                return self._bury(before, reason, before.count + 1, checkpoint)
        return blocked.State.RELEASED

    def _bury(self, before: Attempt, reason: str, attempts: int, checkpoint: Checkpoint) -> blocked.State:
        self._graveyard.bury(before, reason, attempts, checkpoint)
        return blocked.State.HELD if self._hold else blocked.State.RELEASED

    def _write_state(self, checkpoint: Checkpoint) -> None:
        assert self._state_table is not None
        table, now = checkpoint.table(self._state_table), now_ms()
        rows, self._state_rows = self._state_rows, {}
        table.put_many({key: value for key, value in rows.items() if value is not None}, now)
        if gone := [key for key, value in rows.items() if value is None]:
            table.delete_many(gone, now)

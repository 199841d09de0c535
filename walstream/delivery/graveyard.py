"""Graveyard: what is dead at a target, of one partition: letters for its DLQ, and a row for each in the table `dead`.

It does what it is told; the delivery decides what dies, and what its key waits for then.
"""

from __future__ import annotations

from walstream import dead, deadletter, delivery_tables, topics
from walstream.attempt import Attempt
from walstream.engine.checkpoint import Checkpoint
from walstream.engine.clock import now_ms
from walstream.errors import RecordRefused
from walstream.namespace import Namespace
from walstream.wire import Record as KafkaRecord


class Graveyard:
    """What is dead in one partition. `open` comes first.

    Parameters
    ----------
    namespace, target
        Of what.

    Attributes
    ----------
    count
        How many records are dead, and neither redriven nor dropped.
    """

    def __init__(self, namespace: Namespace, target: str) -> None:
        self._name, self._limit = f"{namespace.name}.{target}", namespace.topics.max_record
        self._dlq = topics.target_dlq(namespace, target).name
        self._table = delivery_tables.dead(namespace, target)
        self.count = 0

    def open(self, checkpoint: Checkpoint) -> None:
        """Take up what the table has."""
        rows = checkpoint.table(self._table).items()
        self.count = sum(dead.decode(row).state is dead.State.DEAD for _, row in rows)

    def bury(self, before: Attempt, reason: str, attempts: int, checkpoint: Checkpoint) -> None:
        """Put a record into the DLQ.

        Parameters
        ----------
        before
            The record, and what is known of its attempts but the last.
        reason, attempts
            What it died of, and after how many attempts.
        """
        entry, now = before.entry, now_ms()
        message = deadletter.dead(
            entry, target=self._name, reason=reason, attempt=attempts, age=before.age, now=now, first=before.first
        )
        checkpoint.output(self._dlq).append(entry.timestamp, message.key, message.value, message.headers)
        if entry.position >= 0:
            # The row says when, as the letter does: so it is known which letter is of the latest death.
            checkpoint.table(self._table).put(dead.row_key(entry.position), dead.encode(dead.State.DEAD, now), now)
            self.count += 1

    def bury_foreign(self, record: KafkaRecord, refusal: RecordRefused, checkpoint: Checkpoint) -> None:
        """Put aside what somebody else wrote into the log, or onto the retry topic."""
        message = deadletter.not_understood(record, refusal, limit=self._limit, now=now_ms())
        checkpoint.output(self._dlq).append(record.timestamp, message.key, message.value, message.headers)

    def change(self, position: int, died: int | None, state: dead.State, checkpoint: Checkpoint) -> bool:
        """Note that a record is redriven or dropped; answer whether it was dead still, of that death.

        Parameters
        ----------
        position
            In the log.
        died
            When it was given up (ms since the epoch); None is whenever.
        """
        table, key = checkpoint.table(self._table), dead.row_key(position)
        row = table.get(key)
        if not dead.may_change(row, died):
            return False
        now = now_ms()
        table.put(key, dead.encode(state, now), now)
        self.count -= row is not None
        return True

"""What became of a cancel or reschedule: a CloudEvent on ``<namespace>.answers``, beside the ingress by partition.

Its id and source are those of the cancel or reschedule, and so is its key; its type is ``walstream.answer``. The
payload is JSON::

    {"action": "reschedule", "id": "r-1", "source": "/ops", "ref": "departed-1", "outcome": "rescheduled",
     "due": "2026-03-01T06:00:00Z"}

``due`` is there where the write is due at that time now, and ``log_position`` where it was sent before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from walstream.errors import RecordRefused
from walstream.headers import Header
from walstream.pending import Outcome
from walstream.record import Message, encode, parse
from walstream.units import format_rfc3339, parse_rfc3339

TYPE = "walstream.answer"
CONTENT_TYPE = "application/json"

DONE = {
    "cancel": frozenset({Outcome.CANCELLED, Outcome.WAITING}),
    "reschedule": frozenset({Outcome.RESCHEDULED, Outcome.WAITING}),
}
"""Outcomes with which an action did what it was asked, or will when its write comes."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a cancel or reschedule.

    Parameters
    ----------
    action
        ``cancel`` or ``reschedule``.
    id, source
        Of the cancel or reschedule itself.
    ref
        The id of the write that it is about.
    outcome
        What became of it.
    due
        When the write is due now, microseconds since the epoch; None where it is not pending.
    log_position
        Where in the log the write is, at the same partition number; None where it was not sent.
    """

    action: str
    id: str
    source: str
    ref: str
    outcome: Outcome
    due: int | None = None
    log_position: int | None = None

    @property
    def done(self) -> bool:
        """Whether it did what it was asked, or will when the write comes."""
        return self.outcome in DONE[self.action]

    def encode(self, key: bytes | None) -> Message:
        """The Kafka record.

        Parameters
        ----------
        key
            Of the cancel or reschedule.
        """
        body: dict[str, str | int] = {
            "action": self.action,
            "id": self.id,
            "source": self.source,
            "ref": self.ref,
            "outcome": self.outcome.value,
        }
        if self.due is not None:
            body["due"] = format_rfc3339(self.due)
        if self.log_position is not None:
            body["log_position"] = self.log_position
        payload = orjson.dumps(body)
        return encode(payload, key=key, id=self.id, source=self.source, type=TYPE, time=None, content_type=CONTENT_TYPE)


def read_answer(key: bytes | None, value: bytes | None, headers: Sequence[Header]) -> Answer:
    """Read a record of the answers.

    Raises
    ------
    RecordRefused
        It is no answer, or one with an outcome that this version does not know; the code is ``bad-answer``.
    """
    record = parse(key, value, headers, -1)
    if record.type != TYPE:
        raise RecordRefused("bad-answer", f"a record of type {record.type} is no answer")
    try:
        body = orjson.loads(record.payload or b"")
        action, ref, due, position = body["action"], body["ref"], body.get("due"), body.get("log_position")
        if action not in DONE:
            raise ValueError(f"the action is {action!r}")
        if not isinstance(ref, str) or not isinstance(position, int | None):
            raise TypeError("ref is not text, or log_position is no number")
        due = None if due is None else parse_rfc3339(due)
        return Answer(action, record.id, record.source, ref, Outcome(body["outcome"]), due, position)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RecordRefused("bad-answer", f"the answer cannot be read: {error}") from error

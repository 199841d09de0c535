"""What is pending, by identity, and the rules of delay, cancel and reschedule: rows and decisions, without any I/O.

Of each identity that has something waiting there is one row. Either its write waits for its time (`Pending`), or a
cancel or reschedule waits for the write, which has not come yet (`Waiting`). Each has a row in the schedule too: the
write itself, or the moment at which the waiting action is forgotten.

What is said about one identity takes effect in the order of write times, and where they are equal in the order in which
it came; so an action does nothing to what was said after it, however late it comes. Between a write and an action that
came before it, equal times count for the action: it was made by who knew of the write.

The router goes through here with what it has looked up, does what it is told, and puts each outcome on the answers:

- a write: is it known (`walstream.dedup.decide`, or a row `Pending`)? Then it is a duplicate. Else `decide_write`.
- an action: `decide_action`.
- a row of the schedule that is due: the write goes to the log, or has expired by now; or a waiting action is forgotten.
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple

from walstream.dedup import CANCELLED, EXPIRED
from walstream.errors import RecordRefused, StateMismatch

LATEST_US = 253_402_300_800_000_000 - 1
"""The latest that a record can be due, µs since the epoch: the last moment of the year 9999, as RFC 3339 ends there."""

_VERSION = 1
_PENDING, _WAITING = 1, 2
_HEAD = struct.Struct(">BB")
_PENDING_ROW = struct.Struct(">BBQQqq")
_WAITING_ROW = struct.Struct(">BBQqqq")
_pack_pending = _PENDING_ROW.pack
_NO_TIME = -(1 << 63)  # in place of when a reschedule is due: it is a cancel


class Outcome(enum.StrEnum):
    """What became of a cancel or reschedule, as its answer says."""

    CANCELLED = "cancelled"  # the write is not sent, by this action or an earlier one
    RESCHEDULED = "rescheduled"  # the write is due at another time now
    SUPERSEDED = "superseded"  # something newer had been said: nothing is changed
    SENT = "sent"  # too late: the write is in the log
    EXPIRED = "expired"  # too late: the write had expired, and was not sent
    WAITING = "waiting"  # no such write yet; kept for the window


class Change(NamedTuple):
    """A cancel or a reschedule.

    Parameters
    ----------
    id
        Its own, by which it is answered.
    time
        Its write time, µs.
    position
        Where in the ingress.
    due
        The new time, µs; None is a cancel.
    """

    id: str
    time: int
    position: int
    due: int | None

    @property
    def action(self) -> str:
        return "cancel" if self.due is None else "reschedule"


class Pending(NamedTuple):
    """A write that waits for its time.

    Parameters
    ----------
    due
        When it is due, µs: the time of its row in the schedule.
    sequence
        Where in the ingress it stood: the sequence of its row in the schedule.
    time, position
        Of the last that was said about it, the write itself or an action: write time (µs) and place in the ingress.
    """

    due: int
    sequence: int
    time: int
    position: int


class Waiting(NamedTuple):
    """An action that came before its write.

    Parameters
    ----------
    until
        When it is forgotten, µs: the time of its row in the schedule.
    change
        The action. Its position is the sequence of the row in the schedule.
    """

    until: int
    change: Change

    @property
    def sequence(self) -> int:
        return self.change.position


class Fate(enum.Enum):
    """What becomes of a write as it comes."""

    SEND = "send"  # to the log, now
    SCHEDULE = "schedule"  # into the schedule, and a row Pending
    CANCELLED = "cancelled"  # nowhere; the dedup row says so
    EXPIRED = "expired"  # nowhere; the dedup row says so


_SCHEDULE = Fate.SCHEDULE  # looked up once, as most come to it


class Arrival(NamedTuple):
    """What is to be done about a write that is new.

    Where an action was waiting, its row is replaced or removed, its row in the schedule is removed, and it is answered.

    Parameters
    ----------
    row
        What is stored where it is scheduled, at `Pending.due` and `Pending.sequence`.
    outcome
        The answer to the action that was waiting; None where there was none.
    """

    fate: Fate
    row: Pending | None = None
    outcome: Outcome | None = None


class Step(enum.Enum):
    """What an action does."""

    NOTHING = "nothing"  # but being answered
    CANCEL = "cancel"  # the write leaves the schedule, the row goes, the dedup row says cancelled
    MOVE = "move"  # the write moves in the schedule; the row and the dedup row say the new time
    KEEP = "keep"  # it waits: a row Waiting, and one in the schedule


class Reaction(NamedTuple):
    """What is to be done about a cancel or reschedule.

    Parameters
    ----------
    row
        What is stored, for `Step.MOVE`.
    replaced
        For `Step.KEEP`: the action that waited until now. Its row in the schedule is removed, and it is answered as
        superseded.
    """

    step: Step
    outcome: Outcome
    row: Pending | None = None
    replaced: Waiting | None = None


def due_time(written_us: int, identity: bytes, delay: int | None, deliver_at: int | None, jitter: int | None) -> int:
    """When a record is due, µs since the epoch, at least 0.

    Parameters
    ----------
    written_us
        Its write time: a delay counts from there, and so does a jitter alone.
    identity
        Of the write (also where a reschedule sets the time). The jitter is drawn from it, uniformly between nothing and
        the whole, so that a replay and other regions draw the same.
    delay, jitter
        µs, or None.
    deliver_at
        µs since the epoch, or None. It may have passed.

    Raises
    ------
    RecordRefused
        It is due after the year 9999; the code is ``bad-schedule``.
    """
    due = written_us + (delay or 0) if deliver_at is None else deliver_at
    if jitter:
        due += int.from_bytes(identity[:8]) * (jitter + 1) >> 64
    if due > LATEST_US:
        raise RecordRefused("bad-schedule", "the record is due after the year 9999")
    return max(due, 0)


def decide_write(
    time: int, position: int, due: int | None, expiry: int | None, append_us: int, waiting: Waiting | None
) -> Arrival:
    """What becomes of a write that is no duplicate.

    Parameters
    ----------
    time, position
        Its write time (µs), and where in the ingress it stands.
    due
        From `due_time`; None where it has neither delay nor deliver-at nor jitter.
    expiry
        µs since the epoch, or None.
    append_us
        When the broker got it, µs. What is due then was never delayed.
    waiting
        The action that was there before it, if there is one.
    """
    if expiry is not None and expiry <= append_us:
        return Arrival(Fate.EXPIRED, None, None if waiting is None else Outcome.EXPIRED)
    outcome = None
    last = time, position
    if waiting is not None:
        change = waiting.change
        if change.time < time:
            outcome = Outcome.SUPERSEDED
        elif change.due is None:
            return Arrival(Fate.CANCELLED, None, Outcome.CANCELLED)
        else:
            outcome, due, last = Outcome.RESCHEDULED, change.due, (change.time, change.position)
    if due is None or due <= append_us:
        return Arrival(Fate.SEND, None, outcome)
    return Arrival(_SCHEDULE, Pending(due, position, *last), outcome)


def decide_action(change: Change, destination: int | None, row: Pending | Waiting | None) -> Reaction:
    """What a cancel or reschedule does.

    Parameters
    ----------
    destination
        Where the write went, from its dedup row; None where the table does not know it.
    row
        The row of its identity, if there is one.
    """
    if isinstance(row, Pending):
        if (change.time, change.position) < (row.time, row.position):
            return Reaction(Step.NOTHING, Outcome.SUPERSEDED)
        if change.due is None:
            return Reaction(Step.CANCEL, Outcome.CANCELLED)
        moved = Pending(change.due, row.sequence, change.time, change.position)
        return Reaction(Step.MOVE, Outcome.RESCHEDULED, moved)
    if destination is not None:
        if destination >= 0:
            return Reaction(Step.NOTHING, Outcome.SENT)
        if destination == CANCELLED:
            return Reaction(Step.NOTHING, Outcome.CANCELLED)
        if destination == EXPIRED:
            return Reaction(Step.NOTHING, Outcome.EXPIRED)
        # What remains is the identity of another action, which is no write.
    if row is not None:
        if change.position == row.change.position:  # this very action, read again
            return Reaction(Step.NOTHING, Outcome.WAITING)
        if (change.time, change.position) < (row.change.time, row.change.position):
            return Reaction(Step.NOTHING, Outcome.SUPERSEDED)
    return Reaction(Step.KEEP, Outcome.WAITING, None, row)


def encode_pending(row: Pending) -> bytes:
    """The stored form of a write that waits; see `encode_row`."""
    due, sequence, time, position = row
    return _pack_pending(_VERSION, _PENDING, due, sequence, time, position)


def encode_row(row: Pending | Waiting) -> bytes:
    """The stored form of a row: a byte for the format's version, one for what it is, then numbers of 64 bits,
    big-endian; of an action also its id."""
    if isinstance(row, Pending):
        return encode_pending(row)
    until, (id, time, position, due) = row
    return _WAITING_ROW.pack(_VERSION, _WAITING, until, time, position, _NO_TIME if due is None else due) + id.encode()


def decode_row(stored: bytes) -> Pending | Waiting:
    """Read a stored row.

    Raises
    ------
    StateMismatch
        The row is of a newer format, or is no row.
    """
    version, kind = _HEAD.unpack_from(stored) if len(stored) >= _HEAD.size else (0, 0)
    if version == _VERSION:
        if kind == _PENDING and len(stored) == _PENDING_ROW.size:
            return Pending(*_PENDING_ROW.unpack(stored)[2:])
        if kind == _WAITING and len(stored) >= _WAITING_ROW.size:
            _, _, until, time, position, due = _WAITING_ROW.unpack_from(stored)
            id = stored[_WAITING_ROW.size :].decode()
            return Waiting(until, Change(id, time, position, None if due == _NO_TIME else due))
    raise StateMismatch(
        f"a row of what is pending has format {version}; this version of walstream reads format {_VERSION}"
        if version > _VERSION
        else f"a row of what is pending, of {len(stored)} bytes, cannot be read"
    )

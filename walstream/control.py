"""What people say to a target, as records on its retry topic, which the delivery reads like what is to be retried.

The header ``walstream-control`` stands in front of all others and says what it is. ``pause`` and ``resume`` are for all
partitions, and written to each. ``note`` and ``ready`` come from who fills a target with what was there before the log:
how far that is, and, behind all of it in each partition, that this was all. The others are about one record, at the
partition number where that is::

    quarantine  the record, wherever it is met, goes into the DLQ without a look at it
    drop        the dead record will never be tried again
    redrive     the dead record is tried again: the whole record of the DLQ, behind the control's header

``walstream-when`` of a drop or redrive is that of the dead record, so that what was said of a death that is no longer
the latest changes nothing (`walstream.dead`).
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from walstream.deadletter import LOG_POSITION_HEADER, WHEN_HEADER
from walstream.errors import RecordRefused, StateMismatch
from walstream.headers import CONTROL_HEADER, HEADERS_VERSION, PREFIX, VERSION, VERSION_HEADER, Header
from walstream.record import Message
from walstream.wire import Record as KafkaRecord
from walstream.wire.plain import encode_block


class Kind(enum.StrEnum):
    """What a control says."""

    PAUSE = "pause"
    RESUME = "resume"
    NOTE = "note"
    READY = "ready"
    QUARANTINE = "quarantine"
    DROP = "drop"
    REDRIVE = "redrive"


@dataclass(frozen=True, slots=True)
class Control:
    """A control.

    Parameters
    ----------
    kind
        What it says.
    position
        Of the record that it is about: its position in the log, at the same partition number. None where it is about
        none, or about one that came from outside the log.
    when
        When that record was given up, ms since the epoch.
    reason
        Why, for people; of a note and of ``ready`` what is to be kept.
    """

    kind: Kind
    position: int | None = None
    when: int | None = None
    reason: str | None = None


_ABOUT_ONE = (Kind.QUARANTINE, Kind.DROP)
_START = encode_block(CONTROL_HEADER.encode())


def encode(control: Control, key: bytes | None = None) -> Message:
    """The record that says so; but for a redrive, which `redrive` makes.

    Parameters
    ----------
    key
        Of the record that it is about, if that is known.
    """
    if control.kind is Kind.REDRIVE:
        raise ValueError("a redrive is made of the dead record")
    ours: list[Header] = [(CONTROL_HEADER, control.kind.encode()), VERSION]
    if control.position is not None:
        ours.append((LOG_POSITION_HEADER, b"%d" % control.position))
    if control.when is not None:
        ours.append((WHEN_HEADER, b"%d" % control.when))
    return Message(key, None if control.reason is None else control.reason.encode(errors="backslashreplace"), ours)


def redrive(key: bytes | None, value: bytes | None, headers: Sequence[Header]) -> Message:
    """The record that has a dead one tried again; key, value and all headers are those of the DLQ's record."""
    return Message(key, value, [(CONTROL_HEADER, Kind.REDRIVE.encode()), *headers])


def read_control(record: KafkaRecord) -> Control | None:
    """Read a record of the retry topic, if it is a control; a redrive's record is read by `attempt.read_attempt`.

    Raises
    ------
    StateMismatch
        It is of a newer format.
    RecordRefused
        It is none that walstream writes. The code is ``bad-control``.
    """
    if not record.parts[2].startswith(_START):
        return None
    ours: dict[str, bytes | None] = {}
    for name, text in record.headers:
        if name[:10] != PREFIX:
            break
        ours[name] = text
    try:
        version = int(ours[VERSION_HEADER] or b"")
        if version > HEADERS_VERSION:
            raise StateMismatch(
                f"the control at offset {record.offset} has format {version}; this version of walstream reads"
                f" {HEADERS_VERSION}"
            )
        kind = Kind((ours[CONTROL_HEADER] or b"").decode())
        position, when = (_number(ours.get(name)) for name in (LOG_POSITION_HEADER, WHEN_HEADER))
        if position is None and kind in _ABOUT_ONE:
            raise ValueError(f"{kind} of no log position")
    except (KeyError, ValueError) as error:
        raise RecordRefused(
            "bad-control", f"the control at offset {record.offset} was not written by walstream ({error})"
        ) from None
    said = None if kind is Kind.REDRIVE or record.value is None else record.value.decode(errors="backslashreplace")
    return Control(kind, position, when, said)


def _number(text: bytes | None) -> int | None:
    number = None if text is None else int(text)
    if number is not None and not 0 <= number < 1 << 63:  # it has no place in a row, and would end every worker
        raise ValueError(f"{number} is out of range")
    return number

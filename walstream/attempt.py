"""An attempt: a record that a target was given and could not take yet, as it stands on the target's retry topic.

Key, value and the record's own headers stay byte for byte. In front of them stands a block of headers ``walstream-…``
with all that is needed to try again, so that such a record says the same wherever it is read: on the retry topic, in
the schedule, or, with little changed, in the DLQ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from hashlib import blake2b
from typing import NoReturn

from walstream.deadletter import (
    AGE_HEADER,
    ATTEMPT_HEADER,
    ERROR_HEADER,
    FIRST_ERROR_HEADER,
    LOG_POSITION_HEADER,
    WHEN_HEADER,
    error_text,
    origin,
)
from walstream.entry import Entry
from walstream.errors import RecordRefused, StateMismatch
from walstream.headers import (
    CONTROL_HEADER,
    HEADERS_VERSION,
    KIND_HEADER,
    PATH_HEADER,
    POSITION_HEADER,
    PREFIX,
    TIME_HEADER,
    TIMESTAMP_HEADER,
    VERSION_HEADER,
)
from walstream.namespace import RetryOptions
from walstream.record import Message
from walstream.wire import Record as KafkaRecord
from walstream.wire import plain_attempt

DUE_HEADER = "walstream-due"
"""When the record is to be tried again, microseconds since the epoch."""

_VERSION = b"%d" % HEADERS_VERSION


@dataclass(slots=True)
class Attempt:
    """A record that was tried, or that came from outside the log and is to be tried.

    Attributes
    ----------
    entry
        What the sink is given. Its position is that in the log; -1 if it never stood there.
    count
        How many attempts were made.
    age
        Milliseconds that it was to wait since the first attempt. Only waits that were planned count, so that an outage,
        a pause or a stopped worker ages nothing.
    due
        When it is to be tried again, µs since the epoch; 0 is at once.
    last, first
        What the target said at last, and at first, which may be the same. Of what begins anew, `last` is what it died
        of, and `first` is None.
    when
        When it said so, or when the record was given up, ms since the epoch.
    """

    entry: Entry
    count: int = 0
    age: int = 0
    due: int = 0
    last: str | None = None
    first: str | None = None
    when: int = 0

    @property
    def front(self) -> int:
        """What a key that waits for it calls it: its log position; of one from outside a number below 0."""
        entry = self.entry
        if entry.position >= 0:
            return entry.position
        said = b"%d %b" % (entry.time, entry.value or b"")
        return -1 - int.from_bytes(blake2b(said, digest_size=7).digest())


def retry_message(
    entry: Entry, *, target: str, count: int, age: int, due: int, reason: str | None, first: str | None, now: int
) -> Message:
    """A record for the retry topic.

    Parameters
    ----------
    entry
        What is to be tried again.
    target
        The target's full name.
    count, age, due
        As in `Attempt`.
    reason, first
        What the target said at last and at first; None where it was not asked yet.
    now
        Milliseconds since the epoch.
    """
    ours = origin(entry, target)
    ours += (
        (ATTEMPT_HEADER, b"%d" % count),
        (DUE_HEADER, b"%d" % due),
        (AGE_HEADER, b"%d" % age),
        (WHEN_HEADER, b"%d" % now),
    )
    if reason is not None:
        ours.append((ERROR_HEADER, error_text(reason)))
        if first is not None and first != reason:
            ours.append((FIRST_ERROR_HEADER, error_text(first)))
    ours += entry.headers
    return Message(entry.key, entry.value, ours)


def read_attempt(partition: int, record: KafkaRecord) -> Attempt:
    """Read a record of the retry topic: one to be tried again, or a dead one that begins anew (`control.redrive`).

    What is redriven has made no attempt and has no age, and is due at once.

    Parameters
    ----------
    partition
        The partition number, here and in the log.

    Raises
    ------
    StateMismatch
        The headers that walstream adds are of a newer format.
    RecordRefused
        They are missing or broken: somebody else wrote it. The code is ``not-an-attempt``.
    """
    plain = plain_attempt(record)
    if plain is not None:
        time, ingress_position, timestamp, position, count, age, due, when, kind = plain
        entry = Entry.from_fetched(partition, position, record, time, ingress_position, timestamp, kind)
        return Attempt(entry, count, age, due, when=when)
    attempt, ours = _read(partition, record)
    if DUE_HEADER not in ours:
        if CONTROL_HEADER not in ours:
            _refuse(record, f"there is no {DUE_HEADER}")
        attempt.count = attempt.age = 0
        attempt.first = None
    return attempt


def read_dead(partition: int, record: KafkaRecord) -> Attempt:
    """Read a record of a target's DLQ; its `Attempt.due` is 0.

    Raises
    ------
    StateMismatch, RecordRefused
        As `read_attempt`. A record that nobody could read before it was given up is refused here, too.
    """
    return _read(partition, record)[0]


def _read(partition: int, record: KafkaRecord) -> tuple[Attempt, dict[str, bytes | None]]:
    """The record, and the headers of ours in front of its own."""
    headers = record.headers
    ours: dict[str, bytes | None] = {}
    count = 0
    for name, text in headers:
        if name[:10] != PREFIX:
            break
        ours[name] = text
        count += 1
    get = ours.get
    try:
        if ours[VERSION_HEADER] != _VERSION:
            _refuse_version(ours[VERSION_HEADER], record.offset)
        position, last, first = get(LOG_POSITION_HEADER), get(ERROR_HEADER), get(FIRST_ERROR_HEADER)
        if first is None:
            first = last
        attempt = Attempt(
            Entry(
                partition,
                -1 if position is None else _number(position),
                record.key,
                record.value,
                headers[count:],
                _number(ours[TIMESTAMP_HEADER], least=-(1 << 63)),
                _number(ours[TIME_HEADER], least=-(1 << 63)),
                _number(ours[POSITION_HEADER], least=-1),
                get(PATH_HEADER) or b"",
                record,
                get(KIND_HEADER) or b"",
            ),
            _number(ours[ATTEMPT_HEADER]),
            _number(get(AGE_HEADER) or b"0"),
            _number(get(DUE_HEADER) or b"0"),
            None if last is None else last.decode(errors="backslashreplace"),
            None if first is None else first.decode(errors="backslashreplace"),
            _number(ours[WHEN_HEADER]),
        )
    except (KeyError, ValueError) as error:
        _refuse(record, str(error))
    return attempt, ours


def _number(text: bytes | None, least: int = 0) -> int:
    number = int(text or b"")
    if not least <= number < 1 << 63:  # it has no place in a row or a record batch, and would end every worker
        raise ValueError(f"{number} is out of range")
    return number


def _refuse(record: KafkaRecord, why: str) -> NoReturn:
    raise RecordRefused(
        "not-an-attempt",
        f"the record at offset {record.offset} was not written by walstream: its headers {PREFIX}… are missing or"
        f" broken ({why})",
    ) from None


def _refuse_version(version: bytes | None, offset: int) -> NoReturn:
    number = int(version or b"")
    if number > HEADERS_VERSION:
        raise StateMismatch(
            f"the record at offset {offset} has added headers of format {number}; this version of walstream reads"
            f" {HEADERS_VERSION}"
        )
    raise ValueError(f"format {number}")


def next_due(
    options: RetryOptions, count: int, age: int, after: float | None, now_us: int, draw: float
) -> tuple[int, int] | None:
    """When to try again what has failed once more.

    The waits grow exponentially, with full jitter: "Exponential Backoff And Jitter", Marc Brooker, AWS Architecture
    Blog, 2015.

    Parameters
    ----------
    count, age
        Attempts made, and ms of waiting before them, as in `Attempt`.
    after
        Seconds that the target asks us to wait, if it does. It is honoured as far as the age allows.
    now_us
        Microseconds since the epoch.
    draw
        A random number, 0 <= draw < 1.

    Returns
    -------
    tuple of int or None
        When it is due (µs since the epoch), and its age then (ms). None: it has had its attempts, or its time.
    """
    left = options.age - age
    if count >= options.attempts or left <= 0:
        return None
    try:
        longest = min(options.initial * options.multiplier ** max(count - 1, 0), options.max)
    except OverflowError:
        longest = options.max
    wait = math.ceil(min(max(draw * longest, 1000 * (after or 0.0)), left))
    return now_us + 1000 * wait, age + wait

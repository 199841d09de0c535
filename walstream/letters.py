"""Dead letters as people see them: a DLQ read from Kafka, filtered, and joined with what became of each letter."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from walstream import dead, deadletter, topics
from walstream.admin import Partition
from walstream.dead import State
from walstream.errors import RecordRefused
from walstream.headers import POSITION_HEADER, PREFIX, TIME_HEADER, TIMESTAMP_HEADER, Header
from walstream.namespace import Namespace
from walstream.record import parse
from walstream.scan import Found, Scanner
from walstream.units import format_rfc3339


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which letters somebody asks for; what is None does not matter.

    Parameters
    ----------
    error
        Text in the error, in whatever case.
    code
        The code of what was not understood.
    key, id
        Of the record.
    since, until
        The letter was written from a time on, and before another; µs since the epoch.
    attempts
        The record was tried so often, or more often.
    position
        Partition and position: in the log, or in the ingress for what was not understood.
    every_state
        Also those that were redriven or dropped.
    """

    error: str | None = None
    code: str | None = None
    key: bytes | None = None
    id: str | None = None
    since: int | None = None
    until: int | None = None
    attempts: int | None = None
    position: tuple[int, int] | None = None
    every_state: bool = False

    @property
    def is_for_all(self) -> bool:
        """Whether every letter will do that is dead."""
        return self == Wanted(every_state=self.every_state)

    def matches(self, letter: Letter) -> bool:
        """Whether it is asked for, as far as that can be seen from the letter itself."""
        return (
            (self.position is None or self.position == (letter.partition, letter.position))
            and (self.key is None or self.key == letter.found.key)
            and (self.code is None or self.code == letter.code)
            and (self.attempts is None or (letter.attempts or 0) >= self.attempts)
            and (self.error is None or self.error.casefold() in letter.error.casefold())
            and (self.id is None or self.id == letter.identity[1])
        )


class Letter:
    """A dead letter.

    Attributes
    ----------
    found
        The record in the DLQ, byte for byte.
    state
        What became of it; None where that is not known: it was not understood.
    changed
        When it came into that state, ms since the epoch; None where that is not known.
    """

    __slots__ = ("_ours", "changed", "found", "state")

    def __init__(self, found: Found) -> None:
        self.found = found
        self._ours: dict[str, bytes | None] = {}
        for name, text in found.headers:
            if not name.startswith(PREFIX):
                break
            self._ours[name] = text
        self.state: State | None = None
        self.changed: int | None = None

    def _number(self, header: str) -> int | None:
        try:
            return int(self._ours[header] or b"")
        except (KeyError, ValueError):
            return None

    def _text(self, header: str) -> str | None:
        text = self._ours.get(header)
        return None if text is None else text.decode(errors="backslashreplace")

    @property
    def partition(self) -> int:
        return self.found.partition

    @property
    def position(self) -> int | None:
        """Where in the log, if it was there; where in the ingress, if it was not understood."""
        return self._number(deadletter.LOG_POSITION_HEADER if self.code is None else POSITION_HEADER)

    @property
    def code(self) -> str | None:
        """Why it was not understood, as a word; None where it was."""
        return self._text(deadletter.CODE_HEADER)

    @property
    def error(self) -> str:
        return self._text(deadletter.ERROR_HEADER) or ""

    @property
    def first_error(self) -> str | None:
        return self._text(deadletter.FIRST_ERROR_HEADER)

    @property
    def attempts(self) -> int | None:
        return self._number(deadletter.ATTEMPT_HEADER)

    @property
    def when(self) -> int | None:
        """When it was given up, ms since the epoch."""
        return self._number(deadletter.WHEN_HEADER)

    @property
    def time(self) -> int | None:
        """The effective time, µs since the epoch."""
        return self._number(TIME_HEADER)

    @property
    def timestamp(self) -> int:
        """Of the record when it was written, ms since the epoch."""
        return self._number(TIMESTAMP_HEADER) or 0

    @property
    def is_cut(self) -> bool:
        """Whether it is only a part of what was written."""
        return deadletter.SIZE_HEADER in self._ours

    @property
    def headers(self) -> list[Header]:
        """The record's own."""
        return self.found.headers[len(self._ours) :]

    @property
    def identity(self) -> tuple[str | None, str | None]:
        """Source and id, as far as they can be read."""
        try:
            record = parse(self.found.key, self.found.value, self.headers, self.timestamp)
        except RecordRefused:
            texts = {name: text.decode(errors="backslashreplace") for name, text in self.headers if text is not None}
            return texts.get("ce_source"), texts.get("ce_id")
        return record.source, record.id

    @property
    def size(self) -> int:
        """Bytes of the record's key, value and headers."""
        return deadletter.size_of(self.found.key, self.found.value, self.headers)

    def summary(self) -> dict[str, Any]:
        """What a list says of it."""
        source, id = self.identity
        shown = {
            "partition": self.partition,
            "position": self.position,
            "state": None if self.state is None else self.state.name.lower(),
            "when": None if self.when is None else format_rfc3339(self.when * 1_000),
            "attempts": self.attempts,
            "key": _text(self.found.key),
            "source": source,
            "id": id,
            "error": self.error,
            "bytes": self.size,
        }
        return shown if self.code is None else shown | {"code": self.code, "cut": self.is_cut}

    def document(self, *, payload: bool) -> dict[str, Any]:
        """Everything of it, for a person or a program; the payload only if it is asked for."""
        shown = self.summary() | {
            "first_error": self.first_error,
            "time": None if self.time is None else format_rfc3339(self.time),
            "timestamp": format_rfc3339(self.timestamp * 1_000),
            "changed": None if self.changed is None else format_rfc3339(self.changed * 1_000),
            "offset": self.found.offset,
            "headers": [{"name": name, "value": _text(text)} for name, text in self.found.headers],
        }
        return shown | {"payload": _text(self.found.value)} if payload else shown

    def export(self) -> dict[str, Any]:
        """Everything of it, byte for byte: key, value and headers in Base64."""
        return self.document(payload=False) | {
            "key_base64": _base64(self.found.key),
            "value_base64": _base64(self.found.value),
            "headers": [{"name": name, "value_base64": _base64(text)} for name, text in self.found.headers],
        }


class DeadLetters:
    """The DLQ of a target, or of a namespace: what was not understood.

    Parameters
    ----------
    scanner
        Reads its topics.
    namespace, target
        Whose it is; without a target the namespace's.
    """

    def __init__(self, scanner: Scanner, namespace: Namespace, target: str | None) -> None:
        self._scanner, self._partitions = scanner, namespace.topics.partitions
        self.topic = (topics.dlq(namespace) if target is None else topics.target_dlq(namespace, target)).name
        self._states = None if target is None else topics.target_changelogs(namespace, target)["dead"].name

    def read(self, wanted: Wanted, progress: Callable[[int, int], object] | None = None) -> Iterator[Letter]:
        """The letters that are asked for, one partition after the other, each from the oldest on.

        Of several letters about one position only the last one is dead; the ones before were redriven.

        Parameters
        ----------
        progress
            Told now and then how many offsets were looked at, of how many.
        """
        numbers = [n for n in range(self._partitions) if wanted.position is None or n == wanted.position[0]]
        bounds = self._scanner.bounds([(self.topic, n) for n in numbers], since=wanted.since, until=wanted.until)
        total, before = sum(end - begin for begin, end in bounds.values()), 0
        for (topic, number), (begin, end) in bounds.items():
            if begin == end:
                continue
            # Asked for after the bounds of the letters: each has its row by then, since both come in one transaction.
            rows = {} if self._states is None else self._scanner.newest([(self._states, number)])
            for count, found in enumerate(self._scanner.records({(topic, number): (begin, end)})):
                if progress is not None and count % 100 == 0:
                    progress(before + found.offset - begin, total)
                letter = Letter(found)
                if not wanted.matches(letter):
                    continue
                if self._states is not None:
                    _look_up(letter, self._states, rows)
                if letter.state in (None, State.DEAD) or wanted.every_state:
                    yield letter
            before += end - begin
        if progress is not None:
            progress(total, total)


def _look_up(letter: Letter, topic: str, rows: Mapping[tuple[Partition, bytes], bytes]) -> None:
    """Give a target's letter its state."""
    if letter.code is not None:
        return
    position = letter.position
    stored = None if position is None else rows.get(((topic, letter.partition), dead.row_key(position)))
    if stored is None:  # it was never in the log, or died by a release that kept no rows
        letter.state = State.DEAD
        return
    letter.state, letter.changed = dead.decode(stored)
    if letter.state is State.DEAD and letter.when != letter.changed:
        letter.state = State.REDRIVEN  # it died again since, of which there is another letter
        letter.changed = None


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode(errors="backslashreplace")


def _base64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()

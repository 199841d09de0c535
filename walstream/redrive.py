"""Dead letters are tried again, or dropped: which of them can be, and what became of it."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from walstream import dead, topics
from walstream.dead import State
from walstream.headers import Header
from walstream.letters import Letter
from walstream.namespace import Namespace
from walstream.scan import Scanner

TOO_OLD = "too old"
UNREADABLE = "not written by walstream"
CUT = "cut"
REPEATED = "the same once more"
NO_POSITION = "never in the log"


def is_too_old(letter: Letter, remember: int, now_ms: int) -> bool:
    """Whether a target that writes by effective time may have forgotten a later delete of the same thing.

    It remembers a delete for so long (ms, `Namespace.remember`) after it was written, and later ones have later times.
    """
    return letter.time is not None and now_ms - letter.time // 1_000 > remember


@dataclass(slots=True)
class Result:
    """What was done with letters.

    Attributes
    ----------
    sent
        How many were told of, or would be.
    skipped
        How many were not, by why: a state, or one of the constants here.
    positions
        Partition and position of each that was sent.
    """

    sent: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    positions: set[tuple[int, int]] = field(default_factory=set)

    @property
    def failed(self) -> int:
        """How many could not be sent, though they were asked for and are dead."""
        return sum(self.skipped[why] for why in (TOO_OLD, UNREADABLE, CUT, NO_POSITION))


def move(
    letters: Iterable[Letter],
    send: Callable[[Letter], object],
    *,
    remember: int | None = None,
    needs_position: bool = False,
    limit: int = 0,
    now_ms: int | None = None,
) -> Result:
    """Send the letters of a target that are dead, each position once.

    Parameters
    ----------
    send
        What is done with each.
    remember
        How long (ms) the target remembers deletes, if it is such a one and older letters are to be left out.
    needs_position
        Leave out those that were never in the log.
    limit
        How many at most; 0 is all.
    now_ms
        Milliseconds since the epoch; the present by default.
    """
    now_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    result = Result()
    left: dict[tuple[int, int], str] = {}
    for letter in letters:
        place = None if letter.position is None else (letter.partition, letter.position)
        if letter.code is not None:
            why = UNREADABLE
        elif letter.state is not None and letter.state is not State.DEAD:
            why = letter.state.name.lower()
        elif place is None and needs_position:
            why = NO_POSITION
        elif remember is not None and is_too_old(letter, remember, now_ms):
            why = TOO_OLD
        else:
            why = ""
        if why:
            if place is None or letter.code is not None:
                result.skipped[why] += 1
            else:
                left[place] = why
        elif place is None or place not in result.positions:
            send(letter)
            result.sent += 1
            if place is not None:
                result.positions.add(place)
            if result.sent == limit:
                break
    # What died several times has as many letters, and counts by the last one.
    result.skipped.update(why for place, why in left.items() if place not in result.positions)
    return result


def rewrite(letters: Iterable[Letter], send: Callable[[Letter], object], *, limit: int = 0) -> Result:
    """Send the letters of a namespace to its ingress, the same record once, and none that is cut."""
    result = Result()
    seen: set[bytes] = set()
    for letter in letters:
        digest = _digest(letter.found.key, letter.found.value, letter.headers)
        if letter.is_cut:
            result.skipped[CUT] += 1
        elif digest in seen:
            result.skipped[REPEATED] += 1
        else:
            seen.add(digest)
            send(letter)
            result.sent += 1
            if result.sent == limit:
                break
    return result


def _digest(key: bytes | None, value: bytes | None, headers: Iterable[Header]) -> bytes:
    parts = [key, value]
    for name, text in headers:
        parts += (name.encode(), text)
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(b"-" if part is None else b"%d:" % len(part) + part)
    return digest.digest()


class Followed:
    """Follows what becomes of letters that are sent from now on.

    Parameters
    ----------
    scanner, namespace, target
        Whose letters they are.
    """

    def __init__(self, scanner: Scanner, namespace: Namespace, target: str) -> None:
        self._scanner = scanner
        changelog = topics.target_changelogs(namespace, target)["dead"].name
        self._partitions = [(changelog, number) for number in range(namespace.topics.partitions)]
        self._before = scanner.bounds(self._partitions)

    def states(self, positions: set[tuple[int, int]]) -> Counter[State]:
        """In which state those letters are whose state has changed."""
        now = self._scanner.bounds(self._partitions)
        bounds = {partition: (self._before[partition][1], end) for partition, (_, end) in now.items()}
        found: dict[tuple[int, int], State] = {}
        for record in self._scanner.records(bounds):
            place = record.partition, dead.position_of(record.key or b"")
            if record.value is not None and place in positions:
                found[place] = dead.decode(record.value).state
        return Counter(found.values())

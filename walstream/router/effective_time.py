"""The effective time of a record, and the rule that write times are not from the future.

The effective time is an integer of microseconds whose last digit is the region's rank. It is the write time as given;
where the partition has given that time already, the next one that is free. So of two records with equal write times the
later in the log wins wherever times are compared, and no two records of a partition have one time.

What was given recently is state of the partition. It is kept in rows, one per checkpoint, and it **is** the content of
the rows that exist: an `EffectiveTimes` that restores them goes on exactly as the one that made them.
"""

from __future__ import annotations

import struct
from array import array
from collections import OrderedDict
from collections.abc import Iterable
from sys import byteorder

from walstream.errors import RecordRefused, StateMismatch

MAX_AHEAD_MS = 5 * 60 * 1000
"""How far a write time may be ahead of the broker's append time. Clocks that NTP keeps differ by less; a record from a
further future would win over everything written until then."""

_VERSION = 1
_KEY = struct.Struct(">Q")
_HEADER = struct.Struct(">BII")

_STEP = 10  # µs between two times of one region; the digit below is the region's rank


def check_ahead(write_time_us: int, append_time_ms: int) -> None:
    """Refuse a write time that is more than 5 minutes ahead of the append time.

    Raises
    ------
    RecordRefused
        It is; the code is ``time-ahead``.
    """
    ahead_ms = write_time_us // 1000 - append_time_ms
    if ahead_ms > MAX_AHEAD_MS:
        raise RecordRefused(
            "time-ahead",
            f"the write time is {ahead_ms / 1000:.0f} s ahead of the broker's append time;"
            f" at most {MAX_AHEAD_MS // 1000} s are allowed",
        )


class _Row:
    """What was given between two checkpoints."""

    __slots__ = ("last", "times")

    def __init__(self) -> None:
        self.times: dict[int, int] = {}  # position -> time, in the order of giving
        self.last: dict[int, int] = {}  # for write times asked for twice: their step -> the step last given


class EffectiveTimes:
    """The times that one partition has given.

    Parameters
    ----------
    rank
        The region's rank, 0 to 9: the last digit of every time that is given.
    capacity
        How many of the last times are remembered, at least.
    """

    def __init__(self, rank: int = 0, capacity: int = 10_000) -> None:
        if not 0 <= rank < _STEP:
            raise ValueError(f"a region's rank is a digit, 0 to 9, not {rank}")
        if capacity < 1:
            raise ValueError(f"at least one time must be remembered, not {capacity}")
        self._rank, self._capacity = rank, capacity
        self._next: dict[int, int] = {}  # a step that was given -> a later one, before which none is free
        self._last: dict[int, int] = {}  # as in the rows, for all of them
        self._pending = _Row()
        self._rows: OrderedDict[int, _Row] = OrderedDict()
        self._stored = 0  # times in self._rows
        self._next_row = 0
        self._expired: list[int] = []
        self._highest = -1  # of the positions

    def assign(self, write_time_us: int, position: int) -> int:
        """The effective time of the record at a position of the ingress.

        Parameters
        ----------
        write_time_us
            The record's write time, microseconds since the epoch.
        position
            Its position; one that was given a time before gets the same again.
        """
        if position <= self._highest:
            given = self._given(position)
            if given is not None:
                return given
        else:
            self._highest = position
        wanted = step = write_time_us // _STEP
        pending = self._pending
        if wanted in self._next or wanted in self._last:
            step = self._last.get(wanted, wanted) + 1
            if step in self._next:
                step = self._free(step)
            self._last[wanted] = pending.last[wanted] = step
        self._next[step] = step + 1
        pending.times[position] = time = step * _STEP + self._rank
        return time

    def take_row(self) -> tuple[bytes, bytes] | None:
        """What was given since the last call, as one row to store: key and value; None if nothing was.

        To be called once per checkpoint. `take_expired` then says which rows can be deleted in the same checkpoint.
        """
        row, self._pending = self._pending, _Row()
        if not row.times:
            return None
        if len(row.times) > self._capacity:
            self._cut(row)
        number = self._next_row
        self._keep(number, row)
        while self._stored - len(next(iter(self._rows.values())).times) >= self._capacity:
            old_number, old = self._rows.popitem(last=False)
            self._stored -= len(old.times)
            self._forget(old.times.values(), old.last)
            self._expired.append(old_number)
        return _KEY.pack(number), _encode(row)

    def take_expired(self) -> list[bytes]:
        """Keys of stored rows that are needed no more, each named once."""
        expired, self._expired = self._expired, []
        return [_KEY.pack(number) for number in expired]

    def restore(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Take up the stored rows, in any order, before the first time is given.

        Raises
        ------
        StateMismatch
            A row is of a newer format, or is no row.
        """
        for key, value in sorted(rows):
            if len(key) != _KEY.size:
                raise StateMismatch(f"a key of {len(key)} bytes is none of a row of effective times")
            row = _decode(value)
            for time in row.times.values():
                step = time // _STEP
                self._next[step] = step + 1
            self._last.update(row.last)
            self._highest = max(self._highest, max(row.times))
            self._keep(_KEY.unpack(key)[0], row)

    def _given(self, position: int) -> int | None:
        """The time that a position was given, if it is remembered. Only records that are read again come here."""
        for row in (self._pending, *reversed(self._rows.values())):
            if (time := row.times.get(position)) is not None:
                return time
        return None

    def _free(self, step: int) -> int:
        """The next free step. Who walks a path halves it for the next (Tarjan and van Leeuwen, 1984)."""
        following = self._next
        while step in following:
            after = following[step]
            if after in following:
                following[step] = following[after]
            step = after
        return step

    def _keep(self, number: int, row: _Row) -> None:
        self._rows[number] = row
        self._stored += len(row.times)
        self._next_row = number + 1

    def _cut(self, row: _Row) -> None:
        """Forget all but the last times of one row, so that a row is never larger than what must be remembered."""
        positions = list(row.times)[: -self._capacity]
        times = [row.times.pop(position) for position in positions]
        steps = {time // _STEP for time in times}
        last = {wanted: step for wanted, step in row.last.items() if step in steps}
        for wanted in last:
            del row.last[wanted]
        self._forget(times, last)

    def _forget(self, times: Iterable[int], last: dict[int, int]) -> None:
        for time in times:
            del self._next[time // _STEP]
        for wanted, step in last.items():
            if self._last.get(wanted) == step:  # else a younger row has a later one
                del self._last[wanted]


def times_of(value: bytes) -> dict[int, int]:
    """What a stored row says: the positions of records in the ingress, and the times that they were given (µs)."""
    return _decode(value).times


def _encode(row: _Row) -> bytes:
    """A row's stored form: version, two counts, then positions, times, wanted steps and last steps, 64 bits each."""
    numbers = array("q", row.times)
    numbers.extend(row.times.values())
    numbers.extend(row.last)
    numbers.extend(row.last.values())
    if byteorder == "little":
        numbers.byteswap()
    return _HEADER.pack(_VERSION, len(row.times), len(row.last)) + numbers.tobytes()


def _decode(value: bytes) -> _Row:
    if value and value[0] > _VERSION:
        raise StateMismatch(
            f"a row of effective times has format {value[0]}; this version of walstream reads format {_VERSION}"
        )
    if len(value) < _HEADER.size or value[0] != _VERSION:
        raise StateMismatch(f"a row of effective times of {len(value)} bytes cannot be read")
    _, times, last = _HEADER.unpack_from(value)
    if not times or len(value) != _HEADER.size + 16 * (times + last):
        raise StateMismatch(f"a row of effective times is cut off: {len(value)} bytes for {times} times")
    numbers = array("q", value[_HEADER.size :])
    if byteorder == "little":
        numbers.byteswap()
    row = _Row()
    row.times.update(zip(numbers[:times], numbers[times : 2 * times], strict=True))
    row.last.update(zip(numbers[2 * times : 2 * times + last], numbers[2 * times + last :], strict=True))
    return row

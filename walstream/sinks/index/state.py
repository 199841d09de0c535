"""What is known of a base row: the cells that matter to an index, each with its time.

The rules are Cassandra's own, cell by cell: the later write stands; of two with one time the one that removes, and of
two values the larger, by their bytes (`Cells.resolveRegular` of Cassandra); a row's delete removes what is not newer.
So the row is the same whatever order its mutations come in, and as often as they come.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

from walstream.errors import StateMismatch

NEVER = -(2**63)
"""The time of what was never written."""

_VERSION = 1
# µs; in the year 2112.
_AHEAD = 2**52

Cells = dict[int, bytes | None]
"""Values by the places of their columns."""


class Row:
    """A base row's cells.

    Attributes
    ----------
    values, times
        Of the columns, in the definition's order: bytes or None, and when it was written (µs); `NEVER` where it was
        not, or only before the row's last delete.
    deleted
        When the row was last deleted.
    clock
        The highest timestamp that statements about the row have had.
    """

    __slots__ = ("clock", "deleted", "times", "values")

    def __init__(self, values: list[bytes | None], times: list[int], deleted: int = NEVER, clock: int = NEVER) -> None:
        self.values, self.times, self.deleted, self.clock = values, times, deleted, clock

    def put(self, cells: Iterable[tuple[int, bytes | None]], time: int) -> Cells | None:
        """Write cells, by their places.

        Returns
        -------
        dict or None
            Those that came late: something newer stands there, or has removed it. None where nothing came late.
        """
        late: Cells | None = None
        for place, value in cells:
            own = self.times[place]
            if time > own and time > self.deleted:
                self.values[place], self.times[place] = value, time
                continue
            there = self.values[place]
            if time == own and there is not None and (value is None or value > there):
                self.values[place] = value
            elif time != own or value != there:
                late = {} if late is None else late
                late[place] = value
        return late

    def delete(self, time: int) -> Cells | None:
        """Delete the row.

        Returns
        -------
        dict or None
            As of `put`: the cells, null, that would be removed if nothing newer stood there.
        """
        late: Cells | None = None
        self.deleted = max(self.deleted, time)
        for place, own in enumerate(self.times):
            if own > time:
                late = {} if late is None else late
                late[place] = None
            elif own != NEVER:
                self.values[place], self.times[place] = None, NEVER
        return late

    def mend(self, cells: Mapping[int, tuple[bytes, int]] | None, seen: int) -> None:
        """Become what the base row was when it was read (µs), but for what was written since.

        Parameters
        ----------
        cells
            Values that are not null, and their times, by their places; None where there was no row.
        """
        mended = [place for place, own in enumerate(self.times) if own <= seen]
        if self.deleted <= seen:
            if cells is None:
                self.deleted = max([self.deleted, *(self.times[place] for place in mended)])
            else:
                self.deleted = min([self.deleted, *(time - 1 for _, time in cells.values())])
        for place in mended:
            value, time = (cells or {}).get(place, (None, NEVER if cells is None else self.times[place]))
            alive = time > self.deleted
            self.values[place], self.times[place] = (value, time) if alive else (None, NEVER)

    @property
    def total(self) -> int:
        """A timestamp for what is known: the sum of when the cells were written last, or removed.

        It grows with every change, and what is newer in one cell and older in none has the larger sum. So it depends on
        what is known of the row, and not on the way to it. All but one are counted from a time to come, which leaves
        the sum behind the clocks: what somebody does to the index by hand is later, and a repair goes beyond that.
        """
        floor = max(self.deleted, 0)
        return sum([time if time > floor else floor for time in self.times]) - (len(self.times) - 1) * _AHEAD


class Codec:
    """Rows -> bytes, and back.

    Parameters
    ----------
    columns
        How many.
    fingerprint
        Of the definition's columns.
    """

    def __init__(self, columns: int, fingerprint: int) -> None:
        self._columns, self._fingerprint = columns, fingerprint
        # version, fingerprint, deleted, clock; times; sizes, -1 for null
        self._header = struct.Struct(f">BIqq{columns}q{columns}i")
        self._prefix = struct.pack(">BI", _VERSION, fingerprint)

    def new(self) -> Row:
        """A row of which nothing is known."""
        return Row([None] * self._columns, [NEVER] * self._columns)

    def encode(self, row: Row) -> bytes:
        """The row's stored form."""
        values = row.values
        sizes = [-1 if value is None else len(value) for value in values]
        header = self._header.pack(_VERSION, self._fingerprint, row.deleted, row.clock, *row.times, *sizes)
        return b"".join([header, *filter(None, values)])

    def decode(self, stored: bytes) -> Row:
        """Read what `encode` wrote.

        Raises
        ------
        StateMismatch
            It is of a newer format, or of another definition.
        """
        if not stored.startswith(self._prefix):
            raise StateMismatch(_foreign(stored))
        count, header = self._columns, self._header
        try:
            _, _, deleted, clock, *rest = header.unpack_from(stored)
        except struct.error as error:
            raise StateMismatch(f"a row of an index's state is cut off: {error}") from None
        values: list[bytes | None] = []
        at = header.size
        for size in rest[count:]:
            if size < 0:
                values.append(None)
            else:
                values.append(stored[at : at + size])
                at += size
        if at != len(stored):
            raise StateMismatch(f"a row of an index's state has {len(stored)} bytes, and not {at}")
        return Row(values, rest[:count], deleted, clock)


def _foreign(stored: bytes) -> str:
    """What is wrong with a row that begins otherwise."""
    if not stored or stored[0] != _VERSION:
        return (
            f"a row of an index's state has format {stored[0] if stored else 'none'}; this walstream reads {_VERSION}"
        )
    return (
        "the state of this index was made for other columns: a definition cannot change; make another target, "
        "with a table of its own"
    )

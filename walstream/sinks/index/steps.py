"""What mutations of a base row do to its index entries: which are removed, which are written, and at what time.

Statements must come out right whenever they arrive: twice, late from a worker that is dead, or again after a crash
between them and the state. So their timestamp is made of what is known of the row, from its cells' times
(`Row.total`): a later step of a row has a higher one, and the same step the same. What is written last is then never
removed by what came before, also where a value comes back (A, B, A again), and all copies travel with each write.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from walstream.sinks.index.definition import NONE, Definition, Entries, Entry
from walstream.sinks.index.state import NEVER, Cells, Codec


@dataclass(slots=True, eq=False)
class Step:
    """One mutation.

    Parameters
    ----------
    place
        Of its log entry in the call.
    row_key
        Of the base row in the state.
    key
        The base row's key.
    cells
        What a put writes, by the places of the definition's columns; None for a delete.
    time
        The effective time (µs).
    """

    place: int
    row_key: bytes
    key: list[bytes]
    cells: list[tuple[int, bytes | None]] | None
    time: int


@dataclass(slots=True, eq=False)
class Mend(Step):
    """A repair.

    Parameters
    ----------
    row
        What the base row is (`Row.mend`); its `time` is when that was read.
    above
        What statements must go beyond (µs).
    stale
        Entries that should not be there.
    """

    row: dict[int, tuple[bytes, int]] | None
    above: int
    stale: Iterable[Entry]


class Taken:
    """A base row on its way through the steps of a call, all of which are written at once.

    Parameters
    ----------
    key
        The base row's.
    stored
        The row's state before the first step.

    Attributes
    ----------
    steps
        Those that it went.
    after
        What each step made of the state; None where that is what it was before.
    row
        What is known of the base row after them.
    """

    __slots__ = (
        "_changed", "_codec", "_definition", "_entries", "_gone", "_latest", "_whole", "after", "key", "row", "steps",
        "stored",
    )  # fmt: skip

    def __init__(self, definition: Definition, codec: Codec, key: list[bytes], stored: bytes | None) -> None:
        self._definition, self._codec = definition, codec
        self.key = key
        self.stored = self._latest = stored
        self.steps: list[Step] = []
        self.after: list[bytes | None] = []
        self._entries = self._gone = NONE
        self._changed = self._whole = False
        if stored is None:
            self.row = codec.new()  # which has no entries
        else:
            self.row = codec.decode(stored)
            self._entries = definition.entries(key, self.row.values)

    def take(self, step: Step) -> None:
        """Go one step on."""
        if type(step) is Step:
            self._write(step)
        elif isinstance(step, Mend):
            self._mend(step)
        stored = self._codec.encode(self.row)
        self.steps.append(step)
        self.after.append(None if stored == self._latest else stored)
        self._latest = stored

    def _write(self, step: Step) -> None:
        row, before = self.row, self._entries
        values = row.values
        old = values.copy()
        late = row.delete(step.time) if step.cells is None else row.put(step.cells, step.time)
        if values != old:
            self._entries = entries = self._definition.entries(self.key, values)
            if entries != before or (entries and any(old[place] != values[place] for place in self._definition.copies)):
                self._gone |= before
                self._changed = True
                # By the sum alone, but for writes of one time: the larger value stands then, and the sum is the same.
                row.clock = max(row.total, row.clock + 1)
        if late is not None:
            # An attempt of which nothing else is left may have come to it in another order, and to other statements.
            # So what it might have written is removed, and what it might have removed is written.
            self._gone |= self._with(late)
            self._changed = True
            row.clock = max(row.total, row.clock)

    def _mend(self, step: Mend) -> None:
        row = self.row
        self._gone |= self._entries.union(step.stale)
        row.mend(step.row, step.time)
        self._entries = self._definition.entries(self.key, row.values)
        self._changed = self._whole = True
        row.clock = max(row.total, row.clock + 1, step.above + 1)

    def go_behind(self, tried: Taken) -> None:
        """Write later than, and remove, what was tried of the row, of which some statements may have come through."""
        self._gone |= tried._gone | tried._entries
        self.row.clock = max(self.row.clock, tried.row.clock)

    def rewrite(self) -> None:
        """Write all entries anew."""
        self._changed = True
        self.row.clock += 1

    @property
    def removed(self) -> Entries:
        """Entries to be removed at `Row.clock`."""
        return self._gone - self._entries if self._gone else NONE

    @property
    def written(self) -> Entries:
        """Entries to be written at `Row.clock`: all that there are, or none where nothing changed."""
        return self._entries if self._changed else NONE

    @property
    def copies(self) -> Cells:
        """What an entry is written with, by the places of the columns; null is written as well.

        But what never had a value is left out, since null would leave a tombstone in every entry; not of a repair.
        """
        row = self.row
        return {
            place: row.values[place]
            for place in self._definition.copies
            if self._whole or row.times[place] != NEVER or row.deleted != NEVER
        }

    @property
    def has_statements(self) -> bool:
        """Whether anything is to be removed or written."""
        return bool(self._changed and self._entries) or not self._gone <= self._entries

    def _with(self, late: Cells) -> Entries:
        values = list(self.row.values)
        for place, value in late.items():
            values[place] = value
        return self._definition.entries(self.key, values)


def take_all(
    definition: Definition, codec: Codec, steps: Iterable[Step], stored: dict[bytes, bytes | None]
) -> list[Taken]:
    """Take steps, those of one row in their order.

    Parameters
    ----------
    stored
        The state of each row before.
    """
    rows: dict[bytes, Taken] = {}
    for step in steps:
        taken = rows.get(step.row_key)
        if taken is None:
            taken = rows[step.row_key] = Taken(definition, codec, step.key, stored[step.row_key])
        taken.take(step)
    return list(rows.values())

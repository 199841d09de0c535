"""A repair: what a base row is, told to an index from outside the log, and which of its entries are too many.

It makes the state what the base table says, even where that is older, but for what was written since it was read; and
writes all entries anew. So it mends what no mutation would: a row that the log never had, an entry that somebody
changed by hand.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from walstream.errors import RecordRefused
from walstream.mutation import Mutation, delete, to_json

TYPE = "walstream.index.repair"
"""The CloudEvents type of a record whose payload is a repair."""


@dataclass(frozen=True, slots=True)
class Repair:
    """What a base row is.

    Parameters
    ----------
    table, key
        The base table, and the row's key as a mutation has it.
    seen
        When the row was read (µs). Cells that are newer stay as they are.
    above
        The timestamp (µs) that statements must go beyond: the highest write time of what is to be mended.
    row
        The columns that matter and are not null: bytes, and when they were written (µs). None where there is no row.
    stale
        Entries that should not be there: their values of ``by``.
    """

    table: str
    key: Mapping[str, Any]
    seen: int
    above: int
    row: Mapping[str, tuple[bytes, int]] | None
    stale: Sequence[tuple[bytes, ...]] = ()

    def to_bytes(self) -> bytes:
        """The payload."""
        row = None if self.row is None else {name: [_text(value), time] for name, (value, time) in self.row.items()}
        stale = [[_text(value) for value in entry] for entry in self.stale]
        return to_json(
            {
                "table": self.table,
                "key": dict(self.key),
                "seen": self.seen,
                "above": self.above,
                "row": row,
                "stale": stale,
            }
        )

    @property
    def mutation(self) -> Mutation:
        """One of the same row."""
        return delete(key=self.key, table=self.table)


def parse(payload: bytes | None) -> Repair:
    """Read a payload.

    Raises
    ------
    RecordRefused
        It is not a repair; the code is ``bad-repair``.
    """
    try:
        words = json.loads(payload or b"", parse_float=Decimal)
        row, stale = words["row"], words["stale"]
        return Repair(
            str(words["table"]),
            dict(words["key"]),
            int(words["seen"]),
            int(words["above"]),
            None if row is None else {name: (_bytes(value), int(time)) for name, (value, time) in row.items()},
            [tuple(_bytes(value) for value in entry) for entry in stale],
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise RecordRefused("bad-repair", f"the payload is no repair of an index: {error!r}") from None


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)  # its error is a ValueError

"""A repair: what somebody saw who compared an index with its base table, as a record for the index's target.

As JSON, with the bytes of values in Base64::

    {"table": "flights", "key": {"flight": "UA1545"}, "seen": 1700000000000000, "above": 1700000000000000,
     "row": {"tailnum": ["TjE0MjI4", 1600000000000000]}, "stale": [["TjAwMDAw"]]}
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from walstream.errors import RecordRefused
from walstream.mutation import Mutation, put, to_json

TYPE = "walstream.index.repair"
"""The CloudEvents type of a record whose payload is a repair."""

_WORDS = {"table", "key", "seen", "above", "row", "stale"}


@dataclass(frozen=True, slots=True)
class Repair:
    """What is true of a base row.

    Parameters
    ----------
    table, key
        Which row, as a mutation says it.
    seen
        When its reading began, µs: what was written later is not in it.
    above
        A time (µs) above that of every entry that was found.
    row
        Its cells that matter and are not null, with their write times (µs); None where there is no row.
    stale
        Entries (values of ``by``) that were found and should not be there.
    """

    table: str
    key: Mapping[str, Any]
    seen: int
    above: int
    row: Mapping[str, tuple[bytes, int]] | None
    stale: Sequence[tuple[bytes, ...]]

    @property
    def mutation(self) -> Mutation:
        """The row, as a mutation that changes nothing."""
        return put(table=self.table, key=self.key)

    def to_bytes(self) -> bytes:
        """The payload."""
        row = None
        if self.row is not None:
            row = {column: [_text(value), written] for column, (value, written) in self.row.items()}
        return to_json(
            {
                "table": self.table, "key": dict(self.key), "seen": self.seen, "above": self.above, "row": row,
                "stale": [[_text(value) for value in entry] for entry in self.stale],
            }
        )  # fmt: skip


def parse_repair(payload: bytes | None) -> Repair:
    """Read a payload.

    Raises
    ------
    RecordRefused
        It is no repair; the code is ``bad-repair``.
    """
    try:
        said = json.loads(payload or b"", parse_float=Decimal)
        if said.keys() != _WORDS:
            raise ValueError(f"it has {', '.join(sorted(said))}")
        row = said["row"]
        return Repair(
            str(said["table"]),
            put(key=said["key"]).key,
            int(said["seen"]),
            int(said["above"]),
            None if row is None else {column: (_bytes(value), int(time)) for column, (value, time) in row.items()},
            [tuple(map(_bytes, entry)) for entry in said["stale"]],
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RecordRefused("bad-repair", f"the payload is no repair: {error}") from None


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)

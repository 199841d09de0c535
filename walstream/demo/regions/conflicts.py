"""What each region says about the same flights, and what must be in both stores in the end.

Both have heard of every step of a flight, and do not agree: each says so in its own words, with a time of its own. Of
some steps both have the same time; then the region's rank decides. Of a cancelled flight the east says that there is no
such row, and the west that it is cancelled.

Pure functions: `rows_of` computes the outcome from the times alone, with no store and no log.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from walstream.client import Write
from walstream.demo.flights import Step
from walstream.mutation import delete, put

EAST, WEST = "east", "west"
RANKS = {EAST: 0, WEST: 1}
"""The regions with their ranks: the last digit of every effective time that they give."""

_GRID = 10  # µs, which no two steps share; so a write's effective time is known beforehand
_LATER = 30_000_000  # µs by which one region has it later; steps are at whole minutes
_SEED = 2013


@dataclass(frozen=True, slots=True)
class Said:
    """A write of a region.

    Parameters
    ----------
    region
        Where it is written.
    time
        Its write time, in microseconds since the epoch.
    flight, status
        The step that it is about.
    columns
        What it sets; None where it deletes the row.
    """

    region: str
    time: int
    flight: str
    status: str
    columns: Mapping[str, Any] | None

    @property
    def id(self) -> str:
        """Its idempotency token."""
        return f"{self.flight}/{self.status}/{self.region}"

    @property
    def effective(self) -> int:
        """Its effective time, µs."""
        return self.time // 10 * 10 + RANKS[self.region]

    def write(self) -> Write:
        """As it is handed to the client."""
        key = {"flight": self.flight}
        payload = delete(key=key) if self.columns is None else put(key=key, set=dict(self.columns))
        return Write(payload, id=self.id, time=self.time)


def said(steps: Sequence[Step]) -> dict[str, list[Said]]:
    """What the regions say, in the order of the steps, which must be in the order of time."""
    chance = random.Random(_SEED)
    found: dict[str, list[Said]] = {EAST: [], WEST: []}
    last = 0
    for step in steps:
        last = max(step.time, last + _GRID)
        later = chance.choice((EAST, WEST, None))
        for region in RANKS:
            time = last + _LATER if region == later else last
            found[region].append(Said(region, time, step.flight, step.status, _columns(step, region)))
    return found


def rows_of(writes: Iterable[Said]) -> dict[str, dict[str, Any]]:
    """The rows that must be there in the end, by flight: of every column the value with the highest effective time."""
    deleted: dict[str, int] = {}
    columns: dict[str, dict[str, tuple[int, Any]]] = {}
    for write in writes:
        if write.columns is None:
            deleted[write.flight] = max(write.effective, deleted.get(write.flight, 0))
            continue
        row = columns.setdefault(write.flight, {})
        for name, value in {"flight": write.flight, **write.columns}.items():
            if name not in row or row[name][0] < write.effective:
                row[name] = write.effective, value
    rows = {
        flight: {name: value for name, (time, value) in row.items() if time > deleted.get(flight, 0)}
        for flight, row in columns.items()
    }
    return {flight: row for flight, row in rows.items() if row}


def conflicts(writes: Iterable[Said]) -> Iterator[str]:
    """Flights of which the regions' own writes alone would make different rows."""
    of = {region: rows_of(write for write in writes if write.region == region) for region in RANKS}
    return (flight for flight in of[EAST].keys() | of[WEST].keys() if of[EAST].get(flight) != of[WEST].get(flight))


def _columns(step: Step, region: str) -> dict[str, Any] | None:
    if region == EAST and step.status == "cancelled":
        return None
    more = 1 if region == WEST else 0
    heard = {name: value + more if name.endswith("_delay") else value for name, value in step.columns.items()}
    return {**heard, "heard_in": region}

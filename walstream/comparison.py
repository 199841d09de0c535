"""Compares what two sinks' destinations hold, without holding all of it, and while they are written to.

1. Both are read once. Of each of `RANGES` ranges of hashed keys only the count and a sum of hashes are kept.
2. Where those differ, both are read once more, and of the rows in these ranges a hash of each is kept.
3. Rows whose hashes differ are looked up by their keys, again and again: what becomes equal was on its way. What stays
   as it is until all has passed that was on its way, and a while longer, is a difference; and so is, in the end, what
   one side does not change.

A sum and not an exclusive-or, so that a row that came twice does not hide another that did. Then a range differs though
the rows are equal, which the second step finds.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from walstream.sinks.base import Readable

RANGES = 1 << 16
ROWS_MAX = 200_000
"""Rows of differing ranges that are read one by one, of each side; ranges beyond that are only counted."""
SUSPECTS_MAX = 10_000
"""Rows that are looked up by their keys; more are only counted."""
LOOKS = 4
"""How often a row is looked at while it may settle."""
ROUNDS = 3
"""How many such times a row is given that both sides go on to change."""

_MASK = (1 << 64) - 1

Pair = tuple[bytes | None, bytes | None]
"""What the two sides have of a row."""

Passed = Callable[[], Awaitable[bool]]
"""Waits until all has passed that is on its way now, and says whether it has."""

Progress = Callable[[str, int], None]
"""What is done, and how many rows have been read for it."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A row that the two sides have otherwise, and go on to.

    Parameters
    ----------
    key
        As of `Readable`.
    first, second
        What the sides have; None where there is no row.
    """

    key: bytes
    first: bytes | None
    second: bytes | None


@dataclass(slots=True)
class Comparison:
    """What came out.

    Parameters
    ----------
    rows
        How many each side had, as they were read first.
    ranges
        How many ranges differed then.
    suspects
        How many rows differed when they were looked at one by one.
    differences
        Those that stayed so.
    unsettled
        Keys that differed at every look, while both sides went on to change: run it again, or when less is written.
    left_out
        Rows that differed, but were too many to be looked at one by one.
    left_out_ranges
        Ranges that differed, but had too many rows.
    passed
        Whether all that was on its way had passed before rows were called different; None where that is not known.
    """

    rows: tuple[int, int] = (0, 0)
    ranges: int = 0
    suspects: int = 0
    differences: list[Difference] = field(default_factory=list)
    unsettled: list[bytes] = field(default_factory=list)
    left_out: int = 0
    left_out_ranges: int = 0
    passed: bool | None = None

    @property
    def equal(self) -> bool:
        """Whether nothing is known to differ, and all was looked at."""
        return not (self.differences or self.unsettled or self.left_out or self.left_out_ranges)


class _Sums:
    """Count and sum of each range."""

    def __init__(self) -> None:
        self.counts = array("Q", bytes(8 * RANGES))
        self.sums = array("Q", bytes(8 * RANGES))

    def add(self, key: bytes, content: bytes) -> None:
        i = _range(key)
        self.counts[i] += 1
        self.sums[i] = (self.sums[i] + int.from_bytes(_hash(key, content))) & _MASK


async def compare(
    first: Readable,
    second: Readable,
    *,
    settle: float,
    passed: Passed | None = None,
    progress: Progress = lambda said, rows: None,
) -> Comparison:
    """Compare two destinations.

    Parameters
    ----------
    settle
        Seconds after which a write that was made is at both sides: more than the lag, or than what `passed` does not
        wait for.
    passed
        Is waited for before rows are called different.
    progress
        Is told how far it is.

    Raises
    ------
    Exception
        What a sink's client raises where the destination cannot be read.
    """
    found = Comparison()
    sums = await asyncio.gather(_sum(first, progress), _sum(second, progress))
    counts = sums[0].counts, sums[1].counts
    found.rows = sum(counts[0]), sum(counts[1])
    differing = [i for i in range(RANGES) if counts[0][i] != counts[1][i] or sums[0].sums[i] != sums[1].sums[i]]
    found.ranges = len(differing)
    chosen: set[int] = set()
    budget = ROWS_MAX
    for i in differing:
        rows = max(counts[0][i], counts[1][i])
        if rows > budget and chosen:
            break
        budget -= rows
        chosen.add(i)
    found.left_out_ranges = len(differing) - len(chosen)
    if not chosen:
        return found
    here, there = await asyncio.gather(_collect(first, chosen, progress), _collect(second, chosen, progress))
    suspects = sorted(key for key in here.keys() | there.keys() if here.get(key) != there.get(key))
    found.suspects, found.left_out = len(suspects), max(0, len(suspects) - SUSPECTS_MAX)
    await _settle(first, second, suspects[:SUSPECTS_MAX], found, settle, passed, progress)
    return found


async def _sum(side: Readable, progress: Progress) -> _Sums:
    sums = _Sums()
    async for page in side.scan():
        for key, content in page:
            sums.add(key, content)
        progress("comparing ranges", len(page))
    return sums


async def _collect(side: Readable, chosen: set[int], progress: Progress) -> dict[bytes, bytes]:
    rows: dict[bytes, bytes] = {}
    async for page in side.scan():
        rows.update((key, _hash(key, content)) for key, content in page if _range(key) in chosen)
        progress("comparing rows", len(page))
    return rows


async def _settle(
    first: Readable,
    second: Readable,
    keys: Sequence[bytes],
    found: Comparison,
    settle: float,
    passed: Passed | None,
    progress: Progress,
) -> None:
    """Look at rows until they are equal, or stay as they are for the time that a write takes."""
    changed: tuple[set[bytes], set[bytes]] = (set(), set())  # of each side
    before: dict[bytes, Pair] = {}
    for _ in range(ROUNDS):
        moving: set[bytes] = set()
        for look in range(LOOKS + 1):
            if look == 1 and passed is not None and found.passed is not False:
                # Now that it is known what both sides have: who changes it from here on is seen at the next look.
                found.passed = await passed()
            if look:
                await asyncio.sleep(settle / LOOKS)
            pairs = zip(*await asyncio.gather(first.look_up(keys), second.look_up(keys)), strict=True)
            now = {key: pair for key, pair in zip(keys, pairs, strict=True) if pair[0] != pair[1]}
            for side in (0, 1):
                others = {key for key, pair in now.items() if key in before and pair[side] != before[key][side]}
                changed[side].update(others)
                moving |= others
            before, keys = now, list(now)
            progress("looking at differences", len(keys))
            if not keys:
                break
        found.differences += [Difference(key, *pair) for key, pair in before.items() if key not in moving]
        keys = [key for key in keys if key in moving]
        if not keys:
            break
    unsettled = changed[0] & changed[1]
    found.differences += [Difference(key, *before[key]) for key in keys if key not in unsettled]
    found.differences.sort(key=lambda difference: difference.key)
    found.unsettled = sorted(unsettled.intersection(keys))


def _range(key: bytes) -> int:
    return int.from_bytes(blake2b(key, digest_size=2).digest()) % RANGES


def _hash(key: bytes, content: bytes) -> bytes:
    return blake2b(b"%d:%b%b" % (len(key), key, content), digest_size=8).digest()

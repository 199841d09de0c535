"""Comparing two destinations that are written to meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from walstream import comparison
from walstream.comparison import Comparison, Difference, compare
from walstream.sinks.base import Readable

Rows = dict[bytes, bytes]


class Store(Readable):
    """Rows in memory; before each look-up something may happen to them."""

    form = "rows"

    def __init__(self, rows: Rows, *, page: int = 7, doubled: bool = False) -> None:
        self.rows, self._page, self._doubled = rows, page, doubled
        self.looks = 0
        self.happens: Callable[[int], None] = lambda look: None

    async def scan(self) -> AsyncIterator[Sequence[tuple[bytes, bytes]]]:
        rows = sorted(self.rows.items())
        for first in range(0, len(rows), self._page):
            yield rows[first : first + self._page]
        if self._doubled:
            yield rows[:3]

    async def look_up(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        self.looks += 1
        self.happens(self.looks)
        return [self.rows.get(key) for key in keys]


def rows(count: int = 100) -> Rows:
    return {b"key-%d" % i: b"text-%d" % i for i in range(count)}


async def run(one: Store, other: Store) -> Comparison:
    return await compare(one, other, settle=0)


async def test_equal_stores_are_read_once() -> None:
    one, other = Store(rows()), Store(rows(), page=3)
    found = await run(one, other)
    assert found.equal and found.rows == (100, 100) and found.ranges == 0
    assert one.looks == other.looks == 0


async def test_what_differs_is_found_on_both_sides() -> None:
    one, other = Store(rows()), Store(rows())
    del one.rows[b"key-1"]
    del other.rows[b"key-2"]
    other.rows[b"key-3"] = b"else"
    found = await run(one, other)
    assert not found.equal
    assert found.differences == [
        Difference(b"key-1", None, b"text-1"),
        Difference(b"key-2", b"text-2", None),
        Difference(b"key-3", b"text-3", b"else"),
    ]


async def test_two_rows_that_changed_places_differ() -> None:
    other = Store(rows())
    other.rows[b"key-1"], other.rows[b"key-2"] = other.rows[b"key-2"], other.rows[b"key-1"]
    assert len((await run(Store(rows()), other)).differences) == 2


async def test_a_row_that_comes_twice_is_no_difference() -> None:
    found = await run(Store(rows(), doubled=True), Store(rows()))
    assert found.ranges == 3
    assert found.suspects == 0 and found.equal


async def test_what_is_on_its_way_is_no_difference() -> None:
    one, other = Store(rows()), Store(rows())
    one.rows |= {b"key-%d" % i: b"new" for i in range(5)} | {b"more": b"1"}

    def arrives(look: int) -> None:
        if look == 3:
            other.rows |= one.rows

    other.happens = arrives
    found = await run(one, other)
    assert found.suspects == 6 and found.equal


async def test_a_side_that_does_not_follow_differs_though_the_other_is_written_to() -> None:
    one, other = Store(rows()), Store(rows())
    one.rows[b"key-1"] = b"0"
    one.happens = lambda look: one.rows.__setitem__(b"key-1", b"%d" % look)
    (difference,) = (await run(one, other)).differences
    assert difference.key == b"key-1" and difference.second == b"text-1"


async def test_a_row_that_both_sides_go_on_to_change_is_unsettled() -> None:
    one, other = Store(rows()), Store(rows())
    one.rows[b"key-1"] = b"0"
    one.happens = lambda look: one.rows.__setitem__(b"key-1", b"%d" % look)
    other.happens = lambda look: other.rows.__setitem__(b"key-1", b"%d" % (look - 1))
    found = await run(one, other)
    assert found.unsettled == [b"key-1"] and found.differences == [] and not found.equal
    assert one.looks == comparison.ROUNDS * (comparison.LOOKS + 1)


async def test_what_is_too_much_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "ROWS_MAX", 50)
    monkeypatch.setattr(comparison, "SUSPECTS_MAX", 30)
    found = await run(Store(rows()), Store({}))
    assert found.suspects == 50 and len(found.differences) == 30
    assert found.left_out == 20 and found.left_out_ranges == 50
    assert not found.equal


async def test_the_lag_is_waited_for_before_a_row_is_called_different() -> None:
    one, other = Store(rows()), Store(rows())
    one.rows[b"key-1"], one.rows[b"key-2"] = b"new", b"newer"
    waits: list[int] = []

    async def passed() -> bool:
        waits.append(one.looks)
        other.rows[b"key-1"] = b"new"
        return True

    found = await compare(one, other, settle=0, passed=passed)
    assert found.passed is True and waits == [1]
    assert found.differences == [Difference(b"key-2", b"newer", b"text-2")]


async def test_a_lag_that_was_not_over_is_not_waited_for_again() -> None:
    one, other = Store(rows()), Store(rows())
    other.rows[b"key-1"] = b"old"
    other.happens = lambda look: other.rows.update({b"key-1": b"%d" % look})
    waits: list[int] = []

    async def passed() -> bool:
        waits.append(one.looks)
        return False

    found = await compare(one, other, settle=0, passed=passed)
    assert found.passed is False and waits == [1] and found.differences
    assert (await compare(one, Store(rows()), settle=0, passed=passed)).passed is None  # nothing differed

"""A source: fetches are read as one, what is put back comes again, and a position is where all before is finished."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from walstream.engine import source as module
from walstream.engine.fetch import Fetch
from walstream.engine.source import Source
from walstream.errors import Unreadable
from walstream.testing.raw_batch import RawRecord, encode_batch
from walstream.wire import Record
from walstream.wire.batch import Batch

SOURCE = ("topic", 0)


def batch(base: int, count: int, *, damaged: bool = False) -> Batch:
    raw = encode_batch([RawRecord(b"k", b"v", [])] * count, base=base)
    return Batch(raw[:-1] + bytes([raw[-1] ^ 1]) if damaged else raw)


def fetch(start: int, end: int, *batches: Batch) -> Fetch:
    return Fetch(*SOURCE, start, end, batches, 10)


def source(*fetches: Fetch) -> Source:
    found = Source(*SOURCE)
    found.begin(fetches[0].offset, 0)
    for each in fetches:
        found.append(each)
    return found


def offsets(records: Sequence[Record]) -> list[int]:
    return [record.offset for record in records]


def test_a_source_begins_where_it_is_told() -> None:
    one = Source(*SOURCE)
    one.begin(5, 9)
    assert (one.position, one.expected, one.end, one.waits, one.take(3)) == (5, 5, 9, False, [])


def test_records_are_put_back_across_fetches() -> None:
    one = source(fetch(0, 4, batch(0, 2)), fetch(4, 7, batch(4, 2)))
    records = one.take(3)
    assert offsets(records) == [0, 1, 4]
    one.put_back(records[1:])
    one.put_back([])
    assert one.position == 1
    assert (offsets(one.take(1)), one.position) == ([1], 4), "the gap behind it is passed"
    assert (offsets(one.take(100)), one.position, one.waits) == ([4, 5], 7, False), "the gap is the last of it"


def test_a_fetch_is_released_when_it_is_read_to_its_end() -> None:
    released: list[Fetch] = []
    fetches = [fetch(0, 2, batch(0, 2)), fetch(2, 3), fetch(3, 5, batch(3, 2))]
    one = Source(*SOURCE, released.append)
    one.begin(0, 0)
    for each in fetches:
        one.append(each)
    assert one.size == 30
    one.put_back(one.take(1))
    assert (released, one.size) == ([], 30)
    one.take(3)
    assert (released, one.size) == (fetches[:2], 10)


def test_a_fetch_of_nothing_but_gaps_moves_the_position() -> None:
    one = source(fetch(3, 8))
    assert (one.waits, one.position) == (True, 3)
    assert (one.take(5), one.position, one.waits) == ([], 8, False)


def test_large_fetches_are_taken_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 20)
    one = source(fetch(0, 2, batch(0, 2)), fetch(2, 3, batch(2, 1)), fetch(3, 5, batch(3, 2)))
    assert [offsets(one.take(10)), offsets(one.take(10)), one.position] == [[0, 1, 2], [3, 4], 5]


def test_what_cannot_be_read_is_met_behind_all_that_can() -> None:
    one = source(fetch(0, 2, batch(0, 2)), fetch(2, 5, batch(2, 1), batch(3, 2, damaged=True)))
    one.put_back(one.take(10))
    assert offsets(one.take(1)) == [0]
    assert offsets(one.take(10)) == [1, 2]
    for _ in range(2):
        with pytest.raises(Unreadable, match="offsets 3 to 4"):
            one.take(10)
        assert one.position == 3


def test_what_is_on_its_way_keeps_the_position() -> None:
    one = source(fetch(0, 4, batch(0, 4)))
    one.take(2)
    one.unfinished = 1
    assert one.position == 1
    one.take(2)
    assert (one.position, one.waits) == (1, False)
    one.unfinished = None
    assert one.position == 4


def test_what_is_put_back_for_ever_takes_no_room() -> None:
    one = source(fetch(0, 3, batch(0, 3)))
    for _ in range(100_000):
        one.put_back(one.take(2))
    assert offsets(one.take(10)) == [0, 1, 2]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), max_size=3), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(1, 8), st.integers(0, 8)), max_size=20),
)
def test_taking_and_putting_back_loses_nothing(
    parts: list[list[tuple[int, int]]], steps: list[tuple[int, int]]
) -> None:
    """Fetches of batches of so many records, each with a gap before it; of what is taken, some is put back."""
    fetches, expected, base = [], list[int](), 0
    for part in parts:
        start, batches = base, []
        for gap, count in part:
            base += gap
            batches.append(batch(base, count))
            expected += range(base, base + count)
            base += count
        base += 1  # a marker
        fetches.append(fetch(start, base, *batches))
    one, at = source(*fetches), 0  # how many are finished
    for count, back in steps:
        records = one.take(count)
        assert offsets(records) == expected[at : at + count]
        back = min(back, len(records))
        one.put_back(records[len(records) - back :])
        at += len(records) - back
        if back:
            assert (one.position, one.waits) == (expected[at], True)
        elif len(records) < count:
            assert (one.position, one.waits) == (base, False)
        assert at == 0 or one.position > expected[at - 1]
        assert at == len(expected) or one.position <= expected[at]
    assert offsets(one.take(1_000)) == expected[at:]
    assert (one.position, one.waits) == (base, False)

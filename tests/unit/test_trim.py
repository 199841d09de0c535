"""What may be trimmed: no more than everybody has finished, and no more than is old enough."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from walstream.router.trim import trim_points

PARTITION = ("flights.log", 0)


def test_the_slowest_reader_decides():
    assert trim_points({PARTITION: 100}, [{PARTITION: 80}, {PARTITION: 40}]) == {PARTITION: 40}


def test_retention_is_a_minimum():
    assert trim_points({PARTITION: 10}, [{PARTITION: 80}]) == {PARTITION: 10}


def test_a_reader_that_never_committed_keeps_everything():
    assert trim_points({PARTITION: 100}, [{PARTITION: 80}, {}]) == {}


@given(aged=st.integers(0, 1000), finished=st.lists(st.none() | st.integers(0, 1000), max_size=5))
def test_nothing_unfinished_or_young_is_trimmed(aged: int, finished: list[int | None]):
    readers = [{} if offset is None else {PARTITION: offset} for offset in finished]
    point = trim_points({PARTITION: aged}, readers).get(PARTITION, 0)
    assert point <= aged
    assert all(point <= (offset or 0) for offset in finished)

"""Sets compared by sums of digests, and ranges of tokens."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from walstream.indexes.buckets import Buckets, bucket_of
from walstream.indexes.pages import LEAST, MOST, WHOLE, Range

COUNT = 64
things = st.lists(st.tuples(st.binary(max_size=3), st.none() | st.binary(max_size=3)), max_size=20)


def compared(first: list[tuple[bytes, bytes | None]], second: list[tuple[bytes, bytes | None]]) -> set[int]:
    buckets = Buckets(COUNT)
    for key, value in first:
        buckets.add(bucket_of([key], COUNT), (key, value))
    for key, value in second:
        buckets.take(bucket_of([key], COUNT), (key, value))
    return {bucket for group in buckets.differing(10) for bucket in group}


@given(things, st.randoms())
def test_the_same_in_another_order_differs_nowhere(first: list[tuple[bytes, bytes | None]], draw: object) -> None:
    second = list(first)
    draw.shuffle(second)  # type: ignore[attr-defined]
    assert compared(first, second) == set()


@given(things, things)
def test_buckets_differ_where_the_sets_do(
    first: list[tuple[bytes, bytes | None]], second: list[tuple[bytes, bytes | None]]
) -> None:
    by_bucket = [
        {bucket: sorted((t for t in some if bucket_of([t[0]], COUNT) == bucket), key=repr) for bucket in range(COUNT)}
        for some in (first, second)
    ]
    assert compared(first, second) == {b for b in range(COUNT) if by_bucket[0][b] != by_bucket[1][b]}


def test_no_two_lists_of_parts_are_taken_for_one_another() -> None:
    lists = [(b"ab", b"c"), (b"a", b"bc"), (b"abc",), (b"abc", b""), (b"abc", None), (b"x" * 300,), (b"x" * 299, b"x")]
    for first in lists:
        for second in lists:
            buckets = Buckets(COUNT)
            buckets.add(0, first)
            buckets.take(0, second)
            assert bool(list(buckets.differing(10))) == (first != second)


def test_groups_have_about_so_many_things_each() -> None:
    buckets = Buckets(COUNT)
    for bucket in range(COUNT):
        for number in range(5):
            buckets.add(bucket, (b"%d-%d" % (bucket, number),))
    groups = list(buckets.differing(10))
    assert [len(group) for group in groups] == [2] * (COUNT // 2)
    assert set().union(*groups) == set(range(COUNT))


@given(st.integers(LEAST, MOST - 1), st.integers(1, 1_000))
def test_a_range_is_split_without_gap_or_overlap(after: int, parts: int) -> None:
    ranges = Range(after, MOST).split(parts)
    assert ranges[0].after == after and ranges[-1].upto == MOST and 1 <= len(ranges) <= parts
    assert all(one.upto == other.after for one, other in pairwise(ranges))
    assert all(one.after < one.upto for one in ranges)


def test_the_whole_ring_is_one() -> None:
    assert WHOLE.share == 1 and sum(one.share for one in WHOLE.split(256)) == 1

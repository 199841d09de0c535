"""Sets compared by sums of digests, and ranges of tokens."""

from __future__ import annotations

from itertools import pairwise
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from walstream.indexes.buckets import LONGEST, Buckets, Name, Values
from walstream.indexes.pages import LEAST, MOST, WHOLE, Range

COUNT = 64
names = st.lists(st.binary(max_size=3), min_size=2, max_size=2).map(tuple)
things = st.dictionaries(names, st.tuples(st.none() | st.binary(max_size=3)), max_size=300)


def summed(first: dict[Name, Values], second: dict[Name, Values], count: int = COUNT) -> Buckets:
    buckets = Buckets(count)
    buckets.add(first.items())
    buckets.take(second.items())
    return buckets


@given(things, things, st.integers(1, COUNT))
def test_what_differs_is_named_or_in_the_buckets_that_are_left(
    first: dict[Name, Values], second: dict[Name, Values], count: int
) -> None:
    buckets = summed(first, second, count)
    named = list(buckets.names())
    differing = {name for name in first.keys() | second.keys() if first.get(name) != second.get(name)}
    assert len(named) == len(set(named)) and set(named) <= differing
    assert buckets.left() == {buckets.bucket(name) for name in differing - set(named)}


@given(things, st.randoms())
def test_the_same_in_another_order_differs_nowhere(first: dict[Name, Values], draw: Random) -> None:
    shuffled = list(first.items())
    draw.shuffle(shuffled)
    buckets = summed(first, dict(shuffled))
    assert not list(buckets.names()) and not buckets.left()


def test_some_that_differ_of_many_are_all_named() -> None:
    same = {(b"%d" % number, b""): (b"same",) for number in range(20_000)}
    first = {(b"%d" % number, b"first"): (b"",) for number in range(1_000)}
    second = {(b"%d" % number, b"second"): (None,) for number in range(1_000)}
    buckets = summed(same | first, same | second, 1 << 14)
    assert set(buckets.names()) == first.keys() | second.keys() and not buckets.left()


def test_long_names_are_not_added_up() -> None:
    long, short = (b"x" * LONGEST, b"1"), (b"x", b"1")
    buckets = summed({long: ()}, {short: ()}, 1 << 14)
    assert list(buckets.names()) == [short] and buckets.left() == {buckets.bucket(long)}


def test_no_two_lists_of_parts_are_taken_for_one_another() -> None:
    lists = [(b"ab", b"c"), (b"a", b"bc"), (b"abc",), (b"abc", b""), (b"x" * 300,), (b"x" * 299, b"x")]
    for first in lists:
        for second in lists:
            for values in ((), (None,), (b"",)):
                buckets = summed({first: ()}, {second: values})
                assert bool({*buckets.names(), *buckets.left()}) == (first != second or values != ())


@given(st.integers(LEAST, MOST - 1), st.integers(1, 1_000))
def test_a_range_is_split_without_gap_or_overlap(after: int, parts: int) -> None:
    ranges = Range(after, MOST).split(parts)
    assert ranges[0].after == after and ranges[-1].upto == MOST and 1 <= len(ranges) <= parts
    assert all(one.upto == other.after for one, other in pairwise(ranges))
    assert all(one.after < one.upto for one in ranges)


def test_the_whole_ring_is_one() -> None:
    assert WHOLE.share == 1 and sum(one.share for one in WHOLE.split(256)) == 1

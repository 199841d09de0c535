"""What became of dead records, and that saying the same twice does it once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walstream import dead
from walstream.dead import Row, State, may_change, position_of, row_key
from walstream.errors import StateMismatch

times = st.integers(0, 2**62)


@given(st.sampled_from(State), times)
def test_a_row_comes_back(state: State, when: int) -> None:
    assert dead.decode(dead.encode(state, when)) == Row(state, when)


@given(st.lists(times))
def test_keys_are_in_the_order_of_positions(positions: list[int]) -> None:
    keys = sorted(row_key(position) for position in positions)
    assert [position_of(key) for key in keys] == sorted(positions)


def test_only_the_very_death_that_was_seen_can_be_changed() -> None:
    assert may_change(dead.encode(State.DEAD, 5), 5)
    assert may_change(dead.encode(State.DEAD, 5), None)
    assert not may_change(dead.encode(State.DEAD, 9), 5)  # redriven, and dead again
    for state in (State.REDRIVEN, State.DROPPED):
        assert not may_change(dead.encode(state, 5), 5)
        assert not may_change(dead.encode(state, 5), None)
    assert may_change(None, 5)


ROW = dead.encode(State.DEAD, 5)


def test_what_cannot_be_read_is_refused() -> None:
    for row in (*(ROW[:length] for length in range(len(ROW))), ROW + b"x", b"\0" + ROW[1:], b"\x01\x09" + ROW[2:]):
        with pytest.raises(StateMismatch, match=f"row of {len(row)} bytes cannot be read"):
            dead.decode(row)


@pytest.mark.parametrize("rest", [ROW[1:], b"", b"something"])
def test_a_newer_format_is_refused(rest: bytes) -> None:
    with pytest.raises(StateMismatch, match="has format 2; this version of walstream reads format 1"):
        dead.decode(b"\x02" + rest)

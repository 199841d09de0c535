"""Keys that wait: where a record of theirs stands, by its position alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walstream import blocked
from walstream.blocked import Blocked, Place, State, decode, key_hash, parked_key, parked_position, parked_range
from walstream.errors import StateMismatch

positions = st.integers(0, 2**63 - 1)
rows = st.builds(
    Blocked, st.binary(max_size=40), st.sampled_from(State), st.integers(-1, 2**63 - 1), positions,
    st.integers(0, 2**32 - 1),
)  # fmt: skip


@given(rows)
def test_a_row_comes_back(row: Blocked) -> None:
    assert decode(row.encode()) == row


@pytest.mark.parametrize(
    ("state", "at_the_head"), [(State.RETRYING, Place.HEAD), (State.HELD, Place.HEAD), (State.RELEASED, Place.DONE)]
)
def test_places(state: State, at_the_head: Place) -> None:
    row = Blocked(b"k", state, 10, 20, 1)
    assert [row.place(position) for position in (0, 9)] == [Place.DONE] * 2
    assert row.place(10) is at_the_head
    assert [row.place(position) for position in (11, 20)] == [Place.PARKED] * 2
    assert [row.place(position) for position in (21, 2**62)] == [Place.BEHIND] * 2
    alone = Blocked(b"k", state, 10, 10)
    assert [alone.place(position) for position in (9, 10, 11)] == [Place.DONE, at_the_head, Place.BEHIND]


@given(st.lists(st.tuples(st.binary(max_size=3), positions), max_size=20), st.binary(max_size=3), positions)
def test_a_keys_parked_records_are_a_range_in_order(parked: list[tuple[bytes, int]], key: bytes, after: int) -> None:
    table = sorted(parked_key(key_hash(other), position) for other, position in parked)

    def between(start: bytes, stop: bytes) -> list[int]:
        return [parked_position(row) for row in table if start <= row < stop]

    own = sorted(position for other, position in parked if other == key)
    assert between(*parked_range(key_hash(key))) == own
    assert between(*parked_range(key_hash(key), after)) == [position for position in own if position > after]


ROW = Blocked(b"", State.HELD, 1, 2, 3).encode()


def test_what_cannot_be_read_is_refused() -> None:
    for row in (*(ROW[:length] for length in range(len(ROW))), b"\0" + ROW[1:], ROW[:1] + b"\x09" + ROW[2:]):
        with pytest.raises(StateMismatch, match=f"row of {len(row)} bytes cannot be read"):
            decode(row)


@pytest.mark.parametrize("rest", [ROW[1:], b"", b"something"])
def test_a_newer_format_is_refused(rest: bytes) -> None:
    with pytest.raises(StateMismatch, match="has format 2; this version of walstream reads format 1"):
        decode(b"\x02" + rest)


def test_a_hash_is_what_it_was() -> None:
    # It stands in tables: another one would make strangers of the keys that wait.
    assert blocked.key_hash(b"UA1545").hex() == "0381e05845ea808700f486898787bcc0"

"""What an owner leaves for the next one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walstream import marks
from walstream.errors import StateMismatch
from walstream.marks import Counts, Halted, Mark, Opened, Quarantined, decode, encode, kind_of

numbers = st.integers(0, 2**62)
reasons = st.none() | st.text(st.characters(codec="utf-8"), max_size=40)
all_marks = (
    st.builds(Halted, numbers, reasons)
    | st.builds(Counts, numbers, numbers, numbers, numbers)
    | st.builds(Opened, numbers, numbers)
    | st.builds(Quarantined, reasons)
)


@given(all_marks)
def test_a_mark_comes_back(mark: Mark) -> None:
    assert decode(type(mark), encode(mark)) == mark


@pytest.mark.parametrize("stopped", [True, False])
def test_whether_it_left_in_order_comes_back(stopped: bool) -> None:
    assert marks.decode_mark(marks.encode_mark(stopped)) is stopped


def test_what_stands_where() -> None:
    assert [kind_of(key) for key in (marks.PAUSED, marks.DOWN, marks.COUNTS, marks.OPENED)] == [
        Halted, Halted, Counts, Opened,
    ]  # fmt: skip
    assert kind_of(marks.quarantine_key(7)) is Quarantined
    for key in (marks.STOPPED, marks.QUARANTINE, b"later"):
        assert kind_of(key) is None


@given(numbers)
def test_the_position_of_a_quarantine_comes_back(position: int) -> None:
    assert marks.quarantine_position(marks.quarantine_key(position)) == position
    assert marks.quarantine_position(marks.STOPPED) is None


@pytest.mark.parametrize("row", [b"", b"\x02\x01", b'\x02{"since": 1}', b"\0\x01"])
def test_other_formats_are_refused(row: bytes) -> None:
    for read in (lambda: marks.decode_mark(row), lambda: decode(Halted, row)):
        with pytest.raises(StateMismatch, match="this version of walstream reads format 1"):
            read()


@pytest.mark.parametrize("row", [b"\x01", b"\x01{", b"\x01{}", b"\x01[]", b'\x01{"since": 1, "until": 2}'])
def test_what_cannot_be_read_is_refused(row: bytes) -> None:
    with pytest.raises(StateMismatch, match="cannot be read"):
        decode(Halted, row)

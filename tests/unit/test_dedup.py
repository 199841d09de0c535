from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walstream.dedup import (
    ANSWERED,
    CANCELLED,
    EXPIRED,
    Row,
    Verdict,
    decide,
    decode_row,
    describe,
    encode_row,
    pending_until,
    segment_of,
    span_of,
)
from walstream.errors import StateMismatch

positions = st.integers(-1, 2**62)
destinations = st.integers(-(2**63), 2**63 - 1)


class Segments:
    """Dedup over segments as a router has it: dictionaries by segment, of which the live ones are kept."""

    def __init__(self, window: int) -> None:
        self.window, self.segment, self.stored = window, 0, {}  # type: ignore[var-annotated]

    def see(self, clock: int, name: str, position: int) -> Verdict:
        segment = self.segment = max(self.segment, segment_of(clock, self.window))
        self.stored = {end: rows for end, rows in self.stored.items() if end > segment - span_of(self.window)}
        found = next((rows[name] for _, rows in sorted(self.stored.items(), reverse=True) if name in rows), None)
        verdict = decide(None if found is None else decode_row(found), position)
        if verdict is Verdict.NEW:
            self.stored.setdefault(segment, {})[name] = encode_row(position, position)
        return verdict


@given(
    st.integers(1, 20),
    st.lists(st.tuples(st.integers(0, 8), st.sampled_from("abc")), max_size=60),
)
def test_an_identity_is_found_for_a_window_and_forgotten_after_one_and_a_half(
    window: int, steps: list[tuple[int, str]]
) -> None:
    window *= 1_000
    segments = Segments(window)
    clock = 0
    first: dict[str, tuple[int, int]] = {}  # name -> when and where it was taken for new
    for position, (step, name) in enumerate(steps):
        clock += step * 500
        verdict = segments.see(clock, name, position)
        if name not in first:
            assert verdict is Verdict.NEW
        elif clock - first[name][0] <= window:
            assert verdict is Verdict.DUPLICATE
        elif clock - first[name][0] > span_of(window) * 1_000:
            assert verdict is Verdict.NEW
        if verdict is Verdict.NEW:
            first[name] = clock, position
        # Read once more, as after a crash, the record is what it was.
        assert segments.see(clock, name, position) is (
            Verdict.REDELIVERY if verdict is Verdict.NEW else Verdict.DUPLICATE
        )


HOUR = 3_600_000


@given(st.integers(0, 48 * HOUR), st.integers(1, 48), st.integers(1, 48), st.integers(0, 48 * HOUR))
def test_a_changed_window_forgets_nothing_too_early_and_keeps_nothing_for_ever(
    stored: int, before: int, after: int, later: int
) -> None:
    before, after = before * HOUR, after * HOUR
    segments = Segments(before)
    segments.see(stored, "a", 1)
    segments.window = after
    verdict = segments.see(stored + later, "a", 2)
    if later <= min(before, after):
        assert verdict is Verdict.DUPLICATE
    if later > max(before, after) * 2:
        assert verdict is Verdict.NEW


@given(st.integers(0, 1000), st.integers(1, 50), st.integers(-1000, 0))
def test_a_clock_that_goes_back_changes_nothing(clock: int, window: int, back: int) -> None:
    segments = Segments(window)
    segments.see(clock, "a", 1)
    assert segments.see(clock + back, "a", 2) is Verdict.DUPLICATE


def test_a_row_of_a_later_position_is_a_duplicate_too() -> None:
    assert decide(Row(9, 0), 8) is Verdict.DUPLICATE


@pytest.mark.parametrize("destination", [EXPIRED, CANCELLED, ANSWERED, pending_until(1_700_000_000_000_000)])
def test_what_is_not_in_the_log_does_not_go_on_when_it_is_read_again(destination: int) -> None:
    assert decide(Row(8, destination), 8) is Verdict.DUPLICATE
    assert decide(Row(8, 0), 8) is Verdict.REDELIVERY


@given(st.integers(0, 2**62))
def test_a_time_is_no_other_word(due: int) -> None:
    assert pending_until(due) < min(EXPIRED, CANCELLED, ANSWERED)
    assert pending_until(due) == -due or due <= 1_000


def test_what_people_are_told() -> None:
    assert [describe(destination) for destination in (0, 7, EXPIRED, CANCELLED, ANSWERED)] == [
        *(0, 7, "expired", "cancelled", "answered")
    ]
    assert describe(pending_until(1_356_998_400_000_000)) == "pending until 2013-01-01T00:00:00Z"


@given(positions, destinations)
def test_rows_come_back(position: int, destination: int) -> None:
    assert decode_row(encode_row(position, destination)) == Row(position, destination)


def test_rows_of_a_newer_format_are_refused() -> None:
    with pytest.raises(StateMismatch, match="has format 2; this version of walstream reads format 1"):
        decode_row(b"\x02" + encode_row(1, 2)[1:])


@pytest.mark.parametrize("row", [b"", b"\x01", b"\x00" * 17, encode_row(1, 2) + b"x"])
def test_what_is_no_row_is_refused(row: bytes) -> None:
    with pytest.raises(StateMismatch, match="cannot be read"):
        decode_row(row)

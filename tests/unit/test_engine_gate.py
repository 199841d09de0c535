"""A gate bounds what is read ahead, and tells what was taken before a seek from what came after."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from walstream.engine.gate import MANY, Gate

SIZE = 100


@given(
    st.integers(1, 4),
    st.lists(
        st.one_of(st.sampled_from(["open", "close"]), st.integers(0, 60), st.tuples(st.integers(0, 60))),
        max_size=60,
    ),
)
def test_against_counters(limit: int, steps: list[str | int | tuple[int]]) -> None:
    """Steps are an `open`, a `close`, the bytes of a fetch that is taken, or those of one that is done."""
    gate = Gate(SIZE, limit)
    is_open, waiting, size, epoch = False, 0, 0, 0
    for step in steps:
        match step:
            case "open":
                is_open, waiting, size, epoch = True, 0, 0, epoch + 1
                gate.open()
            case "close":
                is_open = False
                gate.close()
            case int(taken):
                if not gate.has_room:
                    continue
                waiting, size = waiting + 1, size + taken
                gate.take(taken)
            case (done,):
                waiting, size = max(waiting - 1, 0), max(size - done, 0)
                gate.done(done)
        assert (gate.is_open, gate.waiting, gate.epoch) == (is_open, waiting, epoch)
        assert gate.has_room == (is_open and (waiting < limit or (size < SIZE and waiting < MANY)))


def test_of_fetches_that_are_tiny_there_are_not_too_many() -> None:
    gate = Gate(SIZE)
    gate.open()
    for _ in range(MANY):
        assert gate.has_room
        gate.take(1)
    assert not gate.has_room
    gate.done(1)
    assert gate.has_room


def test_is_closed_at_first() -> None:
    assert not Gate(SIZE).has_room


def test_work_of_an_older_epoch_makes_no_room_that_is_not_there() -> None:
    gate = Gate(SIZE)
    gate.open()
    gate.take(SIZE)
    gate.open()
    gate.done(SIZE)
    assert gate.waiting == 0
    gate.take(SIZE)
    gate.take(SIZE)
    assert not gate.has_room

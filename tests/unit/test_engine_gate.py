"""A gate bounds what is read ahead, and tells what was taken before a seek from what came after."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from walstream.engine.gate import Gate


@given(st.integers(1, 4), st.lists(st.sampled_from(["open", "close", "take", "done"]), max_size=60))
def test_against_a_counter(limit: int, steps: list[str]) -> None:
    gate = Gate(limit)
    is_open, waiting, epoch = False, 0, 0
    for step in steps:
        if step == "open":
            is_open, waiting, epoch = True, 0, epoch + 1
        elif step == "close":
            is_open = False
        elif step == "take":
            if not gate.has_room:
                continue
            waiting += 1
        else:
            waiting = max(waiting - 1, 0)
        if step == "done":
            gate.done()
        else:
            getattr(gate, step)()
        assert (gate.is_open, gate.waiting, gate.epoch) == (is_open, waiting, epoch)
        assert gate.has_room == (is_open and waiting < limit)
        assert gate.waiting <= limit


def test_is_closed_at_first() -> None:
    assert not Gate().has_room


def test_work_of_an_older_epoch_makes_no_room_that_is_not_there() -> None:
    gate = Gate(2)
    gate.open()
    gate.take()
    gate.open()
    gate.done()
    assert gate.waiting == 0
    gate.take()
    gate.take()
    assert not gate.has_room

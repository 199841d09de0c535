"""The time by which work falls due, while the clocks around it go wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walstream.engine.clock import FORGET, Clock

SECOND = 1_000_000
START = 1_700_000_000 * SECOND


class World:
    """True time, and what the clocks in it say. All in µs."""

    def __init__(self) -> None:
        self.true = START
        self.wall, self.boot = 0, -START + 100 * SECOND  # how far ahead of true time each is
        self.brokers = {1: 0, 2: 0}
        self.clock = Clock(lambda: self.true + self.wall, lambda: self.true + self.boot)

    def answer(self, broker: int = 1, *, there: int = 500, back: int = 500) -> None:
        """A request to a broker, and its answer, which take their time."""
        sent = self.clock.boot()
        self.true += there
        appended = (self.true + self.brokers[broker]) // 1_000
        self.true += back
        self.clock.witness(appended, sent, broker)

    def late(self, broker: int = 1) -> int:
        """How far the clock is behind a broker's."""
        return self.true + self.brokers[broker] - self.clock.now()


@pytest.fixture
def world() -> World:
    return World()


def test_before_the_first_answer_nothing_is_due(world: World) -> None:
    assert world.clock.now() == 0
    world.answer()
    assert 0 <= world.late() <= 2_000


def test_it_goes_on_between_the_answers(world: World) -> None:
    world.answer()
    world.true += 3_600 * SECOND
    assert 0 <= world.late() <= 2_000


@pytest.mark.parametrize("jump", [SECOND, 86_400 * SECOND])
def test_a_wall_clock_that_is_ahead_or_jumps_forward_makes_nothing_early(world: World, jump: int) -> None:
    world.answer()
    world.wall = jump
    world.true += SECOND
    assert 0 <= world.late() <= 2_000


def test_a_wall_clock_that_goes_back_makes_it_late(world: World) -> None:
    world.answer()
    world.wall = -60 * SECOND
    assert world.late() == 60 * SECOND
    world.wall = 0
    assert 0 <= world.late() <= 2_000


def test_a_broker_that_is_ahead_does_not_count(world: World) -> None:
    world.brokers[1] = 5 * SECOND
    world.answer()
    assert world.clock.now() == world.true


def test_a_broker_that_is_behind_makes_it_late(world: World) -> None:
    world.brokers[2] = -30 * SECOND
    world.answer(1)
    world.answer(2)
    world.answer(1)
    assert 0 <= world.late(2) <= 2_000


def test_a_broker_whose_clock_is_set_back_is_followed_at_once(world: World) -> None:
    world.answer()
    world.brokers[1] = -SECOND
    world.answer()
    assert 0 <= world.late() <= 2_000


def test_a_broker_whose_clock_is_set_forward_is_followed_at_once(world: World) -> None:
    world.brokers[1] = -SECOND
    world.answer()
    world.brokers[1] = 0
    world.answer()
    assert 0 <= world.late() <= 2_000


def test_a_suspended_machine_has_lost_no_time(world: World) -> None:
    """The clock since boot counts a suspension, and the wall clock is set from the hardware's."""
    world.answer()
    world.true += 8 * 3_600 * SECOND
    assert 0 <= world.late() <= 2_000


def test_a_virtual_machine_whose_clocks_stood_still_is_late_and_never_early(world: World) -> None:
    world.answer()
    world.true += 60 * SECOND
    world.wall -= 60 * SECOND
    world.boot -= 60 * SECOND
    assert world.late() >= 60 * SECOND
    world.wall = 0
    assert world.late() >= 60 * SECOND, "the wall clock alone is not believed"
    world.answer()
    assert 0 <= world.late() <= 2_000


def test_a_slow_answer_makes_nothing_later_than_a_quick_one_before_it(world: World) -> None:
    world.answer(there=200, back=200)
    before = world.late()
    world.answer(there=40_000, back=900_000)
    assert world.late() <= before + SECOND // 1_000


def test_a_broker_that_is_gone_for_long_is_forgotten(world: World) -> None:
    world.brokers[2] = -30 * SECOND
    world.answer(2)
    world.answer(1)
    assert world.late(1) >= 30 * SECOND
    world.true += FORGET + SECOND
    world.answer(1)
    assert 0 <= world.late(1) <= 2_000


@given(
    st.lists(
        st.tuples(
            st.sampled_from([1, 2]), st.integers(0, 200_000), st.integers(0, 200_000), st.integers(0, 20 * SECOND),
            st.sampled_from([0, 0, 0, -SECOND, -2 * SECOND, 3 * SECOND]), st.integers(-SECOND, SECOND),
        ),
        max_size=20,
    ),
    st.floats(-100e-6, 100e-6),
)  # fmt: skip
def test_after_an_answer_it_is_never_ahead_of_that_broker(
    steps: list[tuple[int, int, int, int, int, int]], drift: float
) -> None:
    """Whatever was set forward or back before, and though the worker's clocks go too fast or too slow."""
    world = World()
    for broker, there, back, passes, step, wall in steps:
        world.true += passes
        world.boot += int(passes * drift)
        world.brokers[broker] += step
        world.wall = wall
        world.answer(broker, there=there, back=back)
        assert world.late(broker) >= -1_000, "append times are in ms"

from __future__ import annotations

import heapq
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walstream.delivery.limiter import Gradient


class Target:
    """A simulated target: servers that each take a call at a time, with a queue before them.

    It is given as many calls as the limiter allows; `step` lets simulated time go on.
    """

    def __init__(self, limiter: Gradient, servers: int, service: float, *, seed: int = 1) -> None:
        self.limiter, self.servers, self.service = limiter, servers, service
        self.offered: int | None = None  # calls at a time, where fewer come than are allowed
        self.fails: Callable[[], bool] = lambda: False
        self.now, self.answered = 0.0, 0
        self._draw = random.Random(seed)
        self._free = [0.0] * servers  # when each server is free again
        self._ends: list[tuple[float, float]] = []  # of calls in flight: when it ends, when it began

    def step(self, seconds: float) -> list[int]:
        """The limits in that time, after each call."""
        until, limits = self.now + seconds, []
        while self.now < until:
            allowed = self.limiter.limit if self.offered is None else min(self.offered, self.limiter.limit)
            while len(self._ends) < allowed:
                begins = max(self.now, heapq.heappop(self._free))
                ends = begins + self.service * self._draw.uniform(0.7, 1.3)
                heapq.heappush(self._free, ends)
                heapq.heappush(self._ends, (ends, self.now))
            in_flight = len(self._ends)
            self.now, began = heapq.heappop(self._ends)
            self.answered += 1
            self.limiter.sample(self.now - began, in_flight, not self.fails())
            limits.append(self.limiter.limit)
        return limits


def test_it_finds_what_the_target_bears_and_stays_there() -> None:
    target = Target(Gradient(2_000), servers=150, service=0.01)
    target.step(3)
    before = target.answered
    limits = target.step(5)
    assert max(limits) < 2 * 150  # it makes no long queue
    assert target.answered - before > 0.93 * 5 * 150 / 0.01


@pytest.mark.parametrize("servers", [1, 5])
def test_where_every_call_more_only_waits_it_does_not_run_away(servers: int) -> None:
    target = Target(Gradient(2_000), servers=servers, service=0.002)
    assert max(target.step(60)[1_000:]) < 40


def test_it_goes_down_where_the_target_bears_less_and_up_again() -> None:
    limiter = Gradient(500)
    big = Target(limiter, servers=100, service=0.01)
    big.step(3)
    small = Target(limiter, servers=10, service=0.01)
    assert max(small.step(10)[-5_000:]) < 40
    big = Target(limiter, servers=100, service=0.01)
    big.step(3)
    assert limiter.limit > 50


def test_slower_calls_are_usual_after_a_while() -> None:
    target = Target(Gradient(500), servers=100, service=0.01)
    target.step(3)
    target.service = 0.05  # whatever the load is
    target.step(20)
    before = target.answered
    target.step(5)
    assert target.answered - before > 0.8 * 5 * 100 / 0.05


def test_where_less_comes_than_may_the_limit_stays() -> None:
    target = Target(Gradient(500), servers=100, service=0.01)
    target.offered = 5
    assert set(target.step(5)) == {20}


def test_failures_lower_it_and_it_recovers() -> None:
    limiter = Gradient(500)
    target = Target(limiter, servers=100, service=0.01)
    target.step(3)
    assert limiter.limit > 50
    target.fails = lambda: True
    target.step(5)
    assert limiter.limit == 1
    target.fails = lambda: False
    target.step(5)
    assert limiter.limit > 50


def test_failures_of_one_round_trip_lower_it_once() -> None:
    limiter = Gradient(500, initial=100)
    for _ in range(99):
        limiter.sample(0.01, 100, ok=False)
    assert limiter.limit in (90, 81)


@given(
    st.integers(1, 300),
    st.lists(
        st.tuples(st.floats(0, 100) | st.just(0.01), st.integers(1, 400), st.booleans() | st.just(True)), max_size=200
    ),
    st.integers(1, 10),
)
def test_it_is_never_less_than_one_nor_more_than_the_most(
    most: int, samples: list[tuple[float, int, bool]], times: int
) -> None:
    limiter = Gradient(most)
    for seconds, in_flight, ok in samples:
        for _ in range(times):
            limiter.sample(seconds, in_flight, ok)
            assert 1 <= limiter.limit <= most

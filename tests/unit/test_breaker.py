from __future__ import annotations

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from walstream.delivery.breaker import (
    COURTESY,
    DEAD_SAMPLE,
    FLAPPING_WAIT,
    LONGEST_ASKED,
    LONGEST_WAIT,
    POLL,
    RAMP_START,
    RAMP_TIME,
    Breaker,
    State,
)

ALMOST_ALL = 1 - 2**-30  # the longest wait is drawn


def opened(breaker: Breaker, now: float, reason: str = "no route", after: float | None = None) -> Breaker:
    breaker.failed(now, breaker.epoch, reason, after)
    assert breaker.state is State.OPEN
    return breaker


def probe(breaker: Breaker, now: float, who: int = 1) -> None:
    assert breaker.may_probe(now, who)


def test_it_opens_at_the_first_failure_and_says_why() -> None:
    breaker = Breaker(lambda: 0.5, 10)
    assert breaker.state is State.CLOSED and breaker.allowance(100) is None and breaker.look_at(100) == 100
    opened(breaker, 100, "no route")
    assert (breaker.reason, breaker.since, breaker.of_dead) == ("no route", 100, False)
    assert breaker.look_at(100) == breaker.probe_at == pytest.approx(100.1)
    assert not breaker.may_probe(100.09, 1)


def test_failures_while_it_is_open_change_nothing() -> None:
    breaker = Breaker(lambda: 0.5, 10)
    epoch = breaker.epoch
    opened(breaker, 100)
    before = breaker.probe_at, breaker.reason, breaker.since, breaker.epoch
    breaker.failed(101, epoch, "another", 60)
    breaker.failed(101, breaker.epoch, "another", 60)
    assert (breaker.probe_at, breaker.reason, breaker.since, breaker.epoch) == before


def test_what_began_earlier_neither_ends_a_probe_nor_opens_it_again() -> None:
    breaker = Breaker(lambda: 0.5, 10)
    early = breaker.epoch
    opened(breaker, 100)
    probe(breaker, 101)
    breaker.failed(102, early, "timeout")
    breaker.took(102, early, applied=5)
    assert breaker.state is State.PROBING
    breaker.took(103, breaker.epoch, applied=5)
    breaker.failed(110, early, "timeout")
    assert breaker.state is State.CLOSED


def test_waits_double_to_a_bound_and_begin_anew_once_it_was_well() -> None:
    breaker = Breaker(lambda: ALMOST_ALL, 10)
    now, waits = 100.0, []
    opened(breaker, now)
    for _ in range(10):
        waits.append(breaker.probe_at - now)
        now = breaker.probe_at
        probe(breaker, now)
        breaker.failed(now, breaker.epoch, "still down")
        breaker.probed(now, 1)
    assert waits == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30], rel=1e-6)
    assert breaker.since == 100 and breaker.reason == "still down"
    now = breaker.probe_at
    probe(breaker, now)
    breaker.took(now, breaker.epoch, applied=1)
    opened(breaker, now + RAMP_TIME / 2)  # it was back, but not for long
    assert breaker.probe_at - now - RAMP_TIME / 2 == pytest.approx(FLAPPING_WAIT, rel=1e-6)
    now = breaker.probe_at
    probe(breaker, now)
    breaker.took(now, breaker.epoch, applied=1)
    opened(breaker, now + RAMP_TIME)
    assert breaker.probe_at - now - RAMP_TIME == pytest.approx(0.2, rel=1e-6)


@pytest.mark.parametrize(("after", "wait"), [(60.0, 60.0), (1e6, LONGEST_ASKED), (-5.0, 0.0), (0.0, 0.0)])
def test_it_leaves_a_target_alone_for_as_long_as_that_asks(after: float, wait: float) -> None:
    breaker = opened(Breaker(lambda: 0.5, 10), 100, after=after)
    assert wait <= breaker.probe_at - 100 <= wait + 0.2


def test_it_ramps_up_when_the_target_is_back() -> None:
    breaker = opened(Breaker(lambda: 0.0, 10), 100)
    probe(breaker, 100)
    breaker.took(100, breaker.epoch, applied=1)
    breaker.probed(100, 1)
    assert breaker.state is State.CLOSED and breaker.reason is None and breaker.is_ramping(100)
    assert [breaker.allowance(100 + s) for s in (0, 1, 3, 9)] == [RAMP_START * n for n in (1, 2, 8, 512)]
    assert breaker.allowance(100 + RAMP_TIME) is None and not breaker.is_ramping(100 + RAMP_TIME)


def test_an_answer_without_a_finished_entry_is_an_answer() -> None:
    breaker = opened(Breaker(lambda: 0.0, 10), 100)
    probe(breaker, 100)
    breaker.took(100, breaker.epoch, applied=0)
    assert breaker.state is State.CLOSED


def test_a_probe_without_an_answer_leaves_it_to_another_at_once() -> None:
    breaker = opened(Breaker(lambda: 0.0, 10), 100)
    probe(breaker, 100, 1)
    epoch = breaker.epoch
    assert not breaker.may_probe(101, 2) and breaker.look_at(101) == 101 + POLL
    breaker.probed(101, 2)  # not the prober
    assert breaker.state is State.PROBING
    breaker.probed(102, 1)
    assert not breaker.may_probe(102, 1)
    probe(breaker, 102, 2)
    breaker.took(103, epoch, applied=1)  # comes too late
    assert breaker.state is State.PROBING


def test_who_waits_for_one_that_does_not_come_goes_all_the_same() -> None:
    breaker = opened(Breaker(lambda: 0.0, 10), 100)
    breaker.may_probe(99, 2)
    probe(breaker, 100, 2)
    breaker.may_probe(100, 3)  # asks, and has nothing to do any more
    breaker.failed(100, breaker.epoch, "down")
    assert not breaker.may_probe(100, 2)
    probe(breaker, 100 + COURTESY, 2)
    breaker.failed(102, breaker.epoch, "down")
    probe(breaker, breaker.probe_at, 2)  # the other one did not ask since


def test_dead_letters_within_the_bound_never_open_it() -> None:
    breaker = Breaker(lambda: 0.0, dead_rate=10)
    for second in range(600):
        breaker.took(second, breaker.epoch, applied=0, dead=10, last="no such column")
        assert breaker.state is State.CLOSED


def test_dead_letters_among_more_good_ones_never_open_it() -> None:
    breaker = Breaker(lambda: 0.0, dead_rate=10)
    for number in range(1_000):
        breaker.took(number / 100, breaker.epoch, applied=500, dead=400, last="no such column")
    assert breaker.state is State.CLOSED


def test_most_entries_dead_faster_than_the_bound_open_it() -> None:
    breaker, count = Breaker(lambda: 0.0, dead_rate=10), 0
    for number in range(20):
        breaker.took(number / 100, breaker.epoch, applied=500, last="")
    while breaker.state is State.CLOSED:
        breaker.took(1, breaker.epoch, applied=1, dead=9, last="no such column")
        count += 9
    assert 600 < count < 1_000
    assert breaker.of_dead and breaker.reason is not None
    assert "entries were dead, last: no such column; walstream target resume" in breaker.reason


def too_dead(draw: float = 0.0) -> Breaker:
    breaker = Breaker(lambda: draw, dead_rate=1)
    breaker.took(100, breaker.epoch, applied=0, dead=DEAD_SAMPLE, last="no such column")
    assert breaker.state is State.OPEN and breaker.of_dead
    return breaker


def test_dead_entries_only_keep_it_open_with_a_growing_wait() -> None:
    breaker, now, waits = too_dead(ALMOST_ALL), 100.0, []
    for _ in range(12):
        waits.append(breaker.probe_at - now)
        now = breaker.probe_at
        probe(breaker, now)
        breaker.took(now, breaker.epoch, applied=0, dead=1)
        breaker.took(now, breaker.epoch, applied=0, dead=1)
        assert breaker.state is State.PROBING
        breaker.probed(now, 1)
    assert breaker.state is State.OPEN and breaker.of_dead and breaker.reason is not None
    assert waits == sorted(waits) and waits[-1] == pytest.approx(LONGEST_WAIT)


@pytest.mark.parametrize("dead", [0, 9])
def test_an_applied_one_closes_it_and_the_next_dead_one_does_not_open_it(dead: int) -> None:
    breaker = too_dead()
    probe(breaker, 100)
    if dead:
        breaker.took(100, breaker.epoch, applied=0, dead=1, last="no such column")
    breaker.took(100, breaker.epoch, applied=1, dead=dead, last="no such column")
    breaker.probed(100, 1)
    breaker.took(100, breaker.epoch, applied=0, dead=50, last="no such column")
    assert breaker.state is State.CLOSED and not breaker.of_dead
    breaker.took(100, breaker.epoch, applied=0, dead=50, last="no such column")
    assert breaker.state is State.OPEN and breaker.of_dead


def test_a_target_that_goes_down_meanwhile_is_down_and_when_it_is_back_the_dead_ones_count_again() -> None:
    breaker = too_dead()
    probe(breaker, 100)
    breaker.failed(100, breaker.epoch, "no route")
    assert (breaker.of_dead, breaker.reason) == (False, "no route")
    probe(breaker, 101)
    breaker.took(101, breaker.epoch, applied=0, dead=1, last="no such column")
    assert breaker.state is State.OPEN and breaker.of_dead


def test_by_hand_it_closes_and_the_dead_are_forgotten() -> None:
    breaker = too_dead()
    breaker.reset(101)
    assert breaker.state is State.CLOSED and breaker.reason is None and breaker.is_ramping(101)
    breaker.took(101, breaker.epoch, applied=45, dead=55, last="no such column")
    assert breaker.state is State.CLOSED
    breaker.took(101, breaker.epoch, applied=0, dead=6, last="no such column")
    assert breaker.state is State.OPEN


@pytest.mark.parametrize("seed", range(20))
def test_partitions_that_always_fail_do_not_keep_others_out(seed: int) -> None:
    """Whoever waits asks when it is told to look; the good one probes after each of the bad ones did once, at most."""
    draw = random.Random(seed)
    bad = list(range(draw.randint(1, 5)))
    good = len(bad)
    breaker, now, probes = Breaker(draw.random, 10), 100.0, 0
    opened(breaker, now)
    while breaker.state is not State.CLOSED:
        now = breaker.look_at(now) + draw.uniform(0, 0.05)
        for who in draw.sample([*bad, good], len(bad) + 1):
            if breaker.may_probe(now, who):
                probes += 1
                if who == good:
                    breaker.took(now, breaker.epoch, applied=1)
                elif draw.random() < 0.8:
                    breaker.failed(now, breaker.epoch, "down")
                breaker.probed(now, who)
    assert probes <= len(bad) + 1


class Life(RuleBasedStateMachine):
    """Partitions of a worker at one target, whatever they do."""

    def __init__(self) -> None:
        super().__init__()
        self.draw = 0.5
        self.breaker = Breaker(lambda: self.draw, dead_rate=1)
        self.now = 1_000.0
        self.prober: int | None = None
        self.calls: list[int] = []  # epochs of those on their way
        self.probes: list[int] = []  # epochs of the prober's

    def state(self) -> object:
        breaker = self.breaker
        return breaker.state, breaker.reason, breaker.since, breaker.probe_at, breaker.epoch, breaker.of_dead

    @rule(seconds=st.floats(0, 40))
    def time_goes_by(self, seconds: float) -> None:
        self.now += seconds

    @rule(draw=st.floats(0, 1, exclude_max=True))
    def luck(self, draw: float) -> None:
        self.draw = draw

    @precondition(lambda self: self.breaker.state is State.CLOSED)
    @rule()
    def call(self) -> None:
        self.calls.append(self.breaker.epoch)

    @rule(who=st.integers(0, 3))
    def ask(self, who: int) -> None:
        was, due = self.breaker.state, self.now >= self.breaker.probe_at
        if self.breaker.may_probe(self.now, who):
            assert was is State.OPEN and due  # so never while somebody else does
            self.prober, self.probes = who, [self.breaker.epoch] * 2

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), fails=st.booleans(), applied=st.integers(0, 50), dead=st.integers(0, 80))
    def end_a_call(self, data: st.DataObject, fails: bool, applied: int, dead: int) -> None:
        epoch = self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
        before, was = self.state(), self.breaker.state
        if fails:
            self.breaker.failed(self.now, epoch, "down", data.draw(st.none() | st.floats(0, 1_000)))
        else:
            self.breaker.took(self.now, epoch, applied=applied, dead=dead, last="dead")
        if was is not State.CLOSED:
            assert self.state() == before  # only the prober's calls say something then
        elif not fails and dead <= applied // 100:
            assert self.breaker.state is State.CLOSED or self.breaker.of_dead

    @precondition(lambda self: self.probes)
    @rule(fails=st.booleans(), applied=st.integers(0, 1), dead=st.integers(0, 5))
    def end_a_call_of_the_prober(self, fails: bool, applied: int, dead: int) -> None:
        epoch, was, of_dead = self.probes.pop(), self.breaker.state, self.breaker.of_dead
        if epoch != self.breaker.epoch or was is State.CLOSED:
            return
        if fails:
            self.breaker.failed(self.now, epoch, "down")
            assert was is State.OPEN or (self.breaker.state is State.OPEN and not self.breaker.of_dead)
        else:
            self.breaker.took(self.now, epoch, applied=applied, dead=dead, last="dead")
            if was is State.PROBING and of_dead and not applied:
                assert self.breaker.state is State.PROBING

    @precondition(lambda self: self.prober is not None)
    @rule()
    def end_the_probe(self) -> None:
        assert self.prober is not None
        was, closed = self.breaker.state, self.breaker.state is State.CLOSED
        self.breaker.probed(self.now, self.prober)
        assert self.breaker.state is (State.OPEN if was is State.PROBING else was)
        assert closed == (self.breaker.state is State.CLOSED)
        self.prober, self.probes = None, []

    @rule()
    def reset(self) -> None:
        self.breaker.reset(self.now)
        assert self.breaker.state is State.CLOSED and self.breaker.is_ramping(self.now)

    @precondition(lambda self: self.breaker.state is State.OPEN)
    @rule(who=st.integers(0, 3))
    def one_that_waits_gets_its_probe(self, who: int) -> None:
        for _ in range(3 + int(COURTESY / POLL)):  # one of them for what is lost in rounding
            if self.breaker.may_probe(self.now, who):
                self.prober, self.probes = who, [self.breaker.epoch] * 2
                return
            assert self.breaker.look_at(self.now) > self.now
            self.now = self.breaker.look_at(self.now)
        raise AssertionError("it waits for ever")

    @invariant()
    def words_agree_with_the_state(self) -> None:
        breaker, closed = self.breaker, self.breaker.state is State.CLOSED
        assert (breaker.reason is None) == closed and (closed or breaker.since <= self.now)
        assert breaker.probe_at <= self.now + LONGEST_WAIT + LONGEST_ASKED
        assert breaker.look_at(self.now) >= self.now
        allowance = breaker.allowance(self.now)
        assert allowance is None or allowance >= RAMP_START
        assert closed or not breaker.is_ramping(self.now)
        if breaker.state is State.PROBING:
            assert self.prober is not None


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)

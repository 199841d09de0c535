from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from walstream.router.rate import LATE_US, Pace, TokenBucket

SECOND = 1_000_000
rates = st.sampled_from([0.5, 1.0, 7.0, 1_666.7, 20_000.0, 1e9])
steps = st.lists(st.tuples(st.integers(-SECOND, 2 * SECOND), st.integers(0, 5_000)), max_size=30)


@given(rates, steps)
def test_never_more_than_the_rate_and_a_burst(rate: float, steps: list[tuple[int, int]]) -> None:
    bucket, now, went, forward = TokenBucket(rate), 10 * SECOND, 0, 0
    for step, wanted in steps:
        now += step
        forward += max(step, 0)  # a clock that goes back, and on again, may give that much twice, and no more
        count = min(bucket.available(now), wanted)
        bucket.take(count)
        went += count
        assert went <= rate * forward / SECOND + max(1, rate / 10) + 1e-6


@given(rates, st.integers(0, 100))
def test_it_says_when_it_is_ready_and_then_it_is(rate: float, now: int) -> None:
    bucket = TokenBucket(rate)
    for _ in range(50):
        bucket.take(bucket.available(now))
        assert bucket.available(now) == 0
        ready = bucket.ready_at(now)
        assert ready > now
        assert bucket.available(ready - 1) == 0
        assert bucket.available(ready + 1) > 0  # a rounding may take a microsecond
        now = ready + 1


def test_the_whole_rate_is_used() -> None:
    bucket, now, went = TokenBucket(1_000), 0, 0
    while now < 10 * SECOND:
        count = bucket.available(now)
        bucket.take(count)
        went += count
        now = bucket.ready_at(now)
    assert 10_000 <= went <= 10_200


def test_what_is_on_time_goes_at_once() -> None:
    pace = Pace(1.0)
    for now in range(100 * SECOND, 200 * SECOND, SECOND):
        first = now - LATE_US
        assert pace.due_at(first, now) == first
        assert pace.admit(first, now, 500) == (now, 500)
        pace.went(first, now, 500)
    assert pace.admit(0, 200 * SECOND, 500)[1] == 1, "what was on time is not counted"


def test_a_rest_adds_up_to_a_burst_only() -> None:
    bucket = TokenBucket(1_000)
    bucket.take(bucket.available(0))
    assert bucket.available(3_600 * SECOND) == 100


def test_a_clock_that_goes_back_does_not_stop_it() -> None:
    bucket, now = TokenBucket(1_000), 7_200 * SECOND
    bucket.take(bucket.available(now))
    now -= 3_600 * SECOND
    assert bucket.ready_at(now) == now + 20_000
    assert bucket.available(now + 50_000) == 50


def test_what_is_overdue_waits_for_the_rate_and_lets_nothing_else_pass_by() -> None:
    pace, now = Pace(1_000.0), 100 * SECOND
    first = now - LATE_US - 1
    until, count = pace.admit(first, now, 500)
    assert (until, count) == (first, 100)
    pace.went(first, now, count)
    assert pace.admit(first, now, 500) == (first, 0)
    assert pace.due_at(first, now) == now + 20_000
    assert pace.admit(first, now + 20_000, 500)[1] == 20
    assert pace.admit(first, now + 20_000, 5)[1] == 5


def test_what_waits_for_later_is_due_then() -> None:
    pace = Pace(1.0)
    assert pace.due_at(None, 5) is None
    assert pace.due_at(900, 5) == 900

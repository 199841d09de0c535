"""A circuit breaker: whether a target is called at all.

One breaker serves all partitions of a worker at one target. It is CLOSED while calls go; OPEN from the moment that a
call said the target is down; PROBING while one partition, the prober, tries a few entries; and CLOSED again when they
were answered, at first with an allowance that grows. It also opens where most of what the target answers is dead, and
faster than a bound: a wrong deployment must not empty a topic into the DLQ.

The pattern is of Michael Nygard, "Release It!", 2007; the jitter of Marc Brooker, "Exponential Backoff And Jitter", AWS
Architecture Blog, 2015.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import StrEnum

FIRST_WAIT, LONGEST_WAIT = 0.2, 30.0  # s until the first probe, at most; what doubling it ends at
LONGEST_ASKED = 300.0  # s for which a target is left alone that asks for it
FLAPPING_WAIT = 2.0  # s; the wait to begin with for a target that was back, and fails again while ramping up
RAMP_START, RAMP_TIME = 1_000.0, 10.0  # records/s after it is back, doubled each second; for how long (s)
POLL = 0.1  # s between two questions of somebody who waits for another's probe
COURTESY = 1.0  # s for which one whose probe failed leaves the next one to others who asked
PROBE = 10  # entries in a probe, at most
DEAD_BURST = 60.0  # s of the rate of dead letters that may come at once
DEAD_WINDOW = 1_000  # finished entries, about, of which it is seen how many are dead
DEAD_SAMPLE = 100  # finished entries without which nothing is said about their share


class State(StrEnum):
    """What a breaker lets through: everything, nothing, or a probe."""

    CLOSED = "closed"
    OPEN = "open"
    PROBING = "probing"


class Breaker:
    """Whether a target is called, for all partitions of a worker.

    Times are seconds of a monotonic clock. Who calls the target notes `epoch` before the call and hands it back with
    what came of it: calls that began before the breaker opened, or was reset, say nothing about the target as it is.
    A prober sends `PROBE` entries at most and, whatever came of its calls, ends with `probed`.

    Parameters
    ----------
    draw
        A random number in [0, 1), as `random.random`.
    dead_rate
        Dead letters per second, over a minute, that are always allowed.

    Attributes
    ----------
    state
        As it is.
    reason
        Why it is not CLOSED; None where it is.
    since
        When it stopped being CLOSED, or became so.
    probe_at
        When the next probe may begin, if it is OPEN.
    epoch
        Changes whenever earlier calls no longer say anything.
    of_dead
        Whether it opened because of dead entries, and not because the target is down.
    """

    def __init__(self, draw: Callable[[], float], dead_rate: float) -> None:
        self._draw = draw
        self.state = State.CLOSED
        self.reason: str | None = None
        self.since = float("-inf")
        self.probe_at = float("-inf")
        self.epoch = 0
        self.of_dead = False
        self._wait = FIRST_WAIT
        self._ramp_from = float("-inf")
        self._turns = _Turns()
        self._all_dead = False  # of the probe in work: it was answered, and had nothing but dead entries
        self._dead = _DeadLetters(dead_rate)

    def failed(self, now: float, epoch: int, reason: str, after: float | None = None) -> None:
        """A call said that the target is down.

        Parameters
        ----------
        epoch
            That of the beginning of the call.
        after
            How long (s) the target asks to be left alone.
        """
        if epoch == self.epoch and self.state is not State.OPEN:
            self._open(now, reason, after=after, of_dead=False)

    def took(self, now: float, epoch: int, *, applied: int, dead: int = 0, last: str = "") -> None:
        """A call was answered.

        Parameters
        ----------
        epoch
            That of the beginning of the call.
        applied, dead
            Entries that are finished by it: applied or skipped, and dead.
        last
            What the last dead one died of.
        """
        self._dead.count(now, applied + dead, dead)
        if epoch != self.epoch or self.state is State.OPEN:
            return
        if self.state is State.PROBING:
            if self.of_dead and not applied:
                self._all_dead = True  # another call of the same probe may still have an applied one
                return
            self._close(now)
        if dead and self._dead.are_too_many():
            found = f"{self._dead.dead} of the last {self._dead.finished} entries were dead, last: {last}"
            self._open(now, f"{found}; walstream target resume lets the next ones go", of_dead=True)

    def may_probe(self, now: float, who: int) -> bool:
        """Whether the caller is the prober from now on.

        Of those who want to probe the one goes first who did so longest ago, so that one bad record of one partition
        cannot keep the target shut for all.

        Parameters
        ----------
        who
            The number of a partition.
        """
        if self.state is State.CLOSED:
            return False
        self._turns.want(who)
        if self.state is State.PROBING or now < self.probe_at:
            return False
        if now < self.probe_at + COURTESY and self._turns.is_others(who):
            return False
        self._turns.begin(who)
        self.state, self._all_dead = State.PROBING, False
        self.epoch += 1
        return True

    def probed(self, now: float, who: int) -> None:
        """The prober is through; where nothing came of its calls, the next one may try at once.

        Said by somebody who is not the prober, or no longer, it means nothing.
        """
        if self.state is not State.PROBING or self._turns.prober != who:
            return
        if self._all_dead:
            assert self.reason is not None
            self._open(now, self.reason, of_dead=True)
        else:
            self.state, self.probe_at = State.OPEN, now
            self.epoch += 1

    def look_at(self, now: float) -> float:
        """When somebody who waits should ask again."""
        if self.state is State.CLOSED:
            return now
        if self.state is State.OPEN and self.probe_at > now:
            return self.probe_at
        return now + POLL

    def is_ramping(self, now: float) -> bool:
        """Whether it has closed just now, and less than everything goes."""
        return self.state is State.CLOSED and now < self._ramp_from + RAMP_TIME

    def allowance(self, now: float) -> float | None:
        """How many records/s the worker may send: None is as many as the target takes."""
        if self.state is not State.CLOSED:
            return RAMP_START
        return RAMP_START * 2.0 ** (now - self._ramp_from) if self.is_ramping(now) else None

    def reset(self, now: float) -> None:
        """Close it by hand, and forget what made it open."""
        self._wait = FIRST_WAIT
        self._dead.forget()
        self.epoch += 1
        self._close(now)

    def _open(self, now: float, reason: str, *, after: float | None = None, of_dead: bool) -> None:
        if self.state is State.CLOSED:
            self.since = now
            if not self.is_ramping(now):
                self._wait = FIRST_WAIT
        self.state, self.reason, self.of_dead = State.OPEN, reason, of_dead
        self.probe_at = now + self._draw() * self._wait + min(max(after or 0.0, 0.0), LONGEST_ASKED)
        self._wait = min(2 * self._wait, LONGEST_WAIT)
        self.epoch += 1

    def _close(self, now: float) -> None:
        if self.of_dead:
            self._dead.forget_share()
        else:
            self._wait = min(self._wait, FLAPPING_WAIT)
        self.state, self.reason, self.of_dead = State.CLOSED, None, False
        self.since = self._ramp_from = now
        self._turns = _Turns()


class _Turns:
    """Who probes next, while a breaker is not closed."""

    def __init__(self) -> None:
        self.prober: int | None = None  # the last one
        self._number = 0
        self._probed: dict[int, int] = {}  # who did -> the number of the latest time
        self._wanting: set[int] = set()

    def want(self, who: int) -> None:
        self._wanting.add(who)

    def is_others(self, who: int) -> bool:
        """Whether it is the turn of another one that wants to."""
        mine = self._probed.get(who, 0)
        return any(self._probed.get(other, 0) < mine for other in self._wanting)

    def begin(self, who: int) -> None:
        """Note the prober; whose turn it was instead did not come, and is not waited for again until it asks."""
        mine = self._probed.get(who, 0)
        self._wanting = {other for other in self._wanting if other != who and self._probed.get(other, 0) >= mine}
        self._number += 1
        self._probed[who] = self._number
        self.prober = who


class _DeadLetters:
    """How many entries die: a token bucket for how fast, and the latest answers for their share.

    Parameters
    ----------
    rate
        Per second, over a minute, that are never too many.
    """

    def __init__(self, rate: float) -> None:
        self._rate, self._burst = rate, max(1.0, rate * DEAD_BURST)
        self._updated = float("-inf")
        self.forget()

    def forget(self) -> None:
        self._level = self._burst
        self.forget_share()

    def forget_share(self) -> None:
        self._latest: deque[tuple[int, int]] = deque()  # finished, and dead of them, by call
        self.finished = self.dead = 0  # in these

    def count(self, now: float, finished: int, dead: int) -> None:
        self._level = min(self._level + (now - self._updated) * self._rate, self._burst)
        self._level = max(self._level - dead, -self._burst)  # it takes two minutes to be full again, at most
        self._updated = now
        if not finished:
            return
        self._latest.append((finished, dead))
        self.finished, self.dead = self.finished + finished, self.dead + dead
        while self.finished - self._latest[0][0] >= DEAD_WINDOW:
            old, old_dead = self._latest.popleft()
            self.finished, self.dead = self.finished - old, self.dead - old_dead

    def are_too_many(self) -> bool:
        return self._level < 0 and self.finished >= DEAD_SAMPLE and 2 * self.dead > self.finished

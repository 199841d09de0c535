"""The rules of delay, cancel and reschedule: each case, then any order of arrivals against the rule as it is said."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from walstream.dedup import ANSWERED, CANCELLED, EXPIRED, pending_until
from walstream.errors import RecordRefused, StateMismatch
from walstream.identity import identity
from walstream.pending import (
    LATEST_US,
    Arrival,
    Change,
    Fate,
    Outcome,
    Pending,
    Reaction,
    Step,
    Waiting,
    decide_action,
    decide_write,
    decode_row,
    due_time,
    encode_row,
)
from walstream.units import MAX_US, parse_rfc3339

NAME = identity(b"k", "/s", "1")

# A write of time 100 at position 7, which the broker got at 200.
EARLIER, SAME, LATER = 99, 100, 101


def cancel(time: int, position: int = 3) -> Change:
    return Change("c", time, position, None)


def reschedule(time: int, due: int, position: int = 3) -> Change:
    return Change("r", time, position, due)


def schedule(due: int, time: int, position: int, outcome: Outcome | None = None) -> Arrival:
    return Arrival(Fate.SCHEDULE, Pending(due, 7, time, position), outcome)


SEND = Arrival(Fate.SEND)
CANCEL = Arrival(Fate.CANCELLED, None, Outcome.CANCELLED)
SUPERSEDED, RESCHEDULED = Outcome.SUPERSEDED, Outcome.RESCHEDULED


@pytest.mark.parametrize(
    ("due", "expiry", "change", "expected"),
    [
        # nobody waited
        (None, None, None, SEND),
        (100, None, None, SEND),
        (200, None, None, SEND),
        (201, None, None, schedule(201, 100, 7)),
        # expired as it came, whatever else was said
        (None, 200, None, Arrival(Fate.EXPIRED)),
        (None, 201, None, SEND),
        (900, 200, None, Arrival(Fate.EXPIRED)),
        (900, 201, None, schedule(900, 100, 7)),
        (900, 500, None, schedule(900, 100, 7)),  # it may be rescheduled until then
        (900, 200, cancel(LATER), Arrival(Fate.EXPIRED, None, Outcome.EXPIRED)),
        (900, 200, cancel(EARLIER), Arrival(Fate.EXPIRED, None, Outcome.EXPIRED)),
        (900, 200, reschedule(LATER, 300), Arrival(Fate.EXPIRED, None, Outcome.EXPIRED)),
        # a cancel waited
        (None, None, cancel(LATER), CANCEL),
        (None, None, cancel(SAME), CANCEL),
        (None, None, cancel(EARLIER), Arrival(Fate.SEND, None, SUPERSEDED)),
        (150, None, cancel(SAME), CANCEL),
        (900, None, cancel(LATER), CANCEL),
        (900, None, cancel(SAME), CANCEL),
        (900, None, cancel(EARLIER), schedule(900, 100, 7, SUPERSEDED)),
        # a reschedule waited
        (None, None, reschedule(LATER, 300), schedule(300, LATER, 3, RESCHEDULED)),
        (None, None, reschedule(SAME, 300), schedule(300, SAME, 3, RESCHEDULED)),
        (None, None, reschedule(EARLIER, 300), Arrival(Fate.SEND, None, SUPERSEDED)),
        (900, None, reschedule(LATER, 300), schedule(300, LATER, 3, RESCHEDULED)),
        (900, None, reschedule(LATER, 200), Arrival(Fate.SEND, None, RESCHEDULED)),
        (900, None, reschedule(EARLIER, 300), schedule(900, 100, 7, SUPERSEDED)),
        (900, None, reschedule(EARLIER, 200), schedule(900, 100, 7, SUPERSEDED)),
        (900, 201, reschedule(SAME, 300), schedule(300, SAME, 3, RESCHEDULED)),
    ],
)
def test_a_write(due: int | None, expiry: int | None, change: Change | None, expected: Arrival) -> None:
    waiting = None if change is None else Waiting(10_000, change)
    assert decide_write(100, 7, due, expiry, 200, waiting) == expected


PENDING = Pending(900, 4, 100, 7)  # written at position 4; the last that was said was a reschedule at 7
WAITS_CANCEL, WAITS_RESCHEDULE = Waiting(10_000, cancel(100, 7)), Waiting(10_000, reschedule(100, 300, 7))
ALREADY_SUPERSEDED = Reaction(Step.NOTHING, Outcome.SUPERSEDED)
KEEP = Reaction(Step.KEEP, Outcome.WAITING)


@pytest.mark.parametrize("known", [None, pending_until(900)])  # a dedup row may go before what is pending does
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (cancel(101, 9), Reaction(Step.CANCEL, Outcome.CANCELLED)),
        (cancel(101, 6), Reaction(Step.CANCEL, Outcome.CANCELLED)),
        (cancel(100, 8), Reaction(Step.CANCEL, Outcome.CANCELLED)),
        (cancel(100, 6), ALREADY_SUPERSEDED),
        (cancel(99, 8), ALREADY_SUPERSEDED),
        (reschedule(101, 300, 9), Reaction(Step.MOVE, Outcome.RESCHEDULED, Pending(300, 4, 101, 9))),
        (reschedule(100, 0, 8), Reaction(Step.MOVE, Outcome.RESCHEDULED, Pending(0, 4, 100, 8))),
        (reschedule(100, 900, 8), Reaction(Step.MOVE, Outcome.RESCHEDULED, Pending(900, 4, 100, 8))),
        (reschedule(100, 300, 7), Reaction(Step.MOVE, Outcome.RESCHEDULED, Pending(300, 4, 100, 7))),  # read again
        (reschedule(100, 300, 6), ALREADY_SUPERSEDED),
        (reschedule(99, 300, 8), ALREADY_SUPERSEDED),
    ],
)
def test_an_action_while_the_write_is_pending(change: Change, known: int | None, expected: Reaction) -> None:
    assert decide_action(change, known, PENDING) == expected


@pytest.mark.parametrize("row", [None, WAITS_CANCEL, WAITS_RESCHEDULE])
@pytest.mark.parametrize("change", [cancel(101, 9), cancel(99, 9), reschedule(101, 300, 9), reschedule(99, 300, 9)])
@pytest.mark.parametrize(
    ("destination", "outcome"),
    [(0, Outcome.SENT), (12, Outcome.SENT), (CANCELLED, Outcome.CANCELLED), (EXPIRED, Outcome.EXPIRED)],
)
def test_an_action_after_the_write_has_ended(
    change: Change, row: Waiting | None, destination: int, outcome: Outcome
) -> None:
    assert decide_action(change, destination, row) == Reaction(Step.NOTHING, outcome)


@pytest.mark.parametrize("destination", [None, ANSWERED])
@pytest.mark.parametrize(
    ("change", "row", "expected"),
    [
        (cancel(100), None, KEEP),
        (reschedule(100, 300), None, KEEP),
        *(
            case
            for row in (WAITS_CANCEL, WAITS_RESCHEDULE)
            for case in (
                (cancel(101, 6), row, KEEP._replace(replaced=row)),
                (cancel(100, 8), row, KEEP._replace(replaced=row)),
                (cancel(100, 6), row, ALREADY_SUPERSEDED),
                (cancel(99, 8), row, ALREADY_SUPERSEDED),
                (reschedule(101, 50, 6), row, KEEP._replace(replaced=row)),
                (reschedule(99, 300, 8), row, ALREADY_SUPERSEDED),
                (row.change, row, Reaction(Step.NOTHING, Outcome.WAITING)),  # read again
            )
        ),
    ],
)
def test_an_action_before_its_write(
    change: Change, destination: int | None, row: Waiting | None, expected: Reaction
) -> None:
    assert decide_action(change, destination, row) == expected


# ------------------------------------------------------------------------------------------------ any order of arrival


@dataclass
class Router:
    """What a router does with the decisions, for one identity; also an example of how they are meant."""

    window: int
    dedup: dict[str, tuple[int, int]] = field(default_factory=dict)  # id -> destination, and when that was stored
    row: Pending | Waiting | None = None
    rows: dict[tuple[int, int], str] = field(default_factory=dict)  # the schedule
    sent: list[int] = field(default_factory=list)  # when, each time
    answers: dict[str, list[Outcome]] = field(default_factory=lambda: defaultdict(list))

    def known(self, id: str, now: int) -> int | None:
        destination, stored = self.dedup.get(id, (None, 0))
        return destination if stored + self.window >= now else None

    def write(self, time: int, position: int, due: int | None, expiry: int | None, now: int) -> None:
        if self.known("w", now) is not None or isinstance(self.row, Pending):
            return
        arrival = decide_write(time, position, due, expiry, now, self.row)
        if self.row is not None:
            del self.rows[self.row.until, self.row.sequence]
            assert arrival.outcome is not None
            self.answers[self.row.change.id].append(arrival.outcome)
        self.row = arrival.row
        if arrival.fate is Fate.SEND:
            self.sent.append(now)
        if arrival.row is not None:
            self.rows[arrival.row.due, arrival.row.sequence] = "write"
            self.dedup["w"] = pending_until(arrival.row.due), now
        else:
            ends = {Fate.SEND: len(self.sent), Fate.CANCELLED: CANCELLED, Fate.EXPIRED: EXPIRED}
            self.dedup["w"] = ends[arrival.fate], now
        self.expiry = expiry

    def act(self, change: Change, now: int) -> None:
        if self.known(change.id, now) is not None:
            return
        self.dedup[change.id] = ANSWERED, now
        reaction = decide_action(change, self.known("w", now), self.row)
        self.answers[change.id].append(reaction.outcome)
        if reaction.step in (Step.CANCEL, Step.MOVE):
            assert isinstance(self.row, Pending)
            assert self.rows.pop((self.row.due, self.row.sequence)) == "write"
            self.row = reaction.row
            if reaction.row is not None:
                self.rows[reaction.row.due, reaction.row.sequence] = "write"
                self.dedup["w"] = pending_until(reaction.row.due), now
            else:
                self.dedup["w"] = CANCELLED, now
        elif reaction.step is Step.KEEP:
            if reaction.replaced is not None:
                assert self.rows.pop((reaction.replaced.until, reaction.replaced.sequence)) == "forget"
                self.answers[reaction.replaced.change.id].append(Outcome.SUPERSEDED)
            self.row = Waiting(now + self.window, change)
            self.rows[self.row.until, self.row.sequence] = "forget"

    def tick(self, now: int) -> None:
        for due, sequence in sorted(row for row in self.rows if row[0] <= now):
            kind = self.rows.pop((due, sequence))
            if kind == "write":
                assert isinstance(self.row, Pending) and self.row[:2] == (due, sequence)
                if self.expiry is not None and self.expiry <= now:
                    self.dedup["w"] = EXPIRED, now
                else:
                    self.sent.append(now)
                    self.dedup["w"] = len(self.sent), now
            else:
                assert isinstance(self.row, Waiting) and (self.row.until, self.row.sequence) == (due, sequence)
            self.row = None


@dataclass
class Rule:
    """The rule as it is said: of all that has come so far the newest counts, as long as nothing has ended it."""

    said: list[tuple[int, int, int | None, str]] = field(default_factory=list)  # time, position, due, what
    come: bool = False
    end: tuple[str, int] | None = None

    def decide(self, now: int, expiry: int | None) -> None:
        if not self.come or self.end is not None:
            return
        *_, due, what = max(self.said)
        if what == "cancel":
            self.end = "cancelled", now
        elif due is None or due <= now:
            self.end = ("expired" if expiry is not None and expiry <= now else "sent"), now


moments = st.integers(1, 30)
actions = st.tuples(st.sampled_from(["cancel", "reschedule"]), moments, st.integers(0, 60))
arrivals = st.lists(st.integers(0, 3) | st.none(), max_size=14)  # which action, or the write; again and again


@given(
    tw=moments,
    due=st.none() | st.integers(0, 60),
    expiry=st.none() | st.integers(1, 60),
    said=st.lists(actions, max_size=4),
    order=arrivals,
    steps=st.lists(st.integers(0, 12), min_size=15, max_size=15),
    lost=st.booleans(),
)
@example(tw=5, due=50, expiry=None, said=[("cancel", 5, 0)], order=[0, None, None], steps=[0] * 15, lost=False)
@example(tw=5, due=50, expiry=None, said=[("reschedule", 6, 0)], order=[None, 0], steps=[9] * 15, lost=True)
def test_any_order_of_arrivals(
    tw: int,
    due: int | None,
    expiry: int | None,
    said: list[tuple[str, int, int]],
    order: list[int | None],
    steps: list[int],
    lost: bool,
) -> None:
    window = 1_000  # all that is written comes within it
    router, rule, now = Router(window), Rule(), 0
    come: set[str] = set()
    for position, (what, step) in enumerate(zip(order, steps, strict=False)):
        now += step
        router.tick(now)
        rule.decide(now, expiry)
        if lost and isinstance(router.row, Pending):
            router.dedup.pop("w", None)  # pending for longer than the window: the dedup table has forgotten it
        if what is None:
            router.write(tw, position, due, expiry, now)
            if not rule.come:
                rule.come = True
                rule.said.append((tw, -1, due, "write"))
                if expiry is not None and expiry <= now:
                    rule.end = "expired", now
        elif what < len(said):
            kind, time, to = said[what]
            id = f"a{what}"
            router.act(Change(id, time, position, None if kind == "cancel" else to), now)
            if id not in come:
                come.add(id)
                rule.said.append((time, position, to, kind))
        rule.decide(now, expiry)
        router.tick(now)
    for now in (40, 60, 61):  # until nothing can be due any more
        router.tick(max(now, sum(steps)))
        rule.decide(max(now, sum(steps)), expiry)
    router.tick(10_000)

    if rule.come:
        assert rule.end is not None
        end, when = rule.end
        assert router.sent == ([when] if end == "sent" else [])
        destination = router.known("w", when)
        assert destination == {"sent": 1, "cancelled": CANCELLED, "expired": EXPIRED}[end]
    else:
        assert router.sent == []
    assert router.row is None and router.rows == {}, "nothing is pending for ever"
    assert router.answers.keys() == come, "each action is answered"
    last = {id: answers[-1] for id, answers in router.answers.items()}
    if rule.come:
        assert Outcome.WAITING not in last.values(), "an action whose write came is answered again"
    if router.sent:
        assert Outcome.CANCELLED not in last.values()
    else:
        assert Outcome.SENT not in last.values()


def test_what_waits_is_forgotten_after_the_window() -> None:
    router = Router(100)
    router.act(cancel(5, 1), 10)
    router.tick(109)
    assert router.row is not None
    router.tick(110)
    assert router.row is None and router.rows == {}
    router.write(1, 2, None, None, 111)
    assert router.sent == [111]


# ----------------------------------------------------------------------------------------------------------- due times


def test_a_delay_counts_from_the_write_time() -> None:
    assert due_time(1_000, NAME, 50, None, None) == 1_050
    assert due_time(1_000, NAME, None, 700, None) == 700
    assert due_time(1_000, NAME, None, None, None) == 1_000


@given(st.integers(0, MAX_US), st.integers(0, 10**9), st.binary(min_size=16, max_size=16))
def test_a_jitter_is_between_nothing_and_the_whole_and_always_the_same(jitter: int, delay: int, name: bytes) -> None:
    try:
        due = due_time(0, name, delay, None, jitter)
    except RecordRefused:
        assert delay + jitter > LATEST_US
        return
    assert delay <= due <= delay + jitter
    assert due == due_time(0, name, delay, None, jitter)
    assert due_time(0, name, None, None, jitter) == due - delay
    assert due_time(5, name, None, delay, jitter) == due


def test_jitters_are_spread_evenly() -> None:
    counts = [0] * 10
    for number in range(20_000):
        counts[due_time(0, identity(None, "/s", str(number)), None, None, 9)] += 1
    # Each of ten is drawn 2,000 times, give or take 5 standard deviations.
    assert all(abs(count - 2_000) < 215 for count in counts), counts


def test_all_of_a_jitter_may_be_drawn() -> None:
    assert due_time(0, b"\xff" * 16, None, None, 10) == 10
    assert due_time(0, bytes(16), None, None, 10) == 0


def test_far_away() -> None:
    latest = parse_rfc3339("9999-12-31T23:59:59.999999Z")
    assert due_time(0, NAME, None, latest, None) == latest == LATEST_US
    assert due_time(0, NAME, None, parse_rfc3339("0001-01-01T00:00:00Z"), None) == 0
    for arguments in ((1, NAME, None, latest, 2**62), (latest, NAME, MAX_US, None, MAX_US), (latest, NAME, 1, None, 0)):
        with pytest.raises(RecordRefused, match="after the year 9999"):
            due_time(*arguments)
    assert pending_until(latest) > -(2**63)


# ---------------------------------------------------------------------------------------------------------------- rows

numbers = st.integers(-(2**63) + 1, 2**63 - 1)
dues = st.integers(0, 2**63 - 1)
changes = st.builds(Change, st.text(), numbers, st.integers(0, 2**63 - 1), st.none() | dues)
pending_rows = st.builds(Pending, dues, dues, numbers, numbers) | st.builds(Waiting, dues, changes)


@given(pending_rows)
def test_rows_come_back(row: Pending | Waiting) -> None:
    assert decode_row(encode_row(row)) == row


def test_rows_of_a_newer_format_are_refused() -> None:
    for row in (PENDING, WAITS_CANCEL):
        with pytest.raises(StateMismatch, match="has format 2; this version of walstream reads format 1"):
            decode_row(b"\x02" + encode_row(row)[1:])


@pytest.mark.parametrize(
    "stored", [b"", b"\x01", b"\x01\x01", b"\x01\x02", b"\x01\x03" + bytes(32), encode_row(PENDING) + b"x"]
)
def test_what_is_no_row_is_refused(stored: bytes) -> None:
    with pytest.raises(StateMismatch, match="cannot be read"):
        decode_row(stored)


def test_what_an_action_is_called() -> None:
    assert [change.action for change in (cancel(1), reschedule(1, 0))] == ["cancel", "reschedule"]
    assert len({outcome.value for outcome in Outcome}) == 6

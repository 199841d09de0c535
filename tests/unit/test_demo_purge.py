"""The demo's delayed deletes: when each is due, and every way in which they can come wrong must be seen."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from walstream.answers import Answer
from walstream.demo.check import Findings
from walstream.demo.purge import DELAY, JITTER, Onlooker, Purge, id_of
from walstream.pending import Outcome

FLIGHTS = [f"UA{number}-EWR-2013-01-01" for number in range(1_000)]
SECOND = 1_000_000


def answer(action: str, flight: str, outcome: Outcome, due: int | None = None) -> Answer:
    return Answer(action, "1", "/demo", id_of(flight), outcome, due)


def purged() -> Purge:
    """One that went well."""
    purge = Purge.of("2013-01-01", FLIGHTS, "/demo")
    purge.answered(purge.kept, answer("cancel", purge.kept, Outcome.CANCELLED))
    purge.answered(purge.moved, answer("reschedule", purge.moved, Outcome.RESCHEDULED, purge.moved_to))
    purge.sent = {flight: [-(-due // 1000)] for flight, due in purge.due.items()}
    purge.gone = {flight: due / SECOND for flight, due in purge.due.items()}
    purge.rows, purge.left = Findings(right=5), 0
    return purge


def test_they_are_due_evenly_from_the_delay_on() -> None:
    purge = Purge.of("2013-01-01", FLIGHTS, "/demo")
    after = [(due - purge.at) / SECOND for due in purge.due.values()]
    assert DELAY <= min(after) < max(after) <= DELAY + JITTER
    for second in range(JITTER):
        assert 60 < sum(DELAY + second <= due < DELAY + second + 1 for due in after) < 140
    assert purge.moved_to > max(purge.due.values())
    assert {purge.kept, purge.moved} == set(sorted(purge.due, key=purge.due.__getitem__)[-2:])


def test_each_is_written_with_the_same_time_and_an_id_of_its_own() -> None:
    purge = Purge.of("2013-01-01", FLIGHTS, "/demo")
    writes = purge.writes()
    assert len({write.id for write in writes}) == len(FLIGHTS)
    assert {(write.time, write.delay, write.jitter) for write in writes} == {(purge.at, DELAY, JITTER)}


def test_all_came_well() -> None:
    purge = purged()
    assert purge.problems == []
    assert purge.came() == Findings(right=999)
    assert purge.waiting == 0
    assert sum(purge.curve().came) == 999
    assert purge.lateness().percentile(100) < 1.0  # type: ignore[operator]
    assert purge.as_dict()["came"]["right"] == 999


def lost(purge: Purge) -> None:
    del purge.sent[FLIGHTS[0]]


def twice(purge: Purge) -> None:
    purge.sent[FLIGHTS[0]] *= 2


def early(purge: Purge) -> None:
    purge.sent[FLIGHTS[0]][0] -= 2


def at_its_old_time(purge: Purge) -> None:
    purge.sent[purge.moved][0] = purge.at // 1000 + JITTER * 1000


def cancelled_and_sent(purge: Purge) -> None:
    purge.sent[purge.kept] = [purge.at]


def gone_early(purge: Purge) -> None:
    purge.early.append(FLIGHTS[0])


def a_row_is_left(purge: Purge) -> None:
    purge.rows.add(f"{FLIGHTS[0]} is in the table, and should not be")


def no_row_is_left(purge: Purge) -> None:
    purge.rows = Findings()


def too_late(purge: Purge) -> None:
    purge.answers[0] = answer("cancel", purge.kept, Outcome.SENT)


def still_pending(purge: Purge) -> None:
    purge.left = 1


def not_counted(purge: Purge) -> None:
    purge.left = None


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (lost, "the delete of UA0-EWR-2013-01-01 came 0 times"),
        (twice, "the delete of UA0-EWR-2013-01-01 came 2 times"),
        (early, "ms before it was due"),
        (at_its_old_time, "ms before it was due"),
        (cancelled_and_sent, "came, and should not have"),
        (gone_early, "UA0-EWR-2013-01-01 was gone from the table before its delete was due"),
        (a_row_is_left, "UA0-EWR-2013-01-01 is in the table, and should not be (after the deletes)"),
        (no_row_is_left, "there was nothing to compare after the deletes"),
        (too_late, "a cancel and a reschedule were answered: sent, rescheduled"),
        (still_pending, "the schedule still has rows"),
        (not_counted, "what the schedule has was not to be seen"),
    ],
)
def test_what_is_wrong_is_said(harm: Callable[[Purge], None], problem: str) -> None:
    purge = purged()
    harm(purge)
    (found,) = purge.problems
    assert problem in found


def test_a_delete_that_was_sent_before_its_cancel_is_expected() -> None:
    purge = Purge.of("2013-01-01", FLIGHTS, "/demo")
    purge.answered(purge.kept, answer("cancel", purge.kept, Outcome.SENT))
    assert purge.kept in purge.due


def test_a_row_that_is_gone_before_its_time_is_noticed() -> None:
    purge = Purge.of("2013-01-01", FLIGHTS[:5], "/demo")
    purge.due[FLIGHTS[1]] = purge.at  # due by now, and not yet seen in the log
    Onlooker(purge, lambda flights: {FLIGHTS[0], FLIGHTS[1]} & set(flights))._look_at_rows()
    assert purge.early == [FLIGHTS[0]]
    assert purge.gone == {}

"""What the demo expects of its indexes, and when it says that one is wrong."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from walstream.demo.check import Findings
from walstream.demo.indexes import TAIL, Index, Query, both

LEFT = dt.datetime(2013, 1, 1, 23, 59)


def row(flight: str, tailnum: str | None = TAIL) -> dict[str, Any]:
    return {"flight": flight, "tailnum": tailnum, "dest": "IAH", "sched_dep": LEFT, "dep_time": None, "status": "x"}


ROWS = {name: row(name, tailnum) for name, tailnum in (("a", TAIL), ("b", None), ("c", "N2"))}


class Cassandra:
    """Gives these rows."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows

    def execute(self, statement: str) -> list[Any]:
        class Found:
            def __init__(self, row: dict[str, Any]) -> None:
                self._asdict = lambda: row

        return [Found(row) for row in self._rows]


class Reader:
    """Finds these flights."""

    def __init__(self, *flights: str) -> None:
        self._rows = [row(flight) for flight in flights]

    def find(self, *, tailnum: str, check: bool) -> list[dict[str, Any]]:
        assert (tailnum, check) == (TAIL, True)
        return self._rows


def test_a_flight_without_a_tail_number_has_no_entry() -> None:
    by_tail, by_day = both()
    assert by_tail.expected(ROWS)["c"] == {"tailnum": "N2", "flight": "c", "dest": "IAH", "dep_time": None}
    assert by_tail.expected(ROWS).keys() == {"a", "c"}
    day = dt.datetime(2013, 1, 1)
    assert by_day.expected(ROWS)["b"] == {"dest": "IAH", "day": day, "sched_dep": LEFT, "flight": "b"}
    assert by_day.expected(ROWS).keys() == ROWS.keys()


def test_a_stale_entry_is_seen_beside_the_right_one() -> None:
    by_tail, _ = both()
    right = list(by_tail.expected(ROWS).values())
    assert by_tail.compare(Cassandra(right), ROWS) == Findings(right=2)
    stale = right[0] | {"tailnum": "N3"}
    assert by_tail.compare(Cassandra([*right, stale]), ROWS).wrong == 1


def good() -> Index:
    index = both()[0]
    index.rows, index.left, index.entries = Findings(right=2), 1, 1
    index.verified = {"missing": 0, "stale": 0}
    return index


def test_an_index_is_right() -> None:
    assert good().problems == []


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"rows": Findings(1, 1, ["c is not in the table"])}, "by-tail: c is not in the table"),
        ({"left": 0, "entries": 0}, "by-tail: 0 entries were compared, and there must be 0"),
        ({"verified": {"missing": 0, "stale": 3}}, "walstream index verify by-tail: 3 stale"),
        ({"verified": {}}, "by-tail: 1 entries were compared, and there must be 1"),
        ({"entries": 0}, "by-tail: 0 entries were compared, and there must be 1"),
        ({"rows": Findings()}, "by-tail: 1 entries were compared, and there must be 1"),
    ],
)
def test_an_index_is_wrong(wrong: dict[str, Any], problem: str) -> None:
    index = good()
    for name, value in wrong.items():
        setattr(index, name, value)
    assert index.problems == [problem]


def test_the_aircraft_that_is_asked_for_has_flown() -> None:
    assert Query.of(ROWS).tailnum == TAIL
    assert (
        Query.of({"b": row("b", None), "c": row("c", "N2"), "d": row("d", "N2"), "e": row("e", "N3")}).tailnum == "N2"
    )


def test_what_is_found_must_be_what_there_is() -> None:
    query = Query(TAIL)
    assert query.ask(Reader("a"), ROWS) == [row("a")]  # type: ignore[arg-type]
    assert query.problems == []
    query.ask(Reader(), ROWS)  # type: ignore[arg-type]
    query.ask(Reader("a", "c"), ROWS)  # type: ignore[arg-type]
    query.ask(Reader("a", "a"), ROWS)  # type: ignore[arg-type]
    assert [problem[:9] for problem in query.problems] == ["0 flights", "2 flights", "2 flights"]

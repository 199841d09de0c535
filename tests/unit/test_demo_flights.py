"""The demo's data: what the frame says, what the steps lead to, and that the two agree."""

from __future__ import annotations

import datetime as dt
import importlib.util
from collections import Counter
from typing import Any

import pytest

from walstream.demo.flights import STEPS, Flights, Step
from walstream.errors import MissingExtra


@pytest.fixture(scope="module")
def flights() -> Flights:
    return Flights.load(month=3)  # the month in which the clocks change


@pytest.fixture(scope="module")
def steps(flights: Flights) -> list[Step]:
    return flights.steps()


def test_every_flight_of_the_month_is_there_under_a_key_of_its_own(flights: Flights) -> None:
    assert len(flights) == len(flights.rows()) == 28_834


def test_a_flight_as_the_data_has_it() -> None:
    row = Flights.load(month=1).rows()["UA1545-EWR-2013-01-01"]
    # Clocks in New York and in Houston: 5:15 to 8:19, left 5:17, landed 8:30.
    assert row == {
        "flight": "UA1545-EWR-2013-01-01",
        "carrier": "UA",
        "number": 1545,
        "tailnum": "N14228",
        "origin": "EWR",
        "dest": "IAH",
        "distance": 1400,
        "status": "arrived",
        "sched_dep": dt.datetime(2013, 1, 1, 10, 15),
        "sched_arr": dt.datetime(2013, 1, 1, 14, 19),
        "dep_time": dt.datetime(2013, 1, 1, 10, 17),
        "dep_delay": 2,
        "arr_time": dt.datetime(2013, 1, 1, 14, 30),
        "arr_delay": 11,
        "air_time": 227,
    }


def test_steps_are_in_the_order_of_time_and_of_every_flight(steps: list[Step]) -> None:
    assert [step.time for step in steps] == sorted(step.time for step in steps)
    last: dict[str, Step] = {}
    for step in steps:
        before = last.get(step.flight)
        if before is None:
            assert step.status == "scheduled"
        else:
            assert before.time < step.time
            assert STEPS.index(before.status) < STEPS.index(step.status)
        last[step.flight] = step


def test_no_two_steps_have_one_id(steps: list[Step]) -> None:
    assert len({step.id for step in steps}) == len(steps)


def test_every_flight_is_scheduled_and_ends(flights: Flights, steps: list[Step]) -> None:
    count = Counter(step.status for step in steps)
    assert count["scheduled"] == len(flights)
    assert count["departed"] == count["arrived"] + count["diverted"]
    assert count["arrived"] + count["diverted"] + count["cancelled"] == len(flights)
    assert count["cancelled"] == 861


def test_the_steps_one_after_the_other_give_the_rows(flights: Flights, steps: list[Step]) -> None:
    rows: dict[str, dict[str, Any]] = {}
    for step in steps:
        row = rows.setdefault(step.flight, dict.fromkeys(flights.columns()) | {"flight": step.flight})
        row.update({name: _from_json(name, value) for name, value in step.columns.items()})
    assert rows == flights.rows()


def _from_json(column: str, value: Any) -> Any:
    if column in ("sched_dep", "sched_arr", "dep_time", "arr_time"):
        return dt.datetime.fromisoformat(value).replace(tzinfo=None)
    return value


def test_the_first_day_is_that_in_new_york(flights: Flights) -> None:
    day, keys = flights.first_day()
    assert day == "2013-03-01"
    assert keys == [key for key in flights.rows() if key.endswith(day)]
    assert len(keys) == 958


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r'pip install "walstream\[demo\]"'):
        Flights.load()

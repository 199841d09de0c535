"""Durations, sizes, rates and times: what is read, what is refused, and that both ways agree."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from walstream.units import (
    DAY,
    HOUR,
    MAX_US,
    MINUTE,
    Duration,
    Rate,
    Size,
    format_duration,
    format_rate,
    format_rfc3339,
    format_size,
    parse_duration,
    parse_iso_duration,
    parse_rate,
    parse_rfc3339,
    parse_size,
)

US = 1_000_000


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("250ms", 250), ("10s", 10_000), ("5m", 5 * MINUTE), ("24h", DAY), ("30d", 30 * DAY), ("0ms", 0)],
)
def test_duration(text: str, milliseconds: int) -> None:
    assert parse_duration(text) == milliseconds


@pytest.mark.parametrize("text", ["", "10", "s", "-1s", "1.5h", "1h30m", "10 s", "10S", "1w", "²s", "9999999999999d"])
def test_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|longer"):
        parse_duration(text)


@given(st.integers(0, MAX_US // 1_000))
def test_durations_read_what_they_write(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds)) == milliseconds


@pytest.mark.parametrize(("text", "size"), [("64KB", 65_536), ("1MB", 1_048_576), ("2GB", 2**31), ("100B", 100)])
def test_size(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "64", "64kb", "1.5MB", "-1B", "1 MB", "1TB"])
def test_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_size(text)


@given(st.integers(0, 2**60))
def test_sizes_read_what_they_write(size: int) -> None:
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(("text", "rate"), [("5000/s", 5000.0), ("0.5/s", 0.5)])
def test_rate(text: str, rate: float) -> None:
    assert parse_rate(text) == rate
    assert parse_rate(format_rate(rate)) == rate


@pytest.mark.parametrize("text", ["", "5000", "5000/m", "0/s", "-1/s", "/s", "1e3/s"])
def test_no_rate(text: str) -> None:
    with pytest.raises(ValueError, match="rate"):
        parse_rate(text)


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [
        ("PT10M", 600 * US),
        ("P1W", 7 * 86_400 * US),
        ("P1DT2H", 26 * 3_600 * US),
        ("PT0.5S", US // 2),
        ("PT0,5S", US // 2),
        ("PT1M0.000001S", 60 * US + 1),
        ("PT0.0000001S", 1),  # a delay is never cut short
        ("P0D", 0),
        ("PT1.5H", 5_400 * US),
        ("P1W2D", 9 * 86_400 * US),
    ],
)
def test_iso_duration(text: str, microseconds: int) -> None:
    assert parse_iso_duration(text) == microseconds


@pytest.mark.parametrize(
    ("text", "because"),
    [
        ("P1Y", "years or months"),
        ("P1M", "years or months"),
        ("P1Y2M3DT4H", "years or months"),
        ("-PT1S", "never negative"),
        ("PT-1S", "not an ISO"),
        ("P", "no amount"),
        ("PT", "no amount"),
        ("P1DT", "no amount"),
        ("PT1.5H30M", "smallest unit"),
        ("PT1S1M", "not an ISO"),
        ("10s", "not an ISO"),
        ("pt1s", "not an ISO"),
        ("P9999999999999D", "ten thousand years"),
        ("PT١S", "not an ISO"),
    ],
)
def test_no_iso_duration(text: str, because: str) -> None:
    with pytest.raises(ValueError, match=because):
        parse_iso_duration(text)


@given(st.integers(0, 1000), st.integers(0, 100_000), st.integers(0, 10**6), st.integers(0, 59_999_999))
def test_iso_durations_add_up(days: int, hours: int, minutes: int, microseconds: int) -> None:
    text = f"P{days}DT{hours}H{minutes}M{microseconds // US}.{microseconds % US:06}S"
    assert parse_iso_duration(text) == days * DAY * 1000 + hours * HOUR * 1000 + minutes * 60 * US + microseconds


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t00:00:00z", 0),
        ("1969-12-31T23:59:59.999999Z", -1),
        ("2013-01-01T05:17:00-05:00", 1_357_035_420 * US),
        ("2013-01-01T10:17:00.1Z", 1_357_035_420 * US + 100_000),
        ("2013-01-01T10:17:00.1234569Z", 1_357_035_420 * US + 123_456),
        ("2016-12-31T23:59:60Z", 1_483_228_800 * US),
        ("2017-01-01T01:59:60.5+02:00", 1_483_228_800 * US + 500_000),
    ],
)
def test_rfc3339(text: str, microseconds: int) -> None:
    assert parse_rfc3339(text) == microseconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2013-01-01",
        "2013-01-01T00:00:00",
        "2013-01-01 00:00:00Z",
        "2013-01-01T00:00Z",
        "2013-W01-1T00:00:00Z",
        "2013-01-01T00:00:00+0500",
        "2013-01-01T00:00:00.Z",
        "2013-01-01T00:00:00,5Z",
        "2013-02-29T00:00:00Z",
        "2013-13-01T00:00:00Z",
        "2013-01-01T24:00:00Z",
        "2013-01-01T00:60:00Z",
        "2013-01-01T00:00:61Z",
        "2013-01-01T12:00:60Z",
        "2013-01-01T00:00:00+25:00",
        "2013-01-01T00:00:00Z ",
        "٢013-01-01T00:00:00Z",
    ],
)
def test_no_rfc3339(text: str) -> None:
    with pytest.raises(ValueError, match=r"not an RFC 3339|does not exist"):
        parse_rfc3339(text)


@given(st.datetimes(timezones=st.just(UTC)), st.integers(-14 * 60, 14 * 60))
def test_times_read_what_they_write(moment: datetime, offset: int) -> None:
    microseconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert parse_rfc3339(format_rfc3339(microseconds)) == microseconds
    try:
        elsewhere = moment.astimezone(timezone(timedelta(minutes=offset)))
    except OverflowError:
        return  # before the year 1, or after 9999
    assert parse_rfc3339(elsewhere.isoformat()) == microseconds


def test_a_time_that_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="outside"):
        format_rfc3339(10**18)


class Options(BaseModel):
    wait: Duration
    limit: Size
    rate: Rate


def test_types_take_text_and_give_it_back() -> None:
    options = Options.model_validate({"wait": "24h", "limit": "64KB", "rate": "5000/s"})
    assert (options.wait, options.limit, options.rate) == (DAY, 65_536, 5000.0)
    assert Options.model_validate(options.model_dump(mode="json")) == options


@pytest.mark.parametrize("change", [{"wait": 10}, {"limit": 1.5}, {"rate": True}, {"wait": None}])
def test_types_want_a_unit(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="has no unit"):
        Options.model_validate({"wait": "1s", "limit": "1B", "rate": "1/s"} | change)


@pytest.mark.parametrize("parse", [parse_duration, parse_size, parse_rate, parse_iso_duration, parse_rfc3339])
@given(text=st.text())
def test_any_text_is_read_or_refused(parse: Callable[[str], object], text: str) -> None:
    with suppress(ValueError):
        assert parse(text) is not None

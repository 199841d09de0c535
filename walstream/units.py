"""Durations, sizes, rates and times, as people write them in files and headers, and as integers.

Files: durations ``250ms``, ``10s``, ``5m``, ``24h``, ``30d`` (milliseconds); sizes ``64KB``, ``1MB`` (bytes, 1 KB is
1,024 bytes); rates ``5000/s``. Records: ISO 8601 durations and RFC 3339 times (microseconds).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from functools import lru_cache
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

MS, SECOND, MINUTE, HOUR, DAY = 1, 1_000, 60_000, 3_600_000, 86_400_000
"""Durations in milliseconds."""

_DURATIONS = {"d": DAY, "h": HOUR, "m": MINUTE, "s": SECOND, "ms": MS}
_SIZES = {"GB": 1024**3, "MB": 1024**2, "KB": 1024, "B": 1}

_DURATION = re.compile(r"([0-9]+)(ms|s|m|h|d)")
_SIZE = re.compile(r"([0-9]+)(B|KB|MB|GB)")
_RATE = re.compile(r"([0-9]+(?:\.[0-9]+)?)/s")

MAX_US = 10_000 * 366 * DAY * 1_000
"""The longest duration, in microseconds: ten thousand years, which fits 64 bits beside any time."""


def parse_duration(text: str) -> int:
    """Milliseconds of a duration such as ``250ms``, ``10s``, ``5m``, ``24h`` or ``30d``.

    Raises
    ------
    ValueError
        It is not one.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a duration; write a number and ms, s, m, h or d, such as 250ms or 24h")
    milliseconds = int(match[1]) * _DURATIONS[match[2]]
    if milliseconds * 1_000 > MAX_US:
        raise ValueError(f"{text!r} is longer than ten thousand years")
    return milliseconds


def format_duration(milliseconds: int) -> str:
    """A duration in the largest unit that divides it: what `parse_duration` reads."""
    unit = next(unit for unit, size in _DURATIONS.items() if milliseconds % size == 0 and (milliseconds or size == MS))
    return f"{milliseconds // _DURATIONS[unit]}{unit}"


def parse_size(text: str) -> int:
    """Bytes of a size such as ``64KB`` or ``1MB``; 1 KB is 1,024 bytes.

    Raises
    ------
    ValueError
        It is not one.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a size; write a number and B, KB, MB or GB, such as 64KB or 1MB")
    return int(match[1]) * _SIZES[match[2]]


def format_size(size: int) -> str:
    """A size in the largest unit that divides it: what `parse_size` reads."""
    unit = next(unit for unit, factor in _SIZES.items() if size % factor == 0 and (size or factor == 1))
    return f"{size // _SIZES[unit]}{unit}"


def parse_rate(text: str) -> float:
    """Events per second of a rate such as ``5000/s``.

    Raises
    ------
    ValueError
        It is not one, or it is nothing at all.
    """
    match = _RATE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a rate; write a number and /s, such as 5000/s or 0.5/s")
    rate = float(match[1])
    if rate <= 0:
        raise ValueError(f"{text!r} lets nothing through; a rate is more than zero")
    return rate


def format_rate(rate: float) -> str:
    """A rate per second: what `parse_rate` reads."""
    return f"{rate:.15g}/s"


# ISO 8601-1:2019, 5.5.2.4: PnW or PnDTnHnMnS, where only the last and smallest component may have a fraction, with a
# comma or a point. Weeks beside days are ISO 8601-2's extension, and mean what they seem to mean.
_ISO_DURATION = re.compile(
    r"P(?:(?P<W>[0-9]+(?:[.,][0-9]+)?)W)?(?:(?P<D>[0-9]+(?:[.,][0-9]+)?)D)?"
    r"(?P<time>T(?:(?P<H>[0-9]+(?:[.,][0-9]+)?)H)?(?:(?P<M>[0-9]+(?:[.,][0-9]+)?)M)?(?:(?P<S>[0-9]+(?:[.,][0-9]+)?)S)?)?"
)
_ISO_UNITS = {"W": 7 * DAY * 1_000, "D": DAY * 1_000, "H": HOUR * 1_000, "M": MINUTE * 1_000, "S": SECOND * 1_000}
_ISO_CALENDAR = re.compile(r"P[0-9.,]+[YM].*")


def parse_iso_duration(text: str) -> int:
    """Microseconds of an ISO 8601 duration of weeks, days, hours, minutes and seconds, such as ``PT10M`` or ``P1DT2H``.

    What is finer than a microsecond is rounded up, so that a delay is never cut short.

    Raises
    ------
    ValueError
        It is not one, is negative, or counts in months or years, which have no fixed length.
    """
    match = _ISO_DURATION.fullmatch(text)
    if match is None:
        if text.startswith(("-", "+")):
            raise ValueError(f"{text!r} has a sign; a duration is never negative")
        if _ISO_CALENDAR.fullmatch(text):
            raise ValueError(f"{text!r} has years or months, whose length varies; write weeks or days")
        raise ValueError(f"{text!r} is not an ISO 8601 duration, such as PT10M, P1DT2H or P1W")
    given = [(unit, match[unit]) for unit in _ISO_UNITS if match[unit] is not None]
    if not given or (match["time"] == "T"):
        raise ValueError(f"{text!r} says no amount; an ISO 8601 duration is such as PT10M, P1DT2H or P1W")
    if any("." in amount or "," in amount for _, amount in given[:-1]):
        raise ValueError(f"{text!r} has a fraction before its last unit; only the smallest unit may have one")
    *whole, (last_unit, last) = given
    microseconds = sum(int(amount) * _ISO_UNITS[unit] for unit, amount in whole)
    if last.isdigit():
        microseconds += int(last) * _ISO_UNITS[last_unit]
    else:
        microseconds += math.ceil(Fraction(last.replace(",", ".")) * _ISO_UNITS[last_unit])
    if microseconds > MAX_US:
        raise ValueError(f"{text!r} is longer than ten thousand years")
    return microseconds


# RFC 3339, 5.6. datetime.fromisoformat reads much more than that, but checks that the date and the time exist.
_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def parse_rfc3339(text: str) -> int:
    """Microseconds since the epoch of a time such as ``2013-01-01T05:17:00.25Z``; what is finer is cut off.

    A leap second counts as the first second of the next minute, as in POSIX time.

    Raises
    ------
    ValueError
        It is not an RFC 3339 time with an offset, or there is no such date or time.
    """
    if _RFC3339.fullmatch(text) is None:
        raise ValueError(f"{text!r} is not an RFC 3339 time, such as 2013-01-01T05:17:00.25Z or …T05:17:00-05:00")
    leap = text[17:19] == "60"
    try:
        moment = datetime.fromisoformat((text[:17] + "59" + text[19:] if leap else text).upper())
        microseconds = (moment - _EPOCH) // _MICROSECOND
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{text!r} does not exist: {error}") from None
    if leap:
        if microseconds // 1_000_000 % 86_400 != 86_399:
            raise ValueError(f"{text!r} does not exist: leap seconds are at 23:59:60 UTC only")
        microseconds += 1_000_000
    return microseconds


def format_rfc3339(microseconds: int) -> str:
    """The time in UTC, with as many of six decimals as needed: none, or six.

    Raises
    ------
    ValueError
        The time is outside of the years 1 to 9999.
    """
    seconds, fraction = divmod(microseconds, 1_000_000)
    try:
        second = _second(seconds)
    except OverflowError:
        raise ValueError(f"{microseconds} us since the epoch is outside of the years 1 to 9999") from None
    return f"{second}.{fraction:06}Z" if fraction else f"{second}Z"


@lru_cache(maxsize=4096)
def _second(seconds: int) -> str:
    """The date and time of a second; the times that are written one after the other share few."""
    return (_EPOCH + timedelta(seconds=seconds)).isoformat().removesuffix("+00:00")


def _from_text(parse: Callable[[str], Any], example: str) -> Callable[[Any], Any]:
    def validate(value: Any) -> Any:
        if not isinstance(value, str):
            raise ValueError(f"{value!r} has no unit; write it such as {example}")
        return parse(value)

    return validate


def _text_type(parse: Callable[[str], Any], show: Callable[[Any], str], pattern: str, example: str) -> tuple[Any, ...]:
    return (
        BeforeValidator(_from_text(parse, example)),
        PlainSerializer(show, return_type=str, when_used="json"),
        WithJsonSchema({"type": "string", "pattern": f"^{pattern}$", "examples": [example]}),
    )


Duration = Annotated[int, *_text_type(parse_duration, format_duration, _DURATION.pattern, "24h")]
"""Milliseconds, written as text."""
Size = Annotated[int, *_text_type(parse_size, format_size, _SIZE.pattern, "1MB")]
"""Bytes, written as text."""
Rate = Annotated[float, *_text_type(parse_rate, format_rate, _RATE.pattern, "5000/s")]
"""Events per second, written as text."""

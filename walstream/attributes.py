"""CloudEvents attributes as text: what their values may be, and how a fault in them is put.

Used by `walstream.record` for both modes. Names are those of the headers, with ``ce_`` in front.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NoReturn

from walstream.errors import RecordRefused
from walstream.units import MAX_US, format_rfc3339, parse_rfc3339

SPECVERSION = "1.0"
REQUIRED = ("ce_specversion", "ce_id", "ce_source", "ce_type")
COMMON = frozenset({*REQUIRED, "ce_time"})
"""What nearly every record has."""
LIFECYCLE = frozenset(
    {f"ce_wal{name}" for name in ("action", "ref", "deliverat", "delay", "jitter", "targets")}
    | {"ce_expirytime", "ce_partitionkey"}
)
"""What else walstream acts upon."""
RESERVED = "ce_wal"
"""Names that start with it are walstream's."""
ACTIONS = frozenset({"write", "cancel", "reschedule"})

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_SHAPES = frozenset({b"--T::.", b"--T::Z"})
_Z = ord("Z")
_from_iso = datetime.fromisoformat


def read_time(text: bytes) -> int:
    """Microseconds since the epoch of the attribute ``time``; fast for times in UTC, which most producers write."""
    # Every third character from the fifth on. datetime lets rubbish pass where the fraction is, or ends.
    if text[4:20:3] in _SHAPES and text[-1] == _Z and (len(text) == 20 or text[20:-1].isdigit()):
        try:
            return (_from_iso(text.decode()) - _EPOCH) // _MICROSECOND
        except ValueError:
            pass
    return read_value("time", text.decode(), parse_rfc3339, "bad-time")


def read_value(name: str, text: str, read: Callable[[str], int], code: str) -> int:
    """What ``read`` makes of an attribute's text; its ValueError becomes a refusal."""
    try:
        return read(text)
    except ValueError as error:
        raise RecordRefused(code, f"the attribute {name} cannot be read: {error}") from None


def write_time(name: str, microseconds: int) -> bytes:
    """An attribute that is a time, microseconds since the epoch, as RFC 3339."""
    try:
        return format_rfc3339(microseconds).encode()
    except ValueError as error:
        raise RecordRefused("bad-time", f"the attribute {name} cannot be written: {error}") from None


def write_duration(name: str, microseconds: int) -> bytes:
    """An attribute that is a duration, in microseconds, as ISO 8601."""
    if microseconds < 0:
        raise RecordRefused("bad-duration", f"the attribute {name} is negative")
    if microseconds > MAX_US:
        raise RecordRefused("bad-duration", f"the attribute {name} is longer than ten thousand years")
    seconds, fraction = divmod(microseconds, 1_000_000)
    return (f"PT{seconds}.{fraction:06}S" if fraction else f"PT{seconds}S").encode()


@lru_cache(maxsize=1024)
def read_targets(text: str) -> frozenset[str]:
    """The names in ``waltargets``."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if not is_name(name):
            raise RecordRefused("bad-targets", f"waltargets names {name!r}, which cannot be the name of a target")
    return frozenset(names)


def is_name(text: str) -> bool:
    """Whether a text can be the name of a namespace or a target: ``[a-z][a-z0-9-]{0,62}``."""
    return (
        0 < len(text) <= 63
        and text[0] in string.ascii_lowercase
        and not text.strip(string.ascii_lowercase + string.digits + "-")
    )


def check_extension(name: str) -> None:
    """Whether a producer may add an attribute of that name.

    CloudEvents 1.0, "Naming conventions": lower-case letters of ASCII and digits.
    """
    if not name.isascii() or not name.isalnum() or name.lower() != name:
        raise RecordRefused("bad-attribute", f"{name!r} cannot be the name of an attribute: a-z and 0-9 only")
    if f"ce_{name}" in COMMON or name.startswith("wal") or name in ("data", "datacontenttype", "expirytime"):
        raise RecordRefused("reserved-attribute", f"the attribute {name} has a parameter of its own or is reserved")


def refuse_reserved(name: str) -> NoReturn:
    raise RecordRefused(
        "reserved-attribute", f"the attribute {name[3:]} is not known, and names that start with wal are reserved"
    )


def refuse_repeated(headers: Sequence[tuple[str, bytes | None]]) -> None:
    """Refuse a ``ce_`` header that is there twice; others may be."""
    seen = set()
    for name, _ in headers:
        if name[:3] == "ce_" and name in seen:
            raise RecordRefused("repeated-attribute", f"the header {name} is there twice")
        seen.add(name)


def refuse(attributes: Mapping[str, bytes | None]) -> NoReturn:
    """Name the first fault of attributes that could not be taken. It looks at everything again, so that who reads
    good records looks once."""
    for name, text in attributes.items():
        if text is None:
            raise RecordRefused("null-attribute", f"the header {name} has no value")
        try:
            text.decode()
        except UnicodeDecodeError:
            raise RecordRefused("not-utf8", f"the attribute {name.removeprefix('ce_')} is not UTF-8") from None
    for name in REQUIRED:
        if name not in attributes:
            raise RecordRefused("missing-attribute", f"the attribute {name[3:]} is missing; CloudEvents requires it")
        if not attributes[name]:
            raise RecordRefused("empty-attribute", f"the attribute {name[3:]} is empty")
    version = (attributes["ce_specversion"] or b"").decode()
    raise RecordRefused("bad-specversion", f"the record is CloudEvents {version!r}; only {SPECVERSION} can be read")

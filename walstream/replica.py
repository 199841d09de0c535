"""Records that travel between regions: what is sent where, and what came from elsewhere.

A region is a Kafka cluster with its own routers and deliveries. A replicate target of one writes to the ingress of
another; in front of the record's own headers stand then, of walstream's, version, effective time, original timestamp
and path, and what the entry is (`walstream-kind`) where it is no ordinary write. The path names the regions that the
record has passed, comma-separated, the one in which it was written at first. So it is never sent to a region in it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, NoReturn

from walstream.errors import RecordRefused
from walstream.headers import (
    CANCEL,
    KIND_HEADER,
    PATH_HEADER,
    PREFIX,
    RESCHEDULE,
    SCHEDULED,
    TIME_HEADER,
    TIMESTAMP_HEADER,
    VERSION,
    VERSION_HEADER,
    Header,
)

REGION = r"^[a-z][a-z0-9-]{0,30}$"
"""The name of a region."""

MOST = 10
"""Regions that there can be: each has a digit of its own as its rank."""

_NUMBER = re.compile(rb"-?[0-9]{1,18}")
_NEEDED = {VERSION_HEADER, TIME_HEADER, TIMESTAMP_HEADER, PATH_HEADER}


class Replica(NamedTuple):
    """What a record says that another region sent.

    Parameters
    ----------
    time
        Its effective time (µs), given by the region where it was written, whose rank is the last digit.
    timestamp
        Its original Kafka timestamp, ms.
    path
        The regions that it has passed, comma-separated.
    kind
        Nothing for an ordinary write; else a control: ``cancel``, ``reschedule`` or ``scheduled``.
    """

    time: int
    timestamp: int
    path: bytes
    kind: bytes = b""


def onward(path: bytes, *, own: str, to: str, forward: bool) -> bytes | None:
    """The path with which an entry is sent to another region; None where it is not sent there.

    Parameters
    ----------
    path
        That of the entry; empty where it was written in this region.
    own, to
        This region, and the one to send to.
    forward
        Whether what came from elsewhere is sent on.
    """
    if not path:
        return own.encode()
    if not forward or to in regions_of(path):
        return None
    return b"%b,%b" % (path, own.encode())


@lru_cache(maxsize=1024)
def regions_of(path: bytes) -> tuple[str, ...]:
    """The regions that a path names, that in which the record was written at first.

    Raises
    ------
    RecordRefused
        It is no path; the code is ``bad-replica``.
    """
    try:
        regions = tuple(path.decode().split(","))
    except UnicodeDecodeError:
        regions = ()
    if not 1 <= len(regions) <= MOST or len(set(regions)) != len(regions) or not all(map(_is_region, regions)):
        _refuse(f"its path is {path[:200]!r}")
    return regions


def _is_region(name: str) -> bool:
    return re.match(REGION, name) is not None and not name.endswith("\n")


def read_replica(headers: Sequence[Header]) -> Replica | None:
    """What a record of the ingress says, if another region sent it: it begins with headers of ours that name a path.

    Raises
    ------
    RecordRefused
        It names a path, and the rest is not as a replicate target writes it; the code is ``bad-replica``.
    """
    ours: list[Header] = []
    for header in headers:
        if header[0][:10] != PREFIX:
            break
        ours.append(header)
    found = dict(ours)
    if PATH_HEADER not in found:
        return None
    if len(found) != len(ours) or not _NEEDED <= found.keys() <= _NEEDED | {KIND_HEADER}:
        _refuse(f"it has the headers {', '.join(name for name, _ in ours)}"[:500])
    if found[VERSION_HEADER] != VERSION[1]:
        _refuse(f"its headers are of the format {found[VERSION_HEADER]!r}; this version reads {VERSION[1]!r}")
    path, kind = found[PATH_HEADER] or b"", found.get(KIND_HEADER, b"")
    regions_of(path)
    if kind not in (b"", CANCEL, RESCHEDULE, SCHEDULED):
        _refuse(f"its kind is {kind!r}"[:200])
    return Replica(_number(found, TIME_HEADER), _number(found, TIMESTAMP_HEADER), path, kind or b"")


def _number(found: dict[str, bytes | None], name: str) -> int:
    text = found[name]
    if text is None or not _NUMBER.fullmatch(text):
        _refuse(f"its {name} is {text!r}"[:200])
    return int(text)


def _refuse(why: str) -> NoReturn:
    raise RecordRefused("bad-replica", f"it says that another region sent it, but {why}")

"""What entries have their order by, and which of them may be sent at the same time."""

from __future__ import annotations

from collections.abc import Sequence

from walstream.entry import Entry
from walstream.errors import RecordRefused
from walstream.wire.plain import encode_block

_BINARY = encode_block(b"ce_specversion")  # as it stands in a record, its length in front


def order_key(entry: Entry) -> bytes | None:
    """What an entry has its order by: the record's key, which may be a ``partitionkey``; None is no order."""
    if entry.key is not None:
        return entry.key
    if surely_lacks(entry, b"ce_partitionkey"):
        return None
    try:
        return entry.record.key
    except RecordRefused:
        return None  # it is no CloudEvent: its sink will say so


def surely_lacks(entry: Entry, header: bytes) -> bool:
    """Whether an entry surely has no such attribute, as its header is named: quicker to see than to read the record."""
    if entry.raw is None:
        return False
    headers = entry.raw.parts[2]
    # In binary mode. The name alone may also stand in what a target said of a record in structured mode.
    return _BINARY in headers and header not in headers


def lanes(entries: Sequence[Entry], size: int, ordered: bool) -> list[list[list[int]]]:
    """Which entries go in which calls, as their places.

    Parameters
    ----------
    size
        Entries that a call may have.
    ordered
        Whether the entries of a key must follow each other.

    Returns
    -------
    list of lists of lists of int
        Calls; those of one lane go one after the other, lanes at the same time.
    """
    if len(entries) <= size:
        return [[list(range(len(entries)))]]
    if not ordered:
        return [[list(range(first, min(first + size, len(entries))))] for first in range(0, len(entries), size)]
    runs: dict[bytes | int, list[int]] = {}
    for place, entry in enumerate(entries):
        key = order_key(entry)
        runs.setdefault(place if key is None else key, []).append(place)
    found: list[list[list[int]]] = []
    filling: list[int] = []
    for run in runs.values():
        if len(run) >= size:
            found.append([run[first : first + size] for first in range(0, len(run), size)])
            continue
        if len(filling) + len(run) > size:
            found.append([sorted(filling)])
            filling = []
        filling += run
    return [*found, [sorted(filling)]] if filling else found

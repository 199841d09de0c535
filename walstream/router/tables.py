"""The tables of a router: their names, their changelogs, and how a row is shown to people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from walstream import pending, schedule, topics
from walstream.dedup import decode_row, describe, span_of
from walstream.engine.topology import TableSpec
from walstream.errors import RecordRefused
from walstream.identity import identity
from walstream.namespace import Namespace
from walstream.record import parse
from walstream.router.delayed import Kind, decode_delayed, decode_forget, kind_of
from walstream.router.effective_time import times_of
from walstream.units import format_rfc3339


def dedup(namespace: Namespace) -> str:
    """Identity -> where a record first stood in the ingress, and where it went."""
    return f"{namespace.name}.dedup"


def times(namespace: Namespace) -> str:
    """The effective times that were given last."""
    return f"{namespace.name}.times"


def waiting(namespace: Namespace) -> tuple[str, str]:
    """The names of the two tables of what waits: by time, and by identity."""
    return f"{namespace.name}.schedule", f"{namespace.name}.pending"


def specs(namespace: Namespace) -> tuple[TableSpec, ...]:
    """All tables."""
    changelogs = {table: topic.name for table, topic in topics.router_changelogs(namespace).items()}
    by_time, by_identity = waiting(namespace)
    by_words = "KEY SOURCE ID (- for no key), or the identity in hexadecimal"
    return (
        TableSpec(
            dedup(namespace), changelogs["dedup"], span=span_of(namespace.dedup.window),
            help="identity -> where it first stood in the ingress, and where in the log",
            decode=_show_dedup, find=_find_identity, find_help=by_words,
        ),
        TableSpec(times(namespace), changelogs["times"], help="the effective times that were given last",
                  decode=_show_times),
        TableSpec(
            by_time, changelogs["schedule"], ordered=True, help="what waits for its time, by when it is due",
            decode=_show_scheduled, find=_find_scheduled, find_help="DUE POSITION (µs since the epoch)",
            until=schedule.key_of,
        ),
        TableSpec(
            by_identity, changelogs["pending"], help="identity -> the write that is pending, or what waits for it",
            decode=_show_pending, find=_find_identity, find_help=by_words,
        ),
    )  # fmt: skip


def _show_dedup(key: bytes, value: bytes) -> Mapping[str, Any]:
    row = decode_row(value)
    return {"identity": key.hex(), "ingress_position": row.position, "log_position": describe(row.destination)}


def _find_identity(words: Sequence[str]) -> bytes:
    if len(words) == 1:
        return bytes.fromhex(words[0])
    key, source, id = words
    return identity(None if key == "-" else key.encode(), source, id)


def _show_times(key: bytes, value: bytes) -> Mapping[str, Any]:
    given = times_of(value)
    return {
        "row": int.from_bytes(key),
        "times": len(given),
        "last_position": max(given),
        "last_time": format_rfc3339(max(given.values())),
    }


def _show_scheduled(key: bytes, value: bytes) -> Mapping[str, Any] | None:
    place = schedule.decode_key(key)
    if place is None:
        return None
    due, position = place
    shown: dict[str, Any] = {"due": format_rfc3339(due), "ingress_position": position}
    if kind_of(value) is Kind.FORGET:
        return shown | {"what": "forget what waits", "identity": decode_forget(value).hex()}
    record = decode_delayed(value)
    shown |= {"what": "write", "key": None if record.key is None else record.key.decode(errors="backslashreplace")}
    try:
        event = parse(record.key, record.value, record.headers, record.timestamp)
        shown |= {"source": event.source, "id": event.id, "type": event.type}
    except RecordRefused as refusal:  # by an older release it was not
        shown |= {"refused": refusal.reason}
    return shown | {"identity": record.identity.hex(), "bytes": len(value)}


def _find_scheduled(words: Sequence[str]) -> bytes:
    due, position = words
    return schedule.key_of(int(due), int(position))


def _show_pending(key: bytes, value: bytes) -> Mapping[str, Any]:
    row = pending.decode_row(value)
    if isinstance(row, pending.Pending):
        return {
            "identity": key.hex(), "waits": "the write", "until": format_rfc3339(row.due),
            "ingress_position": row.sequence, "last_said": format_rfc3339(row.time),
        }  # fmt: skip
    change = row.change
    shown = {
        "identity": key.hex(), "waits": f"a {change.action}", "until": format_rfc3339(row.until), "id": change.id,
        "ingress_position": change.position, "last_said": format_rfc3339(change.time),
    }  # fmt: skip
    return shown if change.due is None else shown | {"due": format_rfc3339(change.due)}

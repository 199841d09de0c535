"""The tables of a delivery: their names, their changelogs, and how a row is shown to people."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from walstream import blocked as keys
from walstream import dead as deaths
from walstream import marks as left
from walstream import schedule as by_time
from walstream import stored, topics
from walstream.attempt import read_attempt
from walstream.engine.topology import TableSpec
from walstream.entry import Entry
from walstream.errors import RecordRefused
from walstream.namespace import Namespace
from walstream.units import format_rfc3339


def marks(namespace: Namespace, target: str) -> str:
    """What the last owner of a partition left."""
    return f"{namespace.name}.{target}.marks"


def schedule(namespace: Namespace, target: str) -> str:
    """What is to be tried again, by when that is (`walstream.schedule`); the values are `stored` retry records."""
    return f"{namespace.name}.{target}.schedule"


def blocked(namespace: Namespace, target: str) -> str:
    """Hash of a key -> what it waits for (`walstream.blocked`)."""
    return f"{namespace.name}.{target}.blocked"


def parked(namespace: Namespace, target: str) -> str:
    """Hash of a key and log position -> the `stored` record of the log."""
    return f"{namespace.name}.{target}.parked"


def dead(namespace: Namespace, target: str) -> str:
    """Log position -> what became of the dead record (`walstream.dead`)."""
    return f"{namespace.name}.{target}.dead"


def state(namespace: Namespace, target: str) -> str:
    """The rows that a sink keeps of its own."""
    return f"{namespace.name}.{target}.{topics.STATE}"


def specs(namespace: Namespace, target: str) -> tuple[TableSpec, ...]:
    """All tables."""
    changelogs = {table: topic.name for table, topic in topics.target_changelogs(namespace, target).items()}
    tables = (
        TableSpec(
            marks(namespace, target), changelogs["marks"], help="what the last owner of a partition left",
            decode=_show_mark, find=_find_mark, find_help="NAME (and the log position, of a quarantine)",
        ),
        TableSpec(
            schedule(namespace, target), changelogs["schedule"], ordered=True,
            help="what is to be tried again, by when that is", decode=_show_retry, find=_find_retry,
            find_help="DUE NUMBER (µs since the epoch)", until=by_time.key_of,
        ),
        TableSpec(
            blocked(namespace, target), changelogs["blocked"], help="keys that wait, and what for",
            decode=_show_blocked, find=_find_blocked, find_help="KEY",
        ),
        TableSpec(
            parked(namespace, target), changelogs["parked"], ordered=True, help="what waits behind its key's head",
            decode=_show_parked, find=_find_parked, find_help="KEY LOG-POSITION",
        ),
        TableSpec(
            dead(namespace, target), changelogs["dead"], help="log position -> what became of the dead record",
            decode=_show_dead, find=_find_dead, find_help="LOG-POSITION",
        ),
    )  # fmt: skip
    if topics.STATE not in changelogs:
        return tables
    return (*tables, TableSpec(state(namespace, target), changelogs[topics.STATE], help="what the sink keeps"))


def _text(content: bytes | None) -> str | None:
    return None if content is None else content.decode(errors="backslashreplace")


def _time(milliseconds: int) -> str:
    return format_rfc3339(milliseconds * 1_000)


def _position(entry: Entry) -> int | None:
    return entry.position if entry.position >= 0 else None


def _number(word: str) -> int:
    """A time or position that somebody looks up."""
    number = int(word)
    if not 0 <= number < 1 << 63:
        raise ValueError(word)
    return number


def _show_mark(key: bytes, value: bytes) -> Mapping[str, Any]:
    name = _text(key)
    if key == left.STOPPED:
        return {"mark": name, "says": "in order" if left.decode_mark(value) else "not in order"}
    kind = left.kind_of(key)
    if kind is None:
        return {"mark": name, "says": f"{len(value)} bytes"}
    said = dataclasses.asdict(left.decode(kind, value))
    if "since" in said:
        said["since"] = _time(said["since"])
    position = left.quarantine_position(key)
    if position is not None:
        name, said = left.QUARANTINE.decode(), {"log_position": position} | said
    return {"mark": name, "says": ", ".join(f"{word}: {what}" for word, what in said.items() if what is not None)}


def _find_mark(words: Sequence[str]) -> bytes:
    name, *position = words
    if not position:
        return name.encode()
    (number,) = position
    if name != left.QUARANTINE.decode():
        raise ValueError(name)
    return left.quarantine_key(_number(number))


def _show_retry(key: bytes, value: bytes) -> Mapping[str, Any] | None:
    place = by_time.decode_key(key)
    if place is None:
        return None
    due, number = place
    shown: dict[str, Any] = {"due": format_rfc3339(due), "number": number}
    record = stored.load(value, number)
    try:
        attempt = read_attempt(0, record)
        entry = attempt.entry
        shown |= {
            "key": _text(entry.key), "log_position": _position(entry), "attempt": attempt.count,
            "age": attempt.age, "error": attempt.last,
        }  # fmt: skip
        return shown | _event(entry)
    except RecordRefused as refusal:  # by an older release it was not
        return shown | {"key": _text(record.key), "refused": refusal.reason}


def _event(entry: Entry) -> dict[str, Any]:
    try:
        return {"source": entry.source, "id": entry.id}
    except RecordRefused as refusal:
        return {"refused": refusal.reason}


def _find_retry(words: Sequence[str]) -> bytes:
    due, number = words
    return by_time.key_of(_number(due), _number(number))


def _show_blocked(key: bytes, value: bytes) -> Mapping[str, Any]:
    row = keys.decode(value)
    return {
        "key": _text(row.key), "state": row.state.name.lower(), "head": row.head, "tail": row.tail,
        "parked": row.count,
    }  # fmt: skip


def _find_blocked(words: Sequence[str]) -> bytes:
    (key,) = words
    return keys.key_hash(key.encode())


def _show_parked(key: bytes, value: bytes) -> Mapping[str, Any]:
    position = keys.parked_position(key)
    record = stored.load(value, position)
    shown = {"key": _text(record.key), "log_position": position, "bytes": len(value)}
    try:
        return shown | _event(Entry.from_record(0, record))
    except RecordRefused as refusal:
        return shown | {"refused": refusal.reason}


def _find_parked(words: Sequence[str]) -> bytes:
    key, position = words
    return keys.parked_key(keys.key_hash(key.encode()), _number(position))


def _show_dead(key: bytes, value: bytes) -> Mapping[str, Any]:
    row = deaths.decode(value)
    return {"log_position": deaths.position_of(key), "state": row.state.name.lower(), "when": _time(row.when)}


def _find_dead(words: Sequence[str]) -> bytes:
    (position,) = words
    return deaths.row_key(_number(position))

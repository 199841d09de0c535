"""The tables of a delivery, as people see them."""

from __future__ import annotations

import pytest

from walstream import control, dead, deadletter, delivery_tables, marks, schedule, stored
from walstream.attempt import retry_message
from walstream.blocked import Blocked, State, key_hash, parked_key
from walstream.engine.topology import TableSpec
from walstream.entry import Entry
from walstream.headers import Header, log_headers
from walstream.namespace import Namespace
from walstream.record import Message, encode
from walstream.testing.raw_batch import record_on_wire
from walstream.wire import plain

NAMESPACE = Namespace.model_validate({"version": 1, "namespace": "flights", "targets": {"base": {"sink": "cassandra"}}})
SPECS = {spec.name.removeprefix("flights.base."): spec for spec in delivery_tables.specs(NAMESPACE, "base")}
EVENT = encode(b"v", key=b"UA1545", id="1", source="/ops", type="t", time=5)
ENTRY = Entry(0, 17, b"UA1545", b"v", EVENT.headers, 99, 53, 11)
DUE = 1_767_225_600_000_000


def row(message: Message | tuple[bytes, bytes, list[Header]]) -> bytes:
    return stored.store(record_on_wire(plain, message))


def shown(table: str, words: str, value: bytes) -> object:
    """What is shown of a row that is looked up by these words."""
    spec: TableSpec = SPECS[table]
    return spec.decode(spec.find(words.split()), value)


def test_names_changelogs_and_order() -> None:
    assert list(SPECS) == ["marks", "schedule", "blocked", "parked", "dead"]
    assert all(spec.changelog == f"{spec.name}.changelog" for spec in SPECS.values())
    assert [name for name, spec in SPECS.items() if spec.ordered] == ["schedule", "parked"]
    named = (delivery_tables.marks, delivery_tables.schedule, delivery_tables.blocked, delivery_tables.parked,
             delivery_tables.dead)  # fmt: skip
    assert [name(NAMESPACE, "base") for name in named] == [spec.name for spec in SPECS.values()]


def test_a_sink_that_keeps_rows_has_one_more() -> None:
    kept = NAMESPACE.model_copy(update={"targets": {"base": NAMESPACE.targets["base"].with_state()}})
    last = delivery_tables.specs(kept, "base")[-1]
    assert (last.name, last.changelog) == ("flights.base.state", "flights.base.state.changelog")
    assert last.name == delivery_tables.state(kept, "base")
    assert len(delivery_tables.specs(kept, "base")) == 6


def test_a_retry() -> None:
    message = retry_message(ENTRY, target="flights.base", count=2, age=300, due=DUE, reason="no", first="never", now=8)
    assert shown("schedule", f"{DUE} 4", row(message)) == {
        "due": "2026-01-01T00:00:00Z", "number": 4, "key": "UA1545", "log_position": 17, "attempt": 2, "age": 300,
        "error": "no", "source": "/ops", "id": "1",
    }  # fmt: skip
    spec = SPECS["schedule"]
    assert spec.decode(schedule.MARK, b"\x01") is None
    assert spec.until is not None
    assert spec.until(DUE) <= schedule.key_of(DUE, 4) < spec.until(DUE + 1)


def test_a_retry_that_is_none_or_has_no_event_is_shown_as_far_as_it_can_be() -> None:
    foreign = shown("schedule", f"{DUE} 4", row((b"k", b"v", [])))
    assert isinstance(foreign, dict)
    assert (foreign["key"], "was not written by walstream" in foreign["refused"]) == ("k", True)
    odd = retry_message(
        Entry(0, -1, None, b"v", [("ce_id", b"1")], 99, 53, -1), target="t", count=1, age=0, due=1, reason=None,
        first=None, now=2,
    )  # fmt: skip
    broken = shown("schedule", f"{DUE} 4", row(odd))
    assert isinstance(broken, dict)
    assert (broken["key"], broken["log_position"], broken["error"]) == (None, None, None)
    assert "missing-attribute" not in broken["refused"] and "specversion" in broken["refused"]


def test_a_redriven_record_waits_like_a_retry() -> None:
    message = control.redrive(*deadletter.dead(ENTRY, target="flights.base", reason="no", attempt=9, now=8))
    redriven = shown("schedule", f"{DUE} 4", row(message))
    assert isinstance(redriven, dict)
    assert (redriven["attempt"], redriven["error"], redriven["id"]) == (0, "no", "1")


def test_a_key_that_waits() -> None:
    blocked = Blocked(b"UA1545", State.HELD, 17, 30, 4)
    assert SPECS["blocked"].find(["UA1545"]) == key_hash(b"UA1545")
    assert shown("blocked", "UA1545", blocked.encode()) == {
        "key": "UA1545", "state": "held", "head": 17, "tail": 30, "parked": 4,
    }  # fmt: skip


def test_a_parked_record() -> None:
    headers = log_headers(EVENT.headers, time_us=53, position=11, timestamp_ms=99)
    value = row((b"UA1545", b"v", headers))
    assert SPECS["parked"].find(["UA1545", "30"]) == parked_key(key_hash(b"UA1545"), 30)
    assert shown("parked", "UA1545 30", value) == {
        "key": "UA1545", "log_position": 30, "bytes": len(value), "source": "/ops", "id": "1",
    }  # fmt: skip


def test_a_dead_record() -> None:
    assert shown("dead", "17", dead.encode(dead.State.REDRIVEN, DUE // 1_000)) == {
        "log_position": 17, "state": "redriven", "when": "2026-01-01T00:00:00Z",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "value", "says"),
    [
        ("stopped", marks.encode_mark(True), "in order"),
        ("paused", marks.encode(marks.Halted(DUE // 1_000, "upgrade")), "since: 2026-01-01T00:00:00Z, reason: upgrade"),
        ("down", marks.encode(marks.Halted(DUE // 1_000)), "since: 2026-01-01T00:00:00Z"),
        ("counts", marks.encode(marks.Counts(1, 2, 3, 4)), "retrying: 1, parked: 2, blocked: 3, dead: 4"),
        ("opened", marks.encode(marks.Opened(17, 3)), "position: 17, count: 3"),
        ("quarantine 17", marks.encode(marks.Quarantined("crash")), "log_position: 17, reason: crash"),
        ("later", b"\x01", "1 bytes"),
    ],
)
def test_a_mark(words: str, value: bytes, says: str) -> None:
    assert shown("marks", words, value) == {"mark": words.partition(" ")[0], "says": says}


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("marks", ["paused", "17"]), ("marks", ["quarantine", "-1"]), ("marks", ["quarantine", "1", "2"]),
        ("schedule", ["1"]), ("schedule", ["1", "-1"]), ("schedule", ["soon", "1"]), ("blocked", ["a", "b"]),
        ("parked", ["a"]), ("parked", ["a", "99999999999999999999"]), ("dead", ["-1"]), ("dead", ["x"]),
    ],
)  # fmt: skip
def test_what_cannot_be_looked_up(table: str, words: list[str]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the command says by what it can
        SPECS[table].find(words)

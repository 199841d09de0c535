"""What people say to a target comes through as they said it, beside what is to be retried."""

from __future__ import annotations

from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walstream import control, deadletter
from walstream.attempt import retry_message
from walstream.control import Control, Kind, read_control, redrive
from walstream.entry import Entry
from walstream.errors import RecordRefused, StateMismatch
from walstream.headers import VERSION, Header
from walstream.testing.raw_batch import record_on_wire
from walstream.wire import COMPILED, plain

if COMPILED:
    from walstream.wire import compiled
MODULES: list[ModuleType] = [plain, compiled] if COMPILED else [plain]
both = pytest.mark.parametrize("wire", MODULES, ids=["plain", "compiled"][: len(MODULES)])

positions = st.integers(0, 2**62)
reasons = st.none() | st.text(st.characters(codec="utf-8"), max_size=40)
controls = st.builds(
    Control, st.sampled_from([Kind.PAUSE, Kind.RESUME, Kind.NOTE, Kind.READY]), reason=reasons
) | st.builds(Control, st.sampled_from([Kind.QUARANTINE, Kind.DROP]), positions, st.none() | positions, reasons)


@both
@given(controls, st.none() | st.binary(max_size=20))
def test_what_is_said_is_read(wire: ModuleType, said: Control, key: bytes | None) -> None:
    message = control.encode(said, key)
    assert message.key == key
    assert read_control(record_on_wire(wire, message)) == said


ENTRY = Entry(3, 17, b"k", b"v", [("own", b"1"), ("walstream", None)], 1, 2, 3)
DEAD = deadletter.dead(ENTRY, target="flights.base", reason="no", attempt=3, now=8)


@both
def test_a_redrive_is_the_whole_dead_record(wire: ModuleType) -> None:
    message = redrive(*DEAD)
    assert (message.key, message.value, message.headers[1:]) == DEAD
    assert read_control(record_on_wire(wire, message)) == Control(Kind.REDRIVE, 17, 8)
    outside = deadletter.dead(
        Entry(3, -1, b"k", b"v", [], 1, 2, -1), target="flights.base", reason="no", attempt=3, now=8
    )
    assert read_control(record_on_wire(wire, redrive(*outside))) == Control(Kind.REDRIVE, None, 8)


def test_a_redrive_is_made_of_nothing_else() -> None:
    with pytest.raises(ValueError, match="made of the dead record"):
        control.encode(Control(Kind.REDRIVE, 17))


@both
@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("own", b"1"), ("walstream-control", b"pause")],
        [("walstream-controller", b"pause"), VERSION],
        retry_message(ENTRY, target="t", count=1, age=0, due=1, reason="no", first=None, now=2).headers,
        DEAD.headers,
    ],
)
def test_what_is_no_control_is_none(wire: ModuleType, headers: list[Header]) -> None:
    assert read_control(record_on_wire(wire, (b"k", b"v", headers))) is None


@both
@pytest.mark.parametrize(
    "headers",
    [
        [("walstream-control", b"pause")],
        [("walstream-control", b"explode"), VERSION],
        [("walstream-control", b"\xff"), VERSION],
        [("walstream-control", None), VERSION],
        [("walstream-control", b"drop"), VERSION],
        [("walstream-control", b"drop"), VERSION, ("walstream-log-position", b"x")],
        [("walstream-control", b"drop"), VERSION, ("walstream-log-position", None)],
        [("walstream-control", b"quarantine"), VERSION, ("own", b""), ("walstream-log-position", b"1")],
        [("walstream-control", b"pause"), ("walstream-version", b"x")],
    ],
)
def test_what_walstream_did_not_write_is_refused(wire: ModuleType, headers: list[Header]) -> None:
    with pytest.raises(RecordRefused, match="the control at offset 5 was not written by walstream") as refusal:
        read_control(record_on_wire(wire, (None, None, headers), offset=5))
    assert refusal.value.code == "bad-control"


@both
def test_a_newer_format_is_refused(wire: ModuleType) -> None:
    headers: list[Header] = [("walstream-control", b"explode"), ("walstream-version", b"2")]
    with pytest.raises(StateMismatch, match="has format 2; this version of walstream reads 1"):
        read_control(record_on_wire(wire, (None, None, headers)))

"""Records as rows of a table: byte for byte, with both readers of records."""

from __future__ import annotations

from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walstream import stored
from walstream.errors import StateMismatch
from walstream.headers import Header
from walstream.testing.raw_batch import record_on_wire
from walstream.wire import COMPILED, plain

if COMPILED:
    from walstream.wire import compiled
MODULES: list[ModuleType] = [plain, compiled] if COMPILED else [plain]

contents = st.none() | st.binary(max_size=20) | st.binary(min_size=60, max_size=70) | st.just(b"\xff" * 20_000)
names = st.text(max_size=4) | st.sampled_from(["ce_id", "twice", "x" * 63, "x" * 64, "é" * 40])
headers = st.lists(st.tuples(names, contents), max_size=6)
numbers = st.integers(0, 2**62)


@given(contents, contents, headers, numbers, numbers)
def test_a_record_comes_back(
    key: bytes | None, value: bytes | None, headers: list[Header], timestamp: int, offset: int
) -> None:
    records = [record_on_wire(module, (key, value, headers), offset=5, timestamp=timestamp) for module in MODULES]
    rows = [stored.store(record) for record in records]
    assert len(set(rows)) == 1
    for module in MODULES:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stored, "record_of", module.record_of)
            again = stored.load(rows[0], offset)
        assert (again.key, again.value, again.headers) == (key, value, headers)
        assert (again.offset, again.timestamp, again.size) == (offset, timestamp, records[0].size)
        assert stored.store(again) == rows[0]


def test_names_that_are_not_utf_8_stay() -> None:
    key = b"\x02k\x02v"
    row = (
        b"\x01" + (7).to_bytes(8, "big") + len(key).to_bytes(4, "big") + (1).to_bytes(4, "big") + key + b"\x02\xff\x01"
    )
    for module in MODULES:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stored, "record_of", module.record_of)
            record = stored.load(row, 0)
        assert (record.key, record.headers) == (b"k", [("\\xff", None)])
        assert stored.store(record) == row


ROW = stored.store(record_on_wire(plain, (b"key", b"value", [("name", b"text"), ("none", None)])))


@pytest.mark.usefixtures("either_wire")
def test_what_is_cut_off_or_too_long_is_refused() -> None:
    for row in (*(ROW[:length] for length in range(len(ROW))), ROW + b"x", b"\0" + ROW[1:]):
        with pytest.raises(StateMismatch, match=f"a stored record of {len(row)} bytes cannot be read"):
            stored.load(row, 0)


@pytest.mark.parametrize("rest", [ROW[1:], b"", b"something else"])
def test_a_newer_format_is_refused(rest: bytes) -> None:
    with pytest.raises(StateMismatch, match="has format 2; this version of walstream reads format 1"):
        stored.load(b"\x02" + rest, 0)

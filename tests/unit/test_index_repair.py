"""A repair as it stands on a retry topic."""

from __future__ import annotations

from decimal import Decimal

import pytest

from walstream.errors import RecordRefused
from walstream.sinks.index.repair import Repair, parse


def test_it_is_read_as_it_was_written() -> None:
    key = {"flight": "UA1", "leg": 2, "fare": Decimal("1234567890.12345678901234567890")}
    repair = Repair("flights", key, 5, 6, {"dest": (b"\xff\0", 3), "": (b"", 2)}, [(b"\xfe", b""), (b"a", b"b")])
    assert parse(repair.to_bytes()) == repair
    assert repair.mutation.key == key


def test_a_row_may_be_missing() -> None:
    repair = Repair("flights", {"flight": "UA1"}, 5, 6, None, [])
    assert parse(repair.to_bytes()) == repair


@pytest.mark.parametrize(
    "payload",
    [
        None,
        b"",
        b"[]",
        b"{}",
        b'{"table": "t", "key": {}, "seen": 1, "above": 1, "row": {"a": "x"}, "stale": []}',
        b'{"table": "t", "key": {}, "seen": 1, "above": 1, "row": {"a": ["*", 1]}, "stale": []}',
        b'{"table": "t", "key": {}, "seen": 1, "above": 1, "row": null, "stale": [[1]]}',
        b'{"table": "t", "key": {}, "seen": "x", "above": 1, "row": null, "stale": []}',
        b"[" * 100_000,
    ],
)
def test_what_is_none_is_refused(payload: bytes | None) -> None:
    with pytest.raises(RecordRefused, match="no repair"):
        parse(payload)

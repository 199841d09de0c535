"""What a changelog's records become in a store."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from walstream.engine.changelog import apply
from walstream.engine.fetch import Fetch
from walstream.engine.store import Store
from walstream.engine.table_writer import SEGMENT
from walstream.engine.topology import TableSpec

PLAIN = TableSpec("plain", "plain.changelog")
IN_SEGMENTS = TableSpec("seg", "seg.changelog", span=3)
TABLES = {table.changelog: table for table in (PLAIN, IN_SEGMENTS)}


def fetch(topic: str, next_offset: int, *records: tuple[bytes | None, bytes | None]) -> Fetch:
    batch: Any = [SimpleNamespace(offset=number, key=key, value=value) for number, (key, value) in enumerate(records)]
    return Fetch(topic, 0, 0, next_offset, [batch] if batch else [], 0)


def test_the_last_change_of_a_row_counts_and_the_offset_stands_beside_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "0", list(TABLES.values()))
    changes = [(b"a", b"1"), (b"b", b"1"), (b"a", b"2"), (b"b", None), (b"", b"empty key")]
    assert apply(store, TABLES, fetch("plain.changelog", 9, *changes)) == 5
    assert [row[1:] for row in store.items("plain")] == [(b"", b"empty key"), (b"a", b"2")]
    assert (store.offset("plain.changelog"), store.offset("seg.changelog")) == (9, 0)
    store.close()


def test_changes_of_a_table_in_segments_say_which(tmp_path: Path) -> None:
    store = Store(tmp_path / "0", list(TABLES.values()))
    rows = [(SEGMENT.pack(4) + b"a", b"1"), (SEGMENT.pack(9) + b"a", b"2"), (SEGMENT.pack(8) + b"b", b"3")]
    apply(store, TABLES, fetch("seg.changelog", 3, *rows))
    assert list(store.items("seg")) == [(8, b"b", b"3"), (9, b"a", b"2")]
    store.close()


def test_markers_alone_move_the_offset(tmp_path: Path) -> None:
    store = Store(tmp_path / "0", list(TABLES.values()))
    assert apply(store, TABLES, fetch("plain.changelog", 2)) == 0
    assert store.offset("plain.changelog") == 2
    store.close()

"""What a changelog's records become in a store."""

from __future__ import annotations

from pathlib import Path

import pytest

from walstream.engine.changelog import apply
from walstream.engine.fetch import Fetch
from walstream.engine.store import Store
from walstream.engine.table_writer import SEGMENT
from walstream.engine.topology import TableSpec
from walstream.errors import Unreadable
from walstream.testing.raw_batch import RawRecord, encode_batch
from walstream.wire.batch import Batch

PLAIN = TableSpec("plain", "plain.changelog")
IN_SEGMENTS = TableSpec("seg", "seg.changelog", span=3)
TABLES = {table.changelog: table for table in (PLAIN, IN_SEGMENTS)}


def fetch(topic: str, next_offset: int, *records: tuple[bytes | None, bytes | None]) -> Fetch:
    raw = encode_batch([RawRecord(key, value) for key, value in records], compression="lz4")
    return Fetch(topic, 0, 0, next_offset, [Batch(raw)] if records else [], 0)


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


def test_of_a_fetch_that_cannot_be_read_to_its_end_nothing_is_written(tmp_path: Path) -> None:
    store = Store(tmp_path / "0", list(TABLES.values()))
    damaged = encode_batch([RawRecord(b"b", b"2")], base=1, compression="gzip", trailing=b"rubbish")
    batches = [Batch(encode_batch([RawRecord(b"a", b"1")])), Batch(damaged)]
    with pytest.raises(Unreadable, match=r"plain\.changelog-0: offset 1 cannot be read"):
        apply(store, TABLES, Fetch("plain.changelog", 0, 0, 2, batches, 0))
    assert (list(store.items("plain")), store.offset("plain.changelog")) == ([], 0)
    store.close()

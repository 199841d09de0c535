"""The store: tables in segments, what is beside them, and what happens to one that is old, strange or damaged."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rocksdict import DbClosedError

from walstream.engine.store import FORMAT, Store
from walstream.engine.topology import TableSpec
from walstream.errors import StateMismatch

PLAIN = TableSpec("plain", "plain.changelog")
IN_SEGMENTS = TableSpec("seg", "seg.changelog", span=3)
ORDERED = TableSpec("ordered", "ordered.changelog", ordered=True)
TABLES = (PLAIN, IN_SEGMENTS)
IDS = {"plain.changelog": "id-1", "seg.changelog": "id-2"}

Open = Callable[..., Store]


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[Open]:
    opened: list[Store] = []

    def open_it(tables: Any = TABLES, ids: Any = None, **options: Any) -> Store:
        opened.append(Store(tmp_path / "locked-blocks" / "0", tables, ids, **options))
        return opened[-1]

    yield open_it
    for store in opened:
        with contextlib.suppress(DbClosedError):
            store.close()


def rows(store: Store, table: str) -> list[tuple[int, bytes, bytes]]:
    return list(store.items(table))


def test_what_is_written_is_there_after_a_restart(open_store: Open) -> None:
    store = open_store()
    store.write({"plain": {0: {b"b": b"2", b"a": b"1", b"c": b"3"}}}, {"plain.changelog": 7})
    store.write({"plain": {0: {b"c": None}}}, {"plain.changelog": 9})
    store.close()
    store = open_store()
    assert rows(store, "plain") == [(0, b"a", b"1"), (0, b"b", b"2")]
    assert store.get_many("plain", [b"a", b"c", b"b"]) == [b"1", None, b"2"]
    assert (store.get("plain", b"a"), store.get("plain", b"x")) == (b"1", None)
    assert (store.offset("plain.changelog"), store.offset("seg.changelog")) == (9, 0)


def test_a_table_without_rows(open_store: Open) -> None:
    store = open_store()
    assert store.get_many("seg", [b"a"]) == [None]
    assert (store.segments("seg"), store.newest_segment("seg"), rows(store, "seg")) == ([], 0, [])


def test_the_youngest_segment_counts(open_store: Open) -> None:
    store = open_store()
    store.write({"seg": {5: {b"a": b"old", b"b": b"old"}, 6: {b"a": b"new"}}}, {})
    assert store.get_many("seg", [b"a", b"b", b"c"]) == [b"new", b"old", None]
    assert rows(store, "seg") == [(5, b"a", b"old"), (5, b"b", b"old"), (6, b"a", b"new")]


def test_old_segments_are_dropped_whole(open_store: Open) -> None:
    store = open_store()
    for segment in (5, 6, 7, 8):
        store.write({"seg": {segment: {b"%d" % segment: b"x"}}}, {})
    assert store.segments("seg") == [6, 7, 8]
    assert store.get("seg", b"5") is None
    store.write({"seg": {20: {b"20": b"x"}}}, {})
    assert store.segments("seg") == [20], "what is older than three numbers is expired, few as there are"
    store.close()
    assert open_store().segments("seg") == [20]


def test_expired_changes_are_not_written(open_store: Open) -> None:
    store = open_store()
    store.write({"seg": {10: {b"a": b"x"}}}, {})
    store.write({"seg": {7: {b"b": b"x"}, 8: {b"c": b"x"}}}, {"seg.changelog": 4})
    assert store.segments("seg") == [8, 10]
    assert (store.get("seg", b"b"), store.offset("seg.changelog")) == (None, 4)


def test_a_range_is_in_order_and_ends_before_its_stop(open_store: Open) -> None:
    store = open_store((ORDERED,))
    assert store.range("ordered", b"", b"\xff", 10) == []
    store.write({"ordered": {0: {b"c": b"3", b"a": b"1", b"b": b"2", b"ba": b"", b"x": b"9"}}}, {})
    store.write({"ordered": {0: {b"b": None}}}, {})
    assert store.range("ordered", b"a", b"x", 10) == [(b"a", b"1"), (b"ba", b""), (b"c", b"3")]
    assert store.range("ordered", b"aa", b"x", 1) == [(b"ba", b"")]
    assert store.range("ordered", b"x", b"x", 10) == store.range("ordered", b"", b"x", 0) == []
    assert store.get_many("ordered", [b"a", b"b"]) == [b"1", None]
    store.close()
    assert open_store((ORDERED,)).range("ordered", b"c", b"\xff", 10) == [(b"c", b"3"), (b"x", b"9")]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.sampled_from([b"a", b"b"]), st.binary(max_size=2)), max_size=10))
def test_segments_against_a_model(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[int, bytes, bytes]]
) -> None:
    """As the router writes: never into a segment that is older than the youngest."""
    folder = tmp_path_factory.mktemp("store")
    store, model, newest = Store(folder, TABLES), {}, 0
    for advance, key, value in writes:
        newest += advance // 4
        store.write({"seg": {newest: {key: value}}}, {})
        model[newest, key] = value
        model = {at: kept for at, kept in model.items() if at[0] > newest - 3}
    wanted = {key: value for (_, key), value in sorted(model.items())}
    keys = sorted({key for _, key, _ in writes})
    try:
        assert store.get_many("seg", keys) == [wanted.get(key) for key in keys]
        assert {(segment, key): value for segment, key, value in store.items("seg")} == model
    finally:
        store.close()
        shutil.rmtree(folder)


def test_a_newer_format_is_refused_and_kept(open_store: Open) -> None:
    store = open_store()
    store.write({"plain": {0: {b"a": b"1"}}}, {})
    store._db.put(b"format", b"%d" % (int(FORMAT) + 1))
    store.close()
    for _ in range(2):
        with pytest.raises(StateMismatch, match="has format 2; this release knows up to 1"):
            open_store()


def test_a_topic_that_was_made_again_empties_the_store(open_store: Open) -> None:
    store = open_store(ids=IDS)
    store.write({"plain": {0: {b"a": b"1"}}}, {"plain.changelog": 7})
    store.close()
    store = open_store(ids=IDS)
    assert store.offset("plain.changelog") == 7
    store.close()
    store = open_store(ids={**IDS, "seg.changelog": "another"})
    assert (store.offset("plain.changelog"), rows(store, "plain")) == (0, [])


def test_an_emptied_store_still_knows_its_topics(open_store: Open) -> None:
    store = open_store(ids=IDS)
    store.clear()
    store.write({"plain": {0: {b"a": b"1"}}}, {"plain.changelog": 7})
    store.close()
    assert open_store(ids={**IDS, "plain.changelog": "another"}).offset("plain.changelog") == 0


def test_clear_forgets_everything(open_store: Open) -> None:
    store = open_store()
    store.write({"plain": {0: {b"a": b"1"}}, "seg": {4: {b"a": b"1"}}}, {"plain.changelog": 7})
    store.clear()
    assert (rows(store, "plain"), store.segments("seg"), store.offset("plain.changelog")) == ([], [], 0)
    store.write({"plain": {0: {b"b": b"1"}}}, {})
    assert rows(store, "plain") == [(0, b"b", b"1")]


def test_a_store_that_is_open_elsewhere_is_left_alone(open_store: Open) -> None:
    store = open_store()
    store.write({"plain": {0: {b"a": b"1"}}}, {})
    with pytest.raises(Exception, match="LOCK"):
        open_store()
    assert store.get("plain", b"a") == b"1"


@pytest.mark.parametrize("damage", ["CURRENT", "MANIFEST", "missing"])
def test_a_store_that_cannot_be_opened_is_rebuilt(open_store: Open, damage: str) -> None:
    store = open_store()
    fill(store)
    store.close()
    if damage == "missing":
        for file in store.path.glob("*.sst"):
            file.unlink()
    else:
        for file in store.path.glob(f"{damage}*"):
            file.write_bytes(b"no such thing")
    store = open_store()
    assert (rows(store, "plain"), store.offset("plain.changelog")) == ([], 0)
    store.write({"plain": {0: {b"a": b"1"}}}, {"plain.changelog": 1})


def fill(store: Store) -> list[bytes]:
    """Write so much that it is in a file of its own."""
    keys = [b"%06d" % number for number in range(5_000)]
    store.write({"plain": {0: {key: os.urandom(50) for key in keys}}}, {"plain.changelog": 5_000})
    part: Any = store._families["plain"][0][0]
    part.flush()
    return keys


READS: dict[str, Callable[[Store, list[bytes]], object]] = {
    "get_many": lambda store, keys: store.get_many("plain", keys),
    "items": lambda store, keys: rows(store, "plain"),
    "range": lambda store, keys: store.range("plain", keys[0], keys[-1], len(keys)),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_damaged_block_is_an_error_and_the_next_owner_rebuilds(open_store: Open, read: Any) -> None:
    store = open_store()
    keys = fill(store)
    store.close()
    table = max(store.path.glob("*.sst"), key=lambda file: file.stat().st_size)
    raw = bytearray(table.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    table.write_bytes(raw)
    store = open_store()
    with pytest.raises(OSError, match="is damaged: Corruption"):
        read(store, keys)
    store.close()
    assert open_store().offset("plain.changelog") == 0


def test_a_secondary_reads_beside_the_owner(open_store: Open, tmp_path: Path) -> None:
    owner = open_store()
    owner.write({"plain": {0: {b"a": b"1"}}}, {"plain.changelog": 1})
    reader = open_store(secondary=tmp_path / "scratch")
    assert rows(reader, "plain") == [(0, b"a", b"1")]
    owner.write({"plain": {0: {b"b": b"2"}}}, {"plain.changelog": 2})
    reader.catch_up()
    assert rows(reader, "plain") == [(0, b"a", b"1"), (0, b"b", b"2")]
    assert owner.estimate("plain")[0] == 2


def test_a_secondary_changes_nothing(open_store: Open, tmp_path: Path) -> None:
    owner = open_store()
    owner._db.put(b"format", b"2")
    with pytest.raises(StateMismatch):
        open_store(secondary=tmp_path / "scratch")
    assert owner._db.get(b"format") == b"2"

"""Ranges of an ordered table: what the store has, and over it two checkpoints that are not in the store yet."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from walstream.engine.store import Store
from walstream.engine.table_writer import TableWriter
from walstream.engine.topology import TableSpec

SPEC = TableSpec("ordered", "ordered.changelog", ordered=True)
EVERYTHING = b"\xff" * 3


class Changelog:
    """Takes changes, and keeps none."""

    def append(self, timestamp: int, key: bytes, value: bytes | None) -> None:
        """Nobody reads it here."""

    def append_rows(self, timestamp: int, rows: list[tuple[bytes, bytes | None]], prefix: bytes = b"") -> None:
        """Nor this."""


def writer(store: Store, before: TableWriter | None = None) -> TableWriter:
    changelog: Any = Changelog()
    return TableWriter(SPEC, store, changelog, [before.writes] if before is not None else [])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "0", [SPEC])
    yield store
    store.close()


def test_a_range_goes_on_behind_what_was_deleted(store: Store) -> None:
    keys = [b"%02d" % number for number in range(20)]
    store.write({"ordered": {0: dict.fromkeys(keys, b"stored")}}, {})
    before = writer(store)
    for key in keys[:9]:
        before.delete(key, 1)
    table = writer(store, before)
    for key in keys[11:15]:
        table.delete(key, 1)
    table.put(keys[3], b"again", 1)
    table.put(b"09a", b"new", 1)
    wanted = [(keys[3], b"again"), (keys[9], b"stored"), (b"09a", b"new"), (keys[10], b"stored"), (keys[15], b"stored")]
    assert table.range(b"", EVERYTHING, 5) == wanted
    assert table.range(keys[3], keys[15], 9) == wanted[:4]
    assert table.range(keys[3] + b"\0", EVERYTHING, 1) == wanted[1:2]
    assert table.range(keys[4], keys[9], 9) == table.range(b"", EVERYTHING, 0) == table.range(b"b", b"a", 9) == []


def test_a_change_after_a_look_is_seen_by_the_next(store: Store) -> None:
    table = writer(store)
    table.put(b"b", b"1", 1)
    assert table.range(b"", EVERYTHING, 9) == [(b"b", b"1")]
    table.put(b"a", b"2", 1)
    table.put(b"b", b"3", 1)
    assert table.range(b"", EVERYTHING, 9) == [(b"a", b"2"), (b"b", b"3")]
    table.delete(b"a", 1)
    assert writer(store, table).range(b"", EVERYTHING, 9) == [(b"b", b"3")]


def test_a_long_overlay_is_not_read_for_a_few_rows(store: Store) -> None:
    table = writer(store)
    for number in range(10_000):
        table.put(b"%06d" % number, b"", 1)
    assert len(table.writes.between(b"000500", EVERYTHING, 3)) == 3
    assert [key for key, _ in table.range(b"000500", EVERYTHING, 3)] == [b"000500", b"000501", b"000502"]


KEYS = [b"%d" % number for number in range(8)] + [b"", b"4x", b"\xff"]
steps = st.one_of(
    st.tuples(st.just("put"), st.sampled_from(KEYS), st.binary(max_size=2)),
    st.tuples(st.just("delete"), st.sampled_from(KEYS), st.none()),
    st.tuples(st.sampled_from(["sealed", "committed", "aborted"]), st.none(), st.none()),
)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(steps, max_size=60),
    st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(KEYS), st.integers(0, 9)), min_size=3, max_size=3),
)
def test_ranges_against_a_dict(
    tmp_path_factory: pytest.TempPathFactory, todo: list[tuple[str, Any, Any]], ranges: list[tuple[bytes, bytes, int]]
) -> None:
    """As a task does it: one checkpoint is built while the one before it is being committed, or both are lost."""
    folder = tmp_path_factory.mktemp("store")
    store = Store(folder, [SPEC])
    committed: dict[bytes, bytes] = {}
    sealed: dict[bytes, bytes] = {}
    rows: dict[bytes, bytes] = {}
    before: TableWriter | None = None
    table = writer(store)
    try:
        for step, key, value in todo:
            if step == "put":
                table.put(key, value, 1)
                rows[key] = value
            elif step == "delete":
                table.delete(key, 1)
                rows.pop(key, None)
            elif step == "aborted":
                before, rows = None, dict(committed)
                table = writer(store)
            else:
                if before is not None:
                    store.write({"ordered": before.writes}, {})
                    committed, before = sealed, None
                if step == "sealed":
                    before, sealed = table, dict(rows)
                    table = writer(store, before)
            for start, stop, limit in ranges:
                assert (
                    table.range(start, stop, limit)
                    == [(key, rows[key]) for key in sorted(rows) if start <= key < stop][:limit]
                )
    finally:
        store.close()
        shutil.rmtree(folder)

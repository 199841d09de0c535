"""A checkpoint: its outputs, and tables as a processor sees them while an earlier checkpoint is being committed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given, settings
from hypothesis import strategies as st

from walstream.engine.checkpoint import Checkpoint
from walstream.engine.output import Output
from walstream.engine.store import Store
from walstream.engine.table_writer import SEGMENT
from walstream.engine.topology import TableSpec
from walstream.headers import log_headers
from walstream.testing.raw_batch import batches_of
from walstream.wire import Record
from walstream.wire.batch import Batch
from walstream.wire.builder import BatchBuilder

PLAIN = TableSpec("plain", "plain.changelog")
IN_SEGMENTS = TableSpec("seg", "seg.changelog", span=3)
TABLES = (PLAIN, IN_SEGMENTS)


def new_batch(size: int = 100_000) -> BatchBuilder:
    return BatchBuilder(size, "lz4", transactional=True)


def sent(batches: list[Any]) -> list[tuple[bytes | None, bytes | None]]:
    """What a checkpoint's batches have in them, as a broker would see it."""
    records = []
    for batch in batches:
        decoded = list(MemoryRecords(bytes(batch._build())).next_batch())
        assert [record.offset for record in decoded] == list(range(batch.record_count()))
        records += [(record.key, record.value) for record in decoded]
    return records


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "0", TABLES)
    yield store
    store.close()


# ------------------------------------------------------------------------------------------------ outputs


def test_output_fills_batch_after_batch() -> None:
    output = Output(lambda: new_batch(1_000), position=40)
    positions = [output.append(1, b"%d" % number, b"x" * 300) for number in range(10)]
    sealed = output.seal()
    assert positions == list(range(40, 50))
    assert len(sealed) > 3 and all(batch.closed() for batch in sealed)
    assert sent(sealed) == [(b"%d" % number, b"x" * 300) for number in range(10)]
    assert (output.start, output.position) == (40, 50)


def test_output_takes_a_record_larger_than_a_batch() -> None:
    output = Output(lambda: new_batch(1_000))
    assert output.append(1, b"a", b"x") is None
    output.append(1, b"b", b"x" * 5_000)
    output.append(1, b"c", None, [("h", None)])
    assert [key for key, _ in sent(output.seal())] == [b"a", b"b", b"c"]


def fetched(offset: int, value: bytes, headers: list[tuple[str, bytes | None]] | None = None) -> Record:
    record = SimpleNamespace(
        offset=offset, timestamp=1_000 + offset, timestamp_type=1, key=b"k", value=value, headers=headers or []
    )
    (batch,) = batches_of([record])
    return next(batch.records())


def test_fetched_records_go_on_in_batch_after_batch() -> None:
    """A record goes on as an entry of the log, and an entry as what it was; both like any other record."""
    output = Output(lambda: new_batch(1_000), position=40)
    own: list[tuple[str, bytes | None]] = [("h", None), ("walstream", b"x")]
    entries = [fetched(number, b"x" * 300, own) for number in range(10)]
    assert [output.append_entry(entry, 7_000 + entry.offset) for entry in entries] == list(range(40, 50))
    assert output.append(5, b"other", None) == 50
    logged = [record for batch in output.seal() for record in Batch(batch._build()).records()]
    assert len(output.batches) > 3
    assert [(record.key, record.value) for record in logged] == [*[(b"k", b"x" * 300)] * 10, (b"other", None)]
    assert [(record.timestamp, record.headers) for record in logged[:-1]] == [
        (1_000 + n, log_headers(own, time_us=7_000 + n, position=n, timestamp_ms=1_000 + n)) for n in range(10)
    ]
    copies = Output(lambda: new_batch(1_000))
    assert [copies.append_original(record, 9) for record in logged[:-1]] == [None] * 10
    originals = [record for batch in copies.seal() for record in Batch(batch._build()).records()]
    assert len(copies.batches) > 3
    assert [(r.timestamp, r.key, r.value, r.headers) for r in originals] == [(9, b"k", b"x" * 300, own)] * 10


def test_fetched_records_may_be_larger_than_a_batch() -> None:
    output = Output(lambda: new_batch(1_000))
    output.append(1, b"a", b"x")
    output.append_entry(fetched(0, b"y" * 5_000), 1)
    output.append_original(fetched(0, b"z" * 5_000), 1)
    assert [(value or b"")[:1] for _, value in sent(output.seal())] == [b"x", b"y", b"z"]


def test_size_of_an_output_counts_all_its_batches() -> None:
    output = Output(lambda: new_batch(1_000))
    assert output.is_empty
    for _ in range(20):
        output.append(1, None, b"x" * 100)
    assert not output.is_empty
    before = output.size
    assert before > 2_000
    output.seal()
    assert output.size == before, "batches are compressed when they are sent"


def test_empty_outputs_are_not_sent(store: Store) -> None:
    checkpoint = Checkpoint(2, new_batch, store, TABLES, {})
    checkpoint.output("log")
    assert checkpoint.is_empty
    checkpoint.emit("elsewhere", 7, 1, None, b"v", [])
    checkpoint.emit_original("elsewhere", 7, fetched(3, b"w"), 5)
    assert not checkpoint.is_empty
    checkpoint.seal()
    assert list(checkpoint.batches) == [("elsewhere", 7)]
    assert sent(checkpoint.batches["elsewhere", 7]) == [(None, b"v"), (b"k", b"w")]


def test_only_the_own_partition_of_a_tracked_topic_has_positions(store: Store) -> None:
    checkpoint = Checkpoint(2, new_batch, store, TABLES, {"log": 100})
    assert checkpoint.output("log").append(1, None, b"v") == 100
    assert checkpoint.output("log", 2).append(1, None, b"v") == 101
    assert checkpoint.output("log", 3).append(1, None, b"v") is None
    assert checkpoint.output("other").append(1, None, b"v") is None


def test_offsets_alone_make_a_checkpoint(store: Store) -> None:
    checkpoint = Checkpoint(0, new_batch, store, TABLES, {})
    assert not checkpoint.is_offsets
    checkpoint.offsets["source"] = 5
    assert not checkpoint.is_empty
    assert checkpoint.is_offsets
    checkpoint.table("plain").put(b"a", b"1", 1)
    assert not checkpoint.is_offsets


# ------------------------------------------------------------------------------------------------ tables


def test_changes_go_to_the_changelog_in_order(store: Store) -> None:
    checkpoint = Checkpoint(0, new_batch, store, TABLES, {})
    checkpoint.table("plain").put(b"a", b"1", 1)
    checkpoint.table("plain").delete(b"a", 1)
    checkpoint.table("seg").put(b"k", b"v", 1, segment=9)
    checkpoint.seal()
    assert sent(checkpoint.batches["plain.changelog", 0]) == [(b"a", b"1"), (b"a", None)]
    assert sent(checkpoint.batches["seg.changelog", 0]) == [(SEGMENT.pack(9) + b"k", b"v")]
    assert checkpoint.writes == {"plain": {0: {b"a": None}}, "seg": {9: {b"k": b"v"}}}


def test_newest_segment_is_that_of_all_layers(store: Store) -> None:
    assert Checkpoint(0, new_batch, store, TABLES, {}).table("seg").newest_segment() == 0
    store.write({"seg": {4: {b"a": b"1"}}}, {})
    before = Checkpoint(0, new_batch, store, TABLES, {})
    before.table("seg").put(b"b", b"2", 1, 5)
    building = Checkpoint(0, new_batch, store, TABLES, {}, before)
    assert building.table("seg").newest_segment() == 5
    building.table("seg").put(b"c", b"3", 1, 6)
    assert building.table("seg").newest_segment() == 6


KEYS = [b"a", b"b", b"c", b""]
steps = st.one_of(
    st.tuples(st.just("put"), st.sampled_from(KEYS), st.binary(max_size=2)),
    st.tuples(st.just("delete"), st.sampled_from(KEYS), st.none()),
    st.tuples(st.just("segment"), st.sampled_from(KEYS), st.integers(0, 2)),
    st.tuples(st.sampled_from(["next", "committed", "aborted"]), st.none(), st.none()),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(steps, max_size=40))
def test_tables_against_a_dict(tmp_path_factory: pytest.TempPathFactory, todo: list[tuple[str, Any, Any]]) -> None:
    """As a task does it: one checkpoint is built while the one before it is being committed, or both are lost."""
    folder = tmp_path_factory.mktemp("store")
    store = Store(folder, TABLES)
    committed: tuple[dict[bytes, bytes], dict[bytes, bytes], int] = ({}, {}, 1)
    pending, plain, seg, newest = committed, {}, {}, 1
    before: Checkpoint | None = None
    building = Checkpoint(0, new_batch, store, TABLES, {})
    stored = True  # whether `before` is in the store already
    try:
        for step, key, argument in todo:
            if step == "put":
                building.table("plain").put(key, argument, 1)
                plain[key] = argument
            elif step == "delete":
                building.table("plain").delete(key, 1)
                plain.pop(key, None)
            elif step == "segment":
                newest += argument // 2
                building.table("seg").put(key, b"%d" % newest, 1, newest)
                seg[key] = b"%d" % newest
            elif step == "committed" or (step == "next" and not stored):
                if before is not None and not stored:
                    store.write(before.writes, {})
                    committed, stored = pending, True
            elif step == "next":
                building.seal()
                pending, before, stored = (dict(plain), dict(seg), newest), building, False
                building = Checkpoint(0, new_batch, store, TABLES, {}, before)
            else:
                before, stored = None, True
                plain, seg, newest = dict(committed[0]), dict(committed[1]), committed[2]
                building = Checkpoint(0, new_batch, store, TABLES, {})
            for key, found in zip(KEYS, building.table("seg").get_many(KEYS), strict=True):
                if key not in seg or int(seg[key]) > newest - 3:  # else it may be expired already
                    assert found == seg.get(key)
    finally:
        store.close()
        shutil.rmtree(folder)

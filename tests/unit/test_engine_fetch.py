"""Whole fetches are decoded as aiokafka itself would decode them, record by record."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.consumer.fetcher import FetchError, FetchResult, PartitionRecords
from aiokafka.errors import OffsetOutOfRangeError
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import TopicPartition
from hypothesis import given, settings
from hypothesis import strategies as st

from walstream.engine.fetch import Fetch, RawRecords, drain, explained, take, wait_ready
from walstream.errors import Unreadable
from walstream.testing.raw_batch import RawRecord, encode_batch, seal

TP0 = TopicPartition("topic", 0)
CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
CONTROL, LENGTH, ATTRIBUTES, CRC, COUNT = 0x20, 8, 21, 17, 57
GOOD = RawRecord(b"key", b"value", [(b"h", b"1")])
BAD = RawRecord(b"key", b"value", [(b"b\xffd", b"2")])
ABORT, COMMIT = struct.pack(">hh", 0, 0), struct.pack(">hh", 0, 1)


def batch(
    base: int, keys: list[bytes | None], *, producer: int = -1, transactional: bool = False, control: bool = False,
    codec: str = "none",
) -> bytes:  # fmt: skip
    builder = DefaultRecordBatchBuilder(2, CODECS[codec], transactional, producer, 0, 0, 1 << 20)
    for offset, key in enumerate(keys):
        builder.append(offset, 1_000 + offset, key, b"value" * 20, [("h", b"1"), ("h", None)])
    raw = bytearray(builder.build())
    if control:
        raw[ATTRIBUTES + 1] |= CONTROL
    return _sealed(raw, base)


def _sealed(raw: bytearray, base: int) -> bytes:
    raw[:8] = base.to_bytes(8, "big")
    raw[CRC : CRC + 4] = calc_crc32c(bytes(raw[ATTRIBUTES:])).to_bytes(4, "big")
    return bytes(raw)


def emptied(raw: bytes) -> bytes:
    """What compaction leaves of a batch that it must keep: the header, without records."""
    header = bytearray(raw[: COUNT + 4])
    header[COUNT:] = bytes(4)
    header[8:12] = (len(header) - 12).to_bytes(4, "big")
    return _sealed(header, int.from_bytes(raw[:8], "big"))


@dataclass
class Partition:
    """A partition as aiokafka's fetch results see it."""

    position: int
    paused: bool = False
    active: bool = True

    def state_value(self, tp: TopicPartition) -> Partition:
        return self

    def consumed_to(self, position: int) -> None:
        self.position = position


def result(raw: bytes, offset: int = 0, aborted: list[tuple[int, int]] | None = None) -> tuple[FetchResult, Partition]:
    partition = Partition(offset)
    records = PartitionRecords(TP0, RawRecords(raw), aborted, offset, None, None, True, 1)
    return FetchResult(TP0, assignment=partition, partition_records=records, backoff=0), partition


def taken(raw: bytes, offset: int = 0, aborted: list[tuple[int, int]] | None = None) -> tuple[Fetch, Partition]:
    fetched, partition = result(raw, offset, aborted)
    fetch = take(TP0, fetched, epoch=3)
    assert fetch is not None
    return fetch, partition


def test_fetch_has_its_bounds() -> None:
    raw = batch(10, [b"a", b"b"]) + batch(12, [b"c"])
    fetch, partition = taken(raw, 10)
    assert (fetch.topic, fetch.partition, fetch.offset, fetch.next_offset) == ("topic", 0, 10, 13)
    assert (fetch.size, fetch.epoch, partition.position) == (len(raw), 3, 13)
    assert [(record.offset, record.key) for record in fetch] == [(10, b"a"), (11, b"b"), (12, b"c")]


@pytest.mark.parametrize("codec", CODECS)
def test_every_compression_is_read(codec: str) -> None:
    fetch, _ = taken(batch(0, [b"a", None, b""], codec=codec))
    (first, second, third) = fetch
    assert [first.key, second.key, third.key] == [b"a", None, b""]
    assert first.value == b"value" * 20
    assert first.headers == [("h", b"1"), ("h", None)]
    assert first.timestamp == 1_000


@pytest.mark.parametrize("codec", ["none", "lz4"])
def test_offset_inside_a_batch_leaves_out_what_is_before_it(codec: str) -> None:
    fetch, _ = taken(batch(10, [b"a", b"b", b"c"], codec=codec) + batch(13, [b"d"]), offset=12)
    assert [record.offset for record in fetch] == [12, 13]


def test_aborted_transactions_are_left_out() -> None:
    raw = (
        batch(0, [b"committed"], producer=1, transactional=True)
        + batch(1, [b"aborted"], producer=2, transactional=True)
        + batch(2, [COMMIT], producer=1, transactional=True, control=True)
        + batch(3, [b"plain"])
        + batch(4, [b"aborted too"], producer=2, transactional=True)
        + batch(5, [ABORT], producer=2, transactional=True, control=True)
        + batch(6, [b"the next one"], producer=2, transactional=True)
    )
    fetch, _ = taken(raw, aborted=[(2, 1)])
    assert [record.key for record in fetch] == [b"committed", b"plain", b"the next one"]


def test_markers_alone_move_the_position() -> None:
    fetch, partition = taken(batch(7, [COMMIT], producer=1, transactional=True, control=True), offset=7)
    assert not fetch.is_done, "the position is to be committed"
    assert (fetch.take(10), fetch.is_done, fetch.next_offset, partition.position) == ([], True, 8, 8)


def test_records_are_taken_out_in_parts() -> None:
    raw = batch(0, [b"a", b"b"]) + batch(2, [b"c"]) + batch(3, [COMMIT], producer=1, transactional=True, control=True)
    fetch, _ = taken(raw)
    assert ([record.key for record in fetch.take(2)], fetch.position) == ([b"a", b"b"], 2)
    assert ([record.key for record in fetch.take(1)], fetch.position, fetch.is_done) == ([b"c"], 3, False)
    assert (fetch.take(1), fetch.position, fetch.is_done) == ([], 4, True), "the marker is the last of it"


def test_batches_that_compaction_has_emptied() -> None:
    raw = (
        emptied(batch(0, [b"a", b"b"]))
        + emptied(batch(2, [ABORT], producer=1, transactional=True, control=True))
        + batch(3, [b"c"])
    )
    fetch, _ = taken(raw)
    assert [(record.offset, record.key) for record in fetch] == [(3, b"c")]


def damaged(base: int) -> bytes:
    raw = bytearray(batch(base, [b"a", b"b"]))
    raw[-1] ^= 1
    return bytes(raw)


def test_damaged_batch_is_an_error_when_it_is_its_turn() -> None:
    fetch, partition = taken(batch(0, [b"a", b"b"]) + damaged(2) + batch(4, [b"c"]))
    assert [record.key for record in fetch.take(2)] == [b"a", b"b"]
    for _ in range(3):
        with pytest.raises(Unreadable, match=r"topic-0: offsets 2 to 3 cannot be read.*wrong checksum at offset 2"):
            fetch.take(2)
        assert (fetch.position, fetch.is_done) == (2, False)
    assert partition.position == 3, "nothing is believed of it, and so nothing behind it is taken"


def unpacked_wrongly() -> bytes:
    """A batch with a good checksum that cannot be decompressed."""
    raw = bytearray(batch(4, [b"d", b"e"], codec="lz4"))
    raw[COUNT + 4 :] = b"\xff" * (len(raw) - COUNT - 4)
    return _sealed(raw, 4)


def trailed() -> bytes:
    """A batch that a broker takes, since its own decompression stops in time, and no decoder of ours reads."""
    return encode_batch([GOOD, GOOD], base=4, compression="gzip", trailing=b"rubbish")


def misencoded() -> bytes:
    """A batch whose second record is longer than it says."""
    raw = bytearray(encode_batch([GOOD, GOOD], base=4))
    raw[COUNT + 4 + (len(raw) - COUNT - 4) // 2] -= 2
    return seal(bytes(raw))


def checked_wrongly() -> bytes:
    """A batch with a wrong checksum."""
    return damaged(4)


UNREADABLE = {
    unpacked_wrongly: "lz4|LZ4|Error", trailed: "BadGzipFile", misencoded: "record 1 of the batch does not follow",
    checked_wrongly: "CorruptRecordException.*wrong checksum at offset 4",
}  # fmt: skip


@pytest.mark.parametrize(("bad", "cause"), UNREADABLE.items())
def test_what_cannot_be_decoded_is_an_error_when_all_before_it_is_taken(bad: Callable[[], bytes], cause: str) -> None:
    fetch, _ = taken(batch(0, [b"a", b"b"]) + batch(2, [b"c", b"d"]) + bad() + batch(9, [b"z"]))
    assert [record.offset for record in fetch.take(3)] == [0, 1, 2]
    assert [record.offset for record in fetch.take(100)] == [3], "nothing of the batch is given out, and all before it"
    for _ in range(3):
        with pytest.raises(Unreadable, match=rf"topic-0: offsets 4 to 5 cannot be read \(.*({cause})") as caught:
            fetch.take(100)
        assert (caught.value.where, caught.value.first, caught.value.last) == ("topic-0", 4, 5)
        assert (fetch.position, fetch.is_done) == (4, False)


@pytest.mark.parametrize("bad", UNREADABLE)
def test_the_first_batch_may_be_the_one(bad: Callable[[], bytes]) -> None:
    fetch, partition = taken(bad(), 4)
    assert partition.position > 4
    with pytest.raises(Unreadable, match="offsets 4 to 5"):
        list(fetch)
    assert fetch.position == 4


@pytest.mark.parametrize("bad", UNREADABLE)
def test_a_position_inside_the_batch_that_cannot_be_decoded(bad: Callable[[], bytes]) -> None:
    fetch, _ = taken(bad(), 5)
    with pytest.raises(Unreadable, match="offset 5 cannot be read"):
        fetch.take(1)


@pytest.mark.parametrize("gap", [0, 10])
def test_a_damaged_batch_is_named_as_far_as_it_says(gap: int) -> None:
    bad = bytearray(encode_batch([GOOD] * 3, base=2 + gap))
    bad[-1] ^= 1
    fetch, _ = taken(encode_batch([BAD, GOOD]) + bytes(bad) + encode_batch([GOOD], base=20))
    assert [record.offset for record in fetch.take(10)] == [0, 1]
    with pytest.raises(Unreadable, match=rf"offsets 2 to {4 + gap} .*wrong checksum at offset {2 + gap}"):
        fetch.take(10)


@pytest.mark.parametrize("length", [-1, 0, 48, 49])
def test_of_a_damaged_batch_not_even_the_length_is_believed(length: int) -> None:
    bad = bytearray(encode_batch([GOOD] * 3, base=2))
    bad[LENGTH : LENGTH + 4] = length.to_bytes(4, "big", signed=True)
    fetch, partition = taken(encode_batch([GOOD, GOOD]) + bytes(bad) + encode_batch([GOOD], base=5))
    assert [record.offset for record in fetch.take(10)] == [0, 1]
    with pytest.raises(Unreadable, match=r"offsets 2 to 4 .*wrong checksum"):
        fetch.take(10)
    assert partition.position == 3


def test_an_older_format_is_an_error() -> None:
    old = bytearray(encode_batch([GOOD], base=2))
    old[16] = 1
    fetch, _ = taken(encode_batch([GOOD, GOOD]) + bytes(old))
    assert len(fetch.take(10)) == 2
    with pytest.raises(Unreadable, match="offset 2 cannot be read"):
        fetch.take(10)


def test_what_is_left_of_an_unreadable_batch_in_an_aborted_transaction_is_nothing() -> None:
    bad = bytearray(batch(0, [b"a", b"b"], producer=1, transactional=True, codec="lz4"))
    bad[COUNT + 4 :] = b"\xff" * (len(bad) - COUNT - 4)
    marker = batch(2, [ABORT], producer=1, transactional=True, control=True)
    fetch, _ = taken(_sealed(bad, 0) + marker + batch(3, [b"c"]), aborted=[(1, 0)])
    assert [record.offset for record in fetch] == [3]


@pytest.mark.parametrize("codec", CODECS)
def test_a_name_that_is_not_utf8_spoils_nothing(codec: str) -> None:
    raw = encode_batch([GOOD, BAD, GOOD], compression=codec)
    with pytest.raises(UnicodeDecodeError):
        list(MemoryRecords(raw).next_batch())
    fetch, _ = taken(raw + encode_batch([GOOD], base=9))
    first, second, third, last = fetch
    assert [record.offset for record in (first, second, third, last)] == [0, 1, 2, 9]
    assert (second.key, second.value, second.headers) == (b"key", b"value", [("b\\xffd", b"2")])
    assert [record.misnamed for record in (first, second, third)] == [(), ("b\\xffd",), ()]


def test_an_unreadable_place_comes_with_its_remedy() -> None:
    fetch, _ = taken(trailed(), 4)
    with pytest.raises(Unreadable) as caught:
        fetch.take(1)
    told = explained(caught.value, "group")
    assert (told.where, told.first, told.last, told.cause) == ("topic-0", 4, 5, caught.value.cause)
    assert "Nothing is skipped" in str(told)
    assert "--group group --topic topic:0 --reset-offsets --to-offset 6 --execute" in str(told)


@pytest.mark.parametrize("change", ["paused", "moved", "lost"])
def test_stale_results_are_refused(change: str) -> None:
    fetched, partition = result(batch(0, [b"a"]))
    if change == "paused":
        partition.paused = True
    elif change == "moved":
        partition.position = 5
    else:
        partition.active = False
    assert take(TP0, fetched) is None
    assert partition.position == (5 if change == "moved" else 0)


def test_nothing_keeps_the_bytes() -> None:
    fetched, _ = result(batch(0, [b"a"]))
    records = fetched._partition_records
    take(TP0, fetched)
    assert records._records_iterator is None
    assert not fetched.has_more()


@st.composite
def layouts(draw: st.DrawFn) -> tuple[bytes, list[tuple[int, int]], int]:
    """Batches of transactional, idempotent and plain producers, with their markers; aborted ones; an offset."""
    raw, offset = b"", 0
    begun: dict[int, int] = {}
    aborted: list[tuple[int, int]] = []
    for _ in range(draw(st.integers(1, 12))):
        producer = draw(st.sampled_from([-1, 1, 2, 3]))
        offset += draw(st.integers(0, 2))  # gaps
        if producer in begun and draw(st.booleans()):
            first = begun.pop(producer)
            abort = draw(st.booleans())
            if abort:
                aborted.append((producer, first))
            raw += batch(offset, [ABORT if abort else COMMIT], producer=producer, transactional=True, control=True)
            offset += 1
            continue
        keys: list[bytes | None] = [b"%d" % number for number in range(draw(st.integers(1, 3)))]
        transactional = producer in (1, 2)
        if transactional:
            begun.setdefault(producer, offset)
        codec = draw(st.sampled_from(["none", "lz4"]))
        raw += batch(offset, keys, producer=producer, transactional=transactional, codec=codec)
        offset += len(keys)
    for producer, first in begun.items():  # a broker hands out no more than what is decided
        aborted.append((producer, first))
    return raw, aborted, draw(st.integers(0, max(offset - 1, 0)))


FIELDS = ("offset", "timestamp", "timestamp_type", "key", "value")


@settings(max_examples=50, deadline=None)
@given(layouts())
def test_reads_what_aiokafka_reads(layout: tuple[bytes, list[tuple[int, int]], int]) -> None:
    raw, aborted, offset = layout
    records = MemoryRecords(raw)
    starts = []
    while records.has_next():
        starts.append(records.next_batch().base_offset)
    # A broker begins with the batch that holds the offset, or with the first one behind it.
    skipped = [start for start in starts if start <= offset]
    position = skipped[-1] if skipped else starts[0]
    cut = MemoryRecords(raw)
    at = 0
    while cut.next_batch().base_offset < position:
        at += len(raw[at : at + 12 + int.from_bytes(raw[at + 8 : at + 12], "big")])
    raw = raw[at:]
    theirs = PartitionRecords(TP0, MemoryRecords(raw), list(aborted), offset, None, None, True, 1)
    expected = [(*(getattr(record, field) for field in FIELDS), list(record.headers)) for record in theirs]
    fetch, _ = taken(raw, offset, list(aborted))
    assert [(*(getattr(record, field) for field in FIELDS), record.headers) for record in fetch] == expected
    assert fetch.next_offset == max(theirs.next_fetch_offset, fetch.offset)


class FakeFetcher:
    """What `drain` sees of an aiokafka fetcher."""

    def __init__(self, records: dict[TopicPartition, Any], assigned: set[TopicPartition]) -> None:
        self._records = records
        self._subscriptions = SimpleNamespace(is_assigned=assigned.__contains__)
        self._wait_consume_future = object()
        self.notified = 0
        self._fetch_waiters: set[asyncio.Future[None]] = set()
        self.error_future: Any = SimpleNamespace(done=lambda: False)

    def _notify(self, future: object) -> None:
        assert future is self._wait_consume_future
        self.notified += 1

    def _create_fetch_waiter(self) -> asyncio.Future[None]:
        waiter = asyncio.get_running_loop().create_future()
        self._fetch_waiters.add(waiter)
        return waiter


def other(number: int) -> TopicPartition:
    return TopicPartition("topic", number)


def test_drain_takes_only_where_there_is_room() -> None:
    open_, closed, lost, stale = (other(number) for number in range(4))
    stale_result, partition = result(batch(0, [b"a"]))
    partition.position = 9
    records: dict[TopicPartition, Any] = {
        open_: result(batch(0, [b"a"]))[0],
        closed: result(batch(0, [b"a"]))[0],
        lost: result(batch(0, [b"a"]))[0],
        stale: stale_result,
    }
    fetcher = FakeFetcher(records, {open_, closed, stale})
    fetches, errors = drain(fetcher, {open_: 1, stale: 1}.get)
    assert [(fetch.partition, fetch.epoch) for fetch in fetches] == [(0, 1)]
    assert errors == {}
    assert list(fetcher._records) == [closed], "what has no room stays where it is, and what is lost does not"
    assert fetcher.notified == 2


def test_drain_reports_errors_where_there_is_room() -> None:
    error = OffsetOutOfRangeError({TP0: 5})
    records: dict[TopicPartition, Any] = {number: FetchError(error=error, backoff=0) for number in (TP0, other(1))}
    fetcher = FakeFetcher(records, {TP0, other(1)})
    fetches, errors = drain(fetcher, {TP0: 1}.get)
    assert (fetches, errors) == ([], {TP0: error})
    assert fetcher._records == {}, "both are asked for again"


async def test_waiting_ends_by_the_fetcher_s_own_errors() -> None:
    fetcher = FakeFetcher({}, set())
    await wait_ready(fetcher, 0.01)
    fetcher.error_future = asyncio.get_running_loop().create_future()
    fetcher.error_future.set_exception(OffsetOutOfRangeError())
    with pytest.raises(OffsetOutOfRangeError):
        await wait_ready(fetcher, 0.01)


async def test_waiting_ends_by_what_ended_the_membership() -> None:
    fetcher = FakeFetcher({}, set())
    waiting = asyncio.create_task(wait_ready(fetcher, 10))
    await asyncio.sleep(0)
    (waiter,) = fetcher._fetch_waiters
    waiter.set_exception(PermissionError("the group"))
    with pytest.raises(PermissionError, match="the group"):
        await waiting

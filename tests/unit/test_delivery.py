"""Delivery's work on one partition, with sinks that answer in every way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest
from aiokafka.record.memory_records import MemoryRecords
from prometheus_client import CollectorRegistry

from walstream.backoff import Backoff
from walstream.delivery import dispatch
from walstream.delivery import processor as delivery
from walstream.delivery.app import topology
from walstream.delivery.breaker import State
from walstream.delivery.dispatch import Dispatcher
from walstream.delivery.metrics import DeliveryMetrics
from walstream.delivery.processor import DeliveryProcessor
from walstream.engine.checkpoint import Checkpoint
from walstream.engine.fetch import Fetch
from walstream.engine.source import Source
from walstream.engine.store import Store
from walstream.entry import Entry
from walstream.errors import SinkError, StateMismatch
from walstream.headers import log_headers
from walstream.namespace import Namespace
from walstream.record import encode
from walstream.sinks.base import (
    APPLIED,
    DEAD,
    RETRY,
    SKIPPED,
    TARGET_DOWN,
    CheckpointSink,
    Dead,
    Outcome,
    Sink,
    SinkContext,
    Staging,
)
from walstream.sinks.shared import SharedSink
from walstream.testing.raw_batch import batches_of
from walstream.wire.builder import BatchBuilder

pytestmark = pytest.mark.usefixtures("either_wire")

NAMESPACE = Namespace.model_validate(
    {
        "version": 1,
        "namespace": "flights",
        "targets": {
            "base": {"sink": "cassandra", "retry": {"initial": "1ms", "max": "2ms"}},
            "other": {"sink": "kafka"},
        },
    }
)

CONTEXT = SinkContext("flights", "base", None)
Answer = Callable[[Sequence[Entry]], Any]


class Down(Exception):
    """The target is down."""


class Bad(Exception):
    """A record is bad."""


class Later(Exception):
    """Not now."""


class Scripted(Sink):
    """A sink that notes what came, and answers by a script; at its end everything is applied."""

    errors: ClassVar = {Down: TARGET_DOWN, Bad: DEAD, Later: RETRY}
    late_writes_harmless = True

    def __init__(self, context: SinkContext, script: Sequence[Answer | Exception] = ()) -> None:
        super().__init__(context)
        self.script = list(script)
        self.calls: list[list[int]] = []
        self.applied: list[int] = []
        self.opened = self.closed = 0

    async def open(self) -> None:
        self.opened += 1

    async def close(self) -> None:
        self.closed += 1

    async def write(self, batch: Sequence[Entry]) -> Sequence[Outcome]:
        self.calls.append([entry.position for entry in batch])
        answer: Any = self.script.pop(0) if self.script else lambda batch: [APPLIED] * len(batch)
        if isinstance(answer, Exception):
            raise answer
        outcomes = answer(batch)
        if isinstance(outcomes, Awaitable):
            outcomes = await outcomes
        if isinstance(outcomes, list):
            done = [entry.position for entry, outcome in zip(batch, outcomes, strict=False) if outcome == APPLIED]
            self.applied += done
        return outcomes  # type: ignore[no-any-return]


def log_record(position: int, key: bytes | None = b"k", targets: Sequence[str] | None = None) -> Any:
    message = encode(b"v%d" % position, key=key, id=str(position), source="s", type="t", time=position, targets=targets)
    headers = log_headers(message.headers, time_us=position, position=position + 100, timestamp_ms=1_000 + position)
    return raw_record(position, key, message.value, headers)


def raw_record(position: int, key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes | None]]) -> Any:
    return SimpleNamespace(offset=position, key=key, value=value, headers=headers, timestamp=5_000, timestamp_type=0)


class Delivery:
    """A partition of a target; what it sends is read as a broker would."""

    def __init__(self, folder: Path, sink: Sink) -> None:
        metrics = DeliveryMetrics(CollectorRegistry())
        kind: Any = SimpleNamespace(for_context=lambda context: sink, in_flight=None)
        self.dispatcher = Dispatcher(CONTEXT, kind, NAMESPACE.targets["base"], metrics)
        self.topology = topology(NAMESPACE, "base", self.dispatcher, metrics)
        self.store = Store(folder, self.topology.tables)
        self.processor: DeliveryProcessor
        self.checkpoint: Checkpoint

    def begin(self) -> Checkpoint:
        self.checkpoint = Checkpoint(
            2, lambda: BatchBuilder(1_000_000, "lz4", transactional=True), self.store, self.topology.tables, {}
        )
        return self.checkpoint

    def commit(self) -> None:
        self.checkpoint.seal()
        self.store.write(self.checkpoint.writes, {})

    async def open(self) -> Delivery:
        self.processor = self.topology.processor(2)  # type: ignore[assignment]
        await self.processor.open(self.begin())
        self.commit()
        self.begin()
        return self

    async def deliver(self, *records: Any) -> None:
        source = self.source(*records)
        while source.position != source.end:
            await self.processor.process(source, self.checkpoint)
            await asyncio.sleep(0)

    def source(self, *records: Any) -> Source:
        source = Source("flights.log", 2)
        source.begin(records[0].offset, records[-1].offset + 1)
        source.append(Fetch("flights.log", 2, source.expected, source.end, batches_of(records), 0))
        return source

    def sent(self, topic: str) -> list[Any]:
        self.checkpoint.seal()
        batches = self.checkpoint.batches.get((topic, 2), ())
        return [record for batch in batches for record in MemoryRecords(bytes(batch._build())).next_batch()]

    def dead(self) -> list[tuple[int, str]]:
        """Log position and reason of what went to the DLQ."""
        found = []
        for record in self.sent("flights.base.dlq"):
            headers = dict(record.headers)
            found.append((int(headers["walstream-log-position"]), headers["walstream-error"].decode()))
        return found


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[tuple[Delivery, Scripted]]]]:
    made: list[Delivery] = []

    async def make_it(*script: Answer | Exception) -> tuple[Delivery, Scripted]:
        sink = Scripted(CONTEXT, script)
        made.append(await Delivery(tmp_path / str(len(made)), sink).open())
        return made[-1], sink

    yield make_it
    for one in made:
        one.store.close()


Make = Callable[..., Awaitable[tuple[Delivery, Scripted]]]


def outcomes(**by_position: Outcome) -> Answer:
    """Answer so for these positions (``p3=…``), and applied for the others."""
    return lambda batch: [by_position.get(f"p{entry.position}", APPLIED) for entry in batch]


async def test_entries_reach_the_sink_in_order(make: Make) -> None:
    one, sink = await make()
    await one.deliver(*(log_record(position) for position in range(5)))
    assert (sink.calls, one.dead()) == ([[0, 1, 2, 3, 4]], [])


async def test_large_fetches_go_out_in_several_calls(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "STRETCH", 2)
    one, sink = await make()
    await one.deliver(*(log_record(position) for position in range(5)))
    assert sink.calls == [[0, 1], [2, 3], [4]]


async def test_entries_for_other_targets_are_left_out(make: Make) -> None:
    one, sink = await make()
    await one.deliver(log_record(0, targets=["other"]), log_record(1, targets=["other", "base"]), log_record(2))
    assert sink.calls == [[1, 2]]
    await one.deliver(log_record(3, targets=["other"]))
    assert sink.calls == [[1, 2]], "an empty batch is not written"


async def test_skipped_is_finished(make: Make) -> None:
    one, sink = await make(outcomes(p1=SKIPPED))
    await one.deliver(log_record(0), log_record(1))
    assert (sink.calls, one.dead()) == ([[0, 1]], [])


async def test_dead_entries_go_to_the_dlq_as_they_were(make: Make) -> None:
    one, sink = await make(outcomes(p1=Dead("no such column")))
    record = log_record(1)
    await one.deliver(log_record(0), record, log_record(2))
    assert (sink.applied, one.dead()) == ([0, 2], [(1, "no such column")])


async def test_an_error_that_is_not_listed_holds_the_partition_and_is_reported(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    one, sink = await make(ZeroDivisionError("oops"))
    await one.deliver(log_record(0))
    assert (sink.applied, one.dead()) == ([0], [])
    assert "an error that is not in the sink's table" in caplog.text and "oops" in caplog.text


def raising(error: Exception, *positions: int) -> Answer:
    """Raise where one of these is in the batch."""

    def answer(batch: Sequence[Entry]) -> list[Outcome]:
        if any(entry.position in positions for entry in batch):
            raise error
        return [APPLIED] * len(batch)

    return answer


async def test_of_a_batch_that_is_dead_only_the_entry_at_fault_is(make: Make) -> None:
    one, sink = await make(*[raising(Bad("no"), 1)] * 4)
    await one.deliver(*(log_record(position) for position in range(3)))
    assert sink.calls == [[0, 1, 2], [0], [1], [2]]
    assert (sink.applied, one.dead()) == ([0, 2], [(1, "Bad: no")])


async def test_while_each_is_tried_alone_nothing_overtakes_one_that_is_not_finished(make: Make) -> None:
    one, sink = await make(Bad("no"), outcomes(), Down("gone"))
    source = one.source(*(log_record(position) for position in range(4)))
    await one.processor.process(source, one.checkpoint)
    assert (sink.calls, sink.applied, source.position) == ([[0, 1, 2, 3], [0], [1]], [0], 1)


@pytest.mark.parametrize(
    "answer", [lambda batch: [], lambda batch: [APPLIED] * 3, lambda batch: None, lambda batch: [True, "applied"]]
)
async def test_a_wrong_answer_holds_the_partition_and_is_reported(
    make: Make, answer: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    one, sink = await make(answer)
    await one.deliver(log_record(0), log_record(1))
    assert sink.calls == [[0, 1], [0, 1]]
    assert "did not answer with one outcome for each of 2 entries" in caplog.text


async def test_a_sink_call_has_a_deadline(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "SINK_DEADLINE", 0.05)
    one, sink = await make(*[lambda batch: asyncio.sleep(60)] * 2)
    source = one.source(log_record(0))
    while len(sink.calls) < 2:
        await one.processor.process(source, one.checkpoint)
        await asyncio.sleep(0.01)
    assert (sink.applied, source.position) == ([], 0)
    assert one.dispatcher.breaker.state is State.OPEN


async def test_what_walstream_did_not_write_is_put_aside(make: Make) -> None:
    one, sink = await make()
    foreign = raw_record(1, b"k", b"v", [("a", b"b")])
    await one.deliver(log_record(0), foreign, log_record(2))
    assert sink.calls == [[0, 2]]
    (put_aside,) = one.sent("flights.base.dlq")
    assert (put_aside.key, put_aside.value, put_aside.headers[-1]) == (b"k", b"v", ("a", b"b"))
    assert dict(put_aside.headers)["walstream-error-code"] == b"not-an-entry"


async def test_what_has_a_header_with_a_name_that_is_not_utf8_is_put_aside(make: Make) -> None:
    one, sink = await make()
    spoilt = log_record(1)
    spoilt.headers.append((b"b\xff".decode(errors="surrogateescape"), b"x"))
    await one.deliver(log_record(0), spoilt, log_record(2))
    assert sink.calls == [[0, 2]]
    (put_aside,) = one.sent("flights.base.dlq")
    assert dict(put_aside.headers)["walstream-error-code"] == b"not-utf8"
    assert put_aside.headers[-1] == ("b\\xff", b"x"), "shown as far as it can be"


async def test_what_walstream_did_not_write_and_would_not_fit_is_cut(make: Make) -> None:
    one, _ = await make()
    value = b"x" * (NAMESPACE.topics.max_record + 1)
    await one.deliver(raw_record(1, b"k", value, []))
    (put_aside,) = one.sent("flights.base.dlq")
    assert dict(put_aside.headers)["walstream-error-code"] == b"too-large"
    assert len(put_aside.value) < len(value)


async def test_entries_of_a_newer_release_stop_the_worker(make: Make) -> None:
    one, _ = await make()
    newer = log_record(0)
    newer.headers = [(name, b"2" if name == "walstream-version" else text) for name, text in newer.headers]
    with pytest.raises(StateMismatch):
        await one.deliver(newer)


# ------------------------------------------------------------------------------------------------ the mark of an owner


async def owner(folder: Path, *, crash: bool) -> float:
    """Open and end a delivery whose late writes do harm; how long the opening took."""
    sink = Scripted(CONTEXT)
    sink.late_writes_harmless = False  # type: ignore[misc]
    one = Delivery(folder, sink)
    began = asyncio.get_running_loop().time()
    await one.open()
    took = asyncio.get_running_loop().time() - began
    await one.processor.close(None if crash else one.begin())
    one.commit()
    one.store.close()
    return took


async def test_a_new_owner_waits_unless_the_former_one_left_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "SINK_DEADLINE", 0.3)
    assert await owner(tmp_path / "0", crash=False) < 0.3, "nobody was before"
    assert await owner(tmp_path / "0", crash=True) < 0.3, "the one before left in order"
    assert await owner(tmp_path / "0", crash=False) >= 0.3


async def test_where_late_writes_are_harmless_it_is_not_noted_who_left(make: Make) -> None:
    one, _ = await make()
    await one.processor.close(one.begin())
    one.commit()
    assert one.store.get("flights.base.marks", b"stopped") is None


# ------------------------------------------------------------------------------------------------ the shared sink


async def test_the_sink_is_opened_once_and_closed_by_the_last_partition(make: Make) -> None:
    one, sink = await make()
    second = one.topology.processor(3)
    await second.open(one.begin())
    await one.processor.close(None)
    await one.processor.close(None)
    assert (sink.opened, sink.closed) == (1, 0)
    await second.close(None)
    assert (sink.opened, sink.closed) == (1, 1)


class NotYet(Scripted):
    """A sink whose target is down at first."""

    async def open(self) -> None:
        await super().open()
        if self.opened < 3:
            raise SinkError("nobody answers")


async def test_a_target_that_is_down_at_the_start_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Backoff, "next", lambda self: 0.001)
    sink = NotYet(CONTEXT)
    shared = SharedSink(CONTEXT, SimpleNamespace(for_context=lambda context: sink))  # type: ignore[arg-type]
    first, second = await asyncio.gather(shared.acquire(), shared.acquire())
    assert first is second is sink and sink.opened == 3
    assert "flights.base: the sink cannot be opened: nobody answers" in caplog.text


async def test_an_opening_that_nobody_waits_for_any_more_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hanging(Scripted):
        async def open(self) -> None:
            await super().open()
            began.set()
            await asyncio.sleep(60)

    began = asyncio.Event()
    sink = Hanging(CONTEXT)
    shared = SharedSink(CONTEXT, SimpleNamespace(for_context=lambda context: sink))  # type: ignore[arg-type]
    waiting = asyncio.create_task(shared.acquire())
    await began.wait()
    waiting.cancel()
    await asyncio.wait({waiting})
    await shared.release(0)
    for _ in range(3):
        await asyncio.sleep(0)
    assert sink.closed == 1


# ----------------------------------------------------------------------------------------- sinks of the checkpoint


class Staged(CheckpointSink):
    """Copies by the bytes where it can."""

    def stage(self, batch: Sequence[Entry], checkpoint: Staging) -> Sequence[Outcome]:
        for entry in batch:
            if entry.raw is not None:
                checkpoint.emit_original("copy", 2, entry.raw, entry.timestamp)
            else:
                checkpoint.emit("copy", 2, entry.timestamp, entry.key, entry.value, list(entry.headers))
        return [APPLIED] * len(batch)


async def test_a_checkpoint_sink_s_records_are_in_the_checkpoint(tmp_path: Path) -> None:
    one = await Delivery(tmp_path / "0", Staged(CONTEXT)).open()
    records = [log_record(0), log_record(1, None)]
    records[1].headers += [("größe", None), ("walstream-like", b"1"), ("größe", b"\xff")]
    await one.deliver(*records)
    copies = one.sent("copy")
    assert [(record.key, record.value, record.timestamp) for record in copies] == [
        (b"k", b"v0", 1_000),
        (None, b"v1", 1_001),
    ]
    for copy, record in zip(copies, records, strict=True):
        assert list(copy.headers) == record.headers[4:], "its own headers, and none of those in front of them"
    one.store.close()


async def test_an_entry_is_what_its_record_says(make: Make, either_wire: ModuleType) -> None:
    one, sink = await make()
    seen: list[Entry] = []
    sink.script = [lambda batch: seen.extend(batch) or [APPLIED] * len(batch)]
    records = [log_record(0), log_record(1, None, targets=["base"])]
    await one.deliver(*records)
    for entry, record in zip(seen, records, strict=True):
        expected = Entry.from_log(2, record.offset, record.key, record.value, record.headers, record.timestamp)
        for field in ("position", "key", "value", "timestamp", "time", "ingress_position", "path", "id", "payload"):
            assert getattr(entry, field) == getattr(expected, field), field
        assert list(entry.headers) == list(expected.headers)
    assert all(entry.raw is not None for entry in seen)

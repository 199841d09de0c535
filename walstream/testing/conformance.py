"""What every sink must do, as tests: subclass `SinkConformance` in a test module of yours.

::

    class TestSearch(SinkConformance):
        @pytest.fixture
        def context(self):
            return SinkContext("shop", "search", Search.Options(url="http://127.0.0.1:9200"))

        def make(self, context):
            return Search(context)

        def entry(self, key, value, position):
            return entry(position, key=key.encode(), payload=b'{"stock": %d}' % value)

        async def state(self, sink):
            ...  # {"a": 1}: what the destination holds

Run it against the real destination: what it checks is what the two together do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import ClassVar

import pytest
import pytest_asyncio
from pydantic import ValidationError

from walstream.changes import Action
from walstream.entry import Entry
from walstream.headers import Header, log_headers
from walstream.record import encode
from walstream.sinks.base import (
    Applied,
    CheckpointSink,
    Dead,
    Outcome,
    Retry,
    Sink,
    SinkContext,
    Skipped,
    StatefulSink,
    Untried,
    Verdict,
)
from walstream.wire import Record, RecordReader, RecordWriter

Emitted = tuple[str, int, int, bytes | None, bytes | None, Sequence[tuple[str, bytes | None]]]
"""What a checkpoint sink adds to the checkpoint: topic, partition, timestamp, key, value, headers."""

TIME_0 = 1_357_000_000_000_000
"""The effective time (µs) of position 0 in the tests' log; each position is a millisecond later."""


def entry(
    position: int,
    *,
    key: bytes | None,
    payload: bytes | None,
    type: str = "test",
    content_type: str | None = "application/json",
    partition: int = 0,
    time: int | None = None,
) -> Entry:
    """Make a log entry as a router would have written it.

    Parameters
    ----------
    time
        The effective time, microseconds; later for later positions where it is not given.
    """
    time = TIME_0 + position * 1000 if time is None else time
    message = encode(
        payload,
        key=key,
        id=f"{partition}-{position}",
        source="conformance",
        type=type,
        time=time,
        content_type=content_type,
    )
    headers = log_headers(message.headers, time_us=time, position=position, timestamp_ms=time // 1000)
    writer = RecordWriter(0)  # the first record may be larger
    writer.append(time // 1000, message.key, message.value, headers)
    return Entry.from_record(partition, _read(writer, position))


def _read(writer: RecordWriter, offset: int) -> Record:
    """The only record of a writer, as it is fetched."""
    payload = writer.payload()
    return next(RecordReader(payload, 0, len(payload), 1, offset, writer.first_timestamp))


class Staged:
    """A checkpoint that keeps what a sink puts into it.

    Attributes
    ----------
    records
        These, in order.
    """

    def __init__(self) -> None:
        self.records: list[Emitted] = []

    def emit(
        self, topic: str, partition: int, timestamp: int, key: bytes | None, value: bytes | None, headers: list[Header]
    ) -> None:
        self.records.append((topic, partition, timestamp, key, value, headers))

    def emit_original(self, topic: str, partition: int, raw: Record, timestamp: int) -> None:
        writer = RecordWriter(0)
        writer.append_original(raw, timestamp)
        copy = _read(writer, 0)
        self.records.append((topic, partition, copy.timestamp, copy.key, copy.value, copy.headers))


class Rows:
    """The table of a stateful sink, in memory.

    Attributes
    ----------
    rows
        Key -> value.
    """

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        return [self.rows.get(key) for key in keys]

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        """Write down what outcomes change, in their order, as a worker does once their entries are finished."""
        for outcome in outcomes:
            if isinstance(outcome, Applied):
                for key, value in (outcome.rows or {}).items():
                    if value is None:
                        self.rows.pop(key, None)
                    else:
                        self.rows[key] = value


class SinkConformance:
    """The suite. Override `context`, `make`, `entry` and `state`; the rest where the destination calls for it.

    Attributes
    ----------
    last_write_wins
        The destination itself keeps the write with the latest effective time, whatever comes last.
    """

    last_write_wins: ClassVar[bool] = False

    @pytest.fixture
    def context(self) -> SinkContext:
        """The target, with a destination that is empty."""
        raise NotImplementedError

    def make(self, context: SinkContext) -> Sink:
        """The sink under test."""
        raise NotImplementedError

    def entry(self, key: str, value: int, position: int) -> Entry:
        """A log entry that sets ``key`` to ``value``. Later positions have later effective times."""
        raise NotImplementedError

    async def state(self, sink: Sink) -> Mapping[str, int]:
        """What the destination holds now: the value of each key."""
        raise NotImplementedError

    def refused(self, key: str, position: int) -> Entry | None:
        """A log entry of a key that the destination will never take, or None where it takes everything."""
        return None

    def unreachable(self, context: SinkContext) -> SinkContext | None:
        """The same target at a place where nothing answers, or None where that cannot be."""
        return None

    async def commit(self, sink: Sink, records: Sequence[Emitted]) -> None:
        """Write what a checkpoint sink staged, as the checkpoint would."""
        raise NotImplementedError

    async def attempt(self, sink: Sink, batch: Sequence[Entry]) -> list[Outcome]:
        """Have the sink write a batch, as a delivery worker would, and leave its own table as it was."""
        outcomes: list[Outcome] = []
        for first in range(0, len(batch), sink.batch_size) or (0,):
            part = batch[first : first + sink.batch_size]
            if isinstance(sink, CheckpointSink):
                staged = Staged()
                found = sink.stage(part, staged)
                await self.commit(sink, staged.records)
            elif isinstance(sink, StatefulSink):
                # What the calls before changed is seen, and not yet written.
                seen = Rows()
                seen.rows = dict(self.table.rows)
                seen.settle(outcomes)
                found = await sink.write_with(part, seen)
            else:
                found = await sink.write(part)
            outcomes += found
        assert isinstance(sink, StatefulSink) or not any(isinstance(x, Applied) and x.rows for x in outcomes)
        return outcomes

    async def deliver(self, sink: Sink, batch: Sequence[Entry]) -> list[Outcome]:
        """Have the sink write a batch that is finished then."""
        outcomes = await self.attempt(sink, batch)
        self.table.settle(outcomes)
        return outcomes

    @pytest.fixture(autouse=True)
    def _no_rows(self) -> None:
        self.table = Rows()

    @pytest_asyncio.fixture
    async def sink(self, context: SinkContext) -> AsyncIterator[Sink]:
        async with self.opened(context) as sink:
            yield sink

    @asynccontextmanager
    async def opened(self, context: SinkContext) -> AsyncIterator[Sink]:
        """The sink under test, ready to write."""
        sink = self.make(context)
        await sink.provision(dry_run=False)
        await sink.open()
        try:
            yield sink
        finally:
            await sink.close()

    async def test_writes_what_it_is_given(self, sink: Sink) -> None:
        outcomes = await self.deliver(sink, [self.entry("a", 1, 0), self.entry("b", 2, 1)])
        assert all(isinstance(outcome, Applied) for outcome in outcomes)
        assert len(outcomes) == 2
        assert await self.state(sink) == {"a": 1, "b": 2}

    async def test_an_empty_batch_is_nothing(self, sink: Sink) -> None:
        assert list(await self.deliver(sink, [])) == []
        assert await self.state(sink) == {}

    async def test_a_large_batch_has_an_outcome_for_every_entry(self, sink: Sink) -> None:
        batch = [self.entry(f"k{i % 300}", i, i) for i in range(1500)]
        outcomes = await self.deliver(sink, batch)
        assert len(outcomes) == len(batch)
        assert all(isinstance(outcome, Applied | Skipped) for outcome in outcomes)
        assert await self.state(sink) == {f"k{i % 300}": i for i in range(1500)}

    async def test_entries_of_one_key_take_effect_in_order(self, sink: Sink) -> None:
        await self.deliver(sink, [self.entry("a", 10 - i, i) for i in range(10)])
        assert await self.state(sink) == {"a": 1}

    async def test_a_batch_may_come_again(self, sink: Sink) -> None:
        first = [self.entry("a", 1, 0), self.entry("b", 2, 1)]
        second = [self.entry("a", 3, 2)]
        for batch in (first, second, first, second):
            outcomes = await self.deliver(sink, batch)
            assert all(isinstance(outcome, Applied | Skipped) for outcome in outcomes)
        assert await self.state(sink) == {"a": 3, "b": 2}

    async def test_the_later_effective_time_stays(self, sink: Sink) -> None:
        if not self.last_write_wins:
            pytest.skip("the destination keeps what comes last")
        await self.deliver(sink, [self.entry("a", 2, 1)])
        await self.deliver(sink, [self.entry("a", 1, 0)])
        assert await self.state(sink) == {"a": 2}

    async def test_partitions_write_at_the_same_time(self, sink: Sink) -> None:
        batches = [[self.entry(f"{n}-{i}", i, i) for i in range(50)] for n in range(8)]
        for outcomes in await asyncio.gather(*(self.deliver(sink, batch) for batch in batches)):
            assert len(outcomes) == 50
            assert all(isinstance(outcome, Applied) for outcome in outcomes)
        assert await self.state(sink) == {f"{n}-{i}": i for n in range(8) for i in range(50)}

    async def test_a_bad_entry_is_dead_and_its_neighbours_are_not(self, sink: Sink) -> None:
        bad = self.refused("c", 1)
        if bad is None:
            pytest.skip("the destination takes everything")
        before, dead, after = await self.deliver(sink, [self.entry("a", 1, 0), bad, self.entry("b", 2, 2)])
        assert isinstance(dead, Dead)
        assert dead.reason
        assert isinstance(before, Applied)
        assert isinstance(after, Applied)
        assert await self.state(sink) == {"a": 1, "b": 2}

    @pytest.mark.parametrize("hold", [False, True])
    async def test_a_dead_entry_among_those_of_its_key(self, context: SinkContext, hold: bool) -> None:
        bad = self.refused("a", 1)
        if bad is None:
            pytest.skip("the destination takes everything")
        async with self.opened(replace(context, hold=hold)) as sink:
            first, dead, behind, other = await self.deliver(
                sink, [self.entry("a", 1, 0), bad, self.entry("a", 2, 2), self.entry("b", 3, 3)]
            )
            assert isinstance(first, Applied)
            assert isinstance(dead, Dead)
            assert isinstance(other, Applied)
            # With hold it may wait; what says that it was applied must be so.
            assert isinstance(behind, Applied) or (hold and isinstance(behind, Retry | Untried))
            assert await self.state(sink) == {"a": 2 if isinstance(behind, Applied) else 1, "b": 3}
            await self.deliver(sink, [self.entry("a", 2, 2)])
            assert await self.state(sink) == {"a": 2, "b": 3}

    def run_of(self, name: object, first: int) -> tuple[list[Entry], dict[str, int]]:
        """Some entries of some keys that nothing else has, and the state in the end."""
        keys = [f"{name}-{key}" for key in "abaabca"]
        entries = [self.entry(key, i, first + i) for i, key in enumerate(keys)]
        return entries, {key: i for i, key in enumerate(keys)}

    async def test_a_batch_may_be_cut_anywhere(self, sink: Sink) -> None:
        expected: dict[str, int] = {}
        for cut in range(8):
            batch, end = self.run_of(cut, 10 * cut)
            outcomes = await self.deliver(sink, batch[:cut]) + await self.deliver(sink, batch[cut:])
            assert all(isinstance(outcome, Applied | Skipped) for outcome in outcomes)
            expected |= end
        assert await self.state(sink) == expected

    async def test_what_was_written_and_is_not_finished_comes_again(self, sink: Sink) -> None:
        expected: dict[str, int] = {}
        for finished in range(8):
            batch, end = self.run_of(finished, 10 * finished)
            outcomes = await self.attempt(sink, batch)
            self.table.settle(outcomes[:finished])
            again = await self.deliver(sink, batch[finished:])
            assert all(isinstance(outcome, Applied | Skipped) for outcome in [*outcomes, *again])
            expected |= end
        assert await self.state(sink) == expected

    async def test_leaves_the_entries_alone(self, sink: Sink) -> None:
        item = self.entry("a", 1, 0)
        before = (item.key, item.value, list(item.headers), item.timestamp, item.time)
        await self.deliver(sink, [item])
        assert (item.key, item.value, list(item.headers), item.timestamp, item.time) == before

    async def test_provision_changes_nothing_the_second_time(self, context: SinkContext) -> None:
        sink = self.make(context)
        planned = await sink.provision(dry_run=True)
        assert await self.make(context).provision(dry_run=True) == planned, "a dry run changed something"
        done = await sink.provision(dry_run=False)
        assert done == planned, "what was planned is not what was done"
        assert {change.action for change in await sink.provision(dry_run=True)} <= {Action.NONE}

    async def test_an_unreachable_destination_is_said_to_be_down(self, context: SinkContext) -> None:
        elsewhere = self.unreachable(context)
        if elsewhere is None:
            pytest.skip("the destination is always there")
        sink = self.make(elsewhere)
        try:
            with pytest.raises(Exception) as caught:  # noqa: PT011, PT012 - any that is in the table, by either call
                await sink.open()
                await self.attempt(sink, [self.entry("a", 1, 0)])
            assert sink.verdict(caught.value) is Verdict.TARGET_DOWN, f"{caught.value!r} is not in the table of errors"
        finally:
            await sink.close()

    def test_refuses_options_that_it_does_not_know(self, context: SinkContext) -> None:
        kind = type(self.make(context))
        with pytest.raises(ValidationError):
            kind.Options.model_validate({**context.options.model_dump(exclude_unset=True), "colour": "red"})

    def test_the_table_of_errors_is_one(self, context: SinkContext) -> None:
        for kind, verdict in self.make(context).errors.items():
            assert issubclass(kind, Exception)
            assert isinstance(verdict, Verdict)

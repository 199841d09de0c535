"""What follows another stretch before that is answered: which may, in which order they end, and what ends with them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from walstream import control
from walstream.delivery import dispatch, underway
from walstream.delivery.breaker import Breaker
from walstream.delivery.breaker import State as BreakerState
from walstream.delivery.underway import Stretch, Underway
from walstream.engine.fetch import Fetch
from walstream.entry import Entry
from walstream.errors import Unreadable
from walstream.sinks.base import APPLIED, Outcome, Retry, SinkContext, State, StatefulSink
from walstream.testing.delivering import DeliveryPartition, Down, ScriptedSink
from walstream.testing.raw_batch import RawRecord, encode_batch
from walstream.wire.batch import Batch


class FarSink(ScriptedSink):
    """A sink whose calls are answered when a test says so."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.sent: dict[int, asyncio.Future[None]] = {}  # calls without an answer, by their first position
        self.given_up: list[int] = []

    async def write(self, batch: Sequence[Entry]) -> Sequence[Outcome]:
        first = batch[0].position
        self.sent[first] = asyncio.get_running_loop().create_future()
        try:
            await self.sent[first]
        except asyncio.CancelledError:
            self.given_up.append(first)
            raise
        finally:
            del self.sent[first]
        return self._write(batch)


class RememberingSink(FarSink, StatefulSink):
    """One that looks at what it did before."""

    async def write_with(self, batch: Sequence[Entry], state: State) -> Sequence[Outcome]:
        return await self.write(batch)


class Worker:
    """A partition that works all the time, with a target far away."""

    def __init__(self, folder: Path, kind: type[FarSink] = FarSink, **words: Any) -> None:
        retry = {"initial": "1s", "max": "1s", "multiplier": 1, "attempts": words.pop("attempts", 8)}
        self.sink = kind(SinkContext("flights", "base", None))
        self.one = DeliveryPartition(folder, sink=self.sink, retry=retry, **words)
        self._working: asyncio.Task[None] | None = None

    async def start(self) -> Worker:
        await self.one.open()
        self._working = asyncio.create_task(self._work())
        return self

    async def _work(self) -> None:
        while True:
            await self.one.work(rounds=1)
            await asyncio.sleep(0)

    async def write(self, *keys: bytes | None) -> list[int]:
        """Append records to the log, and let them be seen."""
        positions = [self.one.write(key) for key in keys]
        await self.rest()
        return positions

    async def answer(self, position: int) -> None:
        """Answer the call that begins there."""
        self.sink.sent[position].set_result(None)
        await self.rest()

    async def answer_all(self) -> None:
        while self.sink.sent:
            await self.answer(min(self.sink.sent))

    async def rest(self) -> None:
        """Let everything go on that can."""
        for _ in range(100):
            await asyncio.sleep(0)
        assert self._working is not None
        if self._working.done():
            self._working.result()

    async def later(self, seconds: float) -> None:
        """Let so much time have passed."""
        self.one.now += round(seconds * 1e6)
        self.one._news.set()
        await self.rest()

    async def halt(self) -> None:
        """The task is cancelled, as at the end of a worker that takes too long."""
        if self._working is not None:
            self._working.cancel()
            with suppress(asyncio.CancelledError, Unreadable):
                await self._working

    @property
    def breaker(self) -> Breaker:
        found: Breaker = self.one.processor._dispatcher.breaker  # type: ignore[attr-defined]
        return found

    @property
    def committed(self) -> int:
        return self.one.committed[self.one.log_topic]


Make = Callable[..., Awaitable[Worker]]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    made: list[Worker] = []

    async def make_it(**words: Any) -> Worker:
        made.append(Worker(tmp_path / str(len(made)), **words))
        return await made[-1].start()

    yield make_it
    for worker in made:
        await worker.halt()
        await worker.one.processor.close(None)
        worker.one.close()


async def test_what_comes_meanwhile_is_sent_and_ends_behind_what_is_in_front(make: Make) -> None:
    worker = await make()
    await worker.write(b"a")
    await worker.write(b"b", b"c")
    assert list(worker.sink.sent) == [0, 1]
    await worker.answer(1)
    assert (worker.sink.applied, worker.committed) == ([1, 2], 0)
    await worker.answer(0)
    assert (worker.sink.applied, worker.committed) == ([1, 2, 0], 3)


async def test_what_is_in_front_is_committed_while_others_are_on_their_way(make: Make) -> None:
    worker = await make()
    for key in (b"a", b"b", b"c"):
        await worker.write(key)
    await worker.answer(0)
    assert (list(worker.sink.sent), worker.committed) == ([1, 2], 1)


@pytest.mark.parametrize("ordering", ["key", "none"])
async def test_what_has_a_key_that_is_on_its_way_waits_for_it(make: Make, ordering: str) -> None:
    worker = await make(ordering=ordering)
    await worker.write(b"a", b"b")
    await worker.write(b"c", b"b", b"d")
    if ordering == "none":
        assert list(worker.sink.sent) == [0, 2]
        return
    assert list(worker.sink.sent) == [0, 2]
    await worker.answer(2)
    assert worker.sink.calls == [[2]]
    await worker.answer(0)
    assert list(worker.sink.sent) == [3]
    await worker.answer(3)
    assert (worker.sink.calls, worker.committed) == ([[2], [0, 1], [3, 4]], 5)


async def test_what_follows_one_that_is_not_finished_comes_again_with_it(make: Make) -> None:
    worker = await make()
    worker.sink.answers[0] = [Down("a connection broke")]
    await worker.write(b"a")
    await worker.write(b"b")
    await worker.answer(1)
    await worker.answer(0)
    assert worker.committed == 0
    await worker.later(1)
    await worker.answer_all()
    assert (worker.sink.calls, worker.committed) == ([[1], [0], [0], [1]], 2)


async def test_only_what_is_in_front_says_whether_the_target_is_down(make: Make) -> None:
    worker = await make()
    for position in (1, 2, 3):
        worker.sink.answers[position] = [Down("a connection broke")]
    for key in (b"a", b"b", b"c", b"d"):
        await worker.write(key)
    for position in (3, 2, 1, 0):
        await worker.answer(position)
    assert worker.committed == 1
    assert worker.breaker.state is BreakerState.CLOSED
    await worker.later(1)
    await worker.answer_all()
    assert worker.committed == 4


async def test_one_connection_that_breaks_with_all_that_is_on_its_way_is_no_outage(make: Make) -> None:
    worker = await make()
    for position in (0, 1, 2):
        worker.sink.answers[position] = [Down("the connection broke")]
    for key in (b"a", b"b", b"c"):
        await worker.write(key)
    for call in list(worker.sink.sent.values()):
        call.set_result(None)
    await worker.rest()
    assert worker.breaker.state is BreakerState.CLOSED
    await worker.later(1)
    await worker.answer_all()
    assert (worker.breaker.state, worker.committed) == (BreakerState.CLOSED, 3)


async def test_what_was_sent_before_a_failure_does_not_put_the_blame_on_a_record(make: Make) -> None:
    worker = await make(attempts=1)
    worker.sink.answers[0] = [Down("it goes down")]
    await worker.write(b"a")
    await worker.write(b"b")
    await worker.answer(0)
    await worker.answer(1)
    worker.sink.down = True
    await worker.later(1)
    await worker.answer_all()
    assert (worker.breaker.state, worker.one.dead, worker.committed) == (BreakerState.OPEN, {}, 0)
    worker.sink.down = False
    for _ in range(20):
        await worker.later(10)
        await worker.answer_all()
    assert (worker.one.dead, worker.committed) == ({}, 2)


async def test_a_key_that_waits_after_all_is_waited_for_by_what_comes_then(make: Make) -> None:
    worker = await make()
    worker.sink.answers[0] = [Retry("busy")]
    await worker.write(b"a")
    await worker.write(b"b", b"a")
    await worker.answer(0)
    await worker.answer_all()
    assert worker.one.parked == {b"a": [2]}
    await worker.later(2)
    await worker.answer_all()
    assert worker.sink.applied == [1, 0, 2]


async def test_what_people_say_is_done_when_nothing_is_on_its_way(make: Make) -> None:
    worker = await make()
    await worker.write(b"a")
    worker.one.say(control.encode(control.Control(control.Kind.PAUSE)))
    await worker.write(b"b")
    assert list(worker.sink.sent) == [0], "it is heard before more is sent"
    await worker.answer(0)
    assert (list(worker.sink.sent), worker.committed, worker.one.committed[worker.one.retry_topic]) == ([], 1, 1)


async def test_who_leaves_in_order_waits_for_the_answers(make: Make) -> None:
    worker = await make()
    worker.sink.answers[0] = [Retry("busy")]
    await worker.write(b"a")
    await worker.write(b"b")
    await worker.halt()
    leaving = asyncio.create_task(worker.one.stop())
    await asyncio.sleep(0)
    assert not leaving.done()
    for position in (1, 0):
        worker.sink.sent[position].set_result(None)
    await leaving
    assert (worker.committed, list(worker.one.blocked)) == (2, [b"a"])


async def test_who_is_stopped_gives_up_what_is_on_its_way(make: Make) -> None:
    worker = await make()
    await worker.write(b"a")
    await worker.write(b"b")
    await worker.halt()
    await worker.one.processor.close(None)
    assert (worker.sink.given_up, worker.sink.sent, worker.committed) == ([0, 1], {}, 0)


async def test_a_full_stretch_waits_until_nothing_is_on_its_way(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "STRETCH", 3)
    monkeypatch.setattr("walstream.delivery.processor.STRETCH", 3)
    worker = await make()
    worker.sink.batch_size = 3
    worker.one.processor._dispatcher._most = 3  # type: ignore[attr-defined]
    await worker.write(b"a")
    await worker.write(*(b"%d" % number for number in range(4)))
    assert list(worker.sink.sent) == [0]
    await worker.answer(0)
    assert list(worker.sink.sent) == [1]
    await worker.answer(1)
    assert (worker.sink.calls, list(worker.sink.sent)) == ([[0], [1, 2, 3]], [4])


async def test_what_came_in_a_round_trip_follows_where_calls_are_large(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in (("STRETCH", 3), ("STRETCH_MOST", 6)):
        monkeypatch.setattr(dispatch, name, size)
        monkeypatch.setattr(f"walstream.delivery.processor.{name}", size)
    worker = await make()
    worker.sink.batch_size = worker.sink.in_flight = worker.one.processor._dispatcher._most = 50  # type: ignore[attr-defined]
    await worker.write(b"a")
    await worker.write(*(b"b%d" % number for number in range(5)))
    assert list(worker.sink.sent) == [0, 1], "more than what is worked on at once, and yet no backlog"
    await worker.write(*(b"c%d" % number for number in range(6)))
    assert list(worker.sink.sent) == [0, 1], "a backlog waits"
    await worker.answer_all()
    assert worker.committed == 12


async def test_who_looks_at_what_it_did_before_has_one_stretch_on_its_way(make: Make) -> None:
    worker = await make(kind=RememberingSink)
    await worker.write(b"a")
    await worker.write(b"b")
    assert list(worker.sink.sent) == [0]
    await worker.answer_all()
    assert (worker.sink.calls, worker.committed) == ([[0], [1]], 2)


async def test_what_is_for_others_needs_no_call_and_moves_the_position(make: Make) -> None:
    worker = await make()
    await worker.write(b"a")
    worker.one.write(b"b", targets=["other"])
    await worker.rest()
    assert worker.committed == 0
    await worker.answer(0)
    assert (worker.sink.calls, worker.committed) == ([[0]], 2)


async def test_what_cannot_be_read_is_met_when_all_before_it_is_finished(make: Make) -> None:
    worker = await make()
    await worker.write(b"a")
    source = worker.one._sources[worker.one.log_topic]
    raw = encode_batch([RawRecord(b"k", b"v", [])], base=1)
    source.append(Fetch(source.topic, 2, 1, 2, [Batch(raw[:-1] + bytes([raw[-1] ^ 1]))], 0))
    worker.one._news.set()
    await worker.rest()
    assert list(worker.sink.sent) == [0]
    worker.sink.sent[0].set_result(None)
    with pytest.raises(Unreadable, match="offset 1 cannot be read"):
        await worker.rest()
    assert source.position == 1


async def test_another_follows_when_what_comes_meanwhile_had_time_to_gather() -> None:
    on_its_way, news = Underway(ordered=True, gap=0.05), asyncio.Event()
    never = asyncio.get_running_loop().create_future()

    async def attempt() -> list[Outcome | None]:
        await never
        return [APPLIED]

    assert on_its_way.has_room
    on_its_way.start(Stretch([], [], [], []), attempt(), news)
    assert not on_its_way.has_room
    await asyncio.wait_for(news.wait(), 5)
    assert on_its_way.has_room
    on_its_way.close()
    assert not on_its_way.has_room
    never.set_result(None)
    await on_its_way.end()
    assert on_its_way.has_room and not on_its_way and not on_its_way.keys


async def test_large_stretches_have_few_on_their_way(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(underway, "BYTES", 1)
    worker = await make()
    for key in (b"a", b"b"):
        await worker.write(key)
    assert list(worker.sink.sent) == [0]
    monkeypatch.setattr(underway, "BYTES", 1 << 20)
    for key in (b"c", b"d", b"e", b"f"):
        await worker.write(key)
    assert len(worker.sink.sent) == underway.MOST, "and no more in any case"
    await worker.answer_all()
    assert worker.committed == 6

"""The application that fails, called by the http sink: it does what its schedule says, and remembers it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from walstream.connections import HttpConnection
from walstream.sinks.base import APPLIED, Applied, Dead, Outcome, Retry, SinkContext, TargetDown, Untried
from walstream.sinks.http import HttpOptions, HttpSink
from walstream.testing.conformance import entry
from walstream.testing.failing_target import PASSING, Answer, FailingTarget, Faults
from walstream.testing.history import Identity


@pytest.fixture
def target(request: pytest.FixtureRequest) -> Iterator[FailingTarget]:
    with FailingTarget(Faults(7, **getattr(request, "param", {})), latency=0.002) as target:
        yield target


@pytest.fixture
async def sink(target: FailingTarget) -> AsyncIterator[HttpSink]:
    options = HttpOptions.model_validate({"timeout": "100ms"})
    connection = HttpConnection.model_validate({"sink": "http", "url": target.url})
    sink = HttpSink(SinkContext("ns", "app", options, connection))
    await sink.open()
    yield sink
    await sink.close()


def entries(count: int) -> list[Any]:
    return [entry(position, key=b"k%d" % (position % 5), payload=b"v%d" % position) for position in range(count)]


async def deliver(sink: HttpSink, batch: list[Any]) -> dict[int, Outcome]:
    """Write until everything is applied or dead; a retried entry's followers wait."""
    ends: dict[int, Outcome] = {}
    async with asyncio.timeout(60):
        while batch:
            try:
                outcomes = await sink.write(batch)
            except TargetDown as down:
                outcomes = down.outcomes or [None] * len(batch)
            except tuple(sink.errors):  # the target as a whole
                continue
            answered = list(zip(batch, outcomes, strict=True))
            batch = [each for each, found in answered if found is None or isinstance(found, Retry | Untried)]
            ends |= {e.position: found for e, found in answered if found is not None and e not in batch}
    return ends


@pytest.mark.parametrize("target", [{"failing": 0.4, "refused": 0.2}], indirect=True)
async def test_every_fault_is_met_and_noted(target: FailingTarget, sink: HttpSink) -> None:
    batch = entries(120)
    ends = await deliver(sink, batch)
    assert {*PASSING, Answer.APPLIED, Answer.REFUSED} == target.answers().keys()
    dead = {position for position, outcome in ends.items() if isinstance(outcome, Dead)}
    of = {each.position: Identity(each.key, each.source, each.id) for each in batch}
    assert dead == {position for position, identity in of.items() if target.faults.never_takes(identity)}
    assert target.applied.keys() == {of[position] for position in ends.keys() - dead}
    assert not target.overlaps
    for position in ends.keys() - dead:
        seen, sent = target.applied[of[position]].entry, batch[position]
        assert (seen.key, seen.value, seen.timestamp, seen.offset) == (sent.key, sent.value, sent.timestamp, position)
    for identity in of.values():
        assert [request.count for request in target.of(identity)] == list(range(1, len(target.of(identity)) + 1))


@pytest.mark.parametrize("target", [{"stubborn": 1.0}], indirect=True)
async def test_what_is_repaired_is_taken(target: FailingTarget, sink: HttpSink) -> None:
    batch = entries(2)
    assert all(isinstance(outcome, Retry) for outcome in await sink.write(batch))
    target.faults.repair()
    assert await sink.write(batch) == [APPLIED] * 2


async def test_it_breaks_down_and_comes_back(target: FailingTarget, sink: HttpSink) -> None:
    target.break_down()
    with pytest.raises(TargetDown):
        await sink.write(entries(2))
    target.break_down(Answer.HANGS)
    with pytest.raises(TimeoutError):
        await sink.write(entries(1))
    target.come_back()
    assert all(isinstance(outcome, Applied) for outcome in await sink.write(entries(2)))


def test_equal_seeds_give_equal_faults() -> None:
    one, two, other = (Faults(seed, failing=0.5, refused=0.1) for seed in (1, 1, 2))

    def all_of(faults: Faults) -> list[Answer]:
        return [faults.answer(Identity(b"k", "s", str(n)), count) for n in range(50) for count in (1, 2, 3, 4)]

    assert all_of(one) == all_of(two) != all_of(other)
    assert set(all_of(one)[3::4]) <= {Answer.APPLIED, Answer.REFUSED}, "it fails no more than three times"

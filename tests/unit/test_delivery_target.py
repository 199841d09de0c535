"""A target as a whole: down, paused, full of what waits, or with a sink that does what it must not."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from walstream import control, marks
from walstream.delivery.breaker import State
from walstream.errors import Fenced
from walstream.sinks.base import APPLIED, UNTRIED, Dead, Retry
from walstream.testing.delivering import NOW, DeliveryPartition, Down, Unlisted

Make = Callable[..., Awaitable[DeliveryPartition]]

BUSY = Retry("busy")
SECOND = {"initial": "1s", "multiplier": 1, "max": "1s"}


def snapshot(one: DeliveryPartition) -> tuple[Any, ...]:
    """All that may not grow while a target is down."""
    return (
        len(one.topics[one.retry_topic]), len(one.topics[one.dlq_topic]), one.rows("schedule").keys(),
        one.rows("parked").keys(), one.rows("dead"), one.committed[one.log_topic],
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- down


async def test_while_the_target_is_down_nothing_grows_and_it_is_probed_seldom(make_partition: Make) -> None:
    one = await make_partition(retry=SECOND)
    waits = one.write(b"w")
    one.sink.answers[waits] = [BUSY]
    await one.settle()
    one.sink.down = True
    positions = [one.write(b"%d" % (n % 7)) for n in range(300)]
    await one.settle()
    before, calls = snapshot(one), len(one.sink.calls)
    await one.later(3_600)
    assert snapshot(one) == before and before[5] <= positions[0]
    assert len(one.sink.calls) - calls < 3_600, "it is asked again seldom"
    probes = one.sink.calls[calls:]
    assert max(map(len, probes)) <= 10 and probes, "and with little"
    one.sink.down = False
    await one.until_done()
    assert sorted(one.sink.applied) == [waits, *positions]
    for key in range(7):
        of_key = [p for p in one.sink.applied if one.record(p).key == b"%d" % key]
        assert of_key == sorted(of_key)
    assert one.dead == {}


async def test_after_an_outage_retries_go_before_the_log(make_partition: Make) -> None:
    one = await make_partition(retry=SECOND)
    waits = [one.write(b"w%d" % n) for n in range(3)]
    for position in waits:
        one.sink.answers[position] = [BUSY]
    await one.settle()
    one.sink.down = True
    positions = [one.write(b"x%d" % n) for n in range(50)]
    await one.later(600)
    one.sink.down = False
    await one.until_done()
    assert set(waits) <= set(one.sink.applied[:13]), "all that may be ahead of them is a probe"
    assert sorted(one.sink.applied) == [*waits, *positions]


async def test_after_an_outage_records_come_at_a_bounded_rate(make_partition: Make) -> None:
    one = await make_partition()
    one.sink.down = True
    for n in range(20_000):
        one.write(b"%d" % n)
    await one.later(120)
    one.sink.down = False
    while not one.sink.applied:
        await one.later(0.1)
    began = one.now
    await one.until_done()
    assert 2_000_000 <= one.now - began <= 10_000_000, "1,000/s, and twice as many each second"


async def test_what_the_target_asks_for_is_honoured_when_it_is_down(make_partition: Make) -> None:
    one = await make_partition()
    error = Down("full")
    error.after = 100.0  # type: ignore[attr-defined]
    one.sink.whole = [error]
    position = one.write()
    await one.later(99)
    assert len(one.sink.calls) == 1
    await one.until_done()
    assert one.sink.applied == [position]


async def test_an_outage_is_left_for_people_to_see(make_partition: Make) -> None:
    one = await make_partition()
    one.sink.down = True
    one.write()
    await one.later(10)
    mark = marks.decode(marks.Halted, one.rows("marks")[marks.DOWN])
    assert "it is down" in (mark.reason or "")
    one.sink.down = False
    await one.until_done()
    await one.later(10)
    assert marks.DOWN not in one.rows("marks")


async def test_one_record_that_fails_as_if_the_target_were_down_does_not_keep_it_shut(make_partition: Make) -> None:
    one = await make_partition(retry={**SECOND, "attempts": 3})
    bad = one.write(b"bad")
    one.sink.script = lambda entry, attempt: Down("timeout") if entry.position == bad else APPLIED
    others = [one.write(b"%d" % n) for n in range(20)]
    while bad not in one.dead:
        others.append(one.write(b"%d" % len(others)))
        await one.later(31)
        assert len(others) < 40, "it takes others, so that this one's attempts count"
    await one.until_done()
    assert sorted(one.sink.applied) == others


async def test_a_crash_in_an_outage_changes_nothing(make_partition: Make) -> None:
    one = await make_partition(retry=SECOND)
    waits = one.write(b"w")
    one.sink.answers[waits] = [BUSY]
    await one.settle()
    one.sink.down = True
    positions = [one.write(b"%d" % n) for n in range(30)]
    await one.later(30)
    before = snapshot(one)
    for _ in range(3):
        await one.crash()
        await one.later(30)
    assert snapshot(one) == before
    one.sink.down = False
    await one.until_done()
    assert sorted(one.sink.applied) == [waits, *positions]


async def test_a_dlq_that_fills_too_fast_stops_the_delivery(
    make_partition: Make, caplog: pytest.LogCaptureFixture
) -> None:
    one = await make_partition(limits={"dead": "1/s"})
    one.sink.script = lambda entry, attempt: Dead("a wrong deployment")
    for n in range(5_000):
        one.write(b"%d" % n)
    with caplog.at_level(logging.WARNING):
        await one.later(60)
    assert 60 <= len(one.dead) <= 2_000
    assert "a wrong deployment" in caplog.text
    one.sink.script = lambda entry, attempt: APPLIED
    await one.until_done()
    assert len(one.dead) + len(one.sink.applied) == 5_000 and len(one.dead) <= 2_000


async def test_a_static_rate_is_shared_by_the_partitions(make_partition: Make) -> None:
    one = await make_partition(limits={"rate": "120/s"})
    positions = [one.write(b"%d" % n) for n in range(100)]
    began = one.now
    await one.until_done()
    assert sorted(one.sink.applied) == positions
    share = 120 / one.namespace.topics.partitions
    assert 100 / share - 2 <= (one.now - began) / 1e6 <= 100 / share + 2


# -------------------------------------------------------------------------------------------------------- paused


async def test_a_paused_target_gets_nothing_until_it_is_resumed(make_partition: Make) -> None:
    one = await make_partition(retry={**SECOND, "age": "1m"})
    waits = one.write(b"w")
    one.sink.answers[waits] = [BUSY]
    await one.settle()
    one.say(control.encode(control.Control(control.Kind.PAUSE, reason="the index is rebuilt")))
    await one.settle()
    positions = [one.write() for _ in range(3)]
    calls = len(one.sink.calls)
    await one.later(3_600)
    await one.crash()
    await one.later(3_600)
    assert len(one.sink.calls) == calls and one.committed[one.log_topic] <= positions[0]
    mark = marks.decode(marks.Halted, one.rows("marks")[marks.PAUSED])
    assert mark.reason == "the index is rebuilt"
    one.say(control.encode(control.Control(control.Kind.RESUME)))
    await one.until_done()
    assert one.sink.applied == [waits, *positions] and one.dead == {}
    assert marks.PAUSED not in one.rows("marks")


async def test_what_is_said_while_it_is_paused_is_heard(make_partition: Make) -> None:
    one = await make_partition()
    position = one.write()
    one.sink.answers[position] = [Dead("no")]
    await one.settle()
    one.say(control.encode(control.Control(control.Kind.PAUSE)))
    one.redrive(position)
    await one.later(60)
    assert one.sink.applied == [] and one.waits.keys() == {"schedule"}
    one.say(control.encode(control.Control(control.Kind.RESUME)))
    await one.until_done()
    assert one.sink.applied == [position]


async def test_a_resume_closes_the_breaker(make_partition: Make) -> None:
    one = await make_partition()
    error = Down("full")
    error.after = 250.0  # type: ignore[attr-defined]
    one.sink.whole = [error]
    position = one.write()
    await one.settle()
    one.say(control.encode(control.Control(control.Kind.RESUME)))
    await one.later(1)
    assert one.sink.applied == [position]


# ----------------------------------------------------------------------------------------------------------- full


async def test_at_the_bound_of_parked_records_the_log_waits(
    make_partition: Make, caplog: pytest.LogCaptureFixture
) -> None:
    one = await make_partition(retry={**SECOND, "initial": "10s", "max": "10s"}, limits={"parked": 120}, fetch=10)
    one.sink.stops = True
    head = one.write()
    one.sink.script = lambda entry, attempt: (
        Retry("busy", after=30.0) if attempt < 3 and entry.position == head else APPLIED
    )
    followers = [one.write() for _ in range(400)]
    with caplog.at_level(logging.WARNING):
        await one.later(5)
    parked = sum(map(len, one.parked.values()))
    partitions = one.namespace.topics.partitions
    assert 120 // partitions <= parked <= 120 + 500, "a share of it, or all of it; and a stretch more"
    assert one.committed[one.log_topic] <= followers[-1]
    assert "parked" in caplog.text
    await one.until_done()
    assert one.sink.applied == [head, *followers]


# ---------------------------------------------------------------------------------- sinks that do what they must not


async def test_an_error_that_is_in_no_table_holds_the_partition_and_is_reported(
    make_partition: Make, caplog: pytest.LogCaptureFixture
) -> None:
    one = await make_partition(retry={**SECOND, "attempts": 2})
    waits = one.write(b"w")
    one.sink.answers[waits] = [BUSY]
    await one.settle()
    positions = [one.write(b"a"), one.write(b"b")]
    one.sink.whole = [Unlisted("oops") for _ in range(20)]
    await one.later(2)
    assert (one.sink.applied, one.dead, one.committed[one.log_topic]) == ([], {}, positions[0])
    assert "not in the sink's table" in caplog.text and "oops" in caplog.text
    await one.until_done()
    assert sorted(one.sink.applied) == [waits, *positions] and one.dead == {}


@pytest.mark.parametrize("answer", [[], [APPLIED] * 3, None, [True, "applied"]], ids=["none", "many", "None", "other"])
async def test_a_wrong_answer_holds_the_partition_and_is_reported(
    make_partition: Make, answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    one = await make_partition()
    positions = [one.write(b"a"), one.write(b"b")]
    one.sink.whole = [answer]
    await one.work()
    assert (one.sink.applied, one.committed[one.log_topic], one.sink.calls) == ([], positions[0], [positions])
    assert "did not answer with one outcome for each of 2 entries" in caplog.text
    await one.until_done()
    assert sorted(one.sink.applied) == positions


async def test_a_partition_that_is_held_hears_what_people_say(make_partition: Make) -> None:
    one = await make_partition()
    bad, good = one.write(b"bad"), one.write(b"good")
    one.sink.script = lambda entry, attempt: Unlisted("oops") if entry.position == bad else APPLIED
    await one.later(120)
    assert bad not in one.sink.applied and one.committed[one.log_topic] == bad
    one.say(control.encode(control.Control(control.Kind.QUARANTINE, bad)))
    await one.until_done()
    assert (one.sink.applied, list(one.dead)) == ([good], [bad])


async def test_a_sink_that_tries_nothing_is_asked_again_after_a_while(make_partition: Make) -> None:
    one = await make_partition()
    position = one.write()
    one.sink.script = lambda entry, attempt: UNTRIED if attempt < 30 else APPLIED
    await one.until_done()
    assert one.sink.applied == [position] and one.now > NOW * 1000, "not at once, again and again"


# ------------------------------------------------------------------------------------------------ what is shared


async def test_a_prober_that_ends_in_the_middle_leaves_the_probe_to_others(make_partition: Make) -> None:
    one = await make_partition()
    one.sink.late_writes_harmless = False
    one.sink.down = True
    position = one.write()
    await one.later(5)

    async def frozen() -> None:
        raise Fenced("it may have been replaced")

    checkpoint = one._begin()
    checkpoint.make_sure = frozen
    breaker = one.processor._dispatcher.breaker  # type: ignore[attr-defined]
    assert breaker.state is State.OPEN
    one.now += 60_000_000
    source = one._read(one.log_topic)
    assert source is not None and one.processor.wants(one.log_topic)
    with pytest.raises(Fenced):
        await one.processor.process(source, checkpoint)
    assert breaker.state is State.OPEN and one.committed[one.log_topic] == position


async def test_after_a_suspect_ends_without_an_attempt_calls_are_large_again(make_partition: Make) -> None:
    one = await make_partition()
    bad = one.write(b"bad")
    one.sink.script = lambda entry, attempt: Down("it times out") if entry.position == bad else APPLIED
    await one.later(5)
    one.say(control.encode(control.Control(control.Kind.QUARANTINE, bad)))
    await one.until_done()
    one.write(b"good")
    await one.later(60)
    positions = [one.write(b"%d" % n) for n in range(100)]
    await one.settle()
    assert one.sink.calls[-1] == positions


async def test_keys_that_are_held_are_bounded_as_well(make_partition: Make) -> None:
    """They wait for people, and are in memory, though no record of theirs is parked."""
    one = await make_partition(on_dead="hold", limits={"parked": 120, "dead": "1000000/s"}, fetch=10)
    one.sink.script = lambda entry, attempt: Dead("no such column")
    positions = [one.write(b"%d" % n) for n in range(1_500)]
    await one.settle()
    assert 120 // one.namespace.topics.partitions <= len(one.blocked) <= 120 + 500
    one.sink.script = lambda entry, attempt: APPLIED
    for position in list(one.dead):
        one.redrive(position)
    await one.until_done()
    assert sorted(one.sink.applied) == positions

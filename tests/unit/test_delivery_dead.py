"""What a target will never take: dead letters, keys that are held, redrive, drop and quarantine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from walstream import control, dead
from walstream.blocked import State
from walstream.entry import Entry
from walstream.sinks.base import APPLIED, Dead, Retry
from walstream.testing.delivering import Bad, DeliveryPartition, log_position

Make = Callable[..., Awaitable[DeliveryPartition]]

BUSY = Retry("busy")
NO = Dead("no such column")
SECOND = {"initial": "1s", "multiplier": 1, "max": "1s"}
DEAD, REDRIVEN, DROPPED = dead.State.DEAD, dead.State.REDRIVEN, dead.State.DROPPED


async def test_a_dead_letter_has_a_row_and_the_key_goes_on(make_partition: Make) -> None:
    one = await make_partition()
    position, follower = one.write(), one.write()
    one.sink.answers[position] = [NO]
    await one.until_done()
    assert (one.buried, one.dead) == ([(position, "no such column")], {position: DEAD})
    assert (one.sink.applied, one.blocked) == ([follower], {})


async def test_a_dead_letter_that_had_waited_is_byte_for_byte_what_was_written(make_partition: Make) -> None:
    one = await make_partition(retry=SECOND)
    position = one.write(b"\x00\xff", payload=b"\xfe\x00")
    record = one.record(position)
    record.headers += [("twice", b"\xff"), ("twice", None), ("walstream-like", b"1"), ("größe", b"")]
    one.sink.answers[position] = [BUSY, BUSY, NO]
    await one.until_done()
    (letter,) = one.topics[one.dlq_topic]
    entry = Entry.from_log(one.partition, 0, letter.key, letter.value, letter.headers, letter.timestamp)
    before = Entry.from_log(one.partition, position, record.key, record.value, record.headers, record.timestamp)
    assert (entry.key, entry.value, list(entry.headers)) == (before.key, before.value, list(before.headers))
    assert (entry.time, entry.timestamp, entry.ingress_position) == (before.time, before.timestamp, position + 100)
    assert letter.header("walstream-attempt") == b"3"
    for tried in one.sink.entries:
        assert (tried.key, tried.value, list(tried.headers)) == (before.key, before.value, list(before.headers))
        assert (tried.time, tried.timestamp, tried.position, tried.partition) == (
            before.time, before.timestamp, position, one.partition,
        )  # fmt: skip


async def test_a_null_value_stays_null(make_partition: Make) -> None:
    one = await make_partition(retry=SECOND)
    one.sink.stops = True
    head, follower = one.write(payload=None), one.write(payload=None)
    one.sink.answers = {head: [BUSY, NO], follower: [NO]}
    await one.until_done()
    assert [letter.value for letter in one.topics[one.dlq_topic]] == [None, None]
    assert {entry.value for entry in one.sink.entries} == {None}


async def test_of_a_call_that_is_dead_only_the_entry_at_fault_is(make_partition: Make) -> None:
    one = await make_partition()
    positions = [one.write(b"%d" % n) for n in range(3)]
    one.sink.script = lambda entry, attempt: Bad("no") if entry.position == positions[1] else APPLIED
    await one.until_done()
    assert list(one.dead) == [positions[1]] and one.buried[0][1] == "Bad: no"
    assert set(one.sink.applied) == {positions[0], positions[2]}


# ---------------------------------------------------------------------------------------------------- on_dead: hold


async def test_held_keys_wait_and_others_do_not(make_partition: Make) -> None:
    one = await make_partition(on_dead="hold")
    one.sink.stops = True
    head, *followers = one.write(), one.write(), one.write()
    other = one.write(b"b")
    one.sink.answers[head] = [NO]
    await one.settle()
    late = one.write()
    await one.later(3_600)
    assert (one.sink.applied, one.dead) == ([other], {head: DEAD})
    assert one.parked == {b"k": [*followers, late]}
    row = one.blocked[b"k"]
    assert (row.state, row.head, row.tail) == (State.HELD, head, late)


async def test_a_redriven_record_goes_back_into_its_place(make_partition: Make) -> None:
    one = await make_partition(on_dead="hold", retry=SECOND)
    one.sink.stops = True
    head, follower = one.write(), one.write()
    one.sink.answers[head] = [NO, BUSY, APPLIED]
    await one.settle()
    one.redrive(head)
    await one.settle()
    assert (one.sink.applied, one.dead) == ([], {head: REDRIVEN}), "it may take more attempts"
    await one.until_done()
    assert (one.sink.applied, one.blocked, one.parked) == ([head, follower], {}, {})


async def test_a_redriven_record_that_dies_again_is_held_again(make_partition: Make) -> None:
    one = await make_partition(on_dead="hold")
    one.sink.stops = True
    head, follower = one.write(), one.write()
    one.sink.answers[head] = [NO, Dead("no, and no"), APPLIED]
    await one.settle()
    one.now += 1_000_000
    one.redrive(head)
    await one.settle()
    assert (one.dead, one.buried[1:]) == ({head: DEAD}, [(head, "no, and no")])
    assert (one.sink.applied, one.parked) == ([], {b"k": [follower]})
    one.redrive(head)
    await one.until_done()
    assert one.sink.applied == [head, follower]


async def test_a_dropped_record_lets_its_key_go(make_partition: Make) -> None:
    one = await make_partition(on_dead="hold")
    one.sink.stops = True
    head, follower = one.write(), one.write()
    one.sink.answers[head] = [NO]
    await one.settle()
    one.drop(head)
    await one.until_done()
    assert (one.dead, one.sink.applied, one.sink.tries[head]) == ({head: DROPPED}, [follower], 1)
    assert one.blocked == {}


async def test_each_follower_may_die_and_hold_in_turn(make_partition: Make) -> None:
    one = await make_partition(on_dead="hold")
    one.sink.stops = True
    first, second, third = one.write(), one.write(), one.write()
    one.sink.answers = {first: [NO], second: [NO]}
    await one.settle()
    one.redrive(first)
    await one.settle()
    assert (one.dead, one.parked) == ({first: REDRIVEN, second: DEAD}, {b"k": [third]})
    one.drop(second)
    await one.until_done()
    assert one.sink.applied == [first, third]


async def test_attempts_that_are_exhausted_hold_as_well(make_partition: Make) -> None:
    one = await make_partition(on_dead="hold", retry={**SECOND, "attempts": 2})
    one.sink.stops = True
    head, follower = one.write(), one.write()
    one.sink.answers[head] = [BUSY, BUSY]
    await one.later(60)
    assert (one.dead, one.parked, one.blocked[b"k"].state) == ({head: DEAD}, {b"k": [follower]}, State.HELD)
    one.redrive(head)
    await one.until_done()
    assert one.sink.applied == [head, follower]


async def test_records_without_a_key_hold_nobody(make_partition: Make) -> None:
    one = await make_partition(on_dead="hold")
    head, follower = one.write(None), one.write(None)
    one.sink.answers[head] = [NO]
    await one.until_done()
    assert (one.sink.applied, one.blocked) == ([follower], {})


# --------------------------------------------------------------------------------------------- redrive, drop, twice


@pytest.mark.parametrize("on_dead", ["continue", "hold"])
@pytest.mark.parametrize("crash", [False, True])
async def test_redriving_twice_applies_once(make_partition: Make, on_dead: str, crash: bool) -> None:
    one = await make_partition(on_dead=on_dead)
    position = one.write()
    one.sink.answers[position] = [NO]
    await one.settle()
    one.redrive(position)
    one.redrive(position)
    await one.settle()
    if crash:
        await one.crash()
    one.redrive(position)
    await one.until_done()
    assert (one.sink.applied, one.dead) == ([position], {position: REDRIVEN})


async def test_with_continue_a_redriven_record_comes_late(make_partition: Make) -> None:
    one = await make_partition()
    position, follower = one.write(), one.write()
    one.sink.answers[position] = [NO]
    await one.settle()
    one.redrive(position)
    await one.until_done()
    assert one.sink.applied == [follower, position]


async def test_with_continue_a_redriven_record_waits_behind_a_key_that_is_blocked(make_partition: Make) -> None:
    one = await make_partition(retry=SECOND)
    one.sink.stops = True
    position, head, follower = one.write(), one.write(), one.write()
    one.sink.answers = {position: [NO], head: [Retry("busy", after=5.0)]}
    await one.settle()
    one.redrive(position)
    await one.until_done()
    assert one.sink.applied[-2:] == [head, follower] or one.sink.applied == [head, follower, position]
    assert sorted(one.sink.applied) == [position, head, follower] and one.blocked == {}


async def test_what_was_dropped_is_not_redriven(make_partition: Make) -> None:
    one = await make_partition()
    position = one.write()
    one.sink.answers[position] = [NO]
    await one.settle()
    one.drop(position)
    one.redrive(position)
    await one.until_done()
    assert (one.sink.applied, one.dead) == ([], {position: DROPPED})


async def test_what_was_redriven_is_not_dropped(make_partition: Make) -> None:
    one = await make_partition(retry=SECOND)
    position = one.write()
    one.sink.answers[position] = [NO, BUSY]
    await one.settle()
    one.redrive(position)
    await one.settle()
    one.drop(position)
    await one.until_done()
    assert (one.sink.applied, one.dead) == ([position], {position: REDRIVEN})


async def test_a_redrive_has_all_attempts_again(make_partition: Make) -> None:
    one = await make_partition(retry={**SECOND, "attempts": 2})
    position = one.write()
    one.sink.answers[position] = [BUSY, BUSY, BUSY, APPLIED]
    await one.later(60)
    one.redrive(position)
    await one.until_done()
    assert (one.sink.applied, len(one.buried)) == ([position], 1)


async def test_a_redrive_of_what_died_without_a_row_goes_on(make_partition: Make) -> None:
    one = await make_partition()
    position = one.write()
    one.sink.answers[position] = [NO]
    await one.settle()
    another = await make_partition()
    letter = one.topics[one.dlq_topic][0]
    another.say(control.redrive(letter.key, letter.value, letter.headers))
    another.say(control.redrive(letter.key, letter.value, letter.headers))
    await another.until_done()
    assert another.sink.applied == [position], "and once: it has a row by then"


async def test_a_redrive_is_not_lost_in_a_crash(make_partition: Make) -> None:
    one = await make_partition()
    position = one.write()
    one.sink.answers[position] = [NO, APPLIED, APPLIED]
    await one.settle()
    one.redrive(position)
    await one.work(commit=False)
    await one.crash()
    assert one.dead == {position: DEAD}
    await one.until_done()
    assert one.dead == {position: REDRIVEN} and set(one.sink.applied) == {position}


# ------------------------------------------------------------------------------------------------------- quarantine


def quarantine(position: int) -> control.Control:
    return control.Control(control.Kind.QUARANTINE, position, None, "it crashes the worker")


async def test_a_quarantined_record_is_never_tried(make_partition: Make) -> None:
    one = await make_partition()
    before, bad, behind = one.write(b"a"), one.write(b"b"), one.write(b"c")
    one.say(control.encode(quarantine(bad)))
    await one.until_done()
    assert sorted(one.sink.applied) == [before, behind] and bad not in one.sink.tries
    assert one.dead == {bad: DEAD} and "it crashes the worker" in one.buried[0][1]


async def test_a_record_is_quarantined_while_it_waits(make_partition: Make) -> None:
    one = await make_partition(retry=SECOND)
    one.sink.stops = True
    head, follower, last = one.write(), one.write(), one.write()
    one.sink.script = lambda entry, attempt: BUSY if entry.position == head else APPLIED
    await one.settle()
    one.say(control.encode(quarantine(head)))
    one.say(control.encode(quarantine(follower)))
    await one.until_done()
    assert one.dead == {head: DEAD, follower: DEAD} and one.sink.applied == [last]


async def test_what_people_say_is_heard_before_anything_is_tried_again(make_partition: Make) -> None:
    """It may be a record that ends its workers, and so every one that begins."""
    one = await make_partition(retry=SECOND, fetch=1)
    position = one.write()
    one.sink.answers[position] = [BUSY]
    await one.settle()
    one.now += 60_000_000
    one.say(control.encode(control.Control(control.Kind.RESUME)))
    one.say(control.encode(control.Control(control.Kind.QUARANTINE, position)))
    one.sink.calls.clear()
    await one.crash()
    await one.until_done()
    assert one.sink.calls == [] and list(one.dead) == [position]


async def test_a_quarantined_record_may_be_redriven(make_partition: Make) -> None:
    one = await make_partition()
    position = one.write()
    one.say(control.encode(quarantine(position)))
    await one.settle()
    one.redrive(position)
    await one.until_done()
    assert one.sink.applied == [position]


async def test_a_quarantine_survives_a_crash_before_its_record_is_met(make_partition: Make) -> None:
    one = await make_partition()
    position = one.ends[one.log_topic]
    one.say(control.encode(quarantine(position)))
    await one.settle()
    await one.crash()
    assert one.write() == position
    await one.until_done()
    assert one.sink.tries == {} and list(one.dead) == [position]
    assert log_position(one.topics[one.dlq_topic][0]) == position

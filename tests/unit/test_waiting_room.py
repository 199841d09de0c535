"""Delay, cancel and reschedule in a router's partition, over a real store and without Kafka. Times in µs."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hypothesis
import pytest
from hypothesis import settings
from hypothesis import strategies as st

from walstream.answers import Answer
from walstream.dedup import ANSWERED, CANCELLED, EXPIRED, Row, pending_until
from walstream.entry import Entry
from walstream.identity import identity
from walstream.mutation import TYPE
from walstream.pending import LATEST_US, Outcome
from walstream.testing.routing import NOW, Given, RouterPartition, given

S = 1_000_000
HOUR = 3_600 * S
T = NOW * 1000
"""When records come."""


@pytest.fixture
async def router(tmp_path: Path) -> AsyncIterator[RouterPartition]:
    router = RouterPartition(tmp_path)
    await router.open()
    yield router
    router.store.close()


async def opened(folder: Path, **words: Any) -> RouterPartition:
    router = RouterPartition(folder, **words)
    await router.open()
    return router


def cancel(offset: int, ref: str = "w", **options: Any) -> Given:
    """A cancel of a write, whose id is ``c`` and its place."""
    return given(offset, f"c{offset}", action="cancel", ref=ref, **{"payload": None, **options})


def reschedule(offset: int, ref: str = "w", **options: Any) -> Given:
    """A reschedule of a write, whose id is ``r`` and its place."""
    return given(offset, f"r{offset}", action="reschedule", ref=ref, **{"payload": None, **options})


def ids(entries: list[Entry]) -> list[str]:
    return [entry.id for entry in entries]


def outcomes(router: RouterPartition) -> list[tuple[str, str]]:
    """Who was answered what."""
    return [(answer.id, answer.outcome.value) for answer in router.answers]


def drawn(id: str, jitter: int) -> int:
    """The jitter of a record, as the contract has it."""
    return int.from_bytes(identity(b"k", "s", id)[:8]) * (jitter + 1) >> 64


# ---------------------------------------------------------------------------------------------- when


@pytest.mark.parametrize(
    ("options", "due"),
    [
        ({"delay": 10 * S}, T + 10 * S),
        ({"delay": 10 * S, "time": T - 4 * S}, T + 6 * S),
        ({"delay": 365 * 24 * HOUR}, T + 365 * 24 * HOUR),
        ({"deliver_at": T + 7}, T + 7),
        ({"deliver_at": T + S, "time": T - HOUR}, T + S),
        ({"jitter": S}, T + drawn("w", S)),
        ({"delay": 10 * S, "jitter": HOUR}, T + 10 * S + drawn("w", HOUR)),
        ({"deliver_at": T + S, "jitter": HOUR}, T + S + drawn("w", HOUR)),
    ],
)
@pytest.mark.usefixtures("either_wire")
async def test_a_record_waits_until_it_is_due_and_is_never_early(
    router: RouterPartition, options: dict[str, int], due: int
) -> None:
    record = given(5, "w", **options)
    await router.route([record])
    assert (router.log, router.waiting, router.processor.due_at()) == ([], 1, due)
    assert router.row(b"k", "w") == Row(5, pending_until(due))
    assert await router.at(due - 1) == []
    (entry,) = await router.at(due)
    assert (entry.id, entry.ingress_position, entry.timestamp) == ("w", 5, NOW)
    assert entry.time == options.get("time", T) // 10 * 10 + 3, "the write time"
    assert entry.headers == record.headers
    assert router.row(b"k", "w") == Row(5, 0)
    assert (router.waiting, router.processor.due_at()) == (0, None)
    assert await router.at(due + HOUR) == []


@pytest.mark.parametrize(
    "options",
    [
        {"delay": 0},
        {"delay": 10 * S, "time": T - 10 * S},
        {"deliver_at": T},
        {"deliver_at": T - HOUR},
        {"delay": S, "jitter": S, "time": T - 2 * S},
        {"deliver_at": 0},
    ],
)
@pytest.mark.usefixtures("either_wire")
async def test_what_is_due_as_it_comes_was_never_delayed(router: RouterPartition, options: dict[str, int]) -> None:
    await router.route([given(0, "w", **options), given(1, "x")])
    assert ids(router.log) == ["w", "x"]
    assert (router.waiting, router.row(b"k", "w")) == (0, Row(0, 0))


async def test_an_adopted_topic_s_times_make_nothing_early(router: RouterPartition) -> None:
    """They are the producers', and here both the producer's and the worker's clock are an hour ahead."""
    router.wall = HOUR
    record = given(0, "w", deliver_at=T + 60 * S, time=T, timestamp=NOW + 3_600_000)
    record.timestamp_type = 0
    await router.route([record])
    assert router.log == []
    assert ids(await router.at(T + 60 * S)) == ["w"]


@pytest.mark.parametrize("timestamp", [-1, 0, -(10**12)])
async def test_an_action_in_an_adopted_topic_may_have_any_timestamp(router: RouterPartition, timestamp: int) -> None:
    record = cancel(0, timestamp=timestamp)
    record.timestamp_type = 0
    await router.route([record])
    assert outcomes(router) == [("c0", "waiting")]


# ---------------------------------------------------------------------------------------------- expiry


async def test_what_has_expired_as_it_comes_is_counted_and_nothing_else(router: RouterPartition) -> None:
    await router.route([given(0, "w", delay=S, expiry=T), given(1, "x", deliver_at=T - S, expiry=T - 1)])
    assert (router.log, router.waiting) == ([], 0)
    assert (router.row(b"k", "w"), router.row(b"k", "x")) == (Row(0, EXPIRED), Row(1, EXPIRED))
    assert router.counted("records", "expired") == 2


@pytest.mark.parametrize(
    ("expiry", "sent_at", "is_sent"),
    [
        (T + 10 * S, T + 10 * S, False),  # expires as it is due: it never can be delivered
        (T + 5 * S, T + 10 * S, False),
        (T + 10 * S + 1, T + 10 * S, True),
        (T + 20 * S, T + 20 * S, False),  # it was not looked at in time
        (T + 20 * S, T + 20 * S - 1, True),
    ],
)
@pytest.mark.usefixtures("either_wire")
async def test_expiry_while_it_waits(router: RouterPartition, expiry: int, sent_at: int, is_sent: bool) -> None:
    await router.route([given(0, "w", delay=10 * S, expiry=expiry)])
    assert ids(await router.at(sent_at)) == ["w"] * is_sent
    assert router.row(b"k", "w") == Row(0, 0 if is_sent else EXPIRED)
    assert router.waiting == 0
    assert router.counted("due", "sent" if is_sent else "expired") == 1


async def test_a_reschedule_keeps_the_expiry(router: RouterPartition) -> None:
    await router.route([given(0, "w", delay=S, expiry=T + 10 * S), reschedule(1, deliver_at=T + 10 * S)])
    assert await router.at(T + 10 * S) == []
    await router.route([cancel(2)])
    assert outcomes(router) == [("r1", "rescheduled"), ("c2", "expired")]


# ---------------------------------------------------------------------------------------------- cancel


async def test_a_cancel_in_time(router: RouterPartition) -> None:
    await router.route([given(0, "w", delay=10 * S)])
    await router.route([cancel(1)])
    assert router.answers == [Answer("cancel", "c1", "s", "w", Outcome.CANCELLED)]
    assert (router.waiting, router.row(b"k", "w"), router.row(b"k", "c1")) == (0, Row(0, CANCELLED), Row(1, ANSWERED))
    assert await router.at(T + HOUR) == []
    await router.route([given(2, "w", delay=10 * S), given(3, "w")])
    assert (router.log, router.waiting, router.counted("records", "duplicate")) == ([], 0, 2)


async def test_a_cancel_that_comes_when_the_time_has_come_and_nothing_was_sent_yet(router: RouterPartition) -> None:
    await router.route([given(0, "w", delay=10 * S)])
    router.now = T + 10 * S
    assert router.is_due
    await router.route([cancel(1)])
    assert outcomes(router) == [("c1", "cancelled")]
    assert await router.at(T + HOUR) == []


async def test_a_cancel_of_what_was_sent(router: RouterPartition) -> None:
    await router.route([given(0, "x"), given(1, "w", delay=10 * S)])
    await router.at(T + 10 * S)
    await router.route([cancel(2), cancel(3, "x"), reschedule(4, delay=HOUR)])
    assert router.answers == [
        Answer("cancel", "c2", "s", "w", Outcome.SENT, log_position=1),
        Answer("cancel", "c3", "s", "x", Outcome.SENT, log_position=0),
        Answer("reschedule", "r4", "s", "w", Outcome.SENT, log_position=1),
    ]
    assert router.waiting == 0


async def test_a_cancel_again_is_answered_again_and_the_same_one_is_not(router: RouterPartition) -> None:
    await router.route([given(0, "w", delay=10 * S), cancel(1), cancel(2), given(3, "c1", action="cancel", ref="w")])
    await router.route([cancel(4), given(5, "c1", action="cancel", ref="w")])
    assert outcomes(router) == [("c1", "cancelled"), ("c2", "cancelled"), ("c4", "cancelled")]
    assert (router.counted("records", "answered"), router.counted("answers", "cancelled")) == (3, 3)
    assert router.counted("records", "duplicate") == 2


async def test_an_older_cancel_does_nothing(router: RouterPartition) -> None:
    await router.route([given(0, "w", delay=10 * S, time=T), cancel(1, time=T - 1)])
    assert outcomes(router) == [("c1", "superseded")]
    assert ids(await router.at(T + 10 * S)) == ["w"]


async def test_a_cancel_of_equal_time_that_comes_later_counts(router: RouterPartition) -> None:
    await router.route([given(0, "w", delay=10 * S, time=T), cancel(1, time=T)])
    assert outcomes(router) == [("c1", "cancelled")]


async def test_key_and_source_belong_to_the_write(router: RouterPartition) -> None:
    await router.route([given(0, "w", delay=10 * S), cancel(1, key=b"other"), cancel(2, source="other")])
    assert outcomes(router) == [("c1", "waiting"), ("c2", "waiting")]
    assert ids(await router.at(T + 10 * S)) == ["w"]


async def test_records_without_a_key(router: RouterPartition) -> None:
    later = {"key": None, "extensions": {"partitionkey": "p"}}
    await router.route(
        [
            given(0, "w", key=None, delay=10 * S),
            given(1, "x", delay=10 * S, **later),
            cancel(2, key=None),
            reschedule(3, "x", delay=20 * S, **later),
        ]
    )
    assert outcomes(router) == [("c2", "cancelled"), ("r3", "rescheduled")]
    (entry,) = await router.at(T + HOUR)
    assert (entry.id, entry.key) == ("x", None), "as it was written"


async def test_the_payload_of_an_action_is_not_looked_at(tmp_path: Path) -> None:
    router = await opened(tmp_path, key="{flight}")
    await router.route([cancel(0, type=TYPE, payload=b"no mutation")])
    assert (router.refused, outcomes(router)) == ([], [("c0", "waiting")])
    router.store.close()


# ---------------------------------------------------------------------------------------------- reschedule


@pytest.mark.parametrize(
    ("options", "due"),
    [
        ({"delay": HOUR}, T + HOUR),
        ({"delay": HOUR, "time": T + S}, T + S + HOUR),  # from its own write time
        ({"delay": S}, T + S),
        ({"deliver_at": T + 2 * S}, T + 2 * S),
        ({"deliver_at": T + 2 * S, "jitter": HOUR}, T + 2 * S + drawn("w", HOUR)),  # of the write
        ({"delay": 10 * S}, T + 10 * S),  # where it was
    ],
    ids=["later", "by its own time", "earlier", "deliver-at", "jitter", "the same"],
)
async def test_a_reschedule_to_earlier_and_to_later(router: RouterPartition, options: dict[str, int], due: int) -> None:
    await router.route([given(0, "w", delay=10 * S), given(1, "x", delay=20 * S), reschedule(2, **options)])
    assert router.answers == [Answer("reschedule", "r2", "s", "w", Outcome.RESCHEDULED, due=due)]
    assert (router.row(b"k", "w"), router.waiting) == (Row(0, pending_until(due)), 2)
    assert router.processor.due_at() == min(due, T + 20 * S)
    assert "w" not in ids(await router.at(due - 1))
    assert ids(await router.at(due))[:1] == ["w"]
    assert router.row(b"k", "w") == Row(0, ids(router.log).index("w"))


async def test_a_reschedule_to_what_has_passed_sends_it_next(router: RouterPartition) -> None:
    await router.route([given(0, "w", delay=10 * S), reschedule(1, deliver_at=0)])
    assert router.log == []
    assert ids(await router.at(T)) == ["w"]


async def test_the_latest_counts_however_late_an_older_one_comes(router: RouterPartition) -> None:
    await router.route([given(0, "w", delay=10 * S, time=T)])
    await router.route([reschedule(1, deliver_at=T + 30 * S, time=T + 2)])
    await router.route([reschedule(2, deliver_at=T + 20 * S, time=T + 1), cancel(3, time=T + 1)])
    assert outcomes(router) == [("r1", "rescheduled"), ("r2", "superseded"), ("c3", "superseded")]
    await router.route([reschedule(4, deliver_at=T + 40 * S, time=T + 2)])
    assert await router.at(T + 40 * S - 1) == []
    assert ids(await router.at(T + 40 * S)) == ["w"]


async def test_nothing_brings_back_what_was_cancelled(router: RouterPartition) -> None:
    await router.route([given(0, "w", delay=10 * S), cancel(1), reschedule(2, delay=S)])
    assert outcomes(router) == [("c1", "cancelled"), ("r2", "cancelled")]
    assert await router.at(T + HOUR) == []


async def test_a_reschedule_too_far_by_the_draw_of_its_write_is_refused(router: RouterPartition) -> None:
    """Its own identity would draw less."""
    number = next(number for number in range(100) if drawn(f"r{number}", HOUR) < drawn("w", HOUR))
    record = reschedule(number, deliver_at=LATEST_US - drawn("w", HOUR) + 1, jitter=HOUR)
    await router.route([record])
    assert [code for code, _ in router.refusals] == ["bad-schedule"]
    assert router.answers == []


# ---------------------------------------------------------------------------------------------- before the write


WRITES: list[dict[str, int]] = [{}, {"delay": 10 * S}, {"time": T}, {"expiry": T + HOUR}]


@pytest.mark.parametrize("options", WRITES)
@pytest.mark.usefixtures("either_wire")
async def test_a_cancel_before_its_write(router: RouterPartition, options: dict[str, int]) -> None:
    await router.route([cancel(0, time=T)])
    assert (outcomes(router), router.waiting) == ([("c0", "waiting")], 1)
    await router.route([given(1, "w", **options)])
    assert outcomes(router) == [("c0", "waiting"), ("c0", "cancelled")]
    assert (router.log, router.waiting, router.row(b"k", "w")) == ([], 0, Row(1, CANCELLED))
    assert router.counted("records", "cancelled") == 1
    await router.route([given(2, "w", **options), cancel(3)])
    assert (outcomes(router)[2:], router.log) == ([("c3", "cancelled")], [])


@pytest.mark.parametrize("options", WRITES)
@pytest.mark.usefixtures("either_wire")
async def test_a_reschedule_before_its_write(router: RouterPartition, options: dict[str, int]) -> None:
    await router.route([reschedule(0, time=T, delay=20 * S)])
    await router.route([given(1, "w", **options)])
    assert router.answers == [
        Answer("reschedule", "r0", "s", "w", Outcome.WAITING),
        Answer("reschedule", "r0", "s", "w", Outcome.RESCHEDULED, due=T + 20 * S),
    ]
    assert await router.at(T + 20 * S - 1) == []
    (entry,) = await router.at(T + 20 * S)
    assert (entry.id, entry.ingress_position, entry.time, router.waiting) == ("w", 1, T // 10 * 10 + 3, 0)


async def test_a_reschedule_before_its_write_that_has_passed_sends_it_at_once(router: RouterPartition) -> None:
    await router.route([reschedule(0, time=T, deliver_at=T - S), given(1, "w", delay=HOUR)])
    assert outcomes(router) == [("r0", "waiting"), ("r0", "rescheduled")]
    assert (ids(router.log), router.waiting) == (["w"], 0)


@pytest.mark.parametrize("options", WRITES)
@pytest.mark.parametrize("action", [cancel(0, time=T - 1), reschedule(0, time=T - 1, delay=HOUR)])
async def test_an_older_action_before_its_write_does_nothing(
    router: RouterPartition, options: dict[str, int], action: Given
) -> None:
    await router.route([action])
    await router.route([given(1, "w", **options)])
    assert [outcome for _, outcome in outcomes(router)] == ["waiting", "superseded"]
    assert ids(await router.at(T + 10 * S)) == ["w"] * ("delay" in options)
    assert (ids(router.log), router.waiting) == (["w"], 0)


async def test_a_newer_action_that_waits_replaces_an_older_one(router: RouterPartition) -> None:
    await router.route([cancel(0, time=T + 1)])
    await router.route([reschedule(1, time=T + 2, delay=20 * S), cancel(2, time=T + 1)])
    assert outcomes(router) == [("c0", "waiting"), ("c0", "superseded"), ("r1", "waiting"), ("c2", "superseded")]
    assert router.waiting == 1
    await router.route([given(3, "w", time=T)])
    assert outcomes(router)[4:] == [("r1", "rescheduled")]
    assert ids(await router.at(T + 2 + 20 * S)) == ["w"]


async def test_a_write_that_has_expired_as_it_comes_after_its_cancel(router: RouterPartition) -> None:
    await router.route([cancel(0, time=T), given(1, "w", delay=S, expiry=T)])
    assert outcomes(router) == [("c0", "waiting"), ("c0", "expired")]
    assert router.waiting == 0


@pytest.mark.parametrize("options", WRITES)
@pytest.mark.parametrize("cancel_first", [False, True])
async def test_both_in_one_fetch(router: RouterPartition, options: dict[str, int], cancel_first: bool) -> None:
    if cancel_first:
        await router.route([cancel(0, time=T), given(1, "w", **options), given(2, "w", **options), given(3, "x")])
        assert outcomes(router) == [("c0", "waiting"), ("c0", "cancelled")]
    else:
        await router.route([given(0, "w", **options), cancel(1, time=T), given(2, "w", **options), given(3, "x")])
        assert outcomes(router) == [("c1", "cancelled" if "delay" in options else "sent")]
    await router.at(T + HOUR)
    is_sent = not cancel_first and "delay" not in options
    assert ids(router.log) == ["w"] * is_sent + ["x"]
    assert router.waiting == 0


async def test_an_action_about_an_action_waits_for_a_write_that_cannot_come(router: RouterPartition) -> None:
    await router.route([given(0, "w", delay=10 * S), cancel(1), cancel(2, "c1"), cancel(3, "c3")])
    assert outcomes(router) == [("c1", "cancelled"), ("c2", "waiting"), ("c3", "waiting")]
    await router.route([given(4, "c1"), given(5, "c3")])
    assert router.log == [], "their ids were used"
    assert router.waiting == 2
    await router.at(T + 25 * HOUR)
    assert router.waiting == 0


async def test_what_waits_for_its_write_is_forgotten_after_the_window(tmp_path: Path) -> None:
    router = await opened(tmp_path, dedup={"window": "2h"})
    await router.route([cancel(0, time=T + S), cancel(1, "x", time=T + S)])
    await router.at(T + 2 * HOUR - 1)
    await router.route([given(2, "x")])
    assert (router.log, router.waiting) == ([], 1)
    await router.at(T + 2 * HOUR)
    assert (router.waiting, router.counted("due", "forgotten")) == (0, 1)
    await router.route([given(3, "w")])
    assert ids(router.log) == ["w"]
    assert outcomes(router) == [("c0", "waiting"), ("c1", "waiting"), ("c1", "cancelled")]
    router.store.close()


# ---------------------------------------------------------------------------------------------- duplicates


async def test_a_duplicate_of_what_is_pending(router: RouterPartition) -> None:
    await router.route([given(0, "w", delay=10 * S), given(1, "w", delay=1 * S), given(2, "w")])
    await router.route([given(3, "w", delay=1 * S), given(4, "w")])
    assert (router.log, router.waiting, router.counted("records", "duplicate")) == ([], 1, 4)
    assert ids(await router.at(T + 10 * S)) == ["w"]


async def test_a_pending_record_is_inside_the_window_for_as_long_as_it_is_pending(tmp_path: Path) -> None:
    """Its dedup row is long gone, and other records have come meanwhile."""
    router = await opened(tmp_path, dedup={"window": "2h"})
    await router.route([given(0, "w", delay=100 * HOUR, time=T), given(1, "x", delay=100 * HOUR, time=T)])
    late = NOW + 50 * 3_600_000
    await router.route([given(2, "y", timestamp=late)])
    await router.route([given(3, "z", timestamp=late + 3 * 3_600_000)])
    assert router.row(b"k", "w") is None
    again = {"timestamp": late + 3 * 3_600_000, "time": T}
    await router.route([given(4, "w", delay=100 * HOUR, **again), given(5, "w", **again), cancel(6, "x", **again)])
    assert outcomes(router) == [("c6", "cancelled")]
    assert router.row(b"k", "x") == Row(1, CANCELLED)
    assert ids(await router.at(T + 100 * HOUR)) == ["w"]
    await router.route([given(7, "w", **again), cancel(8, **again), given(9, "x", **again)])
    assert (ids(router.log), outcomes(router)[1:]) == (["y", "z", "w"], [("c8", "sent")])
    router.store.close()


async def test_what_was_written_in_a_long_stop_is_deduplicated_whatever_is_sent_first(tmp_path: Path) -> None:
    """The window is by append times: the time that has passed since makes nobody forget."""
    router = await opened(tmp_path, dedup={"window": "2h"})
    await router.route([given(0, "x"), given(1, "w", delay=S)])
    assert ids(await router.at(T + 90 * HOUR)) == ["w"]
    await router.route([given(2, "x", timestamp=NOW + 60_000), given(3, "w", timestamp=NOW + 60_000)])
    assert ids(router.log) == ["x", "w"]
    router.store.close()


async def test_what_was_pending_is_read_again(tmp_path: Path) -> None:
    """From further back than the window: the very record that waits."""
    router = await opened(tmp_path, dedup={"window": "2h"})
    await router.route([given(0, "w", delay=100 * HOUR, time=T)])
    for hours in (3, 6, 9):
        await router.route([given(hours, timestamp=NOW + hours * 3_600_000)])
    await router.route([given(0, "w", delay=100 * HOUR, time=T)])
    assert router.waiting == 1
    assert ids(await router.at(T + 100 * HOUR)) == ["w"]
    router.store.close()


# ---------------------------------------------------------------------------------------------- times, order, rate


async def test_a_delayed_record_keeps_its_write_time(router: RouterPartition) -> None:
    await router.route([given(0, "w", delay=10 * S, time=T), given(1, "x", time=T)])
    await router.route([given(2, "y", time=T + 5 * S)])
    await router.at(T + 10 * S)
    assert {entry.id: entry.time for entry in router.log} == {"w": T + 3, "x": T + 13, "y": T + 5 * S + 3}


async def test_delayed_time_due(tmp_path: Path) -> None:
    router = await opened(tmp_path, delayed_time="due")
    await router.route(
        [given(0, "w", delay=10 * S), given(1, "x", delay=10 * S), given(2, "y", delay=5 * S), given(3, "z", delay=0)]
    )
    await router.route([reschedule(4, "y", deliver_at=T + 20 * S)])
    await router.at(T + 15 * S)
    await router.at(T + 30 * S)
    times = {entry.id: entry.time for entry in router.log}
    assert times == {"z": T + 3, "w": T + 10 * S + 3, "x": T + 10 * S + 13, "y": T + 20 * S + 3}
    router.store.close()


async def test_oldest_first_and_equal_times_by_their_place(router: RouterPartition) -> None:
    delays = [30, 10, 20, 10, 5, 30]
    await router.route([given(place, delay=delay * S) for place, delay in enumerate(delays)])
    assert ids(await router.at(T + HOUR)) == ["4", "1", "3", "2", "0", "5"]


async def test_what_is_overdue_goes_at_the_rate_and_fresh_records_do_not_wait(tmp_path: Path) -> None:
    router = await opened(tmp_path, schedule={"overdue_rate": "1200/s"}, topics={"partitions": 12})
    await router.route([given(place, delay=10 * S + place) for place in range(300)])
    start = T + HOUR
    first = await router.at(start)
    assert 1 <= len(first) <= 10, "a hundred a second, by partition; a tenth of it at once"
    await router.route([given(300, "fresh")])
    assert router.log[-1].id == "fresh"
    sent = [entry.ingress_position for entry in first]
    for step in range(1, 200):
        sent += [entry.ingress_position for entry in await router.at(start + step * S // 50)]
        assert len(sent) <= 10 + step * 2
    assert sent == list(range(300))
    router.store.close()


async def test_what_is_on_time_is_not_bounded(tmp_path: Path) -> None:
    router = await opened(tmp_path, schedule={"overdue_rate": "12/s"}, topics={"partitions": 12})
    await router.route([given(place, delay=10 * S + place) for place in range(3_000)])
    assert len(await router.at(T + 11 * S)) == 3_000
    router.store.close()


# ---------------------------------------------------------------------------------------------- bytes


@pytest.mark.usefixtures("either_wire")
@pytest.mark.parametrize(
    ("key", "value"), [(b"k", b"v"), (None, b""), (b"", None), (b"\xff" * 200, bytes(range(256)) * 40)]
)
async def test_every_byte_is_kept(router: RouterPartition, key: bytes | None, value: bytes | None) -> None:
    record = given(0, "w", key=key, payload=value, delay=10 * S, content_type="text/x", extensions={"other": "ü"})
    record.headers += [("twice", b"1"), ("twice", None), ("größe", b"\xff\x00"), ("", b""), ("x" * 100, b"y" * 300)]
    await router.route([record])
    (entry,) = await router.at(T + 10 * S)
    assert (entry.key, entry.value, entry.headers, entry.timestamp) == (key, value, record.headers, NOW)


@pytest.mark.usefixtures("either_wire")
async def test_headers_that_only_walstream_may_add_are_ignored(router: RouterPartition) -> None:
    record = given(0, "w", delay=10 * S)
    record.headers = [("walstream-time", b"1"), *record.headers, ("Walstream-Path", b"x"), ("other", b"y")]
    await router.route([record])
    (entry,) = await router.at(T + 10 * S)
    assert entry.headers == record.headers[1:-2] + record.headers[-1:]
    assert (entry.time, entry.ingress_position) == (T // 10 * 10 + 3, 0)


@pytest.mark.usefixtures("either_wire")
async def test_structured_mode(router: RouterPartition) -> None:
    value = b'{"specversion":"1.0","id":"w","source":"s","type":"t","waldelay":"PT10S","data":{"a":1}}'
    headers: list[tuple[str, bytes | None]] = [("content-type", b"application/cloudevents+json"), ("x", b"y")]
    await router.route([Given(0, b"k", value, headers)])
    (entry,) = await router.at(T + 10 * S)
    assert (entry.value, entry.headers) == (value, headers)


# ---------------------------------------------------------------------------------------------- crashes, clocks


async def everything(router: RouterPartition, *, crashes: bool) -> None:
    """Writes, actions and what is due; with crashes each step is done, thrown away and done again."""
    steps: list[list[Given] | int] = [
        [given(0, "a", delay=10 * S), given(1, "b", delay=20 * S), given(2, "c", jitter=HOUR), given(3, "d")],
        [cancel(4, "a"), reschedule(5, "b", delay=5 * S), cancel(6, "e", time=T + S), reschedule(7, "f", delay=30 * S)],
        T + 5 * S,
        [given(8, "e"), given(9, "f", time=T), given(10, "g", delay=10 * S, expiry=T + 2 * S)],
        [cancel(11, "b"), cancel(12, "g"), given(13, "h", delay=1 * S)],
        T + 40 * S,
        [given(14, "a"), given(15, "h"), cancel(16, "nobody")],
        T + 2 * HOUR,
    ]
    for step in steps:
        for commit in (False, True) if crashes else (True,):
            if isinstance(step, int):
                await router.at(step, commit=commit)
            else:
                await router.route(step, commit=commit)
            if crashes:
                await router.open()


async def test_what_was_thrown_away_is_done_again_to_the_same_end(tmp_path: Path) -> None:
    ends = []
    for crashes in (False, True):
        router = await opened(tmp_path / str(crashes))
        await everything(router, crashes=crashes)
        log = [(entry.id, entry.ingress_position, entry.time) for entry in router.log]
        rows = [list(router.store.items(f"flights.{table}")) for table in ("dedup", "schedule", "pending")]
        ends.append((log, router.answers, rows, router.waiting))
        router.store.close()
    assert ends[0] == ends[1]
    assert [id for id, *_ in ends[0][0]] == ["d", "b", "h", "f", "c"]
    assert ends[0][3] == 1, "the cancel of a write that never came"


SAID = st.tuples(
    st.sampled_from(["write", "write", "cancel", "reschedule"]),
    st.sampled_from("ab"),
    st.integers(0, 3),  # write time
    st.sampled_from([None, 0, 2 * S, 5 * S]),  # delay
    st.sampled_from([None, None, None, T, T + 3 * S]),  # expiry
)


def said(place: int, action: str, about: str, time: int, delay: int | None, expiry: int | None) -> Given:
    if action == "write":
        return given(place, about, time=T + time, delay=delay, expiry=expiry)
    if action == "cancel":
        return cancel(place, about, time=T + time)
    return reschedule(place, about, time=T + time, delay=delay or 4 * S)


async def told(groups: list[list[Given]], *, crashes: bool) -> Any:
    """What comes of records that are read in groups; with crashes each is routed, thrown away, and routed again."""
    with TemporaryDirectory() as folder:
        router = await opened(Path(folder))
        for group in groups:
            if crashes:
                await router.route(group, commit=False)
                await router.open()
            await router.route(group)
        for seconds in range(7):
            if crashes:
                await router.at(T + seconds * S, commit=False)
                await router.open()
            await router.at(T + seconds * S)
        log = [(entry.id, entry.ingress_position, entry.time) for entry in router.log]
        rows = [list(router.store.items(f"flights.{table}")) for table in ("dedup", "schedule", "pending")]
        assert router.waiting <= 2, "of each identity one at most: an action whose write did not come"
        router.store.close()
        return log, router.answers, rows


@settings(max_examples=40)
@hypothesis.given(st.lists(SAID, min_size=2, max_size=10), st.lists(st.integers(1, 9), max_size=3), st.booleans())
def test_it_does_not_matter_how_records_are_read(records: list[Any], cuts: list[int], crashes: bool) -> None:
    """One in a checkpoint, or many in a fetch; done once, or thrown away and done again."""
    every = [said(place, *words) for place, words in enumerate(records)]
    places = [0, *sorted({cut for cut in cuts if cut < len(every)}), len(every)]
    groups = [every[start:end] for start, end in itertools.pairwise(places)]
    alone = asyncio.run(told([[record] for record in every], crashes=False))
    assert asyncio.run(told(groups, crashes=crashes)) == alone
    log = [id for id, *_ in alone[0]]
    assert len(log) == len(set(log))


async def test_what_waits_survives_its_worker(router: RouterPartition) -> None:
    await router.route([given(0, "w", delay=10 * S), given(1, "x", delay=20 * S), cancel(2, "y", time=T + S)])
    await router.open()
    assert router.processor.due_at() == T + 10 * S
    await router.route([reschedule(3, "x", delay=5 * S), given(4, "y")])
    assert outcomes(router)[1:] == [("r3", "rescheduled"), ("c2", "cancelled")]
    await router.open()
    assert ids(await router.at(T + 10 * S)) == ["x", "w"]


async def test_before_a_broker_has_answered_nothing_is_sent(tmp_path: Path) -> None:
    router = await opened(tmp_path)
    await router.route([given(0, "w", delay=10 * S)])
    router.store.close()
    router = RouterPartition(tmp_path)
    router.now = T + HOUR
    await router.open(witnessed=False)
    assert not router.is_due and await router.at(T + 2 * HOUR) == []
    router.clock.witness(router.now // 1000, router.now, 0)
    assert ids(await router.at(router.now)) == ["w"]
    router.store.close()


@pytest.mark.parametrize("ahead", [HOUR, -HOUR, 400 * 24 * HOUR])
async def test_a_wall_clock_that_jumps_makes_nothing_early(router: RouterPartition, ahead: int) -> None:
    await router.route([given(0, "w", delay=10 * S)])
    router.wall = ahead
    assert await router.at(T + 10 * S - 1) == []
    assert ids(await router.at(T + 10 * S + (0 if ahead > 0 else HOUR))) == ["w"]


async def test_nothing_waits_nothing_is_read(router: RouterPartition) -> None:
    """Records that ask for nothing special touch neither of the two tables."""
    checkpoint = await router.route([given(place) for place in range(200)])
    assert {"flights.schedule", "flights.pending"}.isdisjoint(checkpoint.writes)

"""Random records, answers, crashes and outages: whatever happens, each record has one place, and ends once."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from walstream import control
from walstream.blocked import State
from walstream.dead import State as Death
from walstream.entry import Entry
from walstream.sinks.base import APPLIED, SKIPPED, Dead, Retry
from walstream.testing.delivering import Bad, Busy, DeliveryPartition, Down, Unlisted, log_position

TRANSIENT: dict[str, Callable[[], Any]] = {
    "busy": lambda: Retry("busy"),
    "asks": lambda: Retry("busy", after=4.0),
    "raises busy": lambda: Busy("busy"),
    "raises down": lambda: Down("down"),
    "raises what is in no table": lambda: Unlisted("oops"),
}
FINAL: dict[str, Callable[[], Any]] = {
    "applied": lambda: APPLIED, "skipped": lambda: SKIPPED, "dead": lambda: Dead("never"),
    "raises bad": lambda: Bad("never"),
}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What a record is, and meets: some failures, and then its end."""

    key: bytes | None
    failures: tuple[str, ...] = ()
    final: str = "applied"
    expires: float | None = None  # s from when it is written
    other: bool = False  # it is for another target
    gap: int = 0


@dataclass
class Run:
    """A partition, and what is known about its records."""

    one: DeliveryPartition
    plans: dict[int, Plan] = field(default_factory=dict)
    expiries: dict[int, int] = field(default_factory=dict)
    redriven: Counter[int] = field(default_factory=Counter)
    repaired: bool = False
    committed: int = 0

    def answer(self, entry: Entry, attempt: int) -> Any:
        plan = self.plans[entry.position]
        if attempt <= len(plan.failures):
            return TRANSIENT[plan.failures[attempt - 1]]()
        return APPLIED if self.repaired and plan.final in ("dead", "raises bad") else FINAL[plan.final]()

    def write(self, plan: Plan) -> None:
        expiry = None if plan.expires is None else self.one.now + round(plan.expires * 1e6)
        targets = ["other"] if plan.other else None
        position = self.one.write(plan.key, gap=plan.gap, expiry=expiry, targets=targets)
        self.plans[position] = plan
        if expiry is not None:
            self.expiries[position] = expiry

    def redrive(self, again: bool) -> None:
        for position, state in self.one.dead.items():
            if state is Death.DEAD:
                self.redriven[position] += 1
                self.one.redrive(position)
                if again:
                    self.one.redrive(position)

    def check(self) -> None:
        """Each record that is committed is in one place."""
        one = self.one
        committed = one.committed[one.log_topic]
        assert committed >= self.committed, "what was finished is unfinished"
        self.committed = committed
        parked = one.parked
        dead = {position for position, state in one.dead.items() if state is not Death.REDRIVEN}
        at = one.committed[one.retry_topic]
        unread = [
            log_position(record)
            for record in one.topics[one.retry_topic]
            if record.offset >= at and record.header("walstream-control") is None
        ]
        places = Counter([*one.retrying, *unread, *(p for run in parked.values() for p in run), *dead])
        assert all(position < committed for position in places), "it is in a place, and not committed"
        for position, plan in self.plans.items():
            if position >= committed or plan.other:
                continue
            assert places[position] <= 1, f"{position} is in several places"
            if not places[position]:
                done = self.tried_to_the_end(position) or self.expired(position)
                assert done, f"{position} is nowhere, and was neither applied nor has it expired"
        for key, run in parked.items():
            row = one.blocked[key or b""]
            assert row.count == len(run) and row.head < run[0] and row.tail == run[-1], (row, run)
        for row in one.blocked.values():
            waiting = {*one.retrying, *unread}
            assert row.state is not State.RETRYING or row.head in waiting, (row, waiting)
            assert row.state is not State.HELD or row.head in dead, (row, dead)

    def tried_to_the_end(self, position: int) -> bool:
        plan = self.plans[position]
        if plan.final == "skipped":
            return bool(self.one.sink.tries.get(position, 0) > len(plan.failures))
        return bool(position in self.one.sink.applied)

    def expired(self, position: int) -> bool:
        return self.expiries.get(position, self.one.now + 1) <= self.one.now

    def check_order(self) -> None:
        """Of each key: what took effect last did so in the order of the log; a sink that stops saw no gap either."""
        one = self.one
        # One that was applied, by a call that then failed or behind one that did, may expire before it comes again.
        left_out = {p for p in self.plans if self.expired(p)}
        if one.namespace.targets["base"].on_dead == "continue":
            left_out |= {p for p, plan in self.plans.items() if plan.final in ("dead", "raises bad")}
        by_key: dict[bytes, list[int]] = {}
        for position in one.sink.applied:
            key = self.plans[position].key
            if key is not None and position not in left_out:
                by_key.setdefault(key, []).append(position)
        for key, applied in by_key.items():
            final = list(dict.fromkeys(reversed(applied)))[::-1]
            assert final == sorted(final), f"{key!r}: {applied}"
            if one.sink.stops:
                place = {position: n for n, position in enumerate(final)}
                reached = -1
                for position in applied:
                    assert place[position] <= reached + 1, f"{key!r} with a gap: {applied}"
                    reached = place[position]

    def check_ends(self) -> None:
        """Each record ended, in one way; and died no more often than it was tried anew."""
        one = self.one
        letters = Counter(log_position(letter) for letter in one.topics[one.dlq_topic])
        for position, plan in self.plans.items():
            if plan.other:
                assert position not in one.sink.tries
                continue
            is_dead = one.dead.get(position) in (Death.DEAD, Death.DROPPED)
            ended = self.tried_to_the_end(position)
            assert ended != is_dead or (not ended and self.expired(position)), f"{position}: {ended}, {is_dead}"
            assert letters[position] <= 1 + self.redriven[position], f"{position} has {letters[position]} dead letters"
            if plan.final == "applied":
                assert not letters[position]


def calmed(plan: Plan) -> Plan:
    """Without what makes a worker leave its target alone: then much is on its way at the same time."""
    return replace(plan, failures=tuple(failure for failure in plan.failures if failure in ("busy", "asks"))[:1])


def calmed_actions(actions: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [
        (name, list(map(calmed, *words))) if name == "write" else (name, *words)
        for name, *words in actions
        if name not in ("down", "pause")
    ]


KEYS = st.sampled_from([b"a", b"a", b"a", b"b", b"", None])
PLANS = st.builds(
    Plan,
    KEYS,
    st.lists(st.sampled_from(sorted(TRANSIENT)), max_size=3).map(tuple) | st.just(()),
    st.sampled_from(["applied", "applied", "applied", *FINAL]),
    st.none() | st.none() | st.sampled_from([0.5, 3.0]),
    st.integers(0, 7).map(lambda n: n == 7),
    st.integers(0, 5).map(lambda n: max(0, n - 3)),
)
ACTIONS = st.one_of(
    st.tuples(st.just("write"), st.lists(PLANS, min_size=1, max_size=8)),
    st.tuples(st.just("work"), st.integers(1, 4), st.booleans()),
    st.tuples(st.just("work"), st.integers(1, 4), st.booleans()),
    st.tuples(st.just("crash"), st.booleans()),
    st.tuples(st.just("lose"), st.integers(1, 4)),
    st.tuples(st.just("leave")),
    st.tuples(st.just("later"), st.sampled_from([0.1, 1.0, 10.0])),
    st.tuples(st.just("down"), st.booleans()),
    st.tuples(st.just("pause"), st.booleans()),
    st.tuples(st.just("redrive"), st.booleans()),
)


async def act(run: Run, action: tuple[Any, ...]) -> None:
    one = run.one
    match action:
        case "write", plans:
            for plan in plans:
                run.write(plan)
        case "work", rounds, ahead:
            await one.work(rounds=rounds, ahead=ahead)
        case "crash", committed:
            await one.crash(committed=committed)
        case "lose", rounds:
            await one.work(rounds=rounds, commit=False)
            await one.crash()
        case ("leave",):
            await one.stop()
            await one.open()
        case "later", seconds:
            one.flush()
            one.now += round(seconds * 1e6) if one.wait is None else min(round(seconds * 1e6), one.wait)
        case "down", down:
            one.sink.down = down
        case "pause", paused:
            kind = control.Kind.PAUSE if paused else control.Kind.RESUME
            one.say(control.encode(control.Control(kind)))
        case "redrive", again:
            one.flush()
            run.redrive(again)


async def scenario(folder: Path, first: list[Plan], actions: list[tuple[Any, ...]], **words: Any) -> Run:
    stops, batch_size, slow = words.pop("stops"), words.pop("batch_size"), words.pop("slow")
    retry = {"initial": "1s", "multiplier": 1, "max": "1s", "attempts": 1_000}
    one = DeliveryPartition(folder, retry=retry, **words)
    try:
        run = Run(await one.open())
        one.sink.script, one.sink.stops, one.sink.batch_size = run.answer, stops, batch_size
        one.sink.turns = lambda entry: (entry.position * 5 % slow, entry.position * 3 % slow)
        for action in [("write", first), *actions]:
            await act(run, action)
            run.check()
        one.flush()
        one.sink.down = False
        if ("pause", True) in actions:
            one.say(control.encode(control.Control(control.Kind.RESUME)))
        run.repaired = True
        for _ in range(3_000):
            await one.settle()
            run.check()
            if not one.waits:
                break
            if one.waits.keys() == {"parked"} and all(row.state is State.HELD for row in one.blocked.values()):
                run.redrive(again=True)
                continue
            assert one.wait is not None, one.waits
            one.now += one.wait
        assert not one.waits
        if words["ordering"] == "key":
            run.check_order()
        run.check_ends()
        for row in one.blocked.values():
            assert row.state is State.HELD and row.count == 0, row
        return run
    finally:
        one.close()


@settings(max_examples=150)
@given(
    st.lists(PLANS, min_size=1, max_size=12),
    st.lists(ACTIONS, max_size=25),
    st.sampled_from([("key", "continue"), ("key", "continue"), ("key", "hold"), ("none", "continue")]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([1, 2, 5, 100]),
    st.sampled_from([1, 3, 500]),
    st.sampled_from([1, 2, 7, 16]),
)
def test_each_record_has_one_place_and_ends_once(
    first: list[Plan],
    actions: list[tuple[Any, ...]],
    policy: tuple[str, str],
    stops: bool,
    calm: bool,
    fetch: int,
    batch_size: int,
    slow: int,
) -> None:
    ordering, on_dead = policy
    if calm:
        first, actions = list(map(calmed, first)), calmed_actions(actions)
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(
            scenario(
                Path(folder), first, actions, ordering=ordering, on_dead=on_dead, stops=stops and ordering == "key",
                fetch=fetch, batch_size=batch_size, slow=slow,
            )
        )  # fmt: skip

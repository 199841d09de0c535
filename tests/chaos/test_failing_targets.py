"""Applications that fail on a random schedule, also as a whole, while the workers that call them are killed."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest
from click.testing import CliRunner

from walstream.cli import main
from walstream.testing.failing_target import Answer, FailingTarget, Faults
from walstream.testing.history import History
from walstream.testing.sandbox import OwnTarget, Sandbox
from walstream.testing.workload import Workload

RETRY = {"attempts": 12, "initial": "50ms", "max": "300ms"}
DOWN = (Answer.UNAVAILABLE, Answer.RESET, Answer.HANGS)

MakeTarget = Callable[..., FailingTarget]


@pytest.fixture
def make_target(seed: int) -> Iterator[MakeTarget]:
    """Make applications that fail by the seed, of 100 identities so many in a way that passes, and for ever."""
    with ExitStack() as stack:

        def make(failing: float = 2, refused: float = 1.0, stubborn: float = 0.3) -> FailingTarget:
            faults = Faults(seed, failing=failing / 100, refused=refused / 100, stubborn=stubborn / 100, most=3)
            return stack.enter_context(FailingTarget(faults, latency=0.005))

        yield make


def storm(sandbox: Sandbox, targets: list[FailingTarget], seed: int, seconds: float, *, longest: float) -> Counter[str]:
    """Kill some worker, or let some target be down for a while, again and again; return how often of each."""
    rng = random.Random(f"{seed} failing")
    done: Counter[str] = Counter()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline or len(done) < 2:
        time.sleep(rng.uniform(0.1, longest))
        if rng.random() < 0.6:
            victim = rng.choice(sandbox.workers)
            victim.kill()
            victim.start()
            done["killed"] += 1
        else:
            target = rng.choice(targets)
            target.break_down(rng.choice(DOWN))
            time.sleep(rng.uniform(0.1, longest))
            target.come_back()
            done["down"] += 1
    return done


def check_ends(sandbox: Sandbox, history: History, targets: dict[str, FailingTarget]) -> None:
    """What is dead is what the application never takes, and nothing else; no key was at work twice at a time."""
    for name, target in targets.items():
        wanted = {record.identity for record in history.log if record.is_for(name) and record.expiry is None}
        seen = next(one for one in history.targets if one.name == name)
        dead = {record.identity for record in seen.dead}
        never = {one for one in wanted if one is not None and target.faults.never_takes(one)}
        assert dead - {record.identity for record in history.log if record.expiry is not None} == never
        assert dead, "nothing was dead: the test is about nothing"
        assert seen.ordered is False or not target.overlaps, target.overlaps[:5]


def redrive(sandbox: Sandbox, name: str) -> int:
    """Have everything tried anew that is dead, by the command; how much that was."""
    environment = {"WALSTREAM_BROKERS": sandbox.brokers, "WALSTREAM_CONFIG": str(sandbox.folder / "config")}
    arguments = ["dlq", "redrive", f"{sandbox.name}.{name}", "--json"]
    result = CliRunner().invoke(main, arguments, env=environment)
    assert result.exit_code == 0, (result.output, result.exception)
    return int(json.loads(result.stdout)["redriven"])


def test_each_record_is_applied_or_dead_once_while_workers_are_killed(
    make_sandbox: Callable[..., Sandbox], make_target: MakeTarget, seed: int
) -> None:
    target = make_target()
    app = OwnTarget.http(target.url, lambda: target.deliveries, retry=RETRY)
    sandbox = make_sandbox(partitions=3, targets={"app": app})
    sandbox.start()
    with sandbox.producer(Workload(seed, source="/failing", opaque_to="app", delayed=0.1, keys=200), rate=300):
        storm(sandbox, [target], seed, 6, longest=1.5)
    sandbox.drain(120)
    history = sandbox.check(least=1_500)
    check_ends(sandbox, history, {"app": target})

    target.faults.repair()
    dead = {record.identity for record in history.targets[0].dead}
    assert redrive(sandbox, "app") == len(dead)
    sandbox.drain()
    assert redrive(sandbox, "app") == 0
    history = sandbox.check()
    assert not history.targets[0].dead
    applied = Counter(request.identity for request in target.requests if request.answer is Answer.APPLIED)
    assert {applied[identity] for identity in dead if identity is not None} == {1}, "redriven twice, applied once"
    sandbox.check_stores()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_policy_holds_in_a_long_storm(
    make_sandbox: Callable[..., Sandbox], make_target: MakeTarget, seed: int
) -> None:
    targets = {name: make_target() for name in ("ordered", "unordered", "held")}
    words: dict[str, dict[str, Any]] = {
        "ordered": {"retry": RETRY},
        "unordered": {"retry": RETRY, "ordering": "none"},
        "held": {"retry": RETRY, "on_dead": "hold", "limits": {"parked": 1_000_000, "rate": "2000/s"}},
    }
    own = {
        name: OwnTarget.http(target.url, partial(getattr, target, "deliveries"), **words[name])
        for name, target in targets.items()
    }
    sandbox = make_sandbox(partitions=6, targets=own)
    sandbox.start()
    for name in own:
        sandbox.worker(name).start()
    workloads = [Workload(seed, source=f"/failing/{n}", opaque_to=None, delayed=0.1, keys=400) for n in range(2)]
    producers = [sandbox.producer(workload, rate=80) for workload in workloads]
    with producers[0], producers[1]:
        done = storm(sandbox, list(targets.values()), seed, 45, longest=4)
    assert done["killed"] >= 4 and done["down"] >= 2, done
    sandbox.drain(400, ["router", "ordered", "unordered"])
    targets["held"].faults.repair()
    deadline = time.monotonic() + 240
    while sandbox.lag("held") or sandbox.waiting("held") or redrive(sandbox, "held"):
        assert time.monotonic() < deadline, f"{sandbox.waiting('held')} records wait for ever"
        sandbox.raise_if_crashed()
        redrive(sandbox, "held")
    history = sandbox.check(least=5_000)
    check_ends(sandbox, history, {name: target for name, target in targets.items() if name != "held"})
    assert not targets["held"].overlaps
    sandbox.check_stores()

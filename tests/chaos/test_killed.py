"""Workers killed with -9 again and again, at random points, while producers write."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest

from walstream.testing.sandbox import BASE, COPY, Sandbox
from walstream.testing.workload import Workload


def storm(sandbox: Sandbox, seed: int, seconds: float, *, longest: float) -> int:
    """Kill some worker every while, and start it again a while later, until time is up; return how often."""
    rng = random.Random(f"{seed} storm")
    kills, deadline = 0, time.monotonic() + seconds
    while time.monotonic() < deadline:
        # Some kills hit a worker that is at work, some one that is still coming up.
        time.sleep(rng.uniform(0.1, longest))
        victim = rng.choice(sandbox.workers)
        victim.kill()
        kills += 1
        if rng.random() < 0.3:
            time.sleep(rng.uniform(0, 1))
        victim.start()
    return kills


def test_nothing_is_lost_when_workers_are_killed(
    make_sandbox: Callable[..., Sandbox], cassandra: str, seed: int
) -> None:
    sandbox = make_sandbox(cassandra=cassandra)
    sandbox.start()
    workloads = [Workload(seed, source=f"/killed/{n}", rubbish=0.005, delayed=0.2) for n in range(2)]
    producers = [sandbox.producer(workload, rate=400) for workload in workloads]
    with sandbox.sampling(), producers[0], producers[1]:
        kills = storm(sandbox, seed, 12, longest=2.5)
    assert kills >= 3
    sandbox.check(least=4_000)
    sandbox.check_stores()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nothing_is_lost_in_a_long_storm(make_sandbox: Callable[..., Sandbox], cassandra: str, seed: int) -> None:
    sandbox = make_sandbox(cassandra=cassandra, partitions=6)
    sandbox.start()
    for stage in ("router", COPY, BASE):
        sandbox.worker(stage).start()
    workloads = [Workload(seed, source=f"/storm/{n}", rubbish=0.005, delayed=0.2) for n in range(3)]
    producers = [sandbox.producer(workload, rate=220) for workload in workloads]
    with sandbox.sampling(), producers[0], producers[1], producers[2]:
        kills = storm(sandbox, seed, 100, longest=4)
    assert kills >= 20
    sandbox.drain(180)
    sandbox.check(least=50_000)
    sandbox.check_stores()

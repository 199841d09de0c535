"""A worker that stands still for longer than the session timeout, and wakes when another has its partitions."""

from __future__ import annotations

from collections.abc import Callable

from walstream.testing.sandbox import COPY, Sandbox
from walstream.testing.waiting import wait_until
from walstream.testing.workload import Workload

TAKEN_OVER = 40.0  # s, at most; the session timeout is far below


def test_a_frozen_router_writes_nothing_when_it_wakes(make_sandbox: Callable[..., Sandbox], seed: int) -> None:
    sandbox = make_sandbox()
    zombie, _ = sandbox.start("router", COPY)
    with sandbox.producer(Workload(seed, source="/zombie"), rate=1_000), sandbox.sampling():
        wait_until(lambda: len(sandbox.ledger) > 1_000, 20, "the first records")
        former = set(sandbox.assigned("router"))
        zombie.freeze()
        sandbox.worker("router").start()

        def taken_over() -> bool:
            assigned = sandbox.assigned("router")
            return bool(assigned) and not former & set(assigned) and all(assigned.values())

        wait_until(taken_over, TAKEN_OVER, "the second router to have all partitions")
        reached = sum(sandbox.readback.ends(sandbox.log).values())
        wait_until(lambda: sum(sandbox.readback.ends(sandbox.log).values()) > reached + 500, 20, "the second's work")
        zombie.thaw()
        wait_until(lambda: len(sandbox.assigned("router")) == 2, TAKEN_OVER, "the zombie to be a member again")
        awake = len(sandbox.ledger)
        wait_until(lambda: len(sandbox.ledger) > awake + 1_000, 20, "more records")
    sandbox.check(least=4_000)
    sandbox.check_stores()

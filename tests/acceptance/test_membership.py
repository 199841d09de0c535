"""Workers that join and leave under load."""

from __future__ import annotations

import time
from collections.abc import Callable

from walstream.testing.sandbox import COPY, Sandbox
from walstream.testing.waiting import wait_until
from walstream.testing.workload import Workload

STOP = 5.0  # s from SIGTERM to the end of the process


def test_nothing_is_lost_while_workers_join_and_leave(make_sandbox: Callable[..., Sandbox], seed: int) -> None:
    sandbox = make_sandbox()
    first, _ = sandbox.start("router", COPY)
    with sandbox.producer(Workload(seed, source="/members"), rate=1_000), sandbox.sampling():
        others = [sandbox.worker("router").start(), sandbox.worker("router").start(), sandbox.worker(COPY).start()]
        sandbox.wait_ready("router", members=3)
        sandbox.wait_ready(COPY, members=2)
        for worker in (first, *others[1:]):
            begun = time.monotonic()
            assert worker.terminate() == 0, worker.tail()
            assert time.monotonic() - begun < STOP
        sandbox.wait_ready("router", members=1)
        sandbox.wait_ready(COPY, members=1)
    sandbox.check(least=2_000)
    sandbox.check_stores()


def test_a_worker_of_the_group_with_other_namespaces_refuses_to_run(
    make_sandbox: Callable[..., Sandbox], seed: int
) -> None:
    sandbox, other = make_sandbox(), make_sandbox()
    first, _ = sandbox.start("router", COPY)
    with sandbox.producer(Workload(seed, source="/others"), rate=1_000), sandbox.sampling():
        newcomer = sandbox.worker(
            "router", WALSTREAM_CONFIG=str(other.folder / "config"), WALSTREAM_NAMESPACES=other.name
        )
        assert newcomer.start().wait(40) == 1, newcomer.tail()
        assert f"the other workers of group {sandbox.group('router')} serve other topics" in newcomer.output()
        assert "Traceback" not in newcomer.output()
        written = len(sandbox.ledger)
        wait_until(lambda: len(sandbox.ledger) > written + 500, 20, "more records")
    assert first.running, first.tail()
    sandbox.check(least=500)
    assert sandbox.readback.committed(sandbox.group("router"), other.ingress) == {}, "it has touched nothing"

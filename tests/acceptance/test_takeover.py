"""Who takes over has most of the state already, and who comes with nothing gets all of it from the changelog."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from walstream.testing.sandbox import COPY, Sandbox
from walstream.testing.waiting import wait_until
from walstream.testing.worker import Worker
from walstream.testing.workload import Workload

OPENED = re.compile(r"router\.\w+-(\d+) open after \d+ ms, (\d+) changes recovered")
RECORDS = 20_000
FEW = 2_000  # changes that may be between a standby's last look and the end of the one who died


def recovered(worker: Worker) -> list[tuple[int, int]]:
    """Partition and number of changes of every opening of a worker, in order."""
    return [(int(partition), int(count)) for partition, count in OPENED.findall(worker.output())]


def stored(sandbox: Sandbox) -> int:
    """How many identities the dedup table must know."""
    return len(sandbox.readback.records(sandbox.log))


@pytest.mark.slow
def test_a_standby_keeps_up_and_a_takeover_recovers_little(make_sandbox: Callable[..., Sandbox], seed: int) -> None:
    sandbox = make_sandbox()
    first, _ = sandbox.start("router", COPY)
    second = sandbox.worker("router").start()
    sandbox.wait_ready("router", members=2)
    with sandbox.producer(Workload(seed, source="/standby"), limit=RECORDS) as producer:
        producer.join()
    sandbox.drain(stages=["router"])
    before = len(recovered(second))
    first.kill()
    sandbox.wait_ready("router", members=1)
    wait_until(lambda: len(recovered(second)) >= before + sandbox.partitions, 30, "all partitions to be open again")
    taken_over = dict(recovered(second)[before:])
    assert set(taken_over) == set(range(sandbox.partitions))
    assert sum(taken_over.values()) < FEW, f"{taken_over}: the standby did not keep up"
    # What it took over is the state: all that was written, written again, is known. (Without a key it may come into
    # another partition, and is new there.)
    known = stored(sandbox)
    assert known > RECORDS // 2
    contents = [(written.content, True) for written in sandbox.ledger.written() if written.content.key is not None]
    with sandbox.producer(iter(contents)) as producer:
        producer.join()
    sandbox.check(least=RECORDS // 2)
    assert stored(sandbox) == known

    # A worker with a folder of its own that has nothing in it.
    second.terminate()
    fresh = sandbox.worker("router").start()
    sandbox.wait_ready("router")
    wait_until(lambda: len(recovered(fresh)) >= sandbox.partitions, 30, "all partitions to be open")
    assert sum(count for _, count in recovered(fresh)) >= known
    with sandbox.producer(iter(contents)) as producer:
        producer.join()
    sandbox.check(least=RECORDS // 2)
    assert stored(sandbox) == known
    sandbox.check_stores()

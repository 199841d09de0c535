"""The broker restarted under load. Workers need not end; whatever they do, they drain and nothing is lost.

Workers meet the broker as it is. Producers and who looks on come by a link that is cut until the broker knows
itself: librdkafka may never find a cluster again that once said it had no brokers, as a broker does that is going down
or has just started (https://github.com/confluentinc/librdkafka/issues/5301).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from walstream.demo.regions.link import Link
from walstream.testing.sandbox import COPY, Sandbox
from walstream.testing.servers import Server
from walstream.testing.waiting import wait_until
from walstream.testing.workload import Workload

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def link() -> Iterator[Link]:
    """Lay the way of those who must not see the broker while it is not itself."""
    link = Link()
    yield link
    link.close()


@pytest.fixture(scope="module")
def kafka(make_kafka: Callable[..., Server], link: Link) -> Server:
    kafka = make_kafka(advertised=link.port)
    assert kafka.proxied is not None
    link.lead_to(kafka.proxied)
    return kafka


@pytest.fixture
def keep_running() -> Iterator[Callable[[Sandbox], None]]:
    """Start workers again that ended with an error, as a supervisor does."""
    stopping, threads = threading.Event(), []

    def keep(sandbox: Sandbox) -> None:
        def watch() -> None:
            while not stopping.wait(0.5):
                for worker in sandbox.workers:
                    if worker.crashed:
                        worker.start()

        threads.append(threading.Thread(target=watch, daemon=True))
        threads[-1].start()

    yield keep
    stopping.set()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("kill", [False, True], ids=["clean", "hard"])
def test_nothing_is_lost_when_the_broker_is_restarted(
    kill: bool,
    kafka: Server,
    link: Link,
    make_sandbox: Callable[..., Sandbox],
    keep_running: Callable[[Sandbox], None],
    seed: int,
) -> None:
    sandbox = make_sandbox(brokers=kafka.address, seen_by=link.address)
    sandbox.start("router", COPY)
    keep_running(sandbox)
    with sandbox.producer(Workload(seed, source="/broker"), rate=500), sandbox.sampling():
        for _ in range(2):
            before = len(sandbox.ledger)
            wait_until(lambda before=before: len(sandbox.ledger) > before + 1_000, 30, "records before the restart")
            link.cut()
            kafka.stop(kill=kill)
            kafka.start()
            link.heal()
            for stage in ("router", COPY):
                end = sum(sandbox.readback.ends(sandbox.source(stage)).values())
                wait_until(lambda stage=stage, end=end: sandbox.position(stage) >= end, 90, f"{stage} to go on")
    sandbox.drain(120)
    sandbox.check(least=2_000)

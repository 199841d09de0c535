"""The broker restarted under load. Workers need not end; whatever they do, they drain and nothing is lost.

Workers meet the broker as it is. Producers and who looks on come by a proxy that is closed until the broker knows
itself: librdkafka may never find a cluster again that once said it had no brokers, as a broker does that is going down
or has just started (https://github.com/confluentinc/librdkafka/issues/5301).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest

from walstream.local.ports import free_port
from walstream.testing.proxy import Proxy
from walstream.testing.sandbox import COPY, Sandbox
from walstream.testing.servers import Server
from walstream.testing.waiting import wait_until
from walstream.testing.workload import Workload

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def advertised() -> int:
    return free_port()


@pytest.fixture(scope="module")
def kafka(make_kafka: Callable[..., Server], advertised: int) -> Server:
    return make_kafka(advertised=advertised)


class Door:
    """A proxy in a thread of its own, for those who must not see the broker start."""

    def __init__(self, kafka: Server, port: int) -> None:
        assert kafka.proxied is not None
        self._proxy = Proxy(kafka.proxied.host, kafka.proxied.port, listen_port=port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._proxy.start(), self._loop).result(10)

    @property
    def address(self) -> str:
        return self._proxy.address

    def shut(self) -> None:
        self._loop.call_soon_threadsafe(self._proxy.refuse)
        self._loop.call_soon_threadsafe(self._proxy.reset)

    def open(self) -> None:
        self._loop.call_soon_threadsafe(self._proxy.heal)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._proxy.stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture(scope="module")
def door(kafka: Server, advertised: int) -> Iterator[Door]:
    door = Door(kafka, advertised)
    yield door
    door.close()


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
    door: Door,
    make_sandbox: Callable[..., Sandbox],
    keep_running: Callable[[Sandbox], None],
    seed: int,
) -> None:
    sandbox = make_sandbox(brokers=kafka.address, seen_by=door.address)
    sandbox.start("router", COPY)
    keep_running(sandbox)
    with sandbox.producer(Workload(seed, source="/broker"), rate=500), sandbox.sampling():
        for _ in range(2):
            before = len(sandbox.ledger)
            wait_until(lambda before=before: len(sandbox.ledger) > before + 1_000, 30, "records before the restart")
            door.shut()
            kafka.stop(kill=kill)
            kafka.start()
            door.open()
            for stage in ("router", COPY):
                end = sum(sandbox.readback.ends(sandbox.source(stage)).values())
                wait_until(lambda stage=stage, end=end: sandbox.position(stage) >= end, 90, f"{stage} to go on")
    sandbox.drain(120)
    sandbox.check(least=2_000)

"""What nobody foresaw stops a worker hard: the reason on stderr, a status that is not 0, and no record skipped."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from walstream.testing.history import Answer, Content
from walstream.testing.ledger import Ledger
from walstream.testing.producer import Producer
from walstream.testing.sandbox import COPY, Sandbox
from walstream.testing.workload import Workload


def test_a_record_of_a_newer_format_stops_the_delivery(make_sandbox: Callable[..., Sandbox], seed: int) -> None:
    sandbox = make_sandbox()
    _, delivery = sandbox.start("router", COPY)
    with sandbox.producer(Workload(seed, source="/stop"), limit=500) as producer:
        producer.join()
    sandbox.drain()
    newer = Content(b"key", b"of a router to come", (("walstream-version", b"99"),), None)
    ledger = Ledger()
    with Producer(sandbox.kafka, sandbox.log, ledger, iter([(newer, True)])) as producer:
        producer.join()
    written = ledger.written()[-1]
    assert written.answer is Answer.ACKED
    assert written.partition is not None
    assert delivery.wait(30) not in (0, None), delivery.tail()
    assert f"position {written.offset}" in delivery.output()
    assert "format 99" in delivery.output()

    with sandbox.producer(Workload(seed, source="/after"), limit=500) as producer:
        producer.join()
    sandbox.drain(stages=["router"])
    delivery.start()
    assert delivery.wait(30) not in (0, None), "it went on over what had stopped it"
    committed = sandbox.readback.committed(sandbox.group(COPY), sandbox.log)
    assert committed.get(written.partition, 0) <= (written.offset or 0)


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_a_log_that_was_deleted_stops_the_router(make_sandbox: Callable[..., Sandbox], seed: int) -> None:
    sandbox = make_sandbox()
    (router,) = sandbox.start("router")
    with sandbox.producer(Workload(seed, source="/gone"), limit=500) as producer:
        producer.join()
    sandbox.drain(stages=["router"])
    committed = sandbox.readback.committed(sandbox.group("router"), sandbox.ingress)
    sandbox.delete(sandbox.log)
    with sandbox.producer(Workload(seed, source="/after"), limit=500) as producer:
        producer.join()
    assert router.wait(300) not in (0, None), router.tail()
    assert sandbox.log in router.output()
    assert sandbox.readback.committed(sandbox.group("router"), sandbox.ingress) == committed

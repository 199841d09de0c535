"""The main job, as people run it: producers nobody here wrote, a router, a delivery to Kafka and one to Cassandra."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import pytest

from walstream.testing.history import Answer, Content, identity_of
from walstream.testing.producer import TransactionalProducer
from walstream.testing.sandbox import BASE, COPY, Sandbox
from walstream.testing.workload import EVENTS, RUBBISH, STATE, Workload, cloud_event, mutation


@pytest.fixture(scope="module")
def running(make_sandbox: Callable[..., Sandbox], cassandra: str) -> Sandbox:
    """A sandbox whose three workers run for all tests of the module."""
    sandbox = make_sandbox(cassandra=cassandra)
    sandbox.start()
    return sandbox


def test_every_record_arrives_once_unchanged_and_in_order(running: Sandbox, seed: int) -> None:
    workloads = [Workload(seed, source="/job/a"), Workload(seed, source="/job/b", keys=1_000)]
    producers = [running.producer(workload, limit=5_000, rate=4_000) for workload in workloads]
    with running.sampling():
        for producer in producers:
            producer.start()
        for producer in producers:
            producer.join()
        running.drain()
    history = running.check(least=9_000)
    assert len(history.ingress) > len(history.log), "the workload has no duplicates, so that this says little"


def test_rubbish_goes_to_the_dlq_with_the_reason_and_stops_nothing(running: Sandbox) -> None:
    before = len(running.readback.records(f"{running.name}.dlq"))
    records = []
    for number, rubbish in enumerate(RUBBISH):
        body = {"op": "put", "table": EVENTS, "key": {"flight": "good", "seq": number}}
        records.append((rubbish("/rubbish", str(number)), False))
        records.append((mutation("good", body, id=str(number), source="/rubbish/good"), True))
    with running.producer(iter(records)) as producer:
        producer.join()
    history = running.check()
    assert len(history.refused) == before + len(RUBBISH)
    for record in history.refused[before:]:
        reasons = [value for name, value in record.headers if name.startswith("walstream-") and "error" in name]
        assert any(reasons), f"no reason: {record.headers}"


def test_what_an_aborted_transaction_wrote_is_not_applied_and_blocks_nothing(running: Sandbox, seed: int) -> None:
    workload = Workload(seed, source="/transactions")
    producer = TransactionalProducer(running.kafka, running.ingress, running.ledger, workload, limit=600, seed=seed)
    with producer:
        producer.join()
    counts = running.ledger.counts()
    assert counts[Answer.ABORTED] > 50
    running.check()


@pytest.fixture
def flights() -> Iterator[str]:
    """Names of rows that no other test has."""
    return (f"flight-{time.time_ns()}-{number}" for number in range(1_000))


def test_of_equal_write_times_the_later_in_the_log_wins(running: Sandbox, flights: Iterator[str]) -> None:
    flight, now = next(flights), time.time_ns() // 1_000_000 * 1_000
    puts = [
        mutation(
            flight,
            {"op": "put", "table": STATE, "set": {"seq": seq, "note": note}},
            id=str(seq),
            source="/eq",
            time_us=now,
        )
        for seq, note in ((9, "zzz"), (1, "aaa"))  # Cassandra itself would keep the greater value
    ]
    running.write(*puts)
    running.check()
    row = running.rows(STATE)[(flight,)]
    assert (row["seq"][0], row["note"][0]) == (1, "aaa")


def test_a_put_after_a_delete_in_the_same_millisecond_leaves_the_row(running: Sandbox, flights: Iterator[str]) -> None:
    flight, now = next(flights), time.time_ns() // 1_000_000 * 1_000
    bodies = [
        {"op": "put", "table": STATE, "set": {"seq": 1}},
        {"op": "delete", "table": STATE},
        {"op": "put", "table": STATE, "set": {"seq": 2, "note": None}},
    ]
    running.write(*(mutation(flight, body, id=str(n), source="/del", time_us=now) for n, body in enumerate(bodies)))
    running.check()
    assert running.rows(STATE)[(flight,)]["seq"][0] == 2, "a delete of the same millisecond won"


def test_a_delete_after_a_put_in_the_same_millisecond_removes_the_row(running: Sandbox, flights: Iterator[str]) -> None:
    flight, now = next(flights), time.time_ns() // 1_000_000 * 1_000
    bodies = [{"op": "put", "table": STATE, "set": {"seq": 1}}, {"op": "delete", "table": STATE}]
    running.write(*(mutation(flight, body, id=str(n), source="/del", time_us=now) for n, body in enumerate(bodies)))
    running.check()
    assert (flight,) not in running.rows(STATE)


def test_a_structured_event_and_a_null_value_travel_untouched(running: Sandbox) -> None:
    event = {
        "specversion": "1.0",
        "id": "1",
        "source": "/structured",
        "type": "t",
        "waltargets": COPY,
        "data": {"x": 1.10},
    }
    structured = Content(b"k", json.dumps(event).encode(), (("content-type", b"application/cloudevents+json"),), None)
    implied = Content(b"k", json.dumps(event | {"id": "2"}).encode(), (), None)
    null = cloud_event(b"k", None, id="3", source="/structured", waltargets=COPY)
    running.write(structured, implied, null)
    history = running.check()
    copied = {record.identity: record.value for record in history.targets[0].deliveries}
    assert [copied[identity_of(content)] for content in (structured, implied, null)] == [
        structured.value,
        implied.value,
        None,
    ]


def test_a_record_for_one_target_reaches_no_other(running: Sandbox, flights: Iterator[str]) -> None:
    flight = next(flights)
    put = mutation(flight, {"op": "put", "table": STATE, "set": {"seq": 1}}, id="1", source="/one", waltargets=BASE)
    running.write(put)
    history = running.check()
    assert (flight,) in running.rows(STATE)
    assert identity_of(put) not in {record.identity for record in history.targets[0].deliveries}

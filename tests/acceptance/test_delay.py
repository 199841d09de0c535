"""Delayed records through whole workers: random delays, cancels and reschedules, killed routers, and people."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import OFFSET_END, TopicPartition
from confluent_kafka.admin import AdminClient

from walstream import Client, Durable, RecordRefused
from walstream.admin import Admin
from walstream.answers import Answer
from walstream.config import load_namespaces
from walstream.kafka import KafkaConnection
from walstream.pending import Outcome
from walstream.router.trim import trim
from walstream.testing.history import Observed, duration
from walstream.testing.sandbox import COPY, Sandbox
from walstream.testing.waiting import wait_until
from walstream.testing.worker import Worker
from walstream.testing.workload import Workload, cloud_event

SOURCE = "/ops"
EVERY_OUTCOME = {"cancelled", "rescheduled", "superseded", "sent", "expired", "waiting"}


def storm(sandbox: Sandbox, seed: int, rounds: int, *, routers: int, rate: float, longest: float) -> None:
    """Routers are killed, started, added and sent away while a workload is written; then everything must hold."""
    workers = [sandbox.worker("router").start() for _ in range(routers)]
    sandbox.start(COPY)
    sandbox.wait_ready("router", members=routers)
    rng = random.Random(f"{seed} storm")
    workload = Workload(seed, source="/delay", delayed=0.5, longest=longest, rubbish=0.01)
    with sandbox.sampling(), sandbox.producer(workload, rate=rate):
        for _ in range(rounds):
            time.sleep(rng.uniform(1, 2.5))
            router = rng.choice(workers)
            if rng.random() < 0.3:
                router.terminate()
            else:
                router.kill()
            time.sleep(rng.uniform(0, 1))
            router.start()


def test_delays_cancels_and_reschedules_while_routers_are_killed(
    make_sandbox: Callable[..., Sandbox], seed: int
) -> None:
    sandbox = make_sandbox()
    storm(sandbox, seed, 2, routers=1, rate=600, longest=2)
    history = sandbox.check(least=1_000)
    outcomes = Counter(reply.outcome for reply in history.replies)
    assert outcomes.keys() == EVERY_OUTCOME, outcomes
    assert sum(record.is_delayed for record in history.log) > 200
    sandbox.check_stores()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_many_delays_in_a_long_storm(make_sandbox: Callable[..., Sandbox], seed: int) -> None:
    sandbox = make_sandbox(partitions=6)
    storm(sandbox, seed, 25, routers=2, rate=400, longest=20)
    sandbox.drain(180)
    history = sandbox.check(least=15_000)
    assert sum(record.is_delayed for record in history.log) > 5_000
    sandbox.check_stores()


def logged(sandbox: Sandbox, id: str) -> list[Observed]:
    return [record for record in sandbox.readback.records(sandbox.log) if record.attributes.get("id") == id]


@pytest.mark.slow
def test_a_record_outlives_every_topic_and_the_disk(make_sandbox: Callable[..., Sandbox], brokers: str) -> None:
    """Retention is a second: nothing but the compacted changelogs has it any more, and the router's disk is lost."""
    sandbox = make_sandbox()
    router, _ = sandbox.start("router", COPY)
    delayed = cloud_event(b"UA1", b"payload", id="w", source=SOURCE, waldelay="PT14S")
    sandbox.write(delayed, *(cloud_event(b"UA1", b"x", id=f"{number}", source=SOURCE) for number in range(50)))
    written = time.time()
    sandbox.drain(stages=["router"])
    wait_until(lambda: sandbox.lag(COPY) == 0, 10, "what is not delayed is delivered")
    assert sandbox.pending() == 1
    router.kill()
    shutil.rmtree(router.data)

    namespace = load_namespaces(sandbox.folder / "config")[sandbox.name]
    short = namespace.model_copy(update={"topics": namespace.topics.model_copy(update={"retention": 1_000})})
    admin, readback = Admin(KafkaConnection((brokers,))), sandbox.readback

    def trimmed() -> bool:
        trim(admin, short, sandbox.name)
        return all(readback.starts(topic) == readback.ends(topic) for topic in (sandbox.ingress, sandbox.log))

    wait_until(trimmed, 10, "ingress and log are empty", every=0.5)
    others = [f"{sandbox.name}.dedup.changelog", f"{sandbox.name}.answers", f"{sandbox.name}.dlq"]
    places = [TopicPartition(topic, number, OFFSET_END) for topic in others for number in range(sandbox.partitions)]
    deleting = AdminClient({"bootstrap.servers": brokers})
    for deleted in deleting.delete_records(places).values():
        deleted.result(30)
    assert time.time() - written < 13, "too slow to see anything"
    assert logged(sandbox, "w") == []

    router.start()
    wait_until(lambda: bool(logged(sandbox, "w")), 40, "the record is sent")
    (record,) = logged(sandbox, "w")
    assert record.content[:3] == delayed[:3]
    assert record.timestamp * 1000 >= (record.number("walstream-timestamp") or 0) * 1000 + duration("PT14S")
    sandbox.write(delayed)
    sandbox.drain()
    assert len(logged(sandbox, "w")) == 1


# ---------------------------------------------------------------------------------------------- people


@pytest.fixture(scope="module")
def served(make_sandbox: Callable[..., Sandbox]) -> tuple[Sandbox, Worker]:
    """A namespace, and the router that runs for it."""
    sandbox = make_sandbox()
    (router,) = sandbox.start("router")
    return sandbox, router


@pytest.fixture
def client(brokers: str) -> Iterator[Client]:
    with Client(brokers, source=SOURCE) as client:
        yield client


def faust(worker: Worker, *words: str) -> list[dict[str, Any]]:
    """Rows that the command prints, beside the running worker."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name("faust")), "-A", worker.topology, "--datadir", str(worker.data), *words,
         "--json"],
        env=os.environ | worker.environment, cwd=worker.folder, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_what_is_pending_is_listed_and_counted_beside_the_worker(
    served: tuple[Sandbox, Worker], client: Client
) -> None:
    sandbox, router = served
    for key, id, delay in (("UA1", "soon", "30m"), ("UA2", "sooner", "10m"), ("UA1", "later", "3h")):
        client.write(sandbox.name, b"x", key=key, id=f"list-{id}", delay=delay)
    wait_until(lambda: sandbox.pending() == 3, 30, "three are pending")
    table = ("table", f"{sandbox.name}.schedule")
    rows = faust(router, *table, "list", "--until", "1h")
    assert sorted((row["key"], row["id"]) for row in rows) == [("UA1", "list-soon"), ("UA2", "list-sooner")]
    assert [row["id"] for row in faust(router, *table, "list", "--key", "UA1", "--until", "1d")].count(
        "list-later"
    ) == 1
    (count,) = faust(router, *table, "count")
    assert count["rows"] == 3
    (row,) = faust(router, "table", f"{sandbox.name}.dedup", "get", "UA1", SOURCE, "list-later")
    assert row["log_position"].startswith("pending until ")
    for key, id in (("UA1", "soon"), ("UA2", "sooner"), ("UA1", "later")):
        answer = client.cancel(sandbox.name, f"list-{id}", key=key, wait=30).answer
        assert answer is not None and answer.outcome is Outcome.CANCELLED
    assert faust(router, *table, "list") == []


def test_cancel_and_reschedule_by_the_client(served: tuple[Sandbox, Worker], client: Client) -> None:
    sandbox, _ = served
    name, key = sandbox.name, "UA7"

    def answer(receipt: Any) -> Answer:
        receipt.raise_for_durability()
        assert receipt.answer is not None, receipt
        return receipt.answer  # type: ignore[no-any-return]

    client.write(name, b"x", key=key, id="c-1", delay="1h")
    assert answer(client.cancel(name, "c-1", key=key, wait=30)).outcome is Outcome.CANCELLED
    assert answer(client.cancel(name, "c-1", key=key, wait=30)).outcome is Outcome.CANCELLED
    client.write(name, b"x", key=key, id="c-2", delay="1h")
    moved = answer(client.reschedule(name, "c-2", key=key, delay="1s", wait=30))
    assert moved.outcome is Outcome.RESCHEDULED and moved.due is not None
    wait_until(lambda: bool(logged(sandbox, "c-2")), 30, "it is sent")
    (record,) = logged(sandbox, "c-2")
    assert record.timestamp * 1000 >= moved.due - 1_000, "append times are rounded down to milliseconds"
    late = answer(client.cancel(name, "c-2", key=key, wait=30))
    assert (late.outcome, late.log_position, late.done) == (Outcome.SENT, record.offset, False)
    assert answer(client.cancel(name, "c-3", key=key, wait=30)).outcome is Outcome.WAITING
    client.write(name, b"x", key=key, id="c-3", time=time.time_ns() // 1_000 - 60_000_000)
    client.write(name, b"x", key=None, id="c-4", delay="1h")
    assert answer(client.cancel(name, "c-4", wait=30)).outcome is Outcome.CANCELLED
    sandbox.drain(stages=["router"])
    outcomes = [reply.outcome for reply in sandbox.history().replies if reply.ref.id == "c-3"]
    assert outcomes == ["waiting", "cancelled"]
    assert [logged(sandbox, id) for id in ("c-1", "c-3", "c-4")] == [[], [], []]


BAD = [
    ("bad-duration", {"waldelay": "-PT1S"}),
    ("bad-duration", {"waldelay": "P1M"}),
    ("bad-duration", {"waljitter": "1h"}),
    ("bad-time", {"waldeliverat": "2027-02-29T00:00:00Z"}),
    ("bad-time", {"expirytime": "tomorrow"}),
    ("bad-schedule", {"waldelay": "PT1S", "waldeliverat": "2030-01-01T00:00:00Z"}),
    ("bad-schedule", {"waldeliverat": "9999-12-31T23:59:59.999999Z", "waljitter": "P5000W", "walaction": "write"}),
    ("bad-schedule", {"walaction": "reschedule", "walref": "x"}),
    ("bad-ref", {"walaction": "cancel"}),
    ("bad-action", {"walaction": "undo", "walref": "x"}),
]


def test_bad_input_goes_to_the_dlq_with_the_reason(served: tuple[Sandbox, Worker]) -> None:
    sandbox, _ = served
    contents = [
        cloud_event(b"UA9", b"bad", id=f"bad-{number}", source=SOURCE, **attributes)
        for number, (_, attributes) in enumerate(BAD)
    ]
    sandbox.write(*contents, understood=False)
    sandbox.drain(stages=["router"])
    refused = sandbox.readback.records(f"{sandbox.name}.dlq")
    codes = {record.attributes["id"]: (record.header("walstream-error-code") or b"").decode() for record in refused}
    assert codes == {f"bad-{number}": code for number, (code, _) in enumerate(BAD)}
    assert all(record.header("walstream-error") for record in refused)


def test_our_client_refuses_it_before_it_is_written(served: tuple[Sandbox, Worker], client: Client) -> None:
    sandbox, _ = served
    before = sandbox.readback.ends(sandbox.ingress)
    wrong: list[dict[str, Any]] = [{"delay": "-1s"}, {"delay": "P1M"}, {"delay": "1s", "deliver_at": 1}]
    for options in wrong:
        receipt = client.write(sandbox.name, b"x", key="UA9", **options)
        assert receipt.durable is Durable.FALSE and isinstance(receipt.error, RecordRefused), options
    assert sandbox.readback.ends(sandbox.ingress) == before

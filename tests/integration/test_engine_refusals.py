"""A worker that cannot do its work ends with the reason, and skips nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from walstream import topics
from walstream.config import load_namespaces
from walstream.errors import TopicMismatch
from walstream.kafka import KafkaConnection
from walstream.preflight import preflight
from walstream.testing.sandbox import Sandbox

MakeSandbox = Callable[..., Sandbox]


@pytest.fixture(scope="module")
def sandbox(make_sandbox: MakeSandbox) -> Sandbox:
    return make_sandbox(partitions=2)


def test_missing_topics_end_the_worker(brokers: str, tmp_path: Path) -> None:
    worker = Sandbox(tmp_path, brokers).worker("router").start()
    assert worker.wait(30) == 1
    output = worker.output()
    assert "TopicMismatch" in output and ".ingress" in output and "walstream apply" in output
    assert "Traceback" not in output


def test_preflight_names_what_is_different_and_gives_ids(sandbox: Sandbox) -> None:
    namespace = load_namespaces(sandbox.folder / "config")[sandbox.name]
    wanted = topics.router_topics(namespace)
    connection = KafkaConnection((sandbox.brokers,))
    ids = preflight(connection, wanted)()
    assert set(ids) == {topic.name for topic in wanted} and len(set(ids.values())) == len(ids)
    different = dataclasses.replace(wanted[0], partitions=wanted[0].partitions + 1)
    with pytest.raises(TopicMismatch, match=f"{different.name}.*(?s:.)*remedy"):
        preflight(connection, [different, *wanted[1:]])()


def write(sandbox: Sandbox, count: int) -> None:
    """Write something that the router puts aside."""
    producer = Producer({"bootstrap.servers": sandbox.brokers})
    for _ in range(count):
        producer.produce(sandbox.ingress, b"no event", partition=0)
    assert producer.flush(30) == 0


def test_of_records_that_are_gone_the_worker_says_which(sandbox: Sandbox) -> None:
    write(sandbox, 5)
    (router,) = sandbox.start("router")
    sandbox.drain(stages=["router"])
    assert router.terminate() == 0
    write(sandbox, 5)
    admin = AdminClient({"bootstrap.servers": sandbox.brokers})
    for future in admin.delete_records([TopicPartition(sandbox.ingress, 0, 8)]).values():
        future.result(timeout=30)
    before = sandbox.position("router")
    assert router.start().wait(30) == 1
    output = router.output()
    assert f"LostRange: {sandbox.ingress}-0: offsets 5 to 7 were to be read next, but are gone" in output
    assert "Traceback" not in output
    assert sandbox.position("router") == before

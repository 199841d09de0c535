"""What `walstream apply` makes, alters and refuses on a real Kafka."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from confluent_kafka import Consumer, Producer, TopicCollection
from confluent_kafka.admin import AdminClient, NewTopic

from walstream import topics
from walstream.admin import Admin
from walstream.apply import apply, ensure_start_offsets
from walstream.changes import Action, Change
from walstream.cli import main
from walstream.errors import TopicMismatch
from walstream.kafka import KafkaConnection
from walstream.namespace import Namespace
from walstream.preflight import preflight
from walstream.testing.waiting import wait_until


@pytest.fixture
def kafka(brokers: str) -> KafkaConnection:
    return KafkaConnection((str(brokers),))


@pytest.fixture(autouse=True)
def _cleaned(admin: AdminClient, prefix: str) -> Iterator[None]:
    yield
    left = [name for name in admin.list_topics(timeout=10).topics if name.startswith(prefix)]
    for deleted in (admin.delete_topics(left) if left else {}).values():
        deleted.result(timeout=30)


def create(admin: AdminClient, *made: NewTopic) -> None:
    """Make topics as somebody else does, and wait until Kafka says that they are there."""
    for future in admin.create_topics(list(made)).values():
        future.result(timeout=30)
    names = [topic.topic for topic in made]

    def seen() -> bool:
        futures = admin.describe_topics(TopicCollection(names)).values()
        return all(future.exception(timeout=30) is None for future in futures)

    wait_until(seen, 30, "the topics are there")


def namespace(name: str, **words: Any) -> Namespace:
    document: dict[str, Any] = {
        "version": 1,
        "namespace": name,
        "topics": {"partitions": 3, "replication": 1},
        "targets": {"copy": {"sink": "kafka", "options": {"topic": f"{name}-copy"}}},
    }
    document["topics"] |= words.pop("topics", {})
    return Namespace.model_validate(document | words)


def run(kafka: KafkaConnection, ns: Namespace, **options: Any) -> list[Change]:
    # A shard of its own, so that tests on one Kafka have router groups of their own.
    return apply([ns], {}, kafka, shard=ns.name, **options)


def actions(changes: list[Change], *kinds: str) -> set[Action]:
    return {change.action for change in changes if not kinds or change.kind in kinds}


def refusals(changes: list[Change]) -> dict[str, str]:
    return {change.name: change.detail for change in changes if change.action is Action.REFUSE}


def committed(kafka: KafkaConnection, group: str, topic: str) -> dict[int, int]:
    found = Admin(kafka).committed(group, [(topic, number) for number in range(3)])
    return {number: offset for (_, number), offset in found.items()}


def write(brokers: str, topic: str, count: int) -> None:
    producer = Producer({"bootstrap.servers": str(brokers)})
    for number in range(count):
        producer.produce(topic, key=str(number), value=b"x")
    assert producer.flush(30) == 0


def test_makes_every_topic_exactly_and_only_once(kafka: KafkaConnection, prefix: str) -> None:
    ns = namespace(prefix)
    wanted = topics.all_topics(ns)
    with pytest.raises(TopicMismatch, match=r"does not exist(?s:.*)walstream apply"):
        preflight(kafka, wanted)()
    assert actions(run(kafka, ns)) == {Action.CREATE}
    preflight(kafka, wanted)()
    found = Admin(kafka).describe([topic.name for topic in wanted])
    for topic in wanted:
        described = found[topic.name]
        assert (described.partitions, described.replication) == (3, 1)
        assert described.config.items() >= topic.config.items()
    assert actions(run(kafka, ns)) == {Action.NONE}


def test_a_dry_run_makes_nothing_and_says_all(kafka: KafkaConnection, prefix: str, admin: AdminClient) -> None:
    changes = run(kafka, namespace(prefix), dry_run=True)
    assert actions(changes) == {Action.CREATE}
    assert not [name for name in admin.list_topics(timeout=10).topics if name.startswith(prefix)]
    # Somebody else makes the topics from what was said.
    made = [
        NewTopic(c.name, c.settings["partitions"], c.settings["replication"], config=dict(c.settings["config"]))
        for c in changes
        if c.kind == "topic" and c.name != f"{prefix}-copy"
    ]
    create(admin, *made)
    preflight(kafka, topics.all_topics(namespace(prefix)))()
    assert actions([c for c in run(kafka, namespace(prefix)) if c.name in {topic.topic for topic in made}]) == {
        Action.NONE
    }


def test_adds_the_tables_of_a_newer_release(kafka: KafkaConnection, prefix: str, admin: AdminClient) -> None:
    """To a namespace that is in use, and without a new start for its router."""
    ns = namespace(prefix)
    run(kafka, ns)
    write(str(kafka.brokers[0]), f"{prefix}.ingress", 9)
    write(str(kafka.brokers[0]), f"{prefix}.log", 9)
    before = committed(kafka, topics.router_app_id(prefix), f"{prefix}.ingress")
    newer = [f"{prefix}.pending.changelog", f"{prefix}.schedule.changelog"]
    for deleted in admin.delete_topics(newer).values():
        deleted.result(30)
    wait_until(lambda: not Admin(kafka).describe(newer), 30, "the topics are gone")
    assert sorted(change.name for change in run(kafka, ns) if change.action is Action.CREATE) == newer
    preflight(kafka, topics.all_topics(ns))()
    assert committed(kafka, topics.router_app_id(prefix), f"{prefix}.ingress") == before == {0: 0, 1: 0, 2: 0}


@pytest.mark.parametrize("partitions", [2, 4])
def test_refuses_another_partition_count(kafka: KafkaConnection, prefix: str, partitions: int) -> None:
    run(kafka, namespace(prefix))
    changed = namespace(
        prefix,
        topics={"partitions": partitions},
        targets={name: {"sink": "kafka", "options": {"topic": f"{prefix}-copy"}} for name in ("copy", "more")},
    )
    refused = refusals(run(kafka, changed))
    assert f"{prefix}.ingress" in refused
    assert "write partitions: 3" in refused[f"{prefix}.log"]
    # Nothing at all was done, not even what would be right.
    found = Admin(kafka).describe([f"{prefix}.log", f"{prefix}.more.retry"])
    assert {name: topic.partitions for name, topic in found.items()} == {f"{prefix}.log": 3}


def test_puts_settings_right_and_leaves_others_alone(kafka: KafkaConnection, prefix: str) -> None:
    ns = namespace(prefix)
    run(kafka, ns)
    log = f"{prefix}.log"
    Admin(kafka).alter({log: {"retention.ms": "1000000", "min.insync.replicas": "2", "segment.bytes": "1048576"}})
    with pytest.raises(TopicMismatch, match=r"retention\.ms 1000000, and needs -1"):
        preflight(kafka, topics.all_topics(ns))()
    altered = {change.name: change for change in run(kafka, ns) if change.action is Action.ALTER}
    assert set(altered) == {log}
    assert altered[log].settings["alter"] == {"retention.ms": "-1", "min.insync.replicas": "1"}
    assert altered[log].settings["destroys"] is False
    config = Admin(kafka).describe([log])[log].config
    assert (config["retention.ms"], config["min.insync.replicas"], config["segment.bytes"]) == ("-1", "1", "1048576")
    assert actions(run(kafka, ns)) == {Action.NONE}


def test_takes_over_what_a_client_made_by_accident(kafka: KafkaConnection, prefix: str, admin: AdminClient) -> None:
    create(admin, NewTopic(f"{prefix}.ingress", 3, 1))
    changes = run(kafka, namespace(prefix))
    assert next(change.action for change in changes if change.name == f"{prefix}.ingress") is Action.ALTER
    preflight(kafka, topics.all_topics(namespace(prefix)))()


def test_refuses_what_was_compacted(kafka: KafkaConnection, prefix: str) -> None:
    run(kafka, namespace(prefix))
    Admin(kafka).alter({f"{prefix}.log": {"cleanup.policy": "compact"}})
    assert "records may be gone already" in refusals(run(kafka, namespace(prefix)))[f"{prefix}.log"]


def test_refuses_more_copies_than_brokers(kafka: KafkaConnection, prefix: str) -> None:
    refused = refusals(run(kafka, namespace(prefix, topics={"replication": 3}), dry_run=True))
    assert "the cluster has 1 broker" in refused[f"{prefix}.ingress"]
    assert "replication: 1, min_insync: 1" in refused[f"{prefix}.ingress"]


def test_a_shorter_window_destroys_and_a_smaller_record_limit_does_not(kafka: KafkaConnection, prefix: str) -> None:
    run(kafka, namespace(prefix, topics={"max_record": "4MB"}))
    changes = run(kafka, namespace(prefix, topics={"max_record": "2MB"}, dedup={"window": "1h"}), dry_run=True)
    altered = {change.name: change.settings["destroys"] for change in changes if change.action is Action.ALTER}
    assert altered == {f"{prefix}.dedup.changelog": True}


def test_an_adopted_topic_is_looked_at_and_left_alone(kafka: KafkaConnection, prefix: str, admin: AdminClient) -> None:
    legacy = f"{prefix}-legacy"
    ns = namespace(prefix, topics={"names": {"ingress": legacy}, "retention": "1h"})
    assert "does not exist" in refusals(run(kafka, ns))[legacy]
    create(admin, NewTopic(legacy, 3, 1, config={"retention.ms": "60000"}))
    assert "records that wait longer are lost unread" in refusals(run(kafka, ns))[legacy]
    Admin(kafka).alter({legacy: {"retention.ms": "7200000"}})
    assert not refusals(run(kafka, ns))
    assert Admin(kafka).describe([legacy])[legacy].config["retention.ms"] == "7200000"
    assert Admin(kafka).describe([f"{prefix}.ingress"]) == {}
    assert committed(kafka, f"walstream.router.{prefix}", legacy) == {0: 0, 1: 0, 2: 0}


def test_groups_start_where_the_file_says(kafka: KafkaConnection, prefix: str, brokers: str) -> None:
    run(kafka, namespace(prefix))
    log = f"{prefix}.log"
    write(brokers, log, 50)
    time.sleep(0.01)  # so that the next append time is a later millisecond
    middle = Admin(kafka).offsets([(log, number) for number in range(3)], "latest")
    now = time.time_ns() // 1_000
    time.sleep(0.01)
    write(brokers, log, 50)
    ends = Admin(kafka).offsets([(log, number) for number in range(3)], "latest")
    start_time = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 1_000_000)) + f".{now % 1_000_000:06}Z"
    targets = {
        name: {"sink": "kafka", "options": {"topic": f"{prefix}-copy"}, "start": start}
        for name, start in {"copy": "earliest", "early": "earliest", "late": "latest", "timed": start_time}.items()
    }
    changes = run(kafka, namespace(prefix, targets=targets))
    assert not refusals(changes)
    for name, offsets in {
        "copy": dict.fromkeys(range(3), 0),
        "early": dict.fromkeys(range(3), 0),
        "late": {number: offset for (_, number), offset in ends.items()},
        "timed": {number: offset for (_, number), offset in middle.items()},
    }.items():
        assert committed(kafka, f"walstream.{prefix}.{name}", log) == offsets
        assert committed(kafka, f"walstream.{prefix}.{name}", f"{prefix}.{name}.retry") == dict.fromkeys(range(3), 0)
    # A start is for the beginning only.
    write(brokers, log, 10)
    assert actions(run(kafka, namespace(prefix, targets=targets))) == {Action.NONE}


def forget(admin: AdminClient, group: str) -> None:
    """What brokers do with the offsets of a group that is stopped for long."""
    admin.delete_consumer_groups([group])[group].result(timeout=30)


def test_lost_offsets_are_not_taken_for_a_new_group(
    kafka: KafkaConnection, prefix: str, brokers: str, admin: AdminClient
) -> None:
    ns = namespace(
        prefix, targets={"copy": {"sink": "kafka", "options": {"topic": f"{prefix}-copy"}, "start": "latest"}}
    )
    run(kafka, ns)
    target, router = f"walstream.{prefix}.copy", f"walstream.router.{prefix}"
    forget(admin, target)
    assert not refusals(run(kafka, ns))  # the log is empty: every start is the same
    assert committed(kafka, target, f"{prefix}.log") == {0: 0, 1: 0, 2: 0}

    for topic in (f"{prefix}.log", f"{prefix}.ingress"):
        write(brokers, topic, 30)
    forget(admin, target)
    forget(admin, router)
    refused = refusals(run(kafka, ns))
    assert "no committed offset" in refused[target]
    assert "kafka-consumer-groups" in refused[router]
    assert committed(kafka, target, f"{prefix}.log") == {}
    assert {change.action for change in ensure_start_offsets(kafka, ns, shard=prefix)} >= {Action.REFUSE}
    assert committed(kafka, router, f"{prefix}.ingress") == {}


def test_a_router_is_new_where_producers_came_first(
    kafka: KafkaConnection, prefix: str, brokers: str, admin: AdminClient
) -> None:
    run(kafka, namespace(prefix))
    write(brokers, f"{prefix}.ingress", 30)
    forget(admin, f"walstream.router.{prefix}")
    assert not refusals(run(kafka, namespace(prefix)))
    assert committed(kafka, f"walstream.router.{prefix}", f"{prefix}.ingress") == {0: 0, 1: 0, 2: 0}


def test_a_group_at_work_keeps_its_offsets(
    kafka: KafkaConnection, prefix: str, brokers: str, admin: AdminClient
) -> None:
    ns = namespace(prefix)
    run(kafka, ns)
    group = f"walstream.{prefix}.copy"
    forget(admin, group)
    write(brokers, f"{prefix}.log", 30)
    consumer = Consumer({"bootstrap.servers": str(brokers), "group.id": group, "enable.auto.commit": False})
    try:
        consumer.subscribe([f"{prefix}.log"])
        while not consumer.assignment():
            consumer.poll(0.1)
        assert actions(run(kafka, ns)) == {Action.NONE}
        assert committed(kafka, group, f"{prefix}.log") == {}
    finally:
        consumer.close()


@pytest.fixture
def folder(tmp_path: Path, prefix: str, brokers: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration folder with one namespace, and the environment of a command."""
    monkeypatch.setenv("WALSTREAM_BROKERS", str(brokers))
    monkeypatch.setenv("WALSTREAM_CONFIG", str(tmp_path))
    monkeypatch.setenv("WALSTREAM_SHARD", prefix)
    (tmp_path / "it.yaml").write_text(
        f"version: 1\nnamespace: {prefix}\ntopics: {{partitions: 3, replication: 1}}\n"
        f"targets: {{copy: {{sink: kafka, options: {{topic: {prefix}-copy}}}}}}\n"
    )
    return tmp_path


def walstream(*arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(main, arguments, input=stdin, catch_exceptions=False)


def test_the_commands(folder: Path, prefix: str, brokers: str) -> None:
    missing = walstream("check")
    assert missing.exit_code == 1
    assert f"{prefix}.ingress does not exist" in missing.stdout
    assert walstream("status").exit_code == 1

    planned = walstream("apply", "--dry-run", "--json")
    assert planned.exit_code == 0
    document = json.loads(planned.stdout)
    assert (document["dry_run"], document["done"]) == (True, False)
    (ingress,) = [change for change in document["changes"] if change["name"] == f"{prefix}.ingress"]
    assert (ingress["action"], ingress["partitions"], ingress["replication"]) == ("create", 3, 1)
    assert ingress["config"]["retention.ms"] == "-1"

    made = walstream("apply")
    assert (made.exit_code, "created" in made.stderr) == (0, True)
    again = json.loads(walstream("apply", "--json").stdout)
    assert {change["action"] for change in again["changes"]} == {"unchanged"}
    checked = json.loads(walstream("check", "--json").stdout)
    assert checked == {"ok": True, "namespaces": [prefix], "kafka_answered": True, "problems": []}

    write(brokers, f"{prefix}.ingress", 7)
    status = {one["role"]: one for one in json.loads(walstream("status", "--json").stdout)}
    assert (status["router"]["lag"], status["copy"]["lag"]) == (7, 0)
    assert status["router"]["members"] == []
    assert "router" in walstream("status").stdout

    file = folder / "it.yaml"
    file.write_text(file.read_text().replace("partitions: 3", "partitions: 5"))
    refused = walstream("apply", "--yes")
    assert refused.exit_code == 1
    assert "write partitions: 3" in refused.stdout
    assert "Nothing was done" in refused.stderr


def test_what_destroys_asks(folder: Path, prefix: str, kafka: KafkaConnection) -> None:
    changelog = f"{prefix}.dedup.changelog"
    assert walstream("apply").exit_code == 0
    before = Admin(kafka).describe([changelog])[changelog].config["retention.ms"]
    with (folder / "it.yaml").open("a") as stream:
        stream.write("dedup: {window: 1h}\n")
    declined = walstream("apply", stdin="n\n")
    assert declined.exit_code == 1
    assert Admin(kafka).describe([changelog])[changelog].config["retention.ms"] == before
    assert walstream("apply", stdin="y\n").exit_code == 0
    assert Admin(kafka).describe([changelog])[changelog].config["retention.ms"] == str(3 * 3_600_000)

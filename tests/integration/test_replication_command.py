"""`walstream replication`: on a real Kafka, and on real stores."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from ruamel.yaml import YAML

from walstream import replication
from walstream.cli import main
from walstream.mutation import put
from walstream.sinks.base import SinkContext
from walstream.sinks.rocksdb import RocksdbOptions, RocksdbSink
from walstream.testing.conformance import entry
from walstream.testing.servers import Address

PARTITIONS = 2


def configure(folder: Path, name: str, targets: dict[str, Any], connections: dict[str, Any] | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "version": 1, "namespace": name, "topics": {"partitions": PARTITIONS, "replication": 1}, "targets": targets,
    }  # fmt: skip
    for file, content in ((f"{name}.yaml", document), ("connections.yaml", connections or {})):
        with (folder / file).open("w") as opened:
            YAML().dump(content, opened)


def run(*words: str, status: int = 0, **settings: str) -> str:
    environment = {f"WALSTREAM_{name.upper()}": value for name, value in settings.items()}
    done = CliRunner().invoke(main, words, env=environment)
    assert done.exit_code == status, done.output
    return done.output


# How far a region is behind


@pytest.fixture
def _cleaned(admin: AdminClient, prefix: str) -> Iterator[None]:
    yield
    left = [name for name in admin.list_topics(timeout=10).topics if name.startswith(prefix)]
    for deleted in (admin.delete_topics(left) if left else {}).values():
        deleted.result(timeout=30)


@pytest.mark.usefixtures("_cleaned")
def test_how_far_a_region_is_behind(
    brokers: Address, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replication, "REACH", 1.0)
    monkeypatch.setattr(replication, "WINDOW", 2)
    settings = {"brokers": str(brokers), "config": str(tmp_path), "region": "east", "shard": prefix}
    target = {"sink": "replicate", "connection": "west", "options": {"region": "west"}}
    west: dict[str, Any] = {"sink": "kafka", "brokers": str(brokers), "rank": 1}
    configure(tmp_path, prefix, {"to-west": target}, {"west": west})
    run("apply", "--yes", **settings)

    def status() -> dict[str, Any]:
        (found,) = json.loads(run("replication", "status", "--json", **settings))
        return dict(found)

    found = status()
    assert (found["region"], found["target"], found["reachable"], found["records"]) == ("west", "to-west", True, 0)
    assert found["seconds"] == 0 and len(found["partitions"]) == PARTITIONS

    producer = Producer({"bootstrap.servers": str(brokers), "transactional.id": prefix, "log_level": 0})
    producer.init_transactions(30)
    for end in (producer.abort_transaction, producer.commit_transaction):  # what was aborted is passed over
        producer.begin_transaction()
        for i in range(3):
            producer.produce(f"{prefix}.log", b"%d" % i, partition=1)
        producer.flush(30)
        end(30)
    found = status()
    one, other = found["partitions"]
    assert one == {"partition": 0, "records": 0, "seconds": 0.0}
    assert other["records"] == found["records"] >= 3
    assert 0 < other["seconds"] == found["seconds"] < 600
    assert prefix in run("replication", "status", **settings)

    consumer = Consumer({"bootstrap.servers": str(brokers), "group.id": f"walstream.{prefix}.to-west", "log_level": 0})
    consumer.commit(offsets=[TopicPartition(f"{prefix}.log", 1, 8)], asynchronous=False)
    consumer.close()
    configure(tmp_path, prefix, {"to-west": target}, {"west": west | {"brokers": "127.0.0.1:1"}})
    found = status()
    assert found["records"] == 0 and found["seconds"] == 0
    assert not found["reachable"] and "127.0.0.1:1" in found["problem"]
    assert "west cannot be reached from here: " in run("replication", "status", **settings)


def test_where_nothing_is_sent_to_other_regions(tmp_path: Path) -> None:
    configure(tmp_path, "flights", {"copy": {"sink": "kafka", "options": {"topic": "copy"}}})
    said = run("replication", "status", config=str(tmp_path), brokers="127.0.0.1:1")
    assert "No target sends to another region" in said


# Two stores


def fill(path: Path, target: str, rows: dict[str, int]) -> dict[str, Any]:
    """A store with these rows, and the target's words."""
    options = {"path": str(path), "key": "row:{k}", "value": "json"}
    context = SinkContext("flights", target, RocksdbOptions.model_validate(options), partitions=PARTITIONS)

    async def write() -> None:
        sink = RocksdbSink(context)
        payloads = [put(key={"k": key}, set={"v": value}).to_bytes() for key, value in rows.items()]
        await sink.write([entry(i, key=b"k", payload=p, type="walstream.mutation") for i, p in enumerate(payloads)])
        await sink.close()

    asyncio.run(write())
    return {"sink": "rocksdb", "options": options}


@pytest.fixture
def two(tmp_path: Path) -> Path:
    rows = {f"r{i}": i for i in range(50)}
    east = fill(tmp_path, "east", rows)
    west = fill(tmp_path, "west", rows | {"r7": 8, "r50": 50})
    copy = {"sink": "kafka", "options": {"topic": "copy"}}
    hash_ = {"sink": "rocksdb", "options": east["options"] | {"value": "v"}}
    configure(tmp_path / "config", "flights", {"east": east, "west": west, "copy": copy, "else": hash_})
    return tmp_path


def verify(path: Path, *words: str, status: int = 0) -> str:
    return run("replication", "verify", "flights", *words, "--settle", "10ms", config=str(path), status=status)


def test_two_stores_of_one_configuration(two: Path) -> None:
    config = two / "config"
    assert "Equal: 50 rows of east and 50 rows of east" in verify(config, "east", "east")
    said = verify(config, "east", "west", status=1)
    assert '{"k":"r7","v":7}' in said and '{"k":"r7","v":8}' in said and "no row" in said
    assert "Different: 2 rows, of 50 rows of east and 51 rows of west" in said
    found = json.loads(verify(config, "east", "west", "--json", "--limit", "1", status=1))
    assert found["differences"] == [{"key": "row:r50", "first": None, "second": '{"k":"r50","v":50}'}]
    assert (found["different"], found["rows"], found["equal"]) == (2, [50, 51], False)


def test_a_store_of_another_configuration(two: Path) -> None:
    other = fill(two / "other", "east", {f"r{i}": i for i in range(50)})
    configure(two / "far", "flights", {"east": other})
    assert "Equal" in verify(two / "config", "east", "--against", str(two / "far"))


def test_what_cannot_be_compared(two: Path) -> None:
    config = two / "config"
    assert "cannot be read through" in verify(config, "east", "copy", status=1)
    assert "different forms" in verify(config, "east", "else", status=1)
    assert "there is no target flights.nothing" in verify(config, "east", "nothing", status=1)
    assert "Compare with what?" in verify(config, "east", status=2)

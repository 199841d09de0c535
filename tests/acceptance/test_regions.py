"""Regions that are written to on all sides, by others' clients, while they are cut off from each other at random.

Each region has a Kafka of its own, a router and a delivery for each region that it sends to, all of them processes.
"""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from walstream.apply import apply
from walstream.changes import Action
from walstream.config import load_connections, load_namespaces
from walstream.kafka import KafkaConnection
from walstream.replica import regions_of
from walstream.testing.history import Observed
from walstream.testing.readback import Readback
from walstream.testing.servers import Server
from walstream.testing.waiting import wait_until
from walstream.testing.worker import Worker

KEYS = [f"flight-{number}" for number in range(20)]
DRAINED_WITHIN = 120.0  # s

RING = {"east": ["west"], "west": ["north"], "north": ["east"]}
MESH = {"east": ["west", "north"], "west": ["east", "north"], "north": ["east", "west"]}
PAIR = {"east": ["west"], "west": ["east"]}


def headers_of(record: Observed) -> dict[str, bytes]:
    return {name: text or b"" for name, text in record.headers}


class Region:
    """One region with its Kafka."""

    def __init__(self, name: str, rank: int, server: Server, folder: Path, namespace: str) -> None:
        self.name, self.rank, self.server, self.namespace = name, rank, server, namespace
        self.folder = folder / name
        self.config = self.folder / "config"
        self.config.mkdir(parents=True)
        self.readback = Readback({"bootstrap.servers": server.address})
        self.partitions = 2 + rank
        self.router: Worker
        self.deliveries: dict[str, Worker] = {}
        self.unanswered = 0

    def configure(self, others: list[Region], *, forward: bool, **words: Any) -> None:
        connections = {
            other.name: {"sink": "kafka", "brokers": [str(other.server.address)], "rank": other.rank}
            for other in others
        }
        targets = {
            f"to-{other.name}": {
                "sink": "replicate",
                "connection": other.name,
                "options": {"region": other.name, "forward": forward},
            }
            for other in others
        }
        document = {
            "version": 1,
            "namespace": self.namespace,
            "topics": {"partitions": self.partitions, "replication": 1},
            "targets": targets,
            **words,
        }
        (self.config / "connections.yaml").write_text(json.dumps(connections))
        (self.config / f"{self.namespace}.yaml").write_text(json.dumps(document))

    def apply(self) -> None:
        changes = apply(
            load_namespaces(self.config).values(), load_connections(self.config),
            KafkaConnection((str(self.server.address),)), region=(self.name, self.rank),
        )  # fmt: skip
        assert not [change for change in changes if change.action is Action.REFUSE]

    def worker(self, stage: str) -> Worker:
        environment = {
            "WALSTREAM_BROKERS": str(self.server.address),
            "WALSTREAM_CONFIG": str(self.config),
            "WALSTREAM_REGION": self.name,
            "WALSTREAM_REGION_RANK": str(self.rank),
        }
        if stage == "router":
            return Worker("topologies.router", self.folder / stage, environment)
        target = f"{self.namespace}.{stage}"
        return Worker("topologies.delivery", self.folder / stage, environment | {"WALSTREAM_TARGET": target})

    def start(self) -> None:
        self.router = self.worker("router").start()
        for target in load_namespaces(self.config)[self.namespace].targets:
            self.deliveries[target] = self.worker(target).start()

    @property
    def workers(self) -> list[Worker]:
        return [self.router, *self.deliveries.values()]

    def producer(self) -> Producer:
        return Producer({
            "bootstrap.servers": self.server.address, "partitioner": "murmur2_random", "linger.ms": 5,
            "enable.idempotence": True, "log_level": 2, "reconnect.backoff.max.ms": 500,
        })  # fmt: skip

    def write(self, producer: Producer, id: str, key: str, value: str, **attributes: str) -> None:
        """Write as anybody could: a CloudEvent by librdkafka."""
        words = {
            "specversion": "1.0", "id": id, "source": f"/{self.name}", "type": "test",
            "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"), **attributes,
        }  # fmt: skip
        self.unanswered += 1

        def answered(error: Any, _message: Any) -> None:
            assert error is None, error
            self.unanswered -= 1

        producer.produce(
            f"{self.namespace}.ingress", value, key, headers=[(f"ce_{name}", text) for name, text in words.items()],
            on_delivery=answered,
        )  # fmt: skip

    def log(self) -> list[Observed]:
        return self.readback.records(f"{self.namespace}.log")

    def rows(self) -> dict[bytes, bytes]:
        """What a store has that takes the last write by effective time."""
        last: dict[bytes, tuple[int, bytes]] = {}
        for record in self.log():
            key, found = record.key or b"", headers_of(record)
            if found.get("walstream-kind", b"local") == b"local":
                last[key] = max(last.get(key, (-1, b"")), (int(found["walstream-time"]), record.value or b""))
        return {key: value for key, (_, value) in last.items()}


class World:
    """All regions."""

    def __init__(self, regions: dict[str, Region]) -> None:
        self.regions = regions

    def __getitem__(self, name: str) -> Region:
        return self.regions[name]

    def start(self) -> None:
        for region in self.regions.values():
            region.apply()
        for region in self.regions.values():
            region.start()

    def raise_if_crashed(self) -> None:
        for worker in self.workers():
            assert not worker.crashed, f"{worker} ended with status {worker.status}:\n{worker.tail()}"

    def supervise(self) -> None:
        """Start what has ended: a worker gives up where its own Kafka was away while it started, or for long."""
        for worker in self.workers():
            if not worker.running:
                worker.start()

    def workers(self) -> list[Worker]:
        return [worker for region in self.regions.values() for worker in region.workers]

    def ids(self) -> dict[str, list[bytes]]:
        return {
            name: sorted(headers_of(record)["ce_id"] for record in region.log())
            for name, region in self.regions.items()
        }

    def drain(self, ids: set[bytes]) -> None:
        """Wait until each region's log has all of that."""

        def drained() -> bool:
            self.raise_if_crashed()
            return all(set(found) >= ids for found in self.ids().values())

        def said() -> str:
            return str({name: f"lacks {sorted(ids - set(found))[:5]}" for name, found in self.ids().items()})

        wait_until(drained, DRAINED_WITHIN, said)

    def check(self, ids: set[bytes]) -> None:
        """Nothing doubled, nothing circled, one time for each record, and the same rows everywhere."""
        times: dict[bytes, set[bytes]] = {}
        for name, region in self.regions.items():
            log = [headers_of(record) for record in region.log()]
            found = sorted(headers["ce_id"] for headers in log)
            assert found == sorted(ids), f"{name}: {len(found)} of {len(ids)}"
            for headers in log:
                times.setdefault(headers["ce_id"], set()).add(headers["walstream-time"])
            for record in region.readback.records(f"{region.namespace}.ingress"):
                path = headers_of(record).get("walstream-path")
                assert path is None or name not in regions_of(path), "it came back"
            assert not region.readback.records(f"{region.namespace}.dlq")
        assert all(len(given) == 1 for given in times.values())
        rows = [region.rows() for region in self.regions.values()]
        assert all(row == rows[0] for row in rows) and rows[0]


@pytest.fixture
def make_world(make_kafka: Callable[[], Server], tmp_path: Path) -> Iterator[Callable[..., World]]:
    """Make regions that send to each other as they are told; their Kafkas are started at the same time."""
    worlds: list[World] = []

    def make(edges: dict[str, list[str]], *, forward: bool, **words: Any) -> World:
        namespace = f"t{uuid.uuid4().hex[:8]}"
        with ThreadPoolExecutor(2) as pool:
            servers = list(pool.map(lambda _: make_kafka(), edges))
        regions = {
            name: Region(name, rank, server, tmp_path, namespace)
            for rank, (name, server) in enumerate(zip(edges, servers, strict=True))
        }
        for name, others in edges.items():
            regions[name].configure([regions[other] for other in others], forward=forward, **words)
        worlds.append(World(regions))
        return worlds[-1]

    yield make
    for world in worlds:
        for worker in world.workers():
            worker.stop()


@pytest.mark.slow
@pytest.mark.parametrize(("edges", "forward"), [(RING, True), (MESH, False)], ids=["ring", "mesh"])
def test_three_regions_that_are_cut_at_random_end_with_the_same(
    make_world: Callable[..., World], edges: dict[str, list[str]], forward: bool, seed: int
) -> None:
    world = make_world(edges, forward=forward)
    world.start()
    chance = random.Random(seed)
    regions = list(world.regions.values())
    producers = {region.name: region.producer() for region in regions}
    ids: set[bytes] = set()
    down: Region | None = None

    def at_work() -> bool:
        world.supervise()
        return len(regions[0].log()) > 0

    for step in range(12):
        for region in regions:
            for number in range(100):
                id = f"{region.name}-{step}-{number}"
                region.write(producers[region.name], id, chance.choice(KEYS), id)
                ids.add(id.encode())
        victim = chance.choice(regions)
        match chance.choice(["kill", "kill", "router", "down"]):
            case "kill":
                worker = chance.choice(list(victim.deliveries.values()))
                worker.kill()
                worker.start()
            case "router":
                victim.router.kill()
                victim.router.start()
            case "down" if down is None:
                down = victim
                down.server.stop(kill=chance.random() < 0.5)
                continue
        if down is not None:
            down.server.start()
            down = None
        if step % 4 == 3:  # so that something is on its way when the next thing happens
            wait_until(at_work, 60.0, "something is in the log")
    if down is not None:
        down.server.start()
    for region in regions:
        assert producers[region.name].flush(60) == 0 and region.unanswered == 0
    world.supervise()
    world.drain(ids)
    world.check(ids)


@pytest.mark.slow
def test_delayed_writes_travel_when_they_are_due_and_a_cancel_from_elsewhere_stops_one(
    make_world: Callable[..., World],
) -> None:
    world = make_world(PAIR, forward=False)
    world.start()
    east, west = world["east"], world["west"]
    at_east, at_west = east.producer(), west.producer()
    east.write(at_east, "late", "k", "late", waldelay="PT5S")
    east.write(at_east, "never", "k", "never", waldelay="PT20S")
    assert at_east.flush(30) == 0
    west.write(at_west, "stop", "k", "", walaction="cancel", walref="never", source="/east")
    assert at_west.flush(30) == 0
    world.drain({b"late", b"stop"})
    wait_until(
        lambda: [headers_of(answer)["ce_id"] for answer in east.readback.records(f"{east.namespace}.answers")] != [],
        30.0, lambda: "no answer in the east",
    )  # fmt: skip
    (answer,) = east.readback.records(f"{east.namespace}.answers")
    assert b"cancelled" in (answer.value or b"")
    assert world["west"].rows() == world["east"].rows() == {b"k": b"late"}


@pytest.mark.slow
def test_where_each_region_delays_for_itself_a_write_is_due_though_the_first_is_gone(
    make_world: Callable[..., World],
) -> None:
    world = make_world(PAIR, forward=False, schedule={"where": "each"})
    world.start()
    east, west = world["east"], world["west"]
    producer = east.producer()
    east.write(producer, "first", "k", "first")
    assert producer.flush(30) == 0
    world.drain({b"first"})
    east.write(producer, "late", "k", "late", waldelay="PT10S")
    assert producer.flush(30) == 0

    def kinds(region: Region) -> list[bytes]:
        """What stands on a region's log of the record that is delayed."""
        log = [headers_of(record) for record in region.log()]
        return [headers.get("walstream-kind", b"") for headers in log if headers["ce_id"] == b"late"]

    wait_until(lambda: kinds(west) == [b"scheduled"], 10.0, lambda: str(kinds(west)))
    for worker in east.workers:
        worker.kill()
    wait_until(lambda: b"local" in kinds(west), 60.0, lambda: str(kinds(west)))
    assert west.rows() == {b"k": b"late"}
    for worker in east.workers:
        worker.start()
    wait_until(lambda: b"local" in kinds(east), 60.0, lambda: str(kinds(east)))
    assert kinds(east) == [b"scheduled", b"local"]
    # What the east had sent and not committed when it was killed is sent again; the log (above) has it once.
    ingress = west.readback.records(f"{west.namespace}.ingress")
    came = dict.fromkeys((headers["ce_id"], headers.get("walstream-kind")) for headers in map(headers_of, ingress))
    assert list(came) == [(b"first", None), (b"late", b"scheduled")]

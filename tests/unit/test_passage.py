"""What is on its way between two regions is waited for, one topic after the other."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from walstream import passage as module
from walstream.connections import KafkaClusterConnection
from walstream.kafka import KafkaConnection
from walstream.namespace import Namespace
from walstream.passage import Passage, Stage, passage

KAFKA = KafkaConnection(("east:1",))
WEST = KafkaClusterConnection(sink="kafka", brokers=["west:1"], rank=1)


class Cluster:
    """Topics of two partitions, and what groups have committed; time goes on with each look."""

    def __init__(self) -> None:
        self.ends: dict[tuple[str, int], int] = {}
        self.begins: dict[tuple[str, int], int] = {}
        self.commits: dict[str, dict[tuple[str, int], int]] = {}
        self.asked: list[str] = []
        self.now = 0.0
        self.happens: Callable[[float], None] = lambda now: None

    def describe(self, names: Collection[str]) -> dict[str, Any]:
        return {name: SimpleNamespace(partitions=2) for name in names if (name, 0) in self.ends}

    def offsets(self, partitions: Iterable[tuple[str, int]], where: str) -> dict[tuple[str, int], int]:
        return {p: (self.ends if where == "latest" else self.begins).get(p, 0) for p in partitions}

    def committed(self, group: str, partitions: Iterable[tuple[str, int]]) -> dict[tuple[str, int], int]:
        self.asked.append(group)
        known = self.commits.get(group, {})
        return {p: known[p] for p in partitions if p in known}

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.happens(self.now)

    def stage(self, topic: str, *groups: str) -> Stage:
        return Stage(cast(Any, self), topic, groups)

    def wait(self, *stages: Stage, deadline: float = 60.0) -> bool:
        return Passage(stages, [], lambda: self.now, self.sleep).wait(deadline)


@pytest.fixture
def cluster() -> Cluster:
    found = Cluster()
    found.ends = {("log", 0): 5, ("log", 1): 3}
    found.commits["store"] = {("log", 0): 5, ("log", 1): 3}
    return found


def test_what_has_passed_is_not_waited_for(cluster: Cluster) -> None:
    assert cluster.wait(cluster.stage("log", "store")) and cluster.now == 0


def test_every_group_has_to_be_beyond_what_was_there_at_first(cluster: Cluster) -> None:
    cluster.commits["send"] = {("log", 0): 4, ("log", 1): 3}

    def happens(now: float) -> None:
        cluster.ends["log", 0] += 10  # what comes later is not waited for
        if now > 3:
            cluster.commits["send"]["log", 0] = 5

    cluster.happens = happens
    assert cluster.wait(cluster.stage("log", "store", "send")) and 3 < cluster.now < 3.2


def test_topics_follow_each_other(cluster: Cluster) -> None:
    """Where a log ends is asked when all of the ingress is on it."""
    cluster.ends |= {("ingress", 0): 7, ("ingress", 1): 0}
    cluster.commits["router"] = {("ingress", 0): 6}

    def happens(now: float) -> None:
        if now > 1 and cluster.commits["router"]["ingress", 0] == 6:
            cluster.commits["router"]["ingress", 0], cluster.ends["log", 0] = 7, 6
        if now > 2:
            cluster.commits["store"]["log", 0] = 6

    cluster.happens = happens
    assert cluster.wait(cluster.stage("ingress", "router"), cluster.stage("log", "store")) and cluster.now > 2


def test_there_is_an_end_to_it(cluster: Cluster) -> None:
    cluster.ends["log", 0] = 6
    assert not cluster.wait(cluster.stage("log", "store"), deadline=5.0)
    assert 5 <= cluster.now < 5.2


def test_what_is_not_there_is_not_waited_for(cluster: Cluster) -> None:
    cluster.ends["log", 1] = cluster.begins["log", 1] = 9  # all of it was trimmed
    del cluster.commits["store"]["log", 1]
    assert cluster.wait(cluster.stage("nothing", "store"), cluster.stage("log", "never", "store"))


def namespace(**targets: Any) -> Namespace:
    return Namespace.model_validate({"version": 1, "namespace": "flights", "targets": targets})


def test_the_ways_between_two_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Admin", lambda kafka: ",".join(kafka.brokers))
    cache = {"sink": "rocksdb"}
    east = namespace(cache=cache, west={"sink": "replicate", "connection": "west", "options": {"region": "west"}})
    west = namespace(store=cache, east={"sink": "replicate", "connection": "east", "options": {"region": "east"}})
    found = passage((east, "cache"), (west, "store"), KAFKA, {"west": WEST}, "a")
    assert found is not None and found.regions == ["west"]
    own = [
        ("east:1", "flights.ingress", ["walstream.router.a"]),
        ("east:1", "flights.log", ["walstream.flights.cache", "walstream.flights.west"]),
    ]
    other = [
        ("west:1", "flights.ingress", ["walstream.router.a"]),
        ("west:1", "flights.log", ["walstream.flights.store", "walstream.flights.east"]),
    ]
    assert [(stage.admin, stage.topic, stage.groups) for stage in found._stages] == [*own, *other, *own]
    assert passage((namespace(cache=cache), "cache"), (west, "store"), KAFKA, {}, None) is None

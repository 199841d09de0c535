"""Regions in the configuration: what must go together is looked at before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from walstream.cli import main
from walstream.config import check_folder, check_regions
from walstream.delivery.app import make_delivery
from walstream.errors import ConfigurationError
from walstream.router.app import make_router
from walstream.settings import Settings

NAMESPACE = """
version: 1
namespace: flights
topics: {partitions: 2, replication: 1}
schedule: {where: each}
targets:
  to-west: {sink: replicate, connection: west, options: {region: west}}
"""
WEST = "west: {sink: kafka, brokers: ['h:1'], rank: 1}\n"


def folder(path: Path, namespace: str = NAMESPACE, connections: str = WEST) -> Path:
    (path / "flights.yaml").write_text(namespace)
    (path / "connections.yaml").write_text(connections)
    return path


def settings(path: Path, **words: Any) -> Settings:
    return Settings.load(config=path, datadir=path / "data", **words)


def test_what_is_right(tmp_path: Path) -> None:
    namespaces, problems = check_folder(folder(tmp_path))
    assert not problems and namespaces["flights"].replicates
    assert check_regions(namespaces, tmp_path, "east", 0) == []


@pytest.mark.parametrize(
    ("region", "rank", "connections", "said"),
    [
        (None, 0, WEST, "this one has no name"),
        ("west", 0, WEST, "that is this one"),
        ("east", 1, WEST, "has the rank 1"),
        ("east", 1, "west: {sink: kafka, brokers: ['h:1']}\n", "does not say the region's rank"),
    ],
)
def test_regions_that_cannot_be_told_apart(
    tmp_path: Path, region: str | None, rank: int, connections: str, said: str
) -> None:
    namespaces, _ = check_folder(folder(tmp_path, connections=connections))
    (problem,) = check_regions(namespaces, tmp_path, region, rank)
    assert said in problem.message and problem.remedy
    environment = {"WALSTREAM_REGION": region or "", "WALSTREAM_REGION_RANK": str(rank)}
    result = CliRunner().invoke(main, ["check", "--offline", "--config", str(tmp_path)], env=environment)
    assert result.exit_code == 1 and said in result.output
    with pytest.raises(ConfigurationError, match=said):
        make_delivery(settings(tmp_path, target="flights.to-west", region=region, region_rank=rank))


def test_a_router_needs_to_know_where_it_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="replicated to other regions, and this one has no name") as caught:
        make_router(settings(folder(tmp_path)))
    assert "WALSTREAM_REGION" in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("targets:", "delayed_time: due\ntargets:", "do not go together"),
        ("region: west", "region: West", "options.region"),
        ("region: west", "region: west, mode: some", "options.mode"),
        ("region: west", "region: west, forwards: true", "did you mean forward?"),
        ("connection: west, ", "", "needs a connection"),
        ("where: each", "where: here", "schedule.where"),
    ],
)
def test_words_that_cannot_be_have_their_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    _, (problem,) = check_folder(folder(tmp_path, NAMESPACE.replace(old, new)))
    assert said in str(problem) and problem.line is not None


def test_a_region_is_reached_by_a_kafka(tmp_path: Path) -> None:
    _, (problem,) = check_folder(folder(tmp_path, connections="west: {sink: redis, host: h}\n"))
    assert problem.message == "the connection west is for redis, not for kafka"


@pytest.mark.parametrize(("name", "good"), [("east", True), ("e" * 31, True), ("e" * 32, False), ("East", False)])
def test_the_name_of_a_region(name: str, good: bool) -> None:
    if good:
        assert Settings.load(region=name).region == name
    else:
        with pytest.raises(ConfigurationError, match="region"):
            Settings.load(region=name)

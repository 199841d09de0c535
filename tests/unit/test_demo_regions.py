"""The demo of two regions: what is written, what must come of it, and when it says that all is equal."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from walstream.config import load_connections
from walstream.demo.check import Findings
from walstream.demo.flights import Step
from walstream.demo.regions.conflicts import EAST, RANKS, WEST, Said, conflicts, rows_of, said
from walstream.demo.regions.link import Link
from walstream.demo.regions.region import Region
from walstream.demo.regions.scenario import Result, Side, compare_log, example_of
from walstream.router.effective_time import EffectiveTimes

MINUTE = 60_000_000
STEPS = [
    Step(number // 50 * MINUTE, f"f-{number % 40}", "arrived", {"status": "arrived", "arr_delay": number})
    for number in range(2_000)
]


def test_both_regions_say_something_else_about_every_step() -> None:
    found = said(STEPS)
    assert found == said(STEPS)
    for name in RANKS:
        assert [(one.flight, one.region) for one in found[name]] == [(step.flight, name) for step in STEPS]
    pairs = list(zip(found[EAST], found[WEST], strict=True))
    assert all(east.columns != west.columns for east, west in pairs)
    orders = [(east.time > west.time) - (east.time < west.time) for east, west in pairs]
    assert {order: orders.count(order) > len(STEPS) / 4 for order in (-1, 0, 1)} == {-1: True, 0: True, 1: True}


def test_an_effective_time_is_known_before_it_is_given() -> None:
    for name, writes in said(STEPS).items():
        times = EffectiveTimes(rank=RANKS[name])
        assert [times.assign(one.time, place) for place, one in enumerate(writes)] == [one.effective for one in writes]


def write(region: str, time: int, **columns: Any) -> Said:
    return Said(region, time, "a", f"at-{time}", columns or None)


@pytest.mark.parametrize(
    ("writes", "row"),
    [
        ([write(EAST, 10, x=1), write(WEST, 20, x=2)], {"x": 2}),
        ([write(WEST, 20, x=2), write(EAST, 10, x=1)], {"x": 2}),
        ([write(EAST, 10, x=1), write(WEST, 10, x=2)], {"x": 2}),  # the higher rank
        ([write(EAST, 20, x=1), write(WEST, 10, x=2, y=3)], {"x": 1, "y": 3}),
        ([write(EAST, 20), write(WEST, 10, x=2)], None),
        ([write(EAST, 20), write(WEST, 20, x=2)], {"x": 2}),
    ],
)
def test_of_each_column_the_last_write_stands(writes: list[Said], row: dict[str, Any] | None) -> None:
    assert rows_of(writes) == ({} if row is None else {"a": {"flight": "a", **row}})


def test_a_conflict_is_what_the_regions_alone_would_see_otherwise() -> None:
    assert list(conflicts([write(EAST, 10, x=1), write(WEST, 20, x=1)])) == []
    assert list(conflicts([write(EAST, 10, x=1), write(WEST, 20, x=2)])) == ["a"]
    assert list(conflicts([write(EAST, 10), write(WEST, 20, x=2)])) == ["a"]


def test_a_log_has_each_write_once_with_its_time() -> None:
    writes = [write(EAST, 10, x=1), write(WEST, 20, x=1)]
    ids = [one.id.encode() for one in writes]
    times = dict(zip(ids, (10, 21), strict=True))
    assert compare_log(writes, dict.fromkeys(ids, 1), times) == Findings(right=2)
    assert compare_log(writes, {ids[0]: 1}, times).problems == ["a/at-20/west stands in the log 0 times"]
    assert compare_log(writes, {ids[0]: 1, ids[1]: 2}, times).problems == ["a/at-20/west stands in the log 2 times"]
    assert compare_log(writes, dict.fromkeys(ids, 1), times | {ids[1]: 22}).wrong == 1
    assert compare_log(writes[:1], dict.fromkeys(ids, 1), times).wrong == 1


def test_an_example_is_of_one_time() -> None:
    steps = [Step(MINUTE * n, f"f-{n}", "arrived", {"status": "arrived", "arr_delay": 5}) for n in range(20)]
    writes = [one for several in said(steps).values() for one in several]
    rows = list(rows_of(writes).values())
    example = example_of(writes, {EAST: rows, WEST: rows})
    assert example is not None
    assert example.said[WEST]["arr_delay"] == example.rows[EAST]["arr_delay"] == 6


def test_a_regions_configuration_is_right(tmp_path: Path) -> None:
    region = Region(WEST, EAST, tmp_path, brokers="127.0.0.1:1", way="127.0.0.1:2", partitions=3)
    assert list(region.namespace.targets) == ["store", "to-east"]
    assert region.namespace.topics.partitions == 3
    (connection,) = load_connections(region.config).values()
    assert (connection.brokers, connection.rank) == (["127.0.0.1:2"], RANKS[EAST])  # type: ignore[union-attr]
    assert region.rows() == {}
    region.close()


async def test_a_link_that_is_cut_lets_nobody_through_until_it_is_healed() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    link = Link()
    link.lead_to(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    host, port = link.address.split(":")

    async def call() -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"hello")
        try:
            return reader, writer, await reader.read(5)
        except ConnectionResetError:
            return reader, writer, b""

    reader, _, answer = await call()
    assert answer == b"hello"
    link.cut()
    assert await reader.read(5) == b""
    assert (await call())[2] == b""
    link.heal()
    assert (await call())[2] == b"hello"
    await asyncio.to_thread(link.close)
    server.close()


def good() -> Result:
    def side() -> Side:
        return Side(written=3, sent=4, in_log=6, log=Findings(right=6), rows=Findings(right=2))

    return Result(
        month=1, flights=2, writes=3, conflicting=2, differing_when_cut=1,
        sides={EAST: side(), WEST: side()}, compared=(2, 2), different=0,
    )  # fmt: skip


def test_all_is_equal() -> None:
    assert good().ok
    assert good().as_dict()["ok"] is True


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"log": Findings(5, 1, ["x stands in the log 2 times"])}, "west: x stands in the log 2 times"),
        ({"rows": Findings(1, 1, ["f: x is 1, should be 2"])}, "west: row f: x is 1, should be 2"),
        ({"rows": Findings()}, "west: there was nothing to compare"),
        ({"circled": 1}, "west: 1 records came back to where they had been"),
        ({"sent": 2}, "west: its ingress has 3 of its own writes, and 2 of the other's"),
    ],
)
def test_a_region_is_wrong(wrong: dict[str, Any], problem: str) -> None:
    result = good()
    result.sides[WEST] = replace(result.sides[WEST], **wrong)
    assert result.problems == [problem]


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"dead": {"east: flights.dlq": 1}}, "east: flights.dlq holds 1 records"),
        ({"different": None}, "the stores were not compared"),
        ({"compared": (0, 0)}, "the stores were not compared"),
        ({"different": 4}, "4 rows of the stores differ"),
        ({"differing_when_cut": 0}, "the regions never differed"),
    ],
)
def test_not_all_is_equal(wrong: dict[str, Any], problem: str) -> None:
    assert replace(good(), **wrong).problems == [problem]

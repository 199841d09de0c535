"""`faust … table NAME list|count`, over a store that its owner has open."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from faust.cli.base import State

from walstream import faust_commands
from walstream.engine.store import Store
from walstream.engine.topology import TableSpec, Topology

SOON = time.time_ns() // 1_000 + 50 * 60_000_000  # in 50 min, by when the tests are over
LATE = 4_000_000_000_000_000  # the year 2096
MARK = b"\0"


def decode(key: bytes, value: bytes) -> Mapping[str, Any] | None:
    return None if key == MARK else {"due": int.from_bytes(key), "key": value.decode() or None}


def at(due: int) -> bytes:
    return due.to_bytes(8)


WAITING = TableSpec("waiting", "waiting.changelog", ordered=True, decode=decode, until=at)
PLAIN = TableSpec("plain", "plain.changelog", decode=lambda key, value: {"name": key.decode()})

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    topology = Topology("flow", ("source",), 2, (WAITING, PLAIN), processor=lambda partition: pytest.fail("no work"))
    store = Store(tmp_path / "app" / "flow" / "1", topology.tables)
    rows = {at(1): b"a", at(5): b"b", at(SOON): b"a", at(LATE): b"", MARK: b"\1"}
    store.write({"waiting": {0: rows}, "plain": {0: {b"x": b""}}}, {})
    engine = SimpleNamespace(topologies=[topology], folder=tmp_path / "app")
    monkeypatch.setattr(faust_commands, "find_app", lambda name: SimpleNamespace(engine=engine))
    state = State()
    state.app = "some.app"

    def invoke(*words: str) -> Result:
        return CliRunner().invoke(faust_commands.table_group, words, obj=state, catch_exceptions=False)

    yield invoke
    store.close()


def listed(result: Result) -> list[int]:
    assert result.exit_code == 0, result.output
    return [json.loads(line)["due"] for line in result.stdout.splitlines()]


def test_all_rows_but_those_of_the_table_itself(run: Run) -> None:
    assert listed(run("waiting", "list", "--json")) == [1, 5, SOON, LATE]
    assert listed(run("waiting", "list", "--json", "--limit", "0", "--partition", "1")) == [1, 5, SOON, LATE]
    assert listed(run("waiting", "list", "--json", "--partition", "0")) == []


def test_rows_that_are_due_before_a_time(run: Run) -> None:
    assert listed(run("waiting", "list", "--json", "--until", "1970-01-01T00:00:00.000005Z")) == [1]
    assert listed(run("waiting", "list", "--json", "--until", "1960-01-01T00:00:00Z")) == []
    assert listed(run("waiting", "list", "--json", "--until", "0s")) == [1, 5]
    assert listed(run("waiting", "list", "--json", "--until", "1h")) == [1, 5, SOON]


def test_rows_with_a_key(run: Run) -> None:
    assert listed(run("waiting", "list", "--json", "--key", "a")) == [1, SOON]
    assert listed(run("waiting", "list", "--json", "--key", "a", "--until", "0s")) == [1]
    assert listed(run("waiting", "list", "--json", "--key", "None")) == []


def test_count(run: Run) -> None:
    result = run("waiting", "count", "--json", "--until", "1h")
    assert json.loads(result.stdout) == {"rows": 3, "partitions": {"1": 3}}
    assert "not on this disk: partitions 0 of 2" in result.stderr
    assert "2 rows" in run("waiting", "count", "--key", "a").stdout


@pytest.mark.parametrize("command", ["list", "count"])
@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (
            ["plain", "--until", "1h"],
            1,
            "error: the rows of plain are not in the order of a time remedy: leave out --until",
        ),
        (["plain", "--key", "x"], 1, "error: the rows of plain have no key, but name remedy: leave out --key"),
        (["waiting", "--until", "soon"], 2, "'soon' is neither such as 1h nor such as 2013-01-01T00:00:00Z"),
        (["nowhere"], 1, "error: there is no table nowhere remedy: there are: plain, waiting"),
    ],
)
def test_what_cannot_be_asked(run: Run, command: str, words: list[str], status: int, message: str) -> None:
    name, *options = words
    result = run(name, command, *options)
    assert (result.exit_code, result.stdout) == (status, "")
    assert message in " ".join(result.stderr.split())

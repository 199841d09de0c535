"""`walstream bench`, as far as it needs no cluster: its records, and what it makes of what it saw."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from walstream.bench import Findings, Lag, Load, percentiles
from walstream.cli import main
from walstream.client import Write

NAMESPACE = """
version: 1
namespace: flights
targets:
  copy: {sink: kafka, options: {topic: flights-copy}}
  rows: {sink: cassandra, connection: main, options: {keyspace: flights, table: flights}}
"""


def lag(before: int, after: int) -> Lag:
    return Lag("router", before, after, after, None, 1)


def test_random_records_differ_in_id_and_payload_and_go_round_the_keys() -> None:
    load = Load(seconds=1, size=50, keys=3, targets=["copy"])
    records = list(itertools.islice(load.records("here"), 100))
    assert len({record.id for record in records}) == len({record.payload for record in records}) == 100
    assert {record.key for record in records} == {"bench-0", "bench-1", "bench-2"}
    assert {(len(record.payload), record.source, tuple(record.targets or ())) for record in records} == {  # type: ignore[arg-type]
        (50, "here", ("copy",))
    }


def test_own_records_come_again_with_new_ids_and_keep_their_targets() -> None:
    load = Load(seconds=1, writes=[Write(b"a", key="1", targets=["copy"]), Write(b"b", key="2")])
    records = list(itertools.islice(load.records("here"), 4))
    assert [(record.payload, record.key, record.targets) for record in records] == 2 * [
        (b"a", "1", ["copy"]),
        (b"b", "2", None),
    ]
    assert len({record.id for record in records}) == 4


def test_who_falls_behind_held_less_than_was_written() -> None:
    findings = Findings(Counter({"true": 10_000}), seconds=10.0)
    assert findings.rate == 1_000
    assert findings.keeps_up(lag(5_000, 7_000)) and findings.held(lag(5_000, 7_000)) == 1_000
    assert not findings.keeps_up(lag(0, 6_000)) and findings.held(lag(0, 6_000)) == 400


def test_what_it_holds_is_what_the_slowest_lets_through() -> None:
    findings = Findings(Counter({"true": 10_000}), seconds=10.0, lags=[lag(0, 100)])
    assert findings.holds == 1_000 and not findings.limits
    findings.lags = [lag(0, 4_000), Lag("copy", 0, 3_000, 3_000, None, 1)]
    # The target got 600 of the 1,000 a second, and was left behind by 300 of those.
    assert findings.holds == 300 and findings.limits == ["router", "copy"]


def test_nothing_written_is_no_rate() -> None:
    assert Findings().rate == 0 and Findings().held(lag(0, 10)) == 0


def test_percentiles() -> None:
    assert percentiles([]) == {}
    assert percentiles(range(1, 101)) == {"p50": 51, "p90": 91, "p99": 100, "max": 100, "count": 100}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WALSTREAM_BROKERS", "127.0.0.1:1")
    folder = tmp_path / "config/namespaces"
    folder.mkdir(parents=True)
    (folder / "connections.yaml").write_text("main: {sink: cassandra, hosts: [127.0.0.1]}\n")
    (folder / "flights.yaml").write_text(NAMESPACE)
    return folder


def walstream(*arguments: str, answer: str = "") -> Result:
    return CliRunner().invoke(main, ["bench", *arguments], input=answer, catch_exceptions=False)


def test_it_asks_and_names_only_targets_that_take_random_payloads(config: Path) -> None:
    result = walstream("flights", "--rate", "10/s", answer="n\n")
    assert result.exit_code == 1
    assert "300 records, for 30 s, to flights at 127.0.0.1:1, for: copy." in result.stderr


def test_without_a_target_that_takes_random_payloads_it_needs_records(config: Path) -> None:
    (config / "flights.yaml").write_text(NAMESPACE.replace("  copy:", "  # copy:"))
    result = walstream("flights", "--yes")
    assert result.exit_code == 2 and "--file" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--targets", "nobody"], "no target nobody"),
        (["--rate", "fast"], "fast"),
        (["--file", "empty"], "no line"),
        (["--file", "bad"], "line 1"),
    ],
)
def test_wrong_usage(config: Path, arguments: list[str], said: str) -> None:
    Path("empty").touch()
    Path("bad").write_text("[]\n")
    result = walstream("flights", "--yes", *arguments)
    assert result.exit_code == 2 and said in result.stderr

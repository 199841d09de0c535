"""The commands about targets, without servers: what they are given, and what they say where that is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from walstream.cli import main
from walstream.cli.parameters import Moment, Position, TargetName

FILE = """\
version: 1
namespace: flights
targets:
  copy: {sink: kafka, options: {topic: copy}}
  base: {sink: kafka, options: {topic: base}}
"""


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flights.yaml").write_text(FILE)
    monkeypatch.setenv("WALSTREAM_CONFIG", str(tmp_path))
    monkeypatch.setenv("WALSTREAM_BROKERS", "127.0.0.1:1")
    monkeypatch.delenv("WALSTREAM_NAMESPACES", raising=False)


def walstream(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


@pytest.mark.parametrize(
    "command",
    ["dlq list", "dlq show", "dlq redrive", "dlq drop", "dlq export", "retry list", "target pause", "target resume",
     "target quarantine"],
)  # fmt: skip
def test_each_has_examples(command: str) -> None:
    result = walstream(*command.split(), "--help")
    assert result.exit_code == 0
    assert f"Examples:\n    walstream {command} flights" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("dlq", "list", "trains.base"), 1, "there is no namespace trains"),
        (("dlq", "list", "flights.bas"), 1, "did you mean flights.base?"),
        (("dlq", "list", "flights.x"), 1, "there is flights.copy, flights.base"),
        (("dlq", "list", "flights."), 2, "is not the name of a target"),
        (("retry", "list", "flights"), 2, "'flights' is not the name of a target, such as flights.base"),
        (("target", "pause", "flights"), 2, "is not the name of a target"),
        (("target", "pause"), 2, "Missing argument"),
        (("dlq", "drop", "flights"), 2, "nothing of it can be dropped"),
        (("dlq", "show", "flights.base", "17"), 2, "'17' is not a position, such as 3:1042"),
        (("dlq", "list", "flights.base", "--since", "yesterday"), 2, "neither such as 1h (ago) nor such as"),
        (("dlq", "redrive", "flights.base", "--rate", "9"), 2, "is not a rate"),
        (("dlq", "redrive", "flights.base", "--wait", "9"), 2, "is not a duration"),
        (("retry", "list", "flights.base", "--parked", "--blocked"), 2, "one of --parked and --blocked"),
        (("target", "quarantine", "flights.base", "12:0"), 1, "flights has partitions 0 to 11, and no 12"),
    ],
)
def test_what_is_wrong_is_said(arguments: tuple[str, ...], status: int, said: str) -> None:
    result = walstream(*arguments)
    assert (result.exit_code, said in result.stderr) == (status, True), result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("walstream dlq list ", "flights flights.base flights.copy"),
        ("walstream target pause ", "flights.base flights.copy"),
    ],
)
def test_the_shell_completes_targets(words: str, names: str) -> None:
    environment = os.environ | {
        "_WALSTREAM_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")),
    }  # fmt: skip
    script = "from walstream.cli import main; main(prog_name='walstream')"
    said = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert said.stdout.split() == [f"plain,{name}" for name in names.split()], said.stderr


def test_completion_is_silent_where_the_configuration_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "flights.yaml").write_text("nonsense")
    with click.Context(main) as context:
        assert TargetName().shell_complete(context, click.Argument(["target"]), "") == []


def test_a_position_and_a_time() -> None:
    assert Position().convert("3:1042", None, None) == (3, 1042)
    for wrong in ("3", ":1", "3:", "-1:2", "a:1", "1:2:3"):
        with pytest.raises(click.BadParameter):
            Position().convert(wrong, None, None)
    assert Moment().convert("2026-01-01T00:00:00Z", None, None) == 1_767_225_600_000_000
    assert Moment().convert("1h", None, None) < Moment().convert("1m", None, None)

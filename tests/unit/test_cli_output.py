"""How rows that others wrote are shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from walstream.cli.output import cell, plain, print_json_rows, print_rows


def rows(count: int) -> Iterator[dict[str, Any]]:
    return ({"key": f"k[{number}]\n\x1b[31m", "count": number, "other": None} for number in range(count))


def test_nothing_steers_the_terminal() -> None:
    assert plain("é\x1b]0;title\x07\t\n\x9b") == "é\\x1b]0;title\\x07\\x09\\x0a\\x9b"
    assert plain("a\tb\nc\x00", keep="\n\t") == "a\tb\nc\\x00"
    assert cell("[red]x[/]\x1b") == "\\[red]x\\[/]\\x1b"
    assert (cell(None), cell(0)) == ("", "0")


def test_a_table_has_a_limit(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(("key", "count#"), rows(3), limit=2, nothing="")
    said = capsys.readouterr()
    assert "k[1]\\x0a\\x1b[31m" in said.out and "k[2]" not in said.out
    assert "and more" in said.err
    print_rows(("key", "count#"), rows(2), limit=2, nothing="")
    assert capsys.readouterr().err == ""


def test_without_a_limit_there_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(("count#", "key", "other"), rows(2), limit=0, nothing="")
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["count\tkey\tother", "0\tk[0]\\x0a\\x1b[31m\t", "1\tk[1]\\x0a\\x1b[31m\t"]


@pytest.mark.parametrize("limit", [0, 5])
def test_nothing_is_said(capsys: pytest.CaptureFixture[str], limit: int) -> None:
    print_rows(("key",), rows(0), limit=limit, nothing="there is none")
    assert capsys.readouterr() == ("", "there is none\n")


@pytest.mark.parametrize("count", [0, 1, 3])
def test_json_rows_are_one_array(capsys: pytest.CaptureFixture[str], count: int) -> None:
    print_json_rows(rows(count))
    assert json.loads(capsys.readouterr().out) == list(rows(count))

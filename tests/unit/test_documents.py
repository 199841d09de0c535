"""YAML 1.2, with lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from walstream.documents import Document, read
from walstream.errors import ConfigurationError


def document(tmp_path: Path, text: str) -> Document:
    file = tmp_path / "a.yaml"
    file.write_text(text)
    return read(file)


def test_scalars_are_those_of_yaml_1_2(tmp_path: Path) -> None:
    text = "a: on\nb: 12\nc: 1.5\nd: true\ne:\nf: 2013-01-01T00:00:00Z\ng: '12'\nh: no\ni: 2013-01-01\n"
    assert document(tmp_path, text).data == {
        "a": "on",
        "b": 12,
        "c": 1.5,
        "d": True,
        "e": None,
        "f": "2013-01-01T00:00:00Z",
        "g": "12",
        "h": "no",
        "i": "2013-01-01",
    }


def test_lines(tmp_path: Path) -> None:
    found = document(tmp_path, "# a comment\na:\n  - 1\n  - b: 2\n\nc: {d: 3,\n  e: 4}\n")
    assert found.data == {"a": [1, {"b": 2}], "c": {"d": 3, "e": 4}}
    assert [found.line(path) for path in (("a",), ("a", 1, "b"), ("c", "d"), ("c", "e"))] == [2, 4, 6, 7]
    assert found.line(("c", "missing", "deep")) == 6
    assert found.line(("missing",)) == 2


def test_nothing(tmp_path: Path) -> None:
    assert document(tmp_path, "# nothing\n").data is None


@pytest.mark.parametrize(
    ("text", "line"),
    [("a: [1\nb: 2\n", 2), ("a: 1\na: 2\n", 2), ("a: 1\n---\nb: 2\n", 2), ("? [a]\n: 1\n", 1), ("a: *nope\n", 1)],
)
def test_no_yaml(tmp_path: Path, text: str, line: int) -> None:
    with pytest.raises(ConfigurationError) as caught:
        document(tmp_path, text)
    assert caught.value.line == line


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        read(tmp_path / "no.yaml")

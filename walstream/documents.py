"""YAML files (YAML 1.2) that remember on which line everything stands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from walstream.errors import ConfigurationError

Path_ = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """What a file holds.

    Parameters
    ----------
    data
        Plain dictionaries, lists, and scalars. A time stays the text that it was.
    lines
        The line, from 1, of each key and item, by its path from the top.
    """

    file: Path
    data: Any
    lines: dict[Path_, int]

    def line(self, path: Path_) -> int | None:
        """The line of what the path names, or of the nearest thing around it that is in the file."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.lines:
                return self.lines[path[:end]]
        return self.lines.get(())


def read(file: Path) -> Document:
    """Read a YAML file.

    Raises
    ------
    ConfigurationError
        It is not there, is not YAML, or says one word twice.
    """
    yaml = YAML(typ="safe", pure=True)
    try:
        with file.open(encoding="utf-8") as stream:
            node = yaml.compose(stream)
        lines: dict[Path_, int] = {}
        data = _Reader(file, yaml, lines).value(node, ()) if node is not None else None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = ", ".join(part for part in (error.context, error.problem) if part)
        line = None if mark is None else mark.line + 1
        raise ConfigurationError(
            f"this is not YAML: {said}", file=str(file), line=line, remedy="look for a lost quote, bracket or indent"
        ) from error
    except (OSError, UnicodeDecodeError, YAMLError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigurationError(f"cannot be read: {reason}", file=str(file)) from error
    return Document(file, data, lines)


class _Reader:
    def __init__(self, file: Path, yaml: Any, lines: dict[Path_, int]) -> None:
        self.file, self.constructor, self.lines = file, yaml.constructor, lines

    def value(self, node: Node, path: Path_) -> Any:
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, MappingNode):
            return dict(self._items(node, path))
        if isinstance(node, SequenceNode):
            return [self.value(child, (*path, number)) for number, child in enumerate(node.value)]
        assert isinstance(node, ScalarNode)  # there are no other nodes in YAML
        return self._scalar(node)

    def _items(self, node: MappingNode, path: Path_) -> Iterator[tuple[Any, Any]]:
        seen = set()
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, ScalarNode):
                raise ConfigurationError("a word is expected here", file=str(self.file), line=line)
            key = self._scalar(key_node)
            if key in seen:
                first = self.lines[(*path, key)]
                raise ConfigurationError(
                    f"{key} stands here twice, first on line {first}",
                    file=str(self.file),
                    line=line,
                    remedy="keep one of them",
                )
            seen.add(key)
            self.lines[(*path, key)] = line
            yield key, self.value(value_node, (*path, key))

    def _scalar(self, node: ScalarNode) -> Any:
        tag = str(node.tag).rpartition(":")[2]
        if tag in ("int", "float", "bool", "null"):
            return getattr(self.constructor, f"construct_yaml_{tag}")(node)
        return node.value

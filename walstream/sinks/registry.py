"""The kinds of sink and source that are installed: entry points of ``walstream.sinks`` and ``walstream.sources``."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoints, entry_points
from typing import TypeVar

from walstream.errors import ConfigurationError, MissingExtra, SinkError
from walstream.sinks.base import Sink
from walstream.sinks.source.base import Source

GROUP = "walstream.sinks"
SOURCES = "walstream.sources"

T = TypeVar("T")


def sink_names() -> list[str]:
    """The names that a target's ``sink`` may have."""
    return _names(GROUP)


def source_names() -> list[str]:
    """The names that the ``kind`` of a target's ``source`` may have."""
    return _names(SOURCES)


def sink_class(name: str) -> type[Sink]:
    """The class of a sink.

    Raises
    ------
    ConfigurationError
        No installed package has such a sink.
    MissingExtra
        It needs a library that is not installed.
    SinkError
        What is installed under that name is no sink.
    """
    return _load(GROUP, "sink", name, Sink)  # type: ignore[type-abstract]


def source_class(name: str) -> type[Source]:
    """The class of a source; errors as of `sink_class`."""
    return _load(SOURCES, "source", name, Source)  # type: ignore[type-abstract]


@cache
def _points(group: str) -> EntryPoints:
    """The entry points of a group. A look reads the metadata of all packages, which takes tens of milliseconds."""
    return entry_points(group=group)


def _names(group: str) -> list[str]:
    return sorted({point.name for point in _points(group)})


def _load(group: str, word: str, name: str, base: type[T]) -> type[T]:
    found = list(_points(group).select(name=name))
    if not found:
        raise ConfigurationError(
            f"there is no {word} {name!r}",
            remedy=f"installed are {', '.join(_names(group))}; another comes with a package that has the entry point "
            f"{name!r} in the group {group}",
        )
    try:
        loaded = found[0].load()
    except ModuleNotFoundError as error:
        if error.name is not None and not error.name.startswith("walstream"):
            raise MissingExtra(f"the {word} {name} (it imports {error.name})", name) from error
        raise SinkError(f"the {word} {name} ({found[0].value}) cannot be loaded: {error}") from error
    except (ImportError, AttributeError) as error:
        raise SinkError(f"the {word} {name} ({found[0].value}) cannot be loaded: {error}") from error
    if not (isinstance(loaded, type) and issubclass(loaded, base)):
        raise SinkError(f"{found[0].value} is no subclass of {base.__module__}.{base.__name__}")
    return loaded

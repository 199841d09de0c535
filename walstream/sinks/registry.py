"""The kinds of sink that are installed: the entry points of the group ``walstream.sinks``."""

from __future__ import annotations

from importlib.metadata import entry_points

from walstream.errors import ConfigurationError, MissingExtra, SinkError
from walstream.sinks.base import Sink

GROUP = "walstream.sinks"


def sink_names() -> list[str]:
    """The names that a target's ``sink`` may have."""
    return sorted({point.name for point in entry_points(group=GROUP)})


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
    found = list(entry_points(group=GROUP, name=name))
    if not found:
        raise ConfigurationError(
            f"there is no sink {name!r}",
            remedy=f"installed are {', '.join(sink_names())}; another comes with a package that has the entry point "
            f"{name!r} in the group {GROUP}",
        )
    try:
        loaded = found[0].load()
    except ModuleNotFoundError as error:
        if error.name is not None and not error.name.startswith("walstream"):
            raise MissingExtra(f"the sink {name} (it imports {error.name})", name) from error
        raise SinkError(f"the sink {name} ({found[0].value}) cannot be loaded: {error}") from error
    except (ImportError, AttributeError) as error:
        raise SinkError(f"the sink {name} ({found[0].value}) cannot be loaded: {error}") from error
    if not (isinstance(loaded, type) and issubclass(loaded, Sink)):
        raise SinkError(f"{found[0].value} is no subclass of walstream.sinks.base.Sink")
    return loaded

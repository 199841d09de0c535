"""Which namespaces a command is about, and how to reach them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from walstream.config import load_namespaces
from walstream.errors import ConfigurationError
from walstream.namespace import Namespace
from walstream.settings import Settings


def selected(settings: Settings, names: Sequence[str] = ()) -> list[Namespace]:
    """The namespaces that were named, on the command line or by ``WALSTREAM_NAMESPACES``; else all.

    Raises
    ------
    ConfigurationError
        The configuration is wrong, or has no such namespace.
    """
    return choose(load_namespaces(settings.config), names or settings.namespaces)


def choose(namespaces: dict[str, Namespace], names: Sequence[str]) -> list[Namespace]:
    """These namespaces, or all where none is named."""
    for name in names:
        if name not in namespaces:
            near = difflib.get_close_matches(name, namespaces, n=1)
            remedy = f"did you mean {near[0]}?" if near else f"there are {', '.join(namespaces)}"
            raise ConfigurationError(f"there is no namespace {name}", remedy=remedy)
    return [namespaces[name] for name in dict.fromkeys(names)] if names else list(namespaces.values())


def target_of(settings: Settings, name: tuple[str, str | None]) -> tuple[Namespace, str | None]:
    """The namespace that was named, and the name of its target if one was.

    Raises
    ------
    ConfigurationError
        The configuration is wrong, or has no such namespace or target.
    """
    namespace_name, target = name
    (namespace,) = selected(settings, [namespace_name])
    if target is not None and target not in namespace.targets:
        near = difflib.get_close_matches(target, namespace.targets, n=1)
        known = ", ".join(f"{namespace.name}.{other}" for other in namespace.targets) or "none"
        remedy = f"did you mean {namespace.name}.{near[0]}?" if near else f"there is {known}"
        raise ConfigurationError(f"there is no target {namespace.name}.{target}", remedy=remedy)
    return namespace, target

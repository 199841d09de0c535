"""What commands are given: names of targets (which the shell completes), positions, times, durations, rates."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from walstream.units import parse_duration, parse_rate, parse_rfc3339


class TargetName(click.ParamType):
    """The full name of a target, ``<namespace>.<target>``.

    Parameters
    ----------
    or_namespace
        Whether the name of a namespace will do.
    """

    name = "target"

    def __init__(self, *, or_namespace: bool = False) -> None:
        self._or_namespace = or_namespace

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str | None]:
        """The names of the namespace and of the target."""
        namespace, dot, target = str(value).partition(".")
        if not namespace or (dot and not target) or (not dot and not self._or_namespace):
            also = ", or of a namespace, such as flights" if self._or_namespace else ""
            self.fail(f"{value!r} is not the name of a target, such as flights.base{also}", param, ctx)
        return namespace, target or None

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from walstream.config import load_namespaces
        from walstream.errors import WalstreamError
        from walstream.settings import Settings

        config = ctx.params.get("config")
        try:
            settings = Settings.load(config=None if config is None else Path(config))
            namespaces = load_namespaces(settings.config, connections=False).values()
        except WalstreamError:
            return []
        names = [f"{namespace.name}.{target}" for namespace in namespaces for target in namespace.targets]
        if self._or_namespace:
            names += [namespace.name for namespace in namespaces]
        return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]


class Position(click.ParamType):
    """A place in a topic, ``PARTITION:POSITION``."""

    name = "partition:position"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Partition and position."""
        partition, colon, position = str(value).partition(":")
        if not (colon and partition.isascii() and partition.isdigit() and position.isascii() and position.isdigit()):
            self.fail(f"{value!r} is not a position, such as 3:1042: the partition, and the place in it", param, ctx)
        return int(partition), int(position)


class Moment(click.ParamType):
    """A time: RFC 3339, or a duration that has passed since."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Microseconds since the epoch."""
        try:
            return time.time_ns() // 1_000 - parse_duration(value) * 1_000
        except ValueError:
            pass
        try:
            return max(parse_rfc3339(value), 0)
        except ValueError:
            self.fail(f"{value!r} is neither such as 1h (ago) nor such as 2013-01-01T00:00:00Z", param, ctx)


class Seconds(click.ParamType):
    """A duration such as ``10s``."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        try:
            return parse_duration(value) / 1000
        except ValueError as error:
            self.fail(str(error), param, ctx)


class PerSecond(click.ParamType):
    """A rate such as ``1000/s``."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Events per second."""
        try:
            return parse_rate(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)

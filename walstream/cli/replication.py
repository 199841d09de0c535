"""``walstream replication``: how far other regions are behind, and whether two regions' stores are equal."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from walstream.cli.output import cell, json_option, plural, print_json, print_table, say, settings_options
from walstream.cli.parameters import Seconds
from walstream.errors import ConfigurationError, SinkError
from walstream.settings import Settings

if TYPE_CHECKING:
    from walstream.comparison import Comparison, Passed, Progress
    from walstream.sinks.base import Sink


@click.group()
def replication() -> None:
    """See how far other regions are behind, and whether two regions' stores are equal.

    \b
    Examples:
      walstream replication status
      walstream replication verify flights cache-east cache-west
    """


@replication.command()
@click.argument("namespaces", nargs=-1, metavar="[NAMESPACE]...")
@json_option
@settings_options
def status(settings: Settings, namespaces: Sequence[str], as_json: bool) -> None:
    """Show how far each other region is behind this one.

    The records that are not sent yet are positions of the log. The seconds are the age of the oldest of them: how long
    ago it was appended to the log. Beside these, records may be waiting to be tried again.

    It asks this region's Kafka. Of the other one it is only said whether it can be reached from here within 3 seconds,
    and if not, since when the workers cannot reach it.

    \b
    Examples:
      walstream replication status
      walstream replication status flights --json
    """
    from walstream.cli.selection import selected
    from walstream.config import load_connections
    from walstream.kafka import KafkaConnection
    from walstream.replication import replications

    chosen = selected(settings, namespaces)
    found = replications(chosen, KafkaConnection.from_settings(settings), load_connections(settings.config))
    if as_json:
        print_json([one.document() for one in found])
        return
    if not found:
        say("No target sends to another region (sink: replicate).")
        return
    rows: list[tuple[Any, ...]] = []
    for one in found:
        health, workers = one.status.health, one.status.members
        waiting = "" if health is None else f"{health.counts.retrying + health.counts.parked:,}"
        here = "" if one.problem is None else "[red]cannot be reached[/]"
        if not here and health is not None and health.paused is not None:
            here = "[red]paused[/]"
        for number, behind in sorted(one.partitions.items()):
            rows.append((one.status.namespace, one.region, number, f"{behind.records:,}", _seconds(behind.seconds)))
        count = str(len(workers)) if workers else "[red]none[/]"
        total = (f"[bold]{one.records:,}[/]", f"[bold]{_seconds(one.seconds)}[/]", waiting, count, here)
        rows.append((one.status.namespace, one.region, "all", *total))
    print_table(
        ("namespace", "region", "partition#", "records#", "behind#", "retrying#", "workers#", ""),
        [(*row, *("",) * (8 - len(row))) for row in rows],
    )
    for region, one in {one.region: one for one in found if one.problem is not None}.items():
        since = "" if one.since is None else f", and its workers do not reach it since {one.since}"
        say(f"{region} cannot be reached from here{since}: {one.problem}")


def _seconds(seconds: float) -> str:
    return f"{seconds:,.1f} s" if seconds else ""


@replication.command()
@click.argument("namespace")
@click.argument("target")
@click.argument("other", required=False)
@click.option(
    "--against",
    metavar="FOLDER",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    help="The other region's configuration folder, for OTHER (by default the same target).",
)
@click.option("--settle", type=Seconds(), default="10s", show_default=True, help="How long a write may be on its way.")
@click.option(
    "--wait",
    type=Seconds(),
    default="5m",
    show_default=True,
    help="How long the lag is waited for, where it is known; 0s does not ask Kafka.",
)
@click.option("--limit", type=click.IntRange(0), default=20, show_default=True, help="Rows that are shown; 0 is all.")
@json_option
@settings_options
def verify(
    settings: Settings,
    namespace: str,
    target: str,
    other: str | None,
    against: Path | None,
    settle: float,
    wait: float,
    limit: int,
    as_json: bool,
) -> None:
    """Compare what the stores of two regions hold: those of two targets of a namespace.

    Both targets are in this configuration, with a connection to each region's store; or OTHER is in another region's
    configuration folder. Stores of cassandra, redis and rocksdb can be compared; of memcached they cannot, since it
    does not list its keys.

    Both stores are read through, and may be written to meanwhile. What differs is looked at again: a row is a
    difference if it stays as it is on both sides until all has arrived that is on its way now, and for --settle after
    that. One that changes is given that time again, twice; it is a difference then if one side never changed it.

    What is on its way is asked of this region's Kafka and of those to which NAMESPACE is sent (sink: replicate). If it
    has no such target, or such a Kafka does not answer, --settle should be longer than the lag.

    The exit status is 0 only if all rows are equal.

    \b
    Examples:
      walstream replication verify flights cache-east cache-west
      walstream replication verify flights cache --against west/namespaces --settle 30s
    """
    from walstream.cli.selection import choose
    from walstream.config import load_namespaces

    if other is None and against is None:
        raise click.UsageError("Compare with what? Name a second target, or --against FOLDER.")
    (here,) = choose(load_namespaces(settings.config), [namespace])
    there = here if against is None else choose(load_namespaces(against), [namespace])[0]
    other = other or target
    first, second = _sink(settings.config, here, target), _sink(against or settings.config, there, other)
    names = (target, other if against is None else f"{other} of {against}")
    passed = _passed(settings, (here, target), (there, other), wait) if wait else None
    found = asyncio.run(_compare(first, second, names, settle, passed))
    shown = found.differences[: limit or None]
    if as_json:
        print_json(
            {
                "equal": found.equal,
                "rows": list(found.rows),
                "ranges": found.ranges,
                "differences": [
                    {"key": _text(one.key), "first": _text(one.first), "second": _text(one.second)} for one in shown
                ],
                "different": len(found.differences),
                "unsettled": [_text(key) for key in found.unsettled],
                "left_out": {"rows": found.left_out, "ranges": found.left_out_ranges},
                "passed": found.passed,
            }
        )
    else:
        _show(found, shown, names)
    if not found.equal:
        raise SystemExit(1)


def _sink(folder: Path, namespace: Any, target: str) -> Sink:
    """A target's sink, which must be one that can be read."""
    from walstream.config import load_connections, make_sink
    from walstream.sinks.base import Readable

    if target not in namespace.targets:
        known = ", ".join(namespace.targets) or "none"
        raise ConfigurationError(f"there is no target {namespace.name}.{target}", remedy=f"there is {known}")
    sink = make_sink(namespace, target, load_connections(folder))
    if not isinstance(sink, Readable):
        raise SinkError(
            f"{namespace.name}.{target} is a {namespace.targets[target].sink}, which cannot be read through: "
            "what can be compared is cassandra, redis and rocksdb"
        )
    return sink


def _passed(settings: Settings, here: tuple[Any, str], there: tuple[Any, str], wait: float) -> Passed | None:
    """What waits for all that is on its way between the regions, for so many seconds in all; None: nobody knows."""
    import time

    from walstream.config import load_connections
    from walstream.errors import Unreachable
    from walstream.kafka import KafkaConnection
    from walstream.passage import passage

    connections = load_connections(settings.config)
    way = passage(here, there, KafkaConnection.from_settings(settings), connections, settings.shard)
    if way is None:
        return None
    deadline: float | None = None

    async def passed() -> bool:
        nonlocal deadline
        deadline = time.monotonic() + wait if deadline is None else deadline
        try:
            return await asyncio.to_thread(way.wait, deadline)
        except Unreachable as error:
            say(f"It is not known what is on its way: {error.args[0]}")
            return False

    return passed


async def _compare(
    first: Sink, second: Sink, names: tuple[str, str], settle: float, passed: Passed | None
) -> Comparison:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    from walstream.comparison import compare
    from walstream.sinks.base import Readable

    assert isinstance(first, Readable) and isinstance(second, Readable)
    if first.form != second.form:
        raise SinkError(
            f"{names[0]} and {names[1]} hold rows of different forms, {first.form!r} and {second.form!r}: "
            "they cannot be compared"
        )
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.completed:,} rows"))
    with Bars(*columns, TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal) as bars:
        try:
            await first.open()
            await second.open()
            return await compare(first, second, settle=settle, passed=passed, progress=_telling(bars))
        except Exception as error:
            if all(sink.verdict(error) is None for sink in (first, second)) or isinstance(error, SinkError):
                raise
            raise SinkError(f"{' or '.join(names)} cannot be read: {type(error).__name__}: {error}") from error
        finally:
            await first.close()
            await second.close()


def _telling(bars: Any) -> Progress:
    tasks: dict[str, Any] = {}

    def tell(said: str, rows: int) -> None:
        if said not in tasks:
            tasks[said] = bars.add_task(said, total=None)
        bars.update(tasks[said], advance=rows)

    return tell


def _show(found: Comparison, shown: Sequence[Any], names: tuple[str, str]) -> None:
    counts = " and ".join(f"{plural(rows, 'row')} of {name}" for rows, name in zip(found.rows, names, strict=True))
    if found.equal:
        say(f"Equal: {counts}.")
        return
    if shown:
        print_table(
            ("key", *map(cell, names)),
            [(cell(_text(one.key)), _shown(one.first), _shown(one.second)) for one in shown],
        )
    say(f"Different: {plural(len(found.differences), 'row')}, of {counts}.")
    if found.unsettled:
        keys = ", ".join(str(_text(key)) for key in found.unsettled[:5])
        say(
            f"{plural(len(found.unsettled), 'row')} were changed on both sides all the time, such as {keys}: run it "
            "again, with a longer --settle, or while less is written."
        )
    if found.passed is False:
        say("Not all had arrived that was on its way: what differs may be the lag (walstream replication status).")
    if found.left_out or found.left_out_ranges:
        say(
            f"There is more: {plural(found.left_out, 'row')}, and {plural(found.left_out_ranges, 'range')} of keys, "
            "were too many to be looked at one by one."
        )


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode(errors="backslashreplace")


def _shown(content: bytes | None) -> str:
    text = _text(content)
    return "[dim]no row[/]" if text is None else cell(text if len(text) <= 200 else f"{text[:199]}…")

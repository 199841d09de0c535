"""``walstream target``: pause a target, resume it, and keep a record from being tried."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from walstream.cli.output import json_option, plain, print_json, say, settings_options, yes_option
from walstream.cli.parameters import Position, Seconds, TargetName
from walstream.settings import Settings

if TYPE_CHECKING:
    from walstream.controller import Controller
    from walstream.namespace import Namespace
    from walstream.scan import Found

wait_option = click.option(
    "--wait",
    type=Seconds(),
    default="10s",
    show_default=True,
    help="How long to wait until the delivery has taken it; 0s: not at all.",
)


@click.group()
def target() -> None:
    """Pause a target, resume it, and keep a record from being tried."""


@target.command(short_help="Have nothing more delivered.")
@click.argument("target", type=TargetName())
@click.option("--reason", help="Why, for who looks at the status.")
@wait_option
@json_option
@settings_options
def pause(settings: Settings, target: tuple[str, str], reason: str | None, wait: float, as_json: bool) -> None:
    """Have nothing more delivered to a target, until it is resumed.

    What is being delivered ends first. Meanwhile nothing ages: neither attempts nor the time for which a record is
    tried again count. It holds over restarts, and for workers that start later.

    \b
    Examples:
      walstream target pause flights.base --reason 'the cluster is upgraded'
    """
    namespace, controller = _controller(settings, target)
    controller.pause(reason)
    _report(namespace, target[1], controller, "paused", wait, as_json=as_json)


@target.command()
@click.argument("target", type=TargetName())
@wait_option
@json_option
@settings_options
def resume(settings: Settings, target: tuple[str, str], wait: float, as_json: bool) -> None:
    """Deliver to a target again.

    It ends a pause. A target that counts as down is tried at once, and one whose records were mostly dead is let go on.

    \b
    Examples:
      walstream target resume flights.base
    """
    namespace, controller = _controller(settings, target)
    controller.resume()
    _report(namespace, target[1], controller, "resumed", wait, as_json=as_json)


@target.command(short_help="Have a record put into the DLQ untried.")
@click.argument("target", type=TargetName())
@click.argument("position", type=Position(), metavar="PARTITION:POSITION")
@click.option("--reason", help="Why, for who looks into the DLQ.")
@wait_option
@yes_option
@json_option
@settings_options
def quarantine(
    settings: Settings,
    target: tuple[str, str],
    position: tuple[int, int],
    reason: str | None,
    wait: float,
    yes: bool,
    as_json: bool,
) -> None:
    """Have a record of the log put into the target's DLQ without a look at it.

    For a record that crashes the workers, or that nobody wants at the target. It is named by its place in the log, as
    the workers' log says it. It shows the record and asks, unless --yes is given.

    \b
    Examples:
      walstream target quarantine flights.base 3:1042 --reason 'crashes the sink'
    """
    from walstream import topics
    from walstream.admin import Admin
    from walstream.cli import Failure
    from walstream.cli.selection import target_of
    from walstream.controller import Controller
    from walstream.kafka import KafkaConnection
    from walstream.scan import Scanner

    namespace, name = target_of(settings, target)
    assert name is not None
    partition, offset = position
    if partition >= namespace.topics.partitions:
        raise Failure(f"{namespace.name} has partitions 0 to {namespace.topics.partitions - 1}, and no {partition}")
    connection = KafkaConnection.from_settings(settings)
    scanner = Scanner(connection, Admin(connection))
    log = topics.log(namespace).name
    record = scanner.record((log, partition), offset)
    if record is None:
        begin, end = scanner.bounds([(log, partition)])[log, partition]
        there = f"there are positions {begin} to {end - 1}" if end > begin else "the partition is empty"
        raise Failure(f"{log} has no record at {partition}:{offset}; {there}")
    shown = _describe(record)
    if not yes:
        say(plain(", ".join(f"{word} {what}" for word, what in shown.items())))
        full = f"{namespace.name}.{name}"
        click.confirm(f"Put it into the DLQ of {full}, whatever {full} would say?", abort=True, err=True)
    controller = Controller(connection, scanner, namespace, name)
    controller.quarantine(partition, offset, record.key, reason)
    _report(namespace, name, controller, "quarantined", wait, as_json=as_json, **shown)


def _describe(record: Found) -> dict[str, object]:
    """A record of the log for people, without its payload."""
    from walstream.deadletter import size_of
    from walstream.entry import Entry
    from walstream.errors import WalstreamError

    key = None if record.key is None else record.key.decode(errors="backslashreplace")
    shown: dict[str, object] = {"partition": record.partition, "position": record.offset, "key": key}
    try:
        entry = Entry.from_log(
            record.partition, record.offset, record.key, record.value, record.headers, record.timestamp
        )
        shown |= {"source": entry.source, "id": entry.id}
    except WalstreamError as error:
        shown |= {"error": str(error)}
    return shown | {"bytes": size_of(record.key, record.value, record.headers)}


def _controller(settings: Settings, target: tuple[str, str]) -> tuple[Namespace, Controller]:
    from walstream.admin import Admin
    from walstream.cli.selection import target_of
    from walstream.controller import Controller
    from walstream.kafka import KafkaConnection
    from walstream.scan import Scanner

    namespace, name = target_of(settings, target)
    assert name is not None
    connection = KafkaConnection.from_settings(settings)
    return namespace, Controller(connection, Scanner(connection, Admin(connection)), namespace, name)


def _report(
    namespace: Namespace,
    target: str,
    controller: Controller,
    done: str,
    wait: float,
    *,
    as_json: bool,
    **shown: object,
) -> None:
    """Wait until the delivery knows, and say what was done."""
    taken = controller.wait(wait) if wait else None
    full = f"{namespace.name}.{target}"
    if as_json:
        print_json({"target": full, "done": done, "taken": taken, **shown})
        return
    click.echo(f"{full} is {done}" if done != "quarantined" else f"{shown['partition']}:{shown['position']} is {done}")
    if taken is False:
        where = "all partitions" if controller.is_at_work() else "a worker, of which none runs"
        say(f"It is written down; it counts as soon as it was read by {where}.")

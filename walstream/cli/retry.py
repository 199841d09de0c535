"""``walstream retry``: what a target is to be given again, and what waits behind it."""

from __future__ import annotations

from itertools import chain

import click

from walstream.cli.output import cell, json_option, print_json_rows, print_table, say, settings_options
from walstream.cli.parameters import TargetName
from walstream.settings import Settings


@click.group()
def retry() -> None:
    """What a target is to be given again, and what waits behind it."""


@retry.command("list")
@click.argument("target", type=TargetName())
@click.option("--parked", is_flag=True, help="Show what waits behind the first record of its key instead.")
@click.option("--blocked", is_flag=True, help="Show the keys that wait instead.")
@click.option("--key", help="Only of this key.")
@click.option("--limit", type=click.IntRange(0), default=100, show_default=True, help="How many at most; 0: all.")
@json_option
@settings_options
def list_(
    settings: Settings,
    target: tuple[str, str],
    parked: bool,
    blocked: bool,
    key: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """Show what is to be tried again at a target: due first, what is first.

    A key whose record is tried again is blocked (retrying), and so is one whose record is dead where the target holds
    keys (held). Records behind it are parked. It is read from Kafka, and so shows what workers have committed.

    \b
    Examples:
      walstream retry list flights.base
      walstream retry list flights.base --blocked
      walstream retry list flights.base --parked --key UA1545
      walstream retry list flights.base --limit 0 --json | jq -r '.[].error' | sort | uniq -c
    """
    from walstream.admin import Admin
    from walstream.backlog import Backlog
    from walstream.cli.selection import target_of
    from walstream.kafka import KafkaConnection
    from walstream.scan import Scanner

    if parked and blocked:
        raise click.UsageError("give one of --parked and --blocked")
    namespace, name = target_of(settings, target)
    assert name is not None
    connection = KafkaConnection.from_settings(settings)
    backlog = Backlog(Scanner(connection, Admin(connection)), namespace, name)
    read = backlog.parked if parked else backlog.blocked if blocked else backlog.retrying
    if as_json:
        print_json_rows(read(limit=limit, key=key))
        return
    found = list(read(limit=limit + 1 if limit else 0, key=key))  # one more than is shown says that there are more
    if not found:
        say(f"{namespace.name}.{name}: nothing waits")
        return
    columns = list(dict.fromkeys(chain.from_iterable(found)))
    shown = found[:limit] if limit else found
    numbers = {"partition", "number", "log_position", "attempt", "age", "bytes", "head", "tail", "parked"}
    print_table(
        [f"{column}#" if column in numbers else column for column in columns],
        [[cell(row.get(column)) for column in columns] for row in shown],
    )
    if len(found) > len(shown):
        say("and more; --limit 0 shows all")

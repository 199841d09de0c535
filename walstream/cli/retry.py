"""``walstream retry``: what a target is to be given again, and what waits behind it."""

from __future__ import annotations

import click

from walstream.cli.output import json_option, print_json_rows, print_rows, settings_options
from walstream.cli.parameters import TargetName
from walstream.settings import Settings

COLUMNS = {
    "retrying": ("due", "partition#", "log_position#", "key", "id", "attempt#", "age#", "error"),
    "blocked": ("partition#", "key", "state", "head#", "tail#", "parked#"),
    "parked": ("partition#", "log_position#", "key", "id", "bytes#"),
}


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
    table = "parked" if parked else "blocked" if blocked else "retrying"
    read = {"retrying": backlog.retrying, "blocked": backlog.blocked, "parked": backlog.parked}[table]
    if as_json:
        print_json_rows(read(limit=limit, key=key))
        return
    rows = read(limit=limit + 1 if limit else 0, key=key)  # one more than is shown says that there are more
    print_rows(COLUMNS[table], rows, limit=limit, nothing=f"{namespace.name}.{name}: nothing waits")

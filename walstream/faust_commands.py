"""What walstream adds to the ``faust`` command: ``tables`` and ``table``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import wraps
from itertools import islice
from typing import Any

import click
import orjson
from faust.cli.base import State, cli, find_app
from rich.console import Console
from rich.table import Table

from walstream import inspect
from walstream.errors import WalstreamError
from walstream.units import parse_duration, parse_rfc3339

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, a row a line.")


def _moment(context: click.Context, option: click.Parameter, text: str | None) -> int | None:
    """A time, or a duration from now on, as µs since the epoch."""
    if text is None:
        return None
    try:
        return time.time_ns() // 1_000 + parse_duration(text) * 1_000
    except ValueError:
        pass
    try:
        return max(parse_rfc3339(text), 0)
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither such as 1h nor such as 2013-01-01T00:00:00Z") from None


until_option = click.option(
    "--until",
    callback=_moment,
    metavar="TIME",
    help="Only rows that are due before: 2013-01-01T00:00:00Z, or 1h from now.",
)
key_option = click.option("--key", metavar="TEXT", help="Only rows with this key.")


def _with_app(function: Callable[..., None]) -> Callable[..., None]:
    """Give the command the app of ``-A``, and turn our errors into messages."""

    @wraps(function)
    def wrapped(*args: Any, as_json: bool, **kwargs: Any) -> None:
        context = click.get_current_context()
        state = context.ensure_object(State)
        if state.app is None:
            raise click.UsageError("say which app: faust -A topologies.router …")
        try:
            function(find_app(state.app), *args, as_json=as_json or state.json, **kwargs)
        except WalstreamError as error:
            print(f"error: {error}", file=sys.stderr)
            context.exit(1)

    return wrapped


def _print(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        for row in rows:
            sys.stdout.write(orjson.dumps(row).decode() + "\n")
        return
    table = Table(box=None, pad_edge=False)
    for column in rows[0] if rows else ():
        table.add_column(column, justify="right" if isinstance(rows[0][column], int) else "left")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    console = Console(highlight=False)
    (console if console.is_terminal else Console(width=1_000, highlight=False)).print(table)


def _say_what_was_seen(found: inspect.Found) -> None:
    if not found.stores:
        print(f"no partition of {found.spec.name} is on this disk (--datadir says where to look)", file=sys.stderr)
    elif found.unseen:
        unseen = ", ".join(map(str, found.unseen))
        print(f"not on this disk: partitions {unseen} of {found.topology.partitions}", file=sys.stderr)


@cli.command("tables")
@json_option
@_with_app
def tables_command(app: Any, as_json: bool) -> None:
    """List the tables, with about how many rows and bytes are on this disk."""
    rows = []
    for found in inspect.tables(app):
        count, size = inspect.estimate(found)
        rows.append(
            {
                "name": found.spec.name,
                "rows": count,
                "bytes": size,
                "partitions": f"{len(found.stores)} of {found.topology.partitions}",
                "help": found.spec.help,
            }
        )
    _print(rows, as_json)


@cli.group("table")
@click.argument("name")
@click.pass_context
def table_group(context: click.Context, name: str) -> None:
    """Look into a table on this disk, also while a worker runs.

    \b
    Examples:
      faust -A topologies.router table flights.dedup count
      faust -A topologies.router table flights.dedup list --limit 5 --json
      faust -A topologies.router table flights.schedule list --until 1h --key UA1545
      faust -A topologies.router table flights.dedup get UA1545 /ops 0197c1a2
    """
    context.meta["walstream.table"] = name


def _name() -> str:
    return str(click.get_current_context().meta["walstream.table"])


@table_group.command("get")
@click.argument("words", nargs=-1, required=True)
@json_option
@_with_app
def get_command(app: Any, words: tuple[str, ...], as_json: bool) -> None:
    """Show the row of a key. For dedup: KEY SOURCE ID (- for no key), or the identity in hexadecimal."""
    found = inspect.table(app, _name())
    try:
        key = found.spec.find(words)
    except ValueError:
        raise click.UsageError(f"{found.spec.name} is looked up by {found.spec.find_help}") from None
    rows = inspect.get(found, key)
    _print(rows, as_json)
    _say_what_was_seen(found)
    if not rows:
        print("no such row", file=sys.stderr)
        click.get_current_context().exit(1)


@table_group.command("list")
@click.option("--limit", type=int, default=20, show_default=True, help="How many rows; 0 for all.")
@click.option("--partition", type=int, help="Only of this partition.")
@until_option
@key_option
@json_option
@_with_app
def list_command(
    app: Any, limit: int, partition: int | None, until: int | None, key: str | None, as_json: bool
) -> None:
    """List rows, decoded."""
    found = inspect.table(app, _name())
    rows = inspect.rows(found, partition, until=until, key=key)
    if as_json and not limit:
        for row in rows:
            _print([row], as_json)
    else:
        _print(list(islice(rows, limit or None)), as_json)
    _say_what_was_seen(found)


@table_group.command("count")
@until_option
@key_option
@json_option
@_with_app
def count_command(app: Any, until: int | None, key: str | None, as_json: bool) -> None:
    """Count the rows, by partition."""
    found = inspect.table(app, _name())
    counts = {number: sum(1 for _ in inspect.rows(found, number, until=until, key=key)) for number in found.stores}
    if as_json:
        _print(
            [{"rows": sum(counts.values()), "partitions": {str(number): count for number, count in counts.items()}}],
            as_json,
        )
    else:
        _print([{"partition": number, "rows": count} for number, count in counts.items()], as_json)
        print(f"{sum(counts.values())} rows")
    _say_what_was_seen(found)

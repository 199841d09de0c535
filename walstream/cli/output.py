"""What all commands have in common: ``--json``, where the configuration is, tables, and how things are said.

What a command found goes to stdout; what it says along the way, to stderr.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import click
import orjson

from walstream.settings import Settings

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
yes_option = click.option("--yes", "-y", is_flag=True, help="Ask nothing.")


def settings_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds ``--config`` and ``--brokers``, and hands the `Settings` to the function as ``settings``."""

    @click.option(
        "--config", type=click.Path(path_type=Path), help="The configuration folder.  [env: WALSTREAM_CONFIG]"
    )
    @click.option("--brokers", help="The Kafka, host:port,…  [env: WALSTREAM_BROKERS]")
    @functools.wraps(function)
    def wrapped(config: Path | None, brokers: str | None, **kwargs: Any) -> Any:
        return function(settings=Settings.load(config=config, brokers=brokers), **kwargs)

    return wrapped


def print_json(value: Any) -> None:
    """A result for programs: one JSON document on stdout."""
    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS, default=str))


def print_json_rows(rows: Iterable[Any]) -> None:
    """A result of many rows for programs: a JSON array on stdout, written as the rows come."""
    before = "["
    for row in rows:
        click.echo(before, nl=False)
        click.echo(orjson.dumps(row, option=orjson.OPT_INDENT_2, default=str), nl=False)
        before = ",\n"
    click.echo("[]" if before == "[" else "]")


def plain(text: str, *, keep: str = "") -> str:
    """Text that others wrote, without what would steer a terminal; but for the characters that are to be kept."""
    return _CONTROLS.sub(lambda found: found[0] if found[0] in keep else f"\\x{ord(found[0]):02x}", text)


def cell(value: Any) -> str:
    """What a table shows of a value that others wrote; None is nothing."""
    from rich.markup import escape

    return "" if value is None else escape(plain(str(value)))


def print_rows(columns: Sequence[str], rows: Iterator[Mapping[str, Any]], *, limit: int, nothing: str) -> None:
    """A result of many rows for people: a table of at most so many, or without a limit (0) lines as the rows come.

    Parameters
    ----------
    columns
        As those of `print_table`, and as the values of rows are called.
    nothing
        What is said where there is no row.
    """
    names = [column.removesuffix("#") for column in columns]
    first = list(islice(rows, limit or 1))
    if not first:
        say(nothing)
    elif limit:
        print_table(columns, [[cell(row.get(name)) for name in names] for row in first])
        if next(rows, None) is not None:
            say("and more; --limit 0 shows all")
    else:
        click.echo("\t".join(names))
        for row in chain(first, rows):
            click.echo("\t".join("" if (value := row.get(name)) is None else plain(str(value)) for name in names))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> None:
    """A result for people. A column whose name ends in ``#`` holds numbers, and is aligned to the right.

    Where stdout is no terminal, lines are as long as they need to be.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=1_000)
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for column in columns:
        table.add_column(column.removesuffix("#"), justify="right" if column.endswith("#") else "left", overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console.print(table)


def say(message: str) -> None:
    """A word to the person along the way, on stderr."""
    click.echo(message, err=True)


def plural(number: int, noun: str) -> str:
    """``1 topic``, ``2 topics``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"

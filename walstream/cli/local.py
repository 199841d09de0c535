"""``walstream local``: a real Kafka and a real Cassandra on this machine, without Docker or Java."""

from __future__ import annotations

import contextlib
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from walstream.cli.output import json_option, print_json, print_table, say
from walstream.errors import ServerError

if TYPE_CHECKING:
    from walstream.local import Servers
    from walstream.local.cql import Rows, Session

NAMES = click.Choice(["kafka", "cassandra"])
REGION = re.compile("[a-z][a-z0-9-]{0,30}")


def folder_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds ``--folder``."""
    return click.option(
        "--folder",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path(".walstream/local"),
        show_default=True,
        help="Where data, ports and logs are kept.",
    )(function)


def region_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds ``--region``."""
    return click.option("--region", metavar="REGION", help="Of this region, where there are several.")(function)


def _regions(context: click.Context, option: click.Parameter, value: str | None) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in (value or "").split(",") if name.strip()))
    for name in names:
        if not REGION.fullmatch(name):
            raise click.BadParameter(
                f"{name!r} is no name of a region: lower-case letters, digits and '-', such as east"
            )
    return names


def servers_in(folder: Path) -> Servers:
    """Open a folder's servers; the libraries are imported only now."""
    from walstream.local import Servers

    return Servers(folder)


@click.group()
def local() -> None:
    """Start and stop a Kafka and a Cassandra on this machine.

    They are the real ones, as child processes. The first start fetches their jars from Maven Central, about 120 MB;
    later ones need no network.

    \b
    Examples:
      walstream local up                 until Ctrl-C
      walstream local up --detach        until `walstream local down`
      walstream local up --regions east,west      a Kafka for each
      eval "$(walstream local env)"      set WALSTREAM_BROKERS for the other commands
      walstream local cql "SELECT * FROM flights.flights LIMIT 5"
    """


@local.command()
@click.argument("names", nargs=-1, type=NAMES)
@click.option("--detach", "-d", is_flag=True, help="Leave them running; `walstream local down` stops them.")
@click.option("--regions", metavar="NAME,…", callback=_regions, help="Start a Kafka for each of these regions.")
@folder_option
@json_option
def up(names: tuple[str, ...], detach: bool, regions: tuple[str, ...], folder: Path, as_json: bool) -> None:
    """Start the servers, or only those named, and wait until they answer.

    Without --detach this stays in the foreground, and they end when it does. What runs already is left as it is.

    With --regions each region has a Kafka of its own, and all of them share the Cassandra. Their ranks are their places
    in the list; the folder keeps them.

    \b
    Examples:
      walstream local up
      walstream local up kafka --detach
      walstream local up kafka --regions east,west
    """
    from rich.console import Console

    from walstream.local.kafka import regional

    servers = servers_in(folder)
    kinds = names or ("kafka", "cassandra")
    wanted = [regional("kafka", region) for region in regions or (None,)] if "kafka" in kinds else []
    wanted += ["cassandra"] if "cassandra" in kinds else []
    with contextlib.ExitStack() as stack:
        if not detach:
            stack.enter_context(_stop_on_sigterm())
            stack.enter_context(servers)
        before = {each.name for each in servers.status() if each.process}
        servers.up(
            kafka="kafka" in kinds,
            cassandra="cassandra" in kinds,
            regions=regions,
            detach=detach,
            console=Console(stderr=True),
        )
        for name in wanted:
            if name in before:
                say(f"{name} runs already at {servers.address(name)}")
        if as_json:
            print_json(_status(servers))
        started = [name for name in wanted if name not in before]
        if started and not detach:
            which = f" --region {regions[0]}" if regions else ""
            say(f'Press Ctrl-C to stop. In another terminal: eval "$(walstream local env{which})"')
            sys.stdout.flush()
            with contextlib.suppress(KeyboardInterrupt):
                _wait(servers, started)
            say("Stopping.")


@local.command()
@folder_option
@json_option
def down(folder: Path, as_json: bool) -> None:
    """Stop the servers that were started in this folder, and nothing else. Their data stays.

    \b
    Examples:
      walstream local down
    """
    stopped = servers_in(folder).down()
    if as_json:
        print_json({"stopped": stopped})
    else:
        say(f"Stopped {' and '.join(stopped)}." if stopped else f"Nothing runs in {folder}.")


@local.command()
@folder_option
@json_option
def status(folder: Path, as_json: bool) -> None:
    """Show which servers run, and where they answer.

    \b
    Examples:
      walstream local status
      walstream local status --json
    """
    found = _status(servers_in(folder))
    if as_json:
        print_json(found)
    else:
        print_table(
            ("server", "state", "address", "pid#", "log"),
            [(each["name"], each["state"], each["address"] or "", each["pid"] or "", each["log"]) for each in found],
        )


@local.command()
@click.argument("name", type=NAMES)
@region_option
@folder_option
@json_option
def start(name: str, region: str | None, folder: Path, as_json: bool) -> None:
    """Start one server that was stopped, on the port and with the data it had.

    It ends with the `walstream local up` that is in the foreground, or, if there is none, with `down`.

    \b
    Examples:
      walstream local start cassandra
      walstream local start kafka --region east
    """
    from rich.console import Console

    servers = servers_in(folder)
    servers.start(_name(servers, name, region), console=Console(stderr=True))
    if as_json:
        print_json(_status(servers))


@local.command()
@click.argument("name", type=NAMES)
@click.option("--kill", is_flag=True, help="With SIGKILL, as a crash would.")
@region_option
@folder_option
@json_option
def stop(name: str, kill: bool, region: str | None, folder: Path, as_json: bool) -> None:
    """Stop one server; the others go on.

    \b
    Examples:
      walstream local stop cassandra
      walstream local stop kafka --kill
      walstream local stop kafka --region west
    """
    servers = servers_in(folder)
    name = _name(servers, name, region)
    stopped = servers.stop(name, kill=kill)
    if as_json:
        print_json({"stopped": [name] if stopped else []})
    else:
        say(f"Stopped {name}." if stopped else f"{name} does not run.")


@local.command()
@region_option
@folder_option
@json_option
def env(region: str | None, folder: Path, as_json: bool) -> None:
    """Print the settings that make the other commands use these servers.

    With --region they make them a region's, and say where the Kafka of every region is: WALSTREAM_BROKERS_EAST and so
    on, for the entries of connections.yaml.

    \b
    Examples:
      eval "$(walstream local env)"
      eval "$(walstream local env --region east)"
    """
    servers = servers_in(folder)
    known = {each.name: each.address for each in servers.status() if each.address}
    if not known:
        raise ServerError(f"Nothing was ever started in {folder}: walstream local up")
    if region is None and "kafka" not in known and servers.regions:
        raise ServerError(f"{folder} has regions: add --region {servers.regions[0]}")
    settings = {}
    if region is not None or "kafka" in known:
        kafka = _name(servers, "kafka", region)
        settings["WALSTREAM_BROKERS"] = servers.address(kafka)
    if "cassandra" in known:
        settings["WALSTREAM_CASSANDRA"] = known["cassandra"]
    if region is not None:
        settings["WALSTREAM_REGION"] = region
        settings["WALSTREAM_REGION_RANK"] = str(servers.regions.index(region))
        for other in servers.regions:
            variable = "WALSTREAM_BROKERS_" + other.upper().replace("-", "_")
            settings[variable] = servers.address(_name(servers, "kafka", other))
    if as_json:
        print_json(settings)
    else:
        for name, value in settings.items():
            click.echo(f"export {name}={value}")


@local.command()
@click.argument("statements", nargs=-1)
@folder_option
@json_option
def cql(statements: tuple[str, ...], folder: Path, as_json: bool) -> None:
    """Run CQL statements, those from stdin, or those that you type.

    \b
    Examples:
      walstream local cql "SELECT count(*) FROM flights.flights"
      walstream local cql < schema.cql
      walstream local cql
    """
    from walstream.local.cql import connect, split

    address = servers_in(folder).cassandra
    with connect(address) as session:
        if not statements and sys.stdin.isatty():
            _prompt(session, address, as_json)
            return
        for text in statements or (sys.stdin.read(),):
            whole, rest = split(text)
            for statement in (*whole, rest):
                if statement:
                    _print_rows(session.run(statement), as_json)


def _prompt(session: Session, address: str, as_json: bool) -> None:
    from walstream.local.cql import split

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  Gives input() its history.
    say(f"Cassandra at {address}. End a statement with a semicolon, and the session with Ctrl-D.")
    text = ""
    while True:
        try:
            text += input("  ... " if text else "cql> ") + "\n"
        except EOFError:
            say("")
            return
        except KeyboardInterrupt:
            say("")
            text = ""
            continue
        whole, rest = split(text)
        if rest.lower() in ("exit", "quit"):
            return
        for statement in whole:
            try:
                _print_rows(session.run(statement), as_json)
            except ServerError as error:
                say(str(error))
        text = f"{rest}\n" if rest else ""


def _print_rows(rows: Rows, as_json: bool) -> None:
    if as_json:
        print_json([dict(zip(rows.columns, row, strict=True)) for row in rows.rows])
    elif rows.columns:
        print_table(rows.columns, rows.rows)


def _name(servers: Servers, name: str, region: str | None) -> str:
    """The name of a server, or of a region's, which must be one that was started."""
    from walstream.local.kafka import regional

    if region is None:
        return name
    if name != "kafka":
        raise click.UsageError(f"All regions share the {name}: leave out --region.")
    if region not in servers.regions:
        known = f"there are {', '.join(servers.regions)}" if servers.regions else f"{servers.folder} has none"
        raise ServerError(f"There is no region {region}; {known}: walstream local up --regions {region},…")
    return regional(name, region)


def _status(servers: Servers) -> list[dict[str, Any]]:
    return [
        {
            "name": each.name,
            "state": "running" if each.process else "crashed" if each.crashed else "stopped",
            "address": each.address,
            "pid": each.process.pid if each.process else None,
            "log": str(each.log),
        }
        for each in servers.status()
        if each.address
        or each.name != "kafka"
        or not servers.regions  # with regions, not the Kafka that nobody started
    ]


def _wait(servers: Servers, names: Sequence[str]) -> None:
    """Stay until somebody says `down`, or one of the servers crashes; one stopped alone may be started again."""
    while servers.owned():
        for each in servers.status():
            if each.crashed and each.name in names:
                end = servers.log_tail(each.name)
                raise ServerError(f"{each.name} ended by itself. The end of its log, {each.log}:\n{end}")
        time.sleep(0.3)


@contextlib.contextmanager
def _stop_on_sigterm() -> Iterator[None]:
    """Take SIGTERM for Ctrl-C, so that it stops what was started."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    former = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)

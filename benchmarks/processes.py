"""The processes of a contender, and what they use."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from walstream.testing.worker import LAUNCH


class Processes:
    """Some programs that run side by side, with all their children. They do not outlive this process.

    Parameters
    ----------
    folder
        Their working directory; each writes its log there.
    commands
        Programs and arguments.
    environments
        What each has in its environment beside this process's; one for each command.
    """

    def __init__(
        self, folder: Path, commands: Sequence[Sequence[str]], environments: Sequence[Mapping[str, str]] = ()
    ) -> None:
        self._folder = folder
        self._commands = commands
        self._environments = environments or [{} for _ in commands]
        self._running: list[subprocess.Popen[bytes]] = []
        self._used: dict[int, float] = {}  # by process, since a child that has ended would be missing from the sum
        self.peak_rss = 0

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("WALSTREAM_")}
        for number, (command, environment) in enumerate(zip(self._commands, self._environments, strict=True)):
            with self.log(number).open("ab") as output:
                self._running.append(
                    subprocess.Popen(
                        [sys.executable, "-S", "-c", LAUNCH, shutil.which(command[0]) or command[0], *command[1:]],
                        env=inherited | {"PYTHONPATH": os.getcwd()} | dict(environment),
                        cwd=self._folder,
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                    )
                )
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    @property
    def pids(self) -> list[int]:
        """Of the programs, without their children."""
        return [process.pid for process in self._running]

    def log(self, number: int) -> Path:
        """Where a program's output goes."""
        return self._folder / f"process-{number}.log"

    def check(self) -> None:
        """Raise when one has ended by itself."""
        for number, process in enumerate(self._running):
            if process.poll() is not None:
                tail = "\n".join(self.log(number).read_text(errors="replace").splitlines()[-30:])
                raise RuntimeError(f"{self._commands[number][:4]} ended with status {process.returncode}:\n{tail}")

    def wait(self) -> None:
        """Wait until all have ended by themselves, and well."""
        for number, process in enumerate(self._running):
            if process.wait():
                raise RuntimeError(f"{self._commands[number][:4]} failed:\n{self.log(number).read_text()}")

    def stop(self) -> None:
        """SIGTERM to all, and SIGKILL to who has not ended half a minute later."""
        for process in self._running:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self._running:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def usage(self) -> tuple[float, int]:
        """Processor seconds of all that ran so far, and bytes resident now."""
        resident = 0
        for process in self._running:
            with contextlib.suppress(psutil.NoSuchProcess):
                parent = psutil.Process(process.pid)
                for each in (parent, *parent.children(recursive=True)):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        times = each.cpu_times()
                        self._used[each.pid] = times.user + times.system
                        resident += each.memory_info().rss
        self.peak_rss = max(self.peak_rss, resident)
        return sum(self._used.values()), resident

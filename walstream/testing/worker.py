"""A worker as a process of its own: started as people start it, and treated badly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

# On Linux (prctl's PR_SET_PDEATHSIG is 1) a worker dies with the tests that started it, however they end.
LAUNCH = """\
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Worker:
    """``faust … worker`` as a child process; its output goes to a file.

    Parameters
    ----------
    topology
        The module: ``topologies.router`` or ``topologies.delivery``.
    folder
        Holds the log and, as ``data``, the worker's state; a worker that is started again finds it there.
    environment
        The ``WALSTREAM_…`` variables.
    """

    def __init__(self, topology: str, folder: Path, environment: Mapping[str, str]) -> None:
        self.topology, self.folder, self.environment = topology, folder, dict(environment)
        self.data, self.log = folder / "data", folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._wanted = False

    def __repr__(self) -> str:
        return f"<Worker {self.topology} {self.folder.name} pid={self.pid}>"

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def crashed(self) -> bool:
        """Whether it has ended by itself."""
        return self._wanted and not self.running

    @property
    def status(self) -> int | None:
        """Exit status of the last run; negative is the signal that ended it, None while it runs."""
        return None if self._process is None else self._process.poll()

    def start(self) -> Worker:
        """Start the process. It is not yet ready: see `Sandbox.wait_ready`."""
        assert not self.running, f"{self} runs already"
        self._wanted = True
        self.data.mkdir(parents=True, exist_ok=True)
        faust = str(Path(sys.executable).with_name("faust"))
        command = [
            sys.executable,
            "-S",
            "-c",
            LAUNCH,
            faust,
            "-A",
            self.topology,
            "--datadir",
            str(self.data),
            "worker",
            "--without-web",
            "-l",
            "info",
        ]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("WALSTREAM_")}
        environment |= self.environment | {"WALSTREAM_DATADIR": str(self.data), "PYTHONUNBUFFERED": "1"}
        with self.log.open("ab") as output:
            output.write(f"---- started at {time.strftime('%H:%M:%S')}\n".encode())
            output.flush()
            self._process = subprocess.Popen(
                command, env=environment, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        return self

    def kill(self) -> None:
        """``kill -9``, and wait for the end."""
        self._wanted = False
        self._signal(signal.SIGKILL)
        self.wait(10)

    def freeze(self) -> None:
        """``kill -STOP``: it stands still, and others take it for dead."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """``kill -CONT``."""
        self._signal(signal.SIGCONT)

    def terminate(self, timeout: float = 30.0) -> int:
        """SIGTERM; return the exit status.

        Raises
        ------
        TimeoutError
            It has not ended in time.
        """
        self._wanted = False
        self._signal(signal.SIGTERM)
        return self.wait(timeout)

    def wait(self, timeout: float) -> int:
        """Wait for the end by itself; return the exit status."""
        self._wanted = False
        assert self._process is not None
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self} did not end within {timeout:g} s:\n{self.tail()}") from None

    def stop(self) -> None:
        """End it in whatever state it is, if it runs."""
        if self.running:
            self.thaw()
            try:
                self.terminate(10)
            except TimeoutError:
                self.kill()

    def _signal(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def output(self) -> str:
        """Everything that it has written to stdout and stderr, in all its runs."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def tail(self, lines: int = 40) -> str:
        """The end of its output."""
        return "\n".join(self.output().splitlines()[-lines:])

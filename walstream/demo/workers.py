"""`walstream run` as the demo's child: started, followed by what it prints, and ended."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson

from walstream.errors import WorkerFailed
from walstream.supervisor import dies_with_parent

_STOP_SECONDS = 30.0  # `walstream run` gives its workers 20


@dataclass(frozen=True, slots=True)
class Happened:
    """Something that became of a worker: ``started`` or ``ended``, and in words."""

    name: str
    what: str
    words: str


class Workers:
    """A running `walstream run`.

    Parameters
    ----------
    folder
        Where its output goes: ``run.log`` (events, one JSON object a line) and ``run.err``.
    settings
        Variables that start with ``WALSTREAM_``.
    detach
        Whether it goes on when this process ends.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str], *, detach: bool) -> None:
        self.log, self._errors = folder / "run.log", folder / "run.err"
        self._read = 0
        self.pids: dict[str, int] = {}
        self.ports: dict[str, int] = {}
        with self.log.open("wb") as out, self._errors.open("wb") as err:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "walstream", "run", "--json"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=environment(settings),
                start_new_session=True,
                preexec_fn=None if detach else dies_with_parent(),
            )

    @property
    def pid(self) -> int:
        """The process id of `walstream run` itself."""
        return self._process.pid

    def news(self) -> list[Happened]:
        """What has become of the workers since the last call.

        Raises
        ------
        WorkerFailed
            `walstream run` has given up.
        """
        found = []
        with self.log.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._read += len(line)
                event = orjson.loads(line)
                name = event["name"]
                if event["event"] == "started":
                    self.pids[name], self.ports[name] = event["pid"], event["port"]
                    found.append(Happened(name, "started", f"{name} runs as process {event['pid']}"))
                elif event["event"] == "ended":
                    self.pids.pop(name, None)
                    again = "" if event["restart_in"] is None else f", starting again in {event['restart_in']:g} s"
                    found.append(Happened(name, "ended", f"{name} ended: {event['how']}{again}"))
        if self._process.poll() is not None:
            errors = self._errors.read_text(errors="replace").strip()
            raise WorkerFailed(f"walstream run ended with status {self._process.returncode}:\n{errors}")
        return found

    def kill(self, name: str) -> int:
        """End a worker with SIGKILL, and give its process id."""
        pid = self.pids[name]
        os.kill(pid, signal.SIGKILL)
        return pid

    def stop(self) -> None:
        """End `walstream run` and with it all workers; by force if it takes too long."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def stop_kept(datadir: Path) -> bool:
    """End the `walstream run` that an earlier demo left with this data folder, and tell whether there was one."""
    lock = datadir / "run.lock"
    try:
        pid = int(lock.read_text())
    except (FileNotFoundError, ValueError):
        return False
    if not _locked(lock):
        return False
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + _STOP_SECONDS
        while time.monotonic() < deadline:
            if not _locked(lock):
                return True
            time.sleep(0.05)
    raise WorkerFailed(f"walstream run (process {pid}) of an earlier demo does not end")


def _locked(path: Path) -> bool:
    """Whether a process holds the lock: only then is the process id in it that process's."""
    with path.open("r") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """The environment with these settings of walstream, and no others: the demo brings its own."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("WALSTREAM_")}
    return {**others, **settings}

"""Processes that are surely the ones meant, and a watcher that ends one when another is gone.

A process is known by its id **and** its start time, since ids are used again. As a program (``python processes.py OWNER
CREATED``, then the server's id on stdin) this module is the watcher. `PR_SET_PDEATHSIG` would end an orphan too, but it
fires when the *thread* that started the server ends, and is Linux only. It imports nothing of ours: it stays small.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

# Two readings of one process's start time may differ by this many seconds, since it is derived from the boot time.
SAME = 2.0


@dataclass(frozen=True, slots=True)
class Identity:
    """One process of this machine.

    Parameters
    ----------
    pid
        Its id.
    created
        When it started, in seconds since the epoch.
    """

    pid: int
    created: float

    @classmethod
    def of(cls, pid: int) -> Identity:
        """Name a running process; `psutil.NoSuchProcess` if there is none."""
        return cls(pid, psutil.Process(pid).create_time())

    def alive(self) -> bool:
        """Tell whether it runs; one that has ended and only waits to be reaped does not."""
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.created) < SAME and bool(process.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False

    def signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds for its end, and tell whether it has ended."""
        deadline = time.monotonic() + timeout
        while self.alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def end(self, *, kill: bool = False, grace: float = 20.0) -> None:
        """Stop it with SIGTERM, or with SIGKILL if asked, or where it has not ended after `grace` seconds."""
        if not kill:
            self.signal(signal.SIGTERM)
            if self.wait(grace):
                return
        self.signal(signal.SIGKILL)
        self.wait(grace)


def spawn(
    command: Sequence[str], *, log: Path, folder: Path, owner: Identity | None
) -> tuple[subprocess.Popen[bytes], Identity]:
    """Start a server in a session of its own, so that a Ctrl-C in the terminal reaches only who started it.

    Parameters
    ----------
    command
        Program and arguments.
    log
        File that gets its stdout and stderr.
    folder
        Its working directory.
    owner
        The process whose end ends it; without one it goes on until it is stopped.
    """
    watcher = None
    if owner is not None:
        # First the watcher, then the server: an owner that is killed in between leaves nothing behind.
        watcher = subprocess.Popen(
            [sys.executable, "-I", __file__, str(owner.pid), repr(owner.created)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        with log.open("wb") as output:
            server = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                start_new_session=True,
            )
        if watcher is not None and watcher.stdin is not None:
            watcher.stdin.write(f"{server.pid}\n".encode())
    finally:
        if watcher is not None and watcher.stdin is not None:
            watcher.stdin.close()
            watcher.returncode = 0  # It ends when the server does; nobody waits for it, and Python need not warn.
    return server, Identity.of(server.pid)


def wait_for_either(one: Identity, other: Identity) -> None:
    """Wait until one of two processes has ended."""
    try:
        handles = [os.pidfd_open(each.pid) for each in (one, other)]
    except (AttributeError, OSError):  # Not Linux, or one of them is gone already.
        while one.alive() and other.alive():
            time.sleep(0.3)
        return
    # An id that was used again before its handle was opened is somebody else's; then one of the two is not alive.
    if one.alive() and other.alive():
        select.select(handles, [], [])


def watch(owner: Identity, server: Identity) -> None:
    """End the server as soon as its owner is gone."""
    wait_for_either(owner, server)
    if not owner.alive():
        server.end()


if __name__ == "__main__":
    watched = sys.stdin.readline()
    if watched:
        watch(Identity(int(sys.argv[1]), float(sys.argv[2])), Identity.of(int(watched)))

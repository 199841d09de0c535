"""A real server for tests that is a program of this machine, run as a child process."""

from __future__ import annotations

import abc
import os
import shutil
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from walstream.errors import ServerError
from walstream.local.ports import free_port
from walstream.local.processes import Identity, spawn
from walstream.testing.servers import Address

START_SECONDS = 20.0


class ChildServer(abc.ABC):
    """A server of one's own on a free port.

    Parameters
    ----------
    folder
        Empty; for its log, and what it keeps.
    arguments
        More of its command line.
    """

    program: ClassVar[str]
    """What is run. Debian has it in the package of that name."""

    proxied = None

    def __init__(self, folder: Path, arguments: Sequence[str] = ()) -> None:
        self.folder, self._arguments = folder, arguments
        self.address = Address(f"127.0.0.1:{free_port()}")
        self.start()

    @classmethod
    def missing(cls) -> str | None:
        """Why there can be none on this machine; None where there can."""
        if shutil.which(cls.program) is not None:
            return None
        return f"there is no {cls.program}; on Debian and Ubuntu: apt-get install {cls.program}"

    def start(self) -> None:
        """Start it, empty, and wait until it answers.

        Raises
        ------
        ServerError
            There is no such program, or it does not answer.
        """
        if (missing := self.missing()) is not None:
            raise ServerError(missing)
        log = self.folder / f"{self.program}.log"
        self._process, self._identity = spawn(
            [str(shutil.which(self.program)), *self.options(), *self._arguments], log=log, folder=self.folder,
            owner=Identity.of(os.getpid()),
        )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise ServerError(f"{self.program} does not answer. The end of its log:\n{log.read_text()[-2000:]}")
            time.sleep(0.02)

    def stop(self, *, kill: bool = False) -> None:
        """Stop it; what it held is gone."""
        self._identity.end(kill=kill)
        self._process.wait()

    def close(self) -> None:
        """End it for good."""
        self.stop(kill=True)

    @abc.abstractmethod
    def options(self) -> list[str]:
        """Its command line, so that it listens at the address and keeps nothing."""

    @abc.abstractmethod
    def is_ready(self, connection: socket.socket) -> bool:
        """Whether it answers on a connection that it has taken."""

    def _answers(self) -> bool:
        try:
            with socket.create_connection((self.address.host, self.address.port), timeout=1) as connection:
                return self.is_ready(connection)
        except OSError:
            return False

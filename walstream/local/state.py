"""What a folder knows of its servers: their ports, and which processes serve them now."""

from __future__ import annotations

import contextlib
import fcntl
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from walstream.errors import ServerError
from walstream.local.processes import Identity


@dataclass(slots=True)
class State:
    """The servers of one folder.

    Parameters
    ----------
    ports
        By server, then by the name of the port. Chosen once, so that clients find a server again.
    processes
        The servers that were started and not stopped; each may have died since.
    owners
        By server, the process whose end ends it, kept while it is stopped; a detached server has none.
    regions
        The regions that have a Kafka of their own; a region's place is its rank.
    """

    ports: dict[str, dict[str, int]] = field(default_factory=dict)
    processes: dict[str, Identity] = field(default_factory=dict)
    owners: dict[str, Identity] = field(default_factory=dict)
    regions: list[str] = field(default_factory=list)


class StateFile:
    """A :class:`State` on disk, and the lock of its folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "state.json"

    def read(self) -> State:
        """Give the state, empty where there is none yet."""
        try:
            stored = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return State()
        except ValueError as error:
            raise ServerError(f"{self._path} is damaged ({error}); remove the folder {self._folder}") from error
        return State(
            stored["ports"],
            {name: Identity(**each) for name, each in stored["processes"].items()},
            {name: Identity(**each) for name, each in stored["owners"].items()},
            stored.get("regions", []),
        )

    def write(self, state: State) -> None:
        """Store the state, whole or not at all."""
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps(asdict(state), indent=2))
        part.replace(self._path)

    @contextlib.contextmanager
    def locked(self, timeout: float = 180.0) -> Iterator[None]:
        """Be the only one that starts or stops servers of this folder.

        Raises
        ------
        ServerError
            Somebody else was still at it after `timeout` seconds.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + timeout
        with (self._folder / "lock").open("wb") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise ServerError(
                            f"Another process is starting or stopping servers in {self._folder}"
                        ) from None
                    time.sleep(0.05)
            yield

"""The folder that a demo works in, and what an earlier one left there."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections.abc import Iterator
from pathlib import Path

from walstream.demo.workers import stop_kept
from walstream.errors import ConfigurationError, WalstreamError
from walstream.local import Servers

_OWN = ("config", "data", "local", "east", "west", "run.log", "run.err")  # what a demo leaves in its folder
_MARKER = "demo.lock"


@contextlib.contextmanager
def own_folder(folder: Path) -> Iterator[None]:
    """Hold a folder that is a demo's, or new.

    Raises
    ------
    ConfigurationError
        It holds something else, which must not be removed.
    WalstreamError
        A demo works in it.
    """
    marker = folder / _MARKER
    if folder.exists() and not marker.exists() and any(folder.iterdir()):
        raise ConfigurationError(
            f"{folder} holds something that is not a demo's", remedy="give --folder a new or an empty folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with marker.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WalstreamError(f"a demo is running in {folder}") from None
        yield


def stop(folder: Path) -> bool:
    """Stop what a demo left running in a folder, and tell whether there was anything."""
    workers = stop_kept(folder / "data")
    return bool(Servers(folder / "local").down()) or workers


def clear(folder: Path) -> None:
    """Stop and remove what an earlier demo left in its folder."""
    stop(folder)
    for name in _OWN:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

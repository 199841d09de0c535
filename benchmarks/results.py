"""What came out: medians with ranges, tables for people, and one JSON file that grows."""

from __future__ import annotations

import contextlib
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson
import psutil
from rich.console import Console
from rich.table import Table

BUSY = 0.5  # cores that others use, from which on figures are not to be believed
LOOK = 0.5  # s
console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)


class Spread:
    """Several measurements of one thing: their median, and their range."""

    def __init__(self, values: Sequence[float]) -> None:
        self.values = list(values)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def text(self, digits: int = 0) -> str:
        """Such as ``201,000 (190,000-205,000)``."""
        if len(self.values) == 1:
            return f"{self.median:,.{digits}f}"
        return f"{self.median:,.{digits}f} ({min(self.values):,.{digits}f}-{max(self.values):,.{digits}f})"


def machine() -> dict[str, Any]:
    """Where and on what it was measured."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    return {
        "at": datetime.now(UTC).isoformat(),
        "commit": commit,
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "busy_before": round(others(), 2),
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in ("aiokafka", "faust-streaming", "rocksdict", "confluent-kafka")},
    }


def others() -> float:
    """Cores that are busy now with what is neither this process nor started by it."""

    def used() -> float:
        total, own = psutil.cpu_times(), 0.0
        for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                own += times.user + times.system
        return float(sum(total) - total.idle - getattr(total, "iowait", 0.0) - getattr(total, "guest", 0.0) - own)

    before, begun = used(), time.monotonic()
    time.sleep(LOOK)
    return max(0.0, (used() - before) / (time.monotonic() - begun))


class Results:
    """The results of one figure, as they come in.

    Parameters
    ----------
    figure
        Its name.
    settings
        What it was measured with.
    folder
        Holds ``results.json``: a list with one object for each time that a figure was measured.
    """

    def __init__(self, figure: str, settings: dict[str, Any], folder: Path) -> None:
        self.figure, self.settings, self.folder = figure, settings, folder
        self._path = folder / "results.json"
        self.machine = machine()
        if self.machine["busy_before"] > BUSY:
            console.print(f"[yellow]{self.machine['busy_before']} cores are busy: do not trust the figures")

    def show(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table; all but the first column hold numbers."""
        words = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        table = Table(title=f"{self.figure}: {words}", title_justify="left")
        for number, column in enumerate(columns):
            table.add_column(column, justify="right" if number else "left")
        for row in rows:
            table.add_row(*row)
        console.print(table)

    def save(self, measured: Any, *, done: bool = True) -> None:
        """Put into the file what was measured, in place of what this measurement put there before.

        Parameters
        ----------
        done
            Whether that is all of it. What is saved after each round survives an interruption.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        name = {"figure": self.figure, "settings": self.settings, "machine": self.machine}
        kept = [each for each in load(self._path) if any(each[word] != value for word, value in name.items())]
        kept.append(name | {"done": done, "measured": measured})
        beside = self._path.with_suffix(".new")
        beside.write_bytes(orjson.dumps(kept, option=orjson.OPT_INDENT_2))
        beside.replace(self._path)
        if done:
            console.print(f"added to {self._path}")


def load(path: Path) -> list[dict[str, Any]]:
    """All results so far."""
    return list(orjson.loads(path.read_bytes())) if path.exists() else []

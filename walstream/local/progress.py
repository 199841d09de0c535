"""What a person sees while servers start."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from walstream.local.jars import Fetched


class StartProgress:
    """One line for each server: what is fetched, that it starts, where it answers.

    Parameters
    ----------
    console
        Where to show it; without one nothing is shown.
    """

    def __init__(self, console: Console | None) -> None:
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description:<16}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[doing]}"),
            TimeElapsedColumn(),
            console=console,
            disable=console is None,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> StartProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begin(self, title: str) -> None:
        """Show a server."""
        self._tasks[title] = self._progress.add_task(title, total=None, doing="looks for its jars")

    def fetching(self, title: str, fetched: Fetched) -> None:
        """Show how far a server's download is."""
        size = f"{fetched.size / 1e6:.1f} MB"
        doing = (
            f"fetches jars {fetched.jars}/{fetched.of}, {size}" if fetched.of else f"reads {fetched.poms} descriptions"
        )
        self._progress.update(
            self._tasks[title], total=fetched.of + 1 if fetched.of else None, completed=fetched.jars, doing=doing
        )

    def starting(self, title: str) -> None:
        """Show that a server starts."""
        self._progress.update(self._tasks[title], total=None, doing="starts")

    def done(self, title: str, address: str) -> None:
        """Show where a server answers."""
        self._progress.update(self._tasks[title], total=1, completed=1, doing=f"answers at {address}")

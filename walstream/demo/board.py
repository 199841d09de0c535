"""Where a demo is shown: a live display in a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

_PLAIN_EVERY = 2.0  # seconds between two plain lines
_EVENTS = 8  # that stay on the screen below what is shown


class Board:
    """Shows stages, events, and what goes on.

    Parameters
    ----------
    output
        Where to; progress goes to stderr where stdout is for the result alone.
    """

    def __init__(self, output: Console) -> None:
        self.output = output
        self.events: deque[Text] = deque(maxlen=_EVENTS)
        self._begin = time.monotonic()
        self._live: Live | None = None
        self._stage = ""

    def stage(self, words: str) -> None:
        """A new part begins."""
        self._stage = words
        if self._live is None:
            self.output.print(self._line(Text(words, style="bold")))

    def event(self, words: str) -> None:
        """Something happened."""
        style = "bold red" if words.startswith("killed") else "dim"
        line = self._line(Text(f"  {words}", style=style))
        if self._live is None:
            self.output.print(line)
        else:
            self.events.append(line)

    def console(self) -> Console:
        """The console for progress bars."""
        return self.output

    def heading(self) -> Text:
        """The stage, with the time."""
        return self._line(Text(self._stage, style="bold"))

    @contextlib.contextmanager
    def showing(self, live: Callable[[], Group], plain: Callable[[], str]) -> Iterator[None]:
        """Show how it goes: all the time in a terminal, else every two seconds."""
        if self.output.is_terminal:
            self.events.clear()
            with Live(get_renderable=live, console=self.output, refresh_per_second=5) as self._live:
                yield
            self._live = None
            return
        with _repeating(_PLAIN_EVERY, lambda: self.output.print(self._line(Text(plain())))):
            yield

    def _line(self, text: Text) -> Text:
        return Text.assemble((f"{time.monotonic() - self._begin:5.1f} s  ", "dim"), text)


@contextlib.contextmanager
def _repeating(seconds: float, work: Callable[[], None]) -> Iterator[None]:
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(seconds):
            work()

    thread = threading.Thread(target=repeat, name="demo-screen", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()

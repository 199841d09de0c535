"""How the demo is shown: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from walstream.demo.purge import Purge
    from walstream.demo.scenario import Result, Written
    from walstream.demo.watch import Stage, Watch

_PLAIN_EVERY = 2.0  # seconds between two plain lines
_CURVE = "rows that went from Cassandra in each half second, by seconds after the write:"
_EVENTS = 8  # that stay on the screen below the table

TITLES = {"log": "router: flights.log", "base": "base: Cassandra", "copy": "copy: flights-copy"}


class Screen:
    """Shows the demo as it goes on.

    Parameters
    ----------
    output
        Where to; progress goes to stderr where stdout is for the result alone.
    """

    def __init__(self, output: Console) -> None:
        self._output = output
        self._begin = time.monotonic()
        self._live: Live | None = None
        self._events: deque[Text] = deque(maxlen=_EVENTS)
        self._stage = ""

    def stage(self, words: str) -> None:
        """A new part begins."""
        self._stage = words
        if self._live is None:
            self._output.print(self._line(Text(words, style="bold")))

    def event(self, words: str) -> None:
        """Something happened."""
        style = "bold red" if words.startswith("killed") else "dim"
        line = self._line(Text(f"  {words}", style=style))
        if self._live is None:
            self._output.print(line)
        else:
            self._events.append(line)

    def console(self) -> Console:
        """The console for progress bars."""
        return self._output

    @contextlib.contextmanager
    def watching(self, watch: Watch, written: Written) -> Iterator[None]:
        """Show how it goes: all the time in a terminal, else every two seconds."""
        with self._showing(lambda: self._table(watch, written), lambda: _plain(watch, written)):
            yield

    @contextlib.contextmanager
    def following(self, purge: Purge) -> Iterator[None]:
        """Show how the deletes come: the curve as it grows in a terminal, else when all are there."""
        with self._showing(lambda: self._curve(purge), lambda: _plain_purge(purge)):
            yield
        if not self._output.is_terminal:
            self._output.print(Text(_CURVE))
            self._output.print(purge.curve().text())

    @contextlib.contextmanager
    def _showing(self, live: Callable[[], Group], plain: Callable[[], str]) -> Iterator[None]:
        if self._output.is_terminal:
            self._events.clear()
            with Live(get_renderable=live, console=self._output, refresh_per_second=5) as self._live:
                yield
            self._live = None
            return
        with _repeating(_PLAIN_EVERY, lambda: self._output.print(self._line(Text(plain())))):
            yield

    def result(self, result: Result) -> None:
        """Say what was found."""
        out = self._output
        for words, findings, total in (
            ("rows in Cassandra are what the data says", result.rows, result.flights),
            (
                "mutations are in flights-copy once, unchanged, and in the order of their flight",
                result.copies,
                result.mutations,
            ),
        ):
            style = "green" if findings.ok and findings.right == total else "bold red"
            out.print(Text(f"{findings.right:,} of {total:,} {words}", style=style))
        out.print(
            f"{result.written:,} writes, {result.written_again:,} of them repeated with the same id; "
            f"{result.dropped:,} dropped as duplicates, {result.in_log:,} in the log"
        )
        if result.purge is not None:
            _say_purge(out, result.purge)
        if result.killed:
            out.print(f"killed on the way: {', '.join(result.killed)}")
        out.print(_latency_table(result))
        seconds = ", ".join(f"{name} {value:g} s" for name, value in result.seconds.items())
        out.print(Text(f"took: {seconds}", style="dim"))
        for problem in result.problems:
            out.print(Text(f"wrong: {problem}", style="bold red"))
        out.print(
            Text("All is equal.", style="bold green") if result.ok else Text("Not all is equal.", style="bold red")
        )

    def _line(self, text: Text) -> Text:
        return Text.assemble((f"{time.monotonic() - self._begin:5.1f} s  ", "dim"), text)

    def _table(self, watch: Watch, written: Written) -> Group:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in ("", "records", "behind", "p50", "p99"):
            table.add_column(name, justify="left" if not name else "right", min_width=9)
        table.add_row("written: flights.ingress", f"{written.done:,}", "", "", "")
        for stage in (watch.log, watch.base, watch.copy):
            table.add_row(TITLES[stage.name], f"{stage.done:,}", f"{stage.lag:,}", *_percentiles(stage))
        table.add_row("dropped as duplicates", f"{watch.dropped:,}", "", "", "")
        bar = Padding(
            ProgressBar(total=max(1, written.total), completed=written.done, width=60), 0
        )  # a line of its own
        return Group(self._line(Text(self._stage, style="bold")), bar, table, *self._events)

    def _curve(self, purge: Purge) -> Group:
        return Group(
            self._line(Text(self._stage, style="bold")),
            Text(_plain_purge(purge)),
            Text(_CURVE, style="dim"),
            purge.curve().text(),
            *self._events,
        )


def _plain_purge(purge: Purge) -> str:
    pending = len(purge.due.keys() - purge.sent.keys())
    return f"{pending:,} deletes are pending, {len(purge.sent):,} in the log; {len(purge.gone):,} rows are gone"


def _say_purge(out: Console, purge: Purge) -> None:
    came, late = purge.came(), purge.lateness().summary()
    style = "bold red" if purge.problems else "green"
    out.print(Text(f"{came.right:,} of {len(purge.due):,} delayed deletes came once, and none early", style=style))
    out.print(Text(f"{purge.rows.right:,} rows are left as the data says, and no other", style=style))
    if came.right:
        out.print(
            f"into the log p50 {late['p50']:g} ms, p99 {late['p99']:g} ms after they were due; "
            f"{max(purge.curve().came):,} rows at most went in a half second"
        )


def _percentiles(stage: Stage) -> tuple[str, str]:
    values = [stage.latencies.percentile(percent, recent=True) for percent in (50, 99)]
    first, second = ("" if value is None else f"{value:,.0f} ms" for value in values)
    return first, second


def _plain(watch: Watch, written: Written) -> str:
    parts = [f"{written.done:,} written", f"{watch.log.done:,} in the log", f"{watch.dropped:,} duplicates dropped"]
    for stage in (watch.base, watch.copy):
        p50, p99 = _percentiles(stage)
        parts.append(f"{stage.name} {stage.done:,} (behind {stage.lag:,}; p50 {p50}, p99 {p99})")
    return "; ".join(parts)


def _latency_table(result: Result) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", title_justify="left")
    table.add_column("from the write to …, kills included", min_width=36)
    for name in ("p50", "p90", "p99", "longest", "samples"):
        table.add_column(name, justify="right")
    for name, latency in result.latency_ms.items():
        values = (latency.get(percent) for percent in ("p50", "p90", "p99", "p100"))
        table.add_row(
            TITLES[name], *("" if value is None else f"{value:,.0f} ms" for value in values), f"{latency['count']:,}"
        )
    return table


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

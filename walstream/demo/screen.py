"""What is shown of the demo: how far all are, the curve of the deletes, and what was found."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from walstream.demo.board import Board

if TYPE_CHECKING:
    from walstream.demo.indexes import Index, Query
    from walstream.demo.purge import Purge
    from walstream.demo.scenario import Result, Written
    from walstream.demo.watch import Stage, Watch

_CURVE = "rows that went from Cassandra in each half second, by seconds after the write:"

_FLIGHTS = 5  # of a query that are shown

TITLES = {
    "log": "router: flights.log",
    "base": "base: Cassandra",
    "copy": "copy: flights-copy",
    "by-tail": "by-tail: index",
    "by-day": "by-day: index",
}


class Screen(Board):
    """Shows the demo as it goes on."""

    @contextlib.contextmanager
    def watching(self, watch: Watch, written: Written) -> Iterator[None]:
        """Show how it goes: all the time in a terminal, else every two seconds."""
        with self.showing(lambda: self._table(watch, written), lambda: _plain(watch, written)):
            yield

    @contextlib.contextmanager
    def following(self, purge: Purge) -> Iterator[None]:
        """Show how the deletes come: the curve as it grows in a terminal, else when all are there."""
        with self.showing(lambda: self._curve(purge), lambda: _plain_purge(purge)):
            yield
        if not self.output.is_terminal:
            self.output.print(Text(_CURVE))
            self.output.print(purge.curve().text())

    def result(self, result: Result) -> None:
        """Say what was found."""
        out = self.output
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
        for index in result.indexes:
            _say_index(out, index)
        if result.purge is not None:
            _say_purge(out, result.purge)
        if result.query is not None:
            _say_query(out, result.query)
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

    def _table(self, watch: Watch, written: Written) -> Group:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in ("", "records", "behind", "p50", "p99"):
            table.add_column(name, justify="left" if not name else "right", min_width=9)
        table.add_row("written: flights.ingress", f"{written.done:,}", "", "", "")
        for stage in watch.stages.values():
            table.add_row(TITLES[stage.name], f"{stage.done:,}", f"{stage.lag:,}", *_percentiles(stage))
        table.add_row("dropped as duplicates", f"{watch.dropped:,}", "", "", "")
        bar = Padding(
            ProgressBar(total=max(1, written.total), completed=written.done, width=60), 0
        )  # a line of its own
        return Group(self.heading(), bar, table, *self.events)

    def _curve(self, purge: Purge) -> Group:
        return Group(
            self.heading(),
            Text(_plain_purge(purge)),
            Text(_CURVE, style="dim"),
            purge.curve().text(),
            *self.events,
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


def _say_index(out: Console, index: Index) -> None:
    """The comparison with the data, and that with the base table."""
    right, different = index.rows.right, sum(index.verified.values())
    out.print(
        Text(
            f"{right:,} of {right + index.rows.wrong:,} entries of {index.target} are what the data says; "
            f"{index.entries:,} after the deletes, {different:,} of them not as the base table has it",
            style="bold red" if index.problems else "green",
        )
    )


def _say_query(out: Console, query: Query) -> None:
    """Some of the flights, as a table."""
    table = Table(box=None, pad_edge=False, header_style="dim", title_justify="left")
    for name in (f"flights of {query.tailnum}, by the index", "to", "left at (UTC)"):
        table.add_column(name)
    for row in query.found[:_FLIGHTS]:
        left = "" if row["dep_time"] is None else f"{row['dep_time']:%Y-%m-%d %H:%M}"
        style = None if row in query.left else "strike dim"
        table.add_row(row["flight"], row["dest"], left, style=style)
    out.print(table)
    more, took = max(0, len(query.found) - _FLIGHTS), query.milliseconds
    gone = len(query.found) - len(query.left)
    out.print(f"and {more:,} more, found in {took:g} ms; {gone:,} of all {len(query.found):,} went with the deletes")


def _percentiles(stage: Stage) -> tuple[str, str]:
    values = [stage.latencies.percentile(percent, recent=True) for percent in (50, 99)]
    first, second = ("" if value is None else f"{value:,.0f} ms" for value in values)
    return first, second


def _plain(watch: Watch, written: Written) -> str:
    parts = [f"{written.done:,} written", f"{watch.log.done:,} in the log", f"{watch.dropped:,} duplicates dropped"]
    for name, stage in watch.stages.items():
        if name == "log":
            continue
        p50, p99 = _percentiles(stage)
        parts.append(f"{name} {stage.done:,} (behind {stage.lag:,}; p50 {p50}, p99 {p99})")
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

"""What is shown of the demo of two regions: both side by side, and what was found."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Group
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from walstream.demo.board import Board
from walstream.demo.regions.conflicts import RANKS

if TYPE_CHECKING:
    from walstream.demo.regions.scenario import Example, Result, View

_SHOWN = ("status", "arr_delay", "heard_in")  # columns of the example


class RegionsScreen(Board):
    """Shows the demo as it goes on."""

    @contextlib.contextmanager
    def watching(self, view: View) -> Iterator[None]:
        """Show how it goes: all the time in a terminal, else every two seconds."""
        with self.showing(lambda: self._table(view), lambda: _plain(view)):
            yield

    def result(self, result: Result) -> None:
        """Say what was found."""
        out = self.output
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("")
        for name in result.sides:
            table.add_column(name, justify="right", min_width=9)
        sides = result.sides.values()
        for words, numbers in (
            ("written here", [side.written for side in sides]),
            ("sent by the other region, repetitions included", [side.sent for side in sides]),
            ("came back to where they had been", [side.circled for side in sides]),
            ("in the log, each once", [side.log.right for side in sides]),
            ("rows in the store that are what the times say", [side.rows.right for side in sides]),
        ):
            table.add_row(words, *(f"{number:,}" for number in numbers))
        for percent in ("p50", "p99"):
            values = [side.latency_ms.get(percent) for side in sides]
            shown = ("" if value is None else f"{value:,.0f} ms" for value in values)
            table.add_row(f"from the other region into the log, before the cut: {percent}", *shown)
        out.print(table)
        if result.example is not None:
            out.print(_example_table(result.example))
        out.print(
            f"{result.flights:,} flights, of which {result.conflicting:,} were written otherwise in each region; "
            f"after the cut {result.differing_when_cut:,} rows differed"
        )
        if result.different is not None:
            words = " and ".join(f"{rows:,}" for rows in result.compared)
            style = "bold red" if result.different else "green"
            out.print(Text(f"{words} rows of the two stores compared, {result.different:,} differ", style=style))
        if result.killed:
            out.print(f"killed on the way: {', '.join(result.killed)}")
        seconds = ", ".join(f"{name} {value:g} s" for name, value in result.seconds.items())
        out.print(Text(f"took: {seconds}", style="dim"))
        for problem in result.problems:
            out.print(Text(f"wrong: {problem}", style="bold red"))
        out.print(
            Text("All is equal.", style="bold green") if result.ok else Text("Not all is equal.", style="bold red")
        )

    def _table(self, view: View) -> Group:
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("", min_width=36)
        for name in view.regions:
            table.add_column(name, justify="right", min_width=9)
        regions = view.regions.values()
        for words, numbers in (
            ("written here", [region.written for region in regions]),
            ("in the log, written here", [region.traffic.in_log - region.traffic.from_elsewhere for region in regions]),
            ("in the log, from the other region", [region.traffic.from_elsewhere for region in regions]),
            ("not sent to the other region yet", [region.traffic.lags[region.sender] for region in regions]),
            ("rows in the store", list(view.rows.values())),
        ):
            table.add_row(words, *(f"{number:,}" for number in numbers))
        way = Text("the way between them is cut", style="bold red") if view.is_cut else Text("they are connected")
        done = sum(region.written for region in regions)
        bar = Padding(ProgressBar(total=max(1, 2 * view.total), completed=done, width=60), 0)  # a line of its own
        differ = Text(f"rows that differ now: {view.differing:,}", style="yellow" if view.differing else "green")
        return Group(self.heading(), bar, table, differ, way, *self.events)


def _plain(view: View) -> str:
    parts = ["CUT OFF" if view.is_cut else "connected"]
    for name, region in view.regions.items():
        traffic = region.traffic
        parts.append(
            f"{name}: {region.written:,} written, {traffic.from_elsewhere:,} from the other region, "
            f"{traffic.lags[region.sender]:,} not sent yet, {view.rows[name]:,} rows"
        )
    return "; ".join([*parts, f"{view.differing:,} rows differ"])


def _example_table(example: Example) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(f"{example.flight}, at the same time")
    for column in _SHOWN:
        table.add_column(column, justify="right")
    for name in RANKS:
        table.add_row(f"the {name} wrote", *(str(example.said[name].get(column, "")) for column in _SHOWN))
    for name in RANKS:
        table.add_row(f"the {name} has", *(str(example.rows[name].get(column, "")) for column in _SHOWN))
    return table

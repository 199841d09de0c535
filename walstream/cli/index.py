"""``walstream index``: build an index on a table that has rows, compare it with the table, mend it, drop it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import click

from walstream.cli.output import (
    json_option,
    plain,
    plural,
    print_json,
    print_table,
    say,
    settings_options,
    yes_option,
)
from walstream.cli.parameters import PerSecond, TargetName
from walstream.settings import Settings

if TYPE_CHECKING:
    from walstream.indexes.build import Skipped
    from walstream.indexes.index import Index
    from walstream.indexes.pages import Range
    from walstream.indexes.positions import Positions
    from walstream.indexes.report import Difference, Report
    from walstream.indexes.standing import Standing
    from walstream.indexes.verify import Verification
    from walstream.kafka import KafkaConnection
    from walstream.scan import Scanner

TARGET = TargetName()
SHOWN = 100
"""Differences that a table shows."""
SETTLES = 5.0
"""Seconds in which a target that has taken a build goes on with it, and says so."""

token = click.IntRange(-(2**63), 2**63 - 1)


def range_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options that say which part of the base table, and which differences."""
    for add in reversed(
        (
            click.option("--from", "after", type=token, metavar="TOKEN", help="Only base rows with a token above it."),
            click.option("--to", "upto", type=token, metavar="TOKEN", help="Only base rows with a token up to it."),
            click.option(
                "--fraction", type=click.FloatRange(0, 1, min_open=True), help="Only such a part, chosen at random."
            ),
            click.option(
                "--limit", type=click.IntRange(0), default=10_000, show_default=True,
                help="Base rows that differ, after which it ends; 0: all.",
            ),
        )
    ):  # fmt: skip
        function = add(function)
    return function


@click.group()
def index() -> None:
    """Build an index on a table that has rows, compare it with the table, mend it, drop it.

    TARGET is a target of sink: index, such as flights.by_tail.
    """


@index.command(short_help="Index the rows that the base table has.")
@click.argument("target", type=TARGET)
@click.option("--rate", type=PerSecond(), help="Base rows a second, at most, such as 5000/s.  [default: no bound]")
@click.option("--again", is_flag=True, help="From the beginning, also where an earlier build has ended or is ready.")
@click.option(
    "--regardless", is_flag=True, help="Do not wait until what waits at the base table's target is done; verify then."
)
@click.option(
    "--no-wait", is_flag=True, help="End when all is handed to the target, and do not wait until it is ready."
)
@json_option
@settings_options
def build(
    settings: Settings, target: tuple[str, str], rate: float | None, again: bool, regardless: bool, no_wait: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Index the rows that the base table has, while writes go on.

    It reads the base table with the rows' own write times, and hands the rows to the target, which takes them as it
    takes what comes from the log. It goes on where an earlier build was ended. The target needs a worker.

    \b
    Examples:
      walstream index build flights.by_tail
      walstream index build flights.by_tail --rate 5000/s
    """
    from walstream.cli import Failure
    from walstream.indexes.build import Build
    from walstream.indexes.standing import Note, read_standing

    with _Opened(settings, target) as opened:
        name = opened.index.name
        standing = read_standing(opened.scanner, opened.index.namespace, opened.index.target)
        note = standing.note
        if note is not None and not again and note.is_complete and standing.is_behind(note.build):
            _say_ready(name, standing, as_json=as_json)
            return
        if again:
            note = None
        _wait_for_bases(opened, regardless=regardless)
        if note is not None and not as_json:
            say(f"{name}: goes on where a build was ended, at {note.share:.0%}")
        work = Build(opened.index, opened.connection, opened.scanner, note=note, rate=rate)
        with _bar() as bar:

            def progress(now: Note) -> None:
                bar.show("rows read", now.share, f"{now.rows:,} rows")

            def waits(left: int) -> None:
                bar.say(f"waits for the target, which has {left:,} to take")

            work.run(progress, waits)
            if no_wait:
                standing = read_standing(opened.scanner, opened.index.namespace, opened.index.target)
            else:
                work.wait(lambda left: bar.say(f"the target has {left:,} to take"))
                standing = _settled(opened, work.note.build, lambda left: bar.say(f"the target has {left:,} to try"))
    document = {"index": name, **standing.document(), "skipped": [_skipped(row) for row in work.examples]}
    if as_json:
        print_json(document)
    else:
        click.echo(f"{name} has {work.note.rows:,} base rows, and is {standing.state}")
        if standing.state == "settling" and standing.waiting:
            say(f"{plural(standing.waiting, 'record')} of it are to be tried again: walstream retry list {name}")
    if work.note.skipped:
        for row in work.examples:
            say(f"  {', '.join(row.key)}: {plain(row.reason)}")
        raise Failure(f"of {plural(work.note.skipped, 'base row')} no mutation can be made, and they are not indexed")


@index.command()
@click.argument("target", type=TARGET)
@json_option
@settings_options
def status(settings: Settings, target: tuple[str, str], as_json: bool) -> None:
    """Show whether an index is ready, and how far its build is.

    \b
    Examples:
      walstream index status flights.by_tail
    """
    from walstream.admin import Admin
    from walstream.cli.selection import target_of
    from walstream.indexes.index import index_options
    from walstream.indexes.standing import read_standing
    from walstream.kafka import KafkaConnection
    from walstream.scan import Scanner

    namespace, name = target_of(settings, target)
    assert name is not None
    options = index_options(namespace, name)
    connection = KafkaConnection.from_settings(settings)
    standing = read_standing(Scanner(connection, Admin(connection)), namespace, name)
    full = f"{namespace.name}.{name}"
    if as_json:
        tables = {"table": f"{options.keyspace}.{options.table}", "base": f"{options.keyspace}.{options.base}"}
        print_json({"index": full, **tables, **standing.document()})
        return
    click.echo(f"{full}: {standing.state}")
    note = standing.note
    if note is not None:
        click.echo(f"  build {note.build}: {note.share:.1%}, {note.rows:,} rows, {note.records:,} records")
        if note.skipped:
            click.echo(f"  {plural(note.skipped, 'row')} of which no mutation can be made")
    elif standing.state == "unbuilt":
        click.echo(f"  what the base table had before is not indexed: walstream index build {full}")
    if standing.waiting:
        click.echo(f"  {plural(standing.waiting, 'record')} to be tried again: walstream retry list {full}")
    if standing.dead:
        click.echo(f"  {plural(standing.dead, 'letter')} of builds and repairs: walstream dlq list {full}")


@index.command(short_help="Compare an index with its base table.")
@click.argument("target", type=TARGET)
@range_options
@json_option
@settings_options
def verify(
    settings: Settings, target: tuple[str, str], after: int | None, upto: int | None, fraction: float | None,
    limit: int, as_json: bool,
) -> None:  # fmt: skip
    """Compare an index with its base table, both ways, while writes go on.

    An entry is missing, stale (it should not be there), or wrong (what is copied along is something else). What changes
    meanwhile is looked at again, and is no difference. Base rows of which a mutation is dead are listed by themselves.
    A part of the base table is compared with all of the index. It ends with 1 where something differs.

    \b
    Examples:
      walstream index verify flights.by_tail
      walstream index verify flights.by_tail --fraction 0.05
      walstream index verify flights.by_tail --json | jq -c '.differences[]'
    """
    with _Opened(settings, target) as opened:
        report, _ = _compare(opened, _range(after, upto, fraction), limit)
    _print(opened.index, report, as_json=as_json)
    if not report.is_clean:
        click.get_current_context().exit(1)


@index.command(short_help="Mend what differs from the base table.")
@click.argument("target", type=TARGET)
@range_options
@click.option("--dry-run", is_flag=True, help="Only say what would be mended.")
@click.option("--dead", is_flag=True, help="Also base rows of which a mutation is dead at the base table's target.")
@click.option(
    "--rate", type=PerSecond(), default="1000/s", show_default=True, help="Base rows that are mended a second, at most."
)
@json_option
@settings_options
def repair(
    settings: Settings, target: tuple[str, str], after: int | None, upto: int | None, fraction: float | None,
    limit: int, dry_run: bool, dead: bool, rate: float, as_json: bool,
) -> None:  # fmt: skip
    """Compare as verify does, and make the entries of what differs those that the base rows should have.

    The target does it, of which a worker must run. A base row that is written meanwhile stays as it is written. Rows of
    which a mutation is dead at the base table's own target are left out, since the index has that mutation, and would
    lack it when it is redriven. It ends with 1 where something differs still.

    \b
    Examples:
      walstream index repair flights.by_tail --dry-run
      walstream index repair flights.by_tail
    """
    from walstream.indexes.repair import Repairs

    with _Opened(settings, target) as opened:
        report, verification = _compare(opened, _range(after, upto, fraction), limit)
        explained = {key for key, (deaths, _) in report.dead.items() if any(death.of_base for death in deaths)}
        wanted = {
            key: seen
            for key, seen in report.result.differing.items()
            if key in report.differences or (key in report.dead and (dead or key not in explained))
        }
        if dry_run or not wanted:
            _print(opened.index, report, as_json=as_json, mended=0, would=len(wanted))
            if not report.is_clean:
                click.get_current_context().exit(1)
            return
        repairs = Repairs(opened.index, opened.connection, opened.positions, rate)
        sent = repairs.send(wanted)
        repairs.wait()
        left, undecided = verification.confirm({key: set(seen.found) for key, seen in wanted.items()})
    done = sent - len(left)
    if as_json:
        more = {"index": opened.index.name, "mended": done, "left": len(left), "undecided_after": len(undecided)}
        print_json(report.document() | more | {"skipped": [_skipped(row) for row in repairs.skipped]})
    else:
        _print(opened.index, report, as_json=False)
        click.echo(f"mended: {plural(done, 'base row')}")
        if left:
            say(f"{plural(len(left), 'base row')} differ still: see walstream dlq list {opened.index.name}")
        for row in repairs.skipped:
            say(f"  {', '.join(row.key)}: {plain(row.reason)}")
    if left or repairs.skipped or not report.result.complete or len(wanted) < len(report.result.differing):
        click.get_current_context().exit(1)


@index.command(short_help="Remove an index with all that is its own.")
@click.argument("target", type=TARGET)
@yes_option
@json_option
@settings_options
def drop(settings: Settings, target: tuple[str, str], yes: bool, as_json: bool) -> None:
    """Remove an index: its table, its retry topic, DLQ and changelogs, and its consumer group.

    Stop its workers first: it is refused while one runs. Then take the target out of the namespace file; else the next
    walstream apply makes it anew. It asks first, or takes --yes.

    \b
    Examples:
      walstream index drop flights.by_tail
    """
    from walstream.indexes.drop import Drop

    with _Opened(settings, target) as opened:
        work = Drop(opened.index, opened.scanner.admin)
        work.check()
        if not yes:
            say(f"{opened.index.name} has the table {opened.index.table} and {plural(len(work.topics), 'topic')}.")
            click.confirm("Remove them?", abort=True, err=True)
        dropped = work.run()
    if as_json:
        print_json({"index": opened.index.name, "dropped": dropped})
        return
    for what in dropped:
        click.echo(f"dropped {what}")
    say(f"Take the target {target[1]} out of the file of {target[0]}, or the next walstream apply makes it anew.")


# What the commands have in common


class _Opened:
    """An index with everything that commands reach it by."""

    def __init__(self, settings: Settings, target: tuple[str, str]) -> None:
        self._settings, self._target = settings, target
        self._stack = ExitStack()
        self.index: Index
        self.connection: KafkaConnection
        self.scanner: Scanner
        self.positions: Positions

    def __enter__(self) -> _Opened:
        import gc
        import logging

        from walstream.admin import Admin
        from walstream.cli.selection import target_of
        from walstream.config import load_connections
        from walstream.indexes.index import open_index
        from walstream.indexes.positions import Positions
        from walstream.kafka import KafkaConnection
        from walstream.scan import Scanner

        # Rows come by the thousand, and live for a moment: the collector would look at them again and again.
        gc.freeze()
        gc.set_threshold(50_000, 50, 100)
        # Of what a server warns its operators (such as tombstones in a scan), and who reads can do nothing about.
        logging.getLogger("cassandra").setLevel(logging.ERROR)
        namespace, name = target_of(self._settings, self._target)
        assert name is not None
        self.connection = KafkaConnection.from_settings(self._settings)
        self.scanner = Scanner(self.connection, Admin(self.connection))
        self.positions = Positions(self.scanner.admin, namespace)
        connections = load_connections(self._settings.config)
        self.index = self._stack.enter_context(open_index(namespace, name, connections))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()


class _Bar:
    """A progress bar, where stderr is a terminal."""

    def __init__(self, bar: Any) -> None:
        self._bar, self._tasks = bar, dict[str, Any]()

    def show(self, what: str, share: float, detail: str = "") -> None:
        """How much of something is done."""
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what, total=1.0, detail=detail)
        self._bar.update(self._tasks[what], completed=share, detail=detail)

    def say(self, detail: str) -> None:
        """What is being waited for."""
        if "" not in self._tasks:
            self._tasks[""] = self._bar.add_task("", total=None, detail=detail)
        self._bar.update(self._tasks[""], detail=detail)


@contextmanager
def _bar() -> Iterator[_Bar]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[detail]}"),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield _Bar(bar)


def _settled(opened: _Opened, build: str, progress: Callable[[int], object]) -> Standing:
    """Wait until the target has tried all of a build that it has taken, as long as it goes on; how the index stands."""
    import time

    from walstream.indexes.positions import Behind
    from walstream.indexes.standing import read_standing

    with suppress(Behind):  # what is to be tried again later is no reason to wait
        opened.positions.wait_for_retries(opened.scanner, opened.index.target, 0, progress, SETTLES)
    until = time.monotonic() + SETTLES
    while True:
        standing = read_standing(opened.scanner, opened.index.namespace, opened.index.target)
        if (standing.is_behind(build) and not standing.waiting) or time.monotonic() > until:
            return standing
        time.sleep(1.0)


def _wait_for_bases(opened: _Opened, *, regardless: bool) -> None:
    """What is in the log, and not in the base table yet, would be missed if the index's target begins behind it."""
    bases = opened.index.bases
    if not bases or regardless:
        return
    from walstream.indexes.positions import Behind

    try:
        opened.positions.wait(opened.positions.ends(bases))
        for target in bases:
            opened.positions.wait_for_retries(opened.scanner, target, patience=10.0)
    except Behind as behind:
        raise Behind(f"{behind}\n  or say --regardless, and verify the index when that is done") from behind


def _range(after: int | None, upto: int | None, fraction: float | None) -> Range:
    import random

    from walstream.indexes.pages import LEAST, MOST, RING, Range

    begin, end = LEAST if after is None else after, MOST if upto is None else upto
    if begin >= end:
        raise click.UsageError("--from is not below --to")
    if fraction is None:
        return Range(begin, end)
    if after is not None or upto is not None:
        raise click.UsageError("give --fraction, or --from and --to")
    width = max(1, int(RING * fraction))
    begin = LEAST + random.randint(0, RING - width)
    return Range(begin, begin + width)


def _compare(opened: _Opened, within: Range, limit: int) -> tuple[Report, Verification]:
    from walstream.indexes.report import Reporter
    from walstream.indexes.verify import Verification

    verification = Verification(opened.index, opened.positions, within=within, limit=limit)
    with _bar() as bar:
        result = verification.run(bar.show)
        return Reporter(opened.index, opened.scanner).explain(result), verification


def _print(index: Index, report: Report, *, as_json: bool, **more: int) -> None:
    """What was found."""
    if as_json:
        print_json({"index": index.name, **report.document(), **more})
        return
    result, counts = report.result, report.counts
    rows = [found for several in report.differences.values() for found in several]
    if rows:
        print_table(["kind", "key", "entry", "expected", "found"], map(_row, rows[:SHOWN]))
        if len(rows) > SHOWN:
            say("and more; --json has all")
    if report.dead:
        dead = [(found, deaths) for deaths, several in report.dead.values() for found in several]
        print_table(
            ["kind", "key", "entry", "dead at"],
            ((*_row(f)[:3], ", ".join(f"{d.target} {d.place or ''}" for d in deaths)) for f, deaths in dead[:SHOWN]),
            title="Of these base rows a mutation is dead: walstream dlq redrive, or index repair --dead",
        )
    parts = [f"{plural(result.rows, 'base row')}", f"{result.wanted:,} entries wanted", f"{result.found:,} found"]
    parts += [f"{counts[kind]:,} {kind}" for kind in ("missing", "stale", "wrong")]
    parts += [f"{len(report.dead):,} dead"] if report.dead else []
    parts += [f"{len(report.waiting):,} waiting to be tried again"] if report.waiting else []
    parts += [f"{len(result.undecided):,} changed all the time"] if result.undecided else []
    click.echo(f"{index.name}: {', '.join(parts)}")
    if not result.complete:
        say("It was ended there; --limit 0 goes on.")
    if more.get("would"):
        click.echo(f"would be mended: {plural(more['would'], 'base row')}")


def _row(found: Difference) -> tuple[str, ...]:
    from walstream.cli.output import cell

    def text(columns: Any) -> str:
        return cell(", ".join(f"{name}={value}" for name, value in (columns or {}).items()))

    return found.kind, text(found.key), text(found.entry), text(found.expected), text(found.found)


def _skipped(row: Skipped) -> dict[str, Any]:
    return {"key_bytes": row.key, "reason": row.reason}


def _say_ready(name: str, standing: Standing, *, as_json: bool) -> None:
    if as_json:
        print_json({"index": name, **standing.document(), "skipped": []})
    else:
        click.echo(f"{name} is {standing.state}; --again builds it anew")

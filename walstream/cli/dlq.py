"""``walstream dlq``: dead letters, of a target or of what a namespace did not understand."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from walstream.cli.output import (
    json_option,
    plain,
    plural,
    print_json,
    print_json_rows,
    print_rows,
    say,
    settings_options,
    yes_option,
)
from walstream.cli.parameters import Moment, PerSecond, Position, Seconds, TargetName
from walstream.settings import Settings
from walstream.units import format_duration

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from walstream.controller import Controller
    from walstream.kafka import KafkaConnection
    from walstream.letters import DeadLetters, Letter, Wanted
    from walstream.namespace import Namespace
    from walstream.redrive import Followed, Result
    from walstream.scan import Scanner

TARGET = TargetName(or_namespace=True)

payload_option = click.option("--payload", is_flag=True, help="Show payloads, too.")
all_option = click.option("--all", "every_state", is_flag=True, help="Also those that were redriven or dropped.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Only say how many that would be.")
rate_option = click.option(
    "--rate", type=PerSecond(), default="1000/s", show_default=True, help="How many a second, at most."
)
wait_option = click.option(
    "--wait",
    type=Seconds(),
    default="10s",
    show_default=True,
    help="How long to wait for what becomes of them; 0s: not at all.",
)


def limit_option(default: int) -> Callable[..., Any]:
    """Adds ``--limit``."""
    return click.option(
        "--limit", type=click.IntRange(0), default=default, show_default=True, help="How many at most; 0: all."
    )


def filters(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options that say which letters, and hands them over as ``wanted``."""

    @functools.wraps(function)
    def wrapped(
        error: str | None,
        code: str | None,
        key: str | None,
        id_: str | None,
        since: int | None,
        until: int | None,
        attempts: int | None,
        position: tuple[int, int] | None,
        every_state: bool = True,
        **kwargs: Any,
    ) -> Any:
        from walstream.letters import Wanted

        wanted = Wanted(
            error=error,
            code=code,
            key=None if key is None else key.encode(),
            id=id_,
            since=since,
            until=until,
            attempts=attempts,
            position=position,
            every_state=every_state,
        )
        return function(wanted=wanted, **kwargs)

    command: Callable[..., Any] = wrapped
    for add in reversed(
        (
            click.option("--error", metavar="TEXT", help="With this in the error, in whatever case."),
            click.option("--code", help="With this code: of what was not understood."),
            click.option("--key", help="With this key."),
            click.option("--id", "id_", help="With this id."),
            click.option("--since", type=Moment(), help="Dead since: 1h (ago), or 2013-01-01T00:00:00Z."),
            click.option("--until", type=Moment(), help="Dead before."),
            click.option("--attempts", type=click.IntRange(1), help="Tried so often, or more often."),
            click.option(
                "--position", type=Position(), help="At this place in the log; of a namespace: in the ingress."
            ),
        )
    ):
        command = add(command)
    return command


@click.group()
def dlq() -> None:
    """Look into a DLQ; have dead records tried again, or dropped.

    TARGET is a target such as flights.base: what it will never take. Or a namespace such as flights: what was not
    understood, and is in no log.
    """


@dlq.command("list", short_help="List dead letters.")
@click.argument("target", type=TARGET)
@filters
@all_option
@payload_option
@limit_option(100)
@json_option
@settings_options
def list_(
    settings: Settings, target: tuple[str, str | None], wanted: Wanted, payload: bool, limit: int, as_json: bool
) -> None:
    """List dead letters: those that are dead still, oldest first in each partition.

    \b
    Examples:
      walstream dlq list flights.base --since 1h
      walstream dlq list flights.base --error 'unknown column' --payload
      walstream dlq list flights --code missing-attribute
      walstream dlq list flights.base --limit 0 --json | jq -r '.[].error' | sort | uniq -c
    """
    opened = _Opened(settings, target)
    rows = (_listed(letter, payload=payload) for letter in opened.letters.read(wanted))
    if as_json:
        print_json_rows(islice(rows, limit or None))
        return
    columns = ["position", "when", "key", "id", *(("code",) if target[1] is None else ("attempts#", "state")), "error"]
    print_rows(
        columns + (["payload"] if payload else []),
        (row | {"position": f"{row['partition']}:{row['position']}"} for row in rows),
        limit=limit,
        nothing=f"{opened.full}: nothing is dead" if wanted.is_for_all else f"{opened.full}: no such letter",
    )


@dlq.command(short_help="Show a dead letter with all its headers.")
@click.argument("target", type=TARGET)
@click.argument("position", type=Position(), metavar="PARTITION:POSITION")
@payload_option
@json_option
@settings_options
def show(
    settings: Settings, target: tuple[str, str | None], position: tuple[int, int], payload: bool, as_json: bool
) -> None:
    """Show a dead letter with all its headers, by where it stands in the log (of a namespace: in the ingress).

    Of a record that died again after it was redriven, the last letter is shown.

    \b
    Examples:
      walstream dlq show flights.base 3:1042
      walstream dlq show flights.base 3:1042 --payload --json
    """
    from walstream.cli import Failure
    from walstream.letters import Wanted

    opened = _Opened(settings, target)
    letters = list(opened.letters.read(Wanted(position=position, every_state=True)))
    if not letters:
        raise Failure(f"{opened.letters.topic} has no letter about {position[0]}:{position[1]}")
    document = letters[-1].document(payload=payload) | {"letters": len(letters)}
    if as_json:
        print_json(document)
        return
    headers, text = document.pop("headers"), document.pop("payload", None)
    for name, value in document.items():
        if value is not None:
            click.echo(f"{click.style(f'{name}:', bold=True)} {plain(str(value))}")
    click.echo(click.style("headers:", bold=True))
    for header in headers:
        value = header["value"]
        click.echo(f"  {plain(header['name'])}{'' if value is None else f': {plain(value)}'}")
    if payload:
        click.echo(click.style("payload:", bold=True))
        click.echo("(null)" if text is None else plain(text, keep="\n\t"))


@dlq.command(short_help="Write dead letters as lines of JSON.")
@click.argument("target", type=TARGET)
@filters
@all_option
@limit_option(0)
@json_option
@settings_options
def export(settings: Settings, target: tuple[str, str | None], wanted: Wanted, limit: int, as_json: bool) -> None:
    """Write dead letters to stdout, a line of JSON each: everything, with key, value and headers in Base64.

    \b
    Examples:
      walstream dlq export flights.base > letters.ndjson
      walstream dlq export flights.base --key UA1545 | jq -r .value_base64 | base64 -d
    """
    import orjson

    del as_json  # it always is
    opened = _Opened(settings, target)
    with _progress("exported") as progress:
        write = progress.counting(lambda letter: click.echo(orjson.dumps(letter.export())))
        for letter in islice(opened.letters.read(wanted, progress.looked), limit or None):
            write(letter)


@dlq.command(short_help="Have dead records tried again.")
@click.argument("target", type=TARGET)
@filters
@limit_option(0)
@dry_run_option
@rate_option
@click.option("--force", is_flag=True, help="Also what is so old that a later delete may be forgotten at the target.")
@wait_option
@json_option
@settings_options
def redrive(
    settings: Settings,
    target: tuple[str, str | None],
    wanted: Wanted,
    limit: int,
    dry_run: bool,
    rate: float,
    force: bool,
    wait: float,
    as_json: bool,
) -> None:
    """Have dead records tried again at their target; of a namespace: write them to the ingress again.

    It may be repeated: what is no longer dead is left out. A record that fails again is in the DLQ again. Where the
    target holds a key behind its dead record (on_dead: hold), the record goes back to its place and the key goes on
    behind it; elsewhere it is late, and the effective times decide what counts.

    What is older than the target remembers deletes is left out, unless --force is given. In a namespace, dedup sees to
    what was written already; what is still not understood is a new letter.

    \b
    Examples:
      walstream dlq redrive flights.base --error 'unknown column' --dry-run
      walstream dlq redrive flights.base --error 'unknown column'
      walstream dlq redrive flights.base --position 3:1042
      walstream dlq redrive flights --code unknown-target --rate 100/s
    """
    opened = _Opened(settings, target)
    if opened.target is None:
        _rewrite(opened, wanted, limit, rate, dry_run=dry_run, as_json=as_json)
        return
    from walstream.controller import Controller
    from walstream.redrive import Followed, move
    from walstream.sinks.registry import sink_class

    options = opened.namespace.targets[opened.target]
    remember = None
    if not force and sink_class(options.sink).forgets_deletes:
        remember = opened.namespace.remember(opened.target)
    followed = Followed(opened.scanner, opened.namespace, opened.target)
    controller = Controller(opened.connection, opened.scanner, opened.namespace, opened.target, rate=rate)
    with _progress("redriven") as progress:
        read = opened.letters.read(wanted, progress.looked)
        send = progress.counting(None if dry_run else controller.redrive)
        result = move(read, send, remember=remember, limit=limit)
        controller.flush()
    if options.on_dead == "hold" and result.sent and not as_json:
        say(f"{opened.full} holds keys: each record goes back to its place, and its key goes on behind it.")
    _report(opened, "redriven", result, controller, followed, wait, dry_run=dry_run, as_json=as_json)


@dlq.command(short_help="Give dead records up.")
@click.argument("target", type=TARGET)
@filters
@limit_option(0)
@dry_run_option
@rate_option
@click.option("--reason", help="Why.")
@wait_option
@yes_option
@json_option
@settings_options
def drop(
    settings: Settings,
    target: tuple[str, str | None],
    wanted: Wanted,
    limit: int,
    dry_run: bool,
    rate: float,
    reason: str | None,
    wait: float,
    yes: bool,
    as_json: bool,
) -> None:
    """Give dead records up: they are never tried again, and lists leave them out.

    Where the target holds a key behind its dead record (on_dead: hold), the key goes on without it. It asks first, or
    takes --yes. It may be repeated.

    \b
    Examples:
      walstream dlq drop flights.base --error 'unknown column' --dry-run
      walstream dlq drop flights.base --position 3:1042 --reason 'a test' --yes
    """
    opened = _Opened(settings, target)
    if opened.target is None:
        raise click.UsageError(
            f"{opened.full}.dlq has what was not understood; nothing waits for it, and nothing of it can be dropped. "
            "Name a target, such as flights.base"
        )
    from walstream.controller import Controller
    from walstream.redrive import Followed, move

    def drop_(letter: Letter) -> None:
        controller.drop(letter, reason)

    if not yes and not dry_run:
        count = move(opened.letters.read(wanted), lambda letter: None, needs_position=True, limit=limit).sent
        if count:
            say(f"{plural(count, 'record')} will never be delivered to {opened.full}.")
            click.confirm("Go on?", abort=True, err=True)
    followed = Followed(opened.scanner, opened.namespace, opened.target)
    controller = Controller(opened.connection, opened.scanner, opened.namespace, opened.target, rate=rate)
    with _progress("dropped") as progress:
        read = opened.letters.read(wanted, progress.looked)
        send = progress.counting(None if dry_run else drop_)
        result = move(read, send, needs_position=True, limit=limit)
        controller.flush()
    _report(opened, "dropped", result, controller, followed, wait, dry_run=dry_run, as_json=as_json)


class _Opened:
    """What a command is about, and how it is reached."""

    def __init__(self, settings: Settings, name: tuple[str, str | None]) -> None:
        from walstream.admin import Admin
        from walstream.cli.selection import target_of
        from walstream.kafka import KafkaConnection
        from walstream.letters import DeadLetters
        from walstream.scan import Scanner

        self.namespace: Namespace
        self.namespace, self.target = target_of(settings, name)
        self.full = self.namespace.name if self.target is None else f"{self.namespace.name}.{self.target}"
        self.connection: KafkaConnection = KafkaConnection.from_settings(settings)
        self.scanner: Scanner = Scanner(self.connection, Admin(self.connection))
        self.letters: DeadLetters = DeadLetters(self.scanner, self.namespace, self.target)


def _listed(letter: Letter, *, payload: bool) -> dict[str, Any]:
    row = letter.summary()
    if payload:
        row["payload"] = letter.document(payload=True)["payload"]
    return row


def _rewrite(opened: _Opened, wanted: Wanted, limit: int, rate: float, *, dry_run: bool, as_json: bool) -> None:
    """Write what was not understood to the ingress again."""
    from walstream import topics
    from walstream.record import Message
    from walstream.redrive import rewrite
    from walstream.writer import Writer

    namespace = opened.namespace
    ingress, largest = topics.ingress(namespace).name, topics.dlq(namespace).config["max.message.bytes"]

    def write(letter: Letter) -> None:
        found = letter.found
        message = Message(found.key, found.value, letter.headers)
        writer.write(ingress, found.partition, message, letter.timestamp)

    with _progress("written") as progress, Writer(opened.connection, largest=int(largest), rate=rate) as writer:
        read = opened.letters.read(wanted, progress.looked)
        result = rewrite(read, progress.counting(None if dry_run else write), limit=limit)
    if not as_json:
        _say(opened, "written", result, dry_run=dry_run)
    _end(opened, "written", result, {}, dry_run=dry_run, as_json=as_json)


def _report(
    opened: _Opened,
    done: str,
    result: Result,
    controller: Controller,
    followed: Followed,
    wait: float,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Say what was done with letters of a target, wait for what becomes of them, and end with the exit status."""
    if not as_json:
        _say(opened, done, result, dry_run=dry_run)
    became: dict[str, Any] = {}
    if result.sent and wait and not dry_run:
        taken = controller.wait(wait)
        states = {state.name.lower(): count for state, count in followed.states(result.positions).items()}
        became = {"taken": taken, "states": states}
        if not as_json and states:
            words = {"redriven": "given to the target", "dead": "dead again", "dropped": "dropped"}
            say("So far: " + ", ".join(f"{count:,} {words[state]}" for state, count in states.items()))
        if not as_json and not taken:
            why = "they are not read yet" if controller.is_at_work() else "no worker runs"
            say(f"{opened.full} has not taken all of them: {why}. They are written down, and will be.")
    _end(opened, done, result, became, dry_run=dry_run, as_json=as_json)


def _say(opened: _Opened, done: str, result: Result, *, dry_run: bool) -> None:
    """Say to a person what was done."""
    from walstream.redrive import TOO_OLD

    left = "".join(f"; left out, {why}: {count:,}" for why, count in result.skipped.items())
    click.echo(f"{opened.full}: {plural(result.sent, 'record')} {'would be ' if dry_run else ''}{done}{left}")
    if result.skipped[TOO_OLD]:
        assert opened.target is not None
        age = format_duration(opened.namespace.remember(opened.target))
        say(f"What is older than {age} may bring back what was deleted since. With --force it is tried nevertheless.")


def _end(opened: _Opened, done: str, result: Result, became: dict[str, Any], *, dry_run: bool, as_json: bool) -> None:
    """Say to a program what was done, and end with the exit status."""
    if as_json:
        skipped = dict(result.skipped)
        print_json({"target": opened.full, "dry_run": dry_run, done: result.sent, "skipped": skipped, **became})
    if result.failed:
        click.get_current_context().exit(1)


class _Progress:
    """A bar on stderr: how much of the DLQ was looked at, and how many letters were done."""

    def __init__(self, bar: Bar) -> None:
        self._bar, self._count = bar, 0
        self._task = bar.add_task("", total=None, count=0)

    def looked(self, offsets: int, total: int) -> None:
        """So many offsets were looked at, of so many."""
        self._bar.update(self._task, completed=offsets, total=total, count=self._count)

    def counting(self, send: Callable[[Letter], object] | None) -> Callable[[Letter], None]:
        """The same function, where there is one, counted."""

        def counted(letter: Letter) -> None:
            if send is not None:
                send(letter)
            self._count += 1

        return counted


@contextmanager
def _progress(done: str) -> Iterator[_Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    count = TextColumn("{task.fields[count]:,} " + done)
    columns = (BarColumn(), TaskProgressColumn(), count, TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield _Progress(bar)

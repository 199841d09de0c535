"""``walstream demo``: the main job on real servers and real data."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from walstream.cli.output import json_option, print_json, say
from walstream.errors import MissingExtra

if TYPE_CHECKING:
    from rich.console import Console

    from walstream.demo.scenario import Demo


@click.command()
@click.option("--month", default=1, show_default=True, type=click.IntRange(1, 12), help="Which month of 2013.")
@click.option("--regions", is_flag=True, help="Two regions instead, written to on both sides while they are cut off.")
@click.option("--keep", is_flag=True, help="Leave servers and workers running, and say what to try next.")
@click.option("--stop", is_flag=True, help="Stop what --keep left running, and do nothing else.")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".walstream/demo"),
    show_default=True,
    help="Where everything is kept; the next demo begins it anew.",
)
@click.option(
    "--picture",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.svg",
    help="Draw the curve of the delayed deletes.",
)
@json_option
def demo(month: int, regions: bool, keep: bool, stop: bool, folder: Path, picture: Path | None, as_json: bool) -> None:
    """Run the main job on real Kafka, real Cassandra and real flights.

    A month of flights that left New York in 2013, each a row that changes as the day goes on, is written as mutations
    in the order of time, some of them twice. Workers are killed on the way, on purpose. Then every row in Cassandra,
    every record in the copy topic and every entry of two indexes (by tail number, by destination and day) is compared
    with what the data says. At last the flights of one day are deleted, each after a delay with jitter, one delete is
    cancelled and one rescheduled: the curve is flat, none is early, and the indexes follow. The exit status is 0 only
    if all is equal.

    With --regions there are two Kafkas, and beside each a store that cannot replicate itself. Both regions are written
    to, about the same flights and not of one mind; the way between them is cut, workers are killed, and it is opened
    again. In the end each store is compared with the other, and with what the times of the writes say.

    \b
    Examples:
      walstream demo
      walstream demo --month 7 --keep
      walstream demo --picture deletes.svg
      walstream demo --regions
      walstream demo --stop
    """
    try:
        from walstream.demo.folder import stop as stop_kept
        from walstream.demo.scenario import Demo
    except MissingExtra:
        raise MissingExtra("The demo", "demo") from None
    if stop:
        stopped = stop_kept(folder)
        if as_json:
            print_json({"stopped": stopped})
        else:
            say("Stopped." if stopped else f"No demo runs in {folder}.")
        return
    from rich.console import Console

    from walstream.demo.screen import Screen

    signal.signal(signal.SIGTERM, _interrupt)
    console = Console(stderr=as_json, highlight=False, soft_wrap=True)
    if regions:
        if keep or picture is not None:
            raise click.UsageError("--keep and --picture are not for --regions.")
        _two_regions(folder, month, console, as_json)
        return
    screen = Screen(console)
    show = Demo(folder, month=month, keep=keep, audience=screen)
    result = show.run()
    if picture is not None and result.purge is not None:
        title = f"Rows deleted in each half second, of {result.purge.written:,} deletes written at once"
        result.purge.curve().picture(picture, title)
    if as_json:
        print_json(result.as_dict() | ({"settings": show.settings} if keep else {}))
    else:
        screen.result(result)
        if keep:
            click.echo(next_steps(show))
    if not result.ok:
        sys.exit(1)


def _two_regions(folder: Path, month: int, console: Console, as_json: bool) -> None:
    from walstream.demo.regions.scenario import RegionsDemo
    from walstream.demo.regions.screen import RegionsScreen

    screen = RegionsScreen(console)
    result = RegionsDemo(folder, month=month, audience=screen).run()
    if as_json:
        print_json(result.as_dict())
    else:
        screen.result(result)
    if not result.ok:
        sys.exit(1)


def next_steps(show: Demo) -> str:
    """What a person may try with what was left running."""
    assert show.workers is not None
    folder = show.folder
    key = show.a_flight
    tail = "" if show.result.query is None else show.result.query.tailnum
    settings = "\n".join(f"  export {name}={value}" for name, value in show.settings.items())
    cql = f"walstream local cql --folder {folder}/local \"SELECT * FROM flights.flights WHERE flight = '{key}'\""
    return f"""
Everything still runs. What to try:

{settings}
  walstream status
  {cql}

Ask by an index, and compare it with the table:
  walstream local cql --folder {folder}/local \\
    "SELECT * FROM flights.flights_by_tail WHERE tailnum = '{tail}'"
  walstream index verify flights.by-tail

Write with the client, and look again:
  walstream write flights --row flight={key} --set status=diverted --set dest=ORD

Delete a row in ten minutes, see it wait, and cancel it:
  walstream write flights --row flight={key} --delete --delay 10m --id purge-1
  WALSTREAM_DATADIR={folder}/data/router faust -A topologies.router table flights.schedule list
  walstream cancel flights purge-1 --key {key}

Write from anywhere, with kcat (the id makes a repetition harmless):
  echo '{{"op":"put","key":{{"flight":"{key}"}},"set":{{"status":"gone"}}}}' | kcat -P -b {show.servers.brokers} \\
    -t flights.ingress -k {key} -X partitioner=murmur2_random -H ce_specversion=1.0 -H ce_id=try-1 \\
    -H ce_source=kcat -H ce_type=walstream.mutation -H content-type=application/json

Look into the router's tables, beside the running router:
  WALSTREAM_DATADIR={folder}/data/router faust -A topologies.router tables
  WALSTREAM_DATADIR={folder}/data/router faust -A topologies.router table flights.dedup count

Kill a worker and watch it come back:
  kill -9 {show.workers.pids["flights.base"]}; tail -f {show.folder}/run.log

Stop everything:
  walstream demo --stop --folder {folder}"""


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt

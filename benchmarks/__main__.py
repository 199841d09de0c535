"""``python -m benchmarks``: a command for each figure, and ``all``."""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from stamina.instrumentation import set_on_retry_hooks

from benchmarks.cluster import Cluster
from benchmarks.load import Shape
from benchmarks.results import console

if TYPE_CHECKING:
    from benchmarks.figures.replication import Regions

COMPRESSIONS = click.Choice(["none", "lz4"])


@contextmanager
def servers(*, cassandra: bool = False) -> Iterator[Cluster]:
    """Servers in a temporary folder, for the length of a figure."""
    with tempfile.TemporaryDirectory(prefix="walstream-benchmark-") as folder:
        cluster = Cluster(Path(folder), click.get_current_context().obj, cassandra=cassandra, console=console)
        try:
            yield cluster
        finally:
            cluster.close()


@contextmanager
def two_regions(*, quick: bool = False) -> Iterator[Regions]:
    """The servers of two regions in a temporary folder, for the length of a figure; see `Cluster`."""
    from benchmarks.figures.replication import regions

    with (
        tempfile.TemporaryDirectory(prefix="walstream-benchmark-") as folder,
        regions(Path(folder), click.get_current_context().obj, quick=quick) as both,
    ):
        yield both


def options(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options that several figures share."""
    known = {
        "records": click.option("--records", type=click.IntRange(1_000), default=2_000_000, show_default=True),
        "rounds": click.option("--rounds", type=click.IntRange(1), default=5, show_default=True),
        "partitions": click.option("--partitions", type=click.IntRange(1), default=4, show_default=True),
        "compression": click.option(
            "--compression", type=COMPRESSIONS, default="none", show_default=True, help="Of the records that are read."
        ),
        "duplicates": click.option(
            "--duplicates", type=click.FloatRange(0, 0.9), default=0.0, show_default=True, help="Share of the records."
        ),
        "warm": click.option(
            "--warm", type=click.FloatRange(0, 0.9), default=0.25, show_default=True,
            help="The share of the records after which everybody counts as warm.",
        ),
        "limit": click.option(
            "--limit", type=click.FloatRange(1), default=60.0, show_default=True,
            help="Seconds after which a slow contender is stopped.",
        ),
        "seconds": click.option("--seconds", type=click.FloatRange(5), default=30.0, show_default=True),
    }  # fmt: skip

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(names):
            function = known[name](function)
        return function

    return decorate


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("docs/benchmarks"),
    help="Where results.json and the plots go.",
)
@click.pass_context
def main(context: click.Context, out: Path) -> None:
    """Measure walstream, on this machine, against what else one could take.

    Every command starts its own servers, prints a table, and appends to results.json. Nothing else should run
    meanwhile.

    \b
    Examples:
      python -m benchmarks all
      python -m benchmarks router --rounds 1 --records 500000 --only walstream --only hand
      python -m benchmarks profile router --step "headers parsed lazily"
    """
    context.obj = out
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # so that what was started ends, too
    set_on_retry_hooks(())  # it retries where it may, and need not say so


@main.command()
@options("records", "rounds", "partitions", "compression", "duplicates", "warm", "limit")
@click.option("--only", multiple=True, metavar="WORD", help="Only contenders with this word in their name; repeatable.")
def router(
    records: int,
    rounds: int,
    partitions: int,
    compression: str,
    duplicates: float,
    warm: float,
    limit: float,
    only: tuple[str, ...],
) -> None:
    """The router against Faust, Quix Streams, Kafka Streams and a loop by hand."""
    from benchmarks.figures.router import measure

    with servers() as cluster:
        measure(
            cluster, records=records, count=rounds, partitions=partitions, compression=compression,
            shape=Shape(duplicates=duplicates), warm=warm, limit=limit, only=only,
        )  # fmt: skip


@main.command()
@options("records", "rounds", "partitions", "duplicates", "warm", "limit")
def delivery(records: int, rounds: int, partitions: int, duplicates: float, warm: float, limit: float) -> None:
    """Delivery to a Kafka topic against a loop by hand."""
    from benchmarks.figures.delivery import measure

    with servers() as cluster:
        measure(
            cluster, records=records, count=rounds, partitions=partitions,
            shape=Shape(duplicates=duplicates), warm=warm, limit=limit,
        )  # fmt: skip


@main.command()
@click.option("--records", type=click.IntRange(1_000), default=200_000)
@options("rounds", "partitions")
@click.option("--concurrency", type=int, multiple=True, default=(64, 128, 256, 512, 1024))
def cassandra(records: int, rounds: int, partitions: int, concurrency: tuple[int, ...]) -> None:
    """Delivery to Cassandra against the driver's own ways."""
    from benchmarks.figures.cassandra import measure

    with servers(cassandra=True) as cluster:
        for rows in (10, 1):
            measure(cluster, records=records, count=rounds, partitions=partitions, rows=rows, sweep=concurrency)


@main.command()
@options("partitions", "seconds")
@click.option("--rate", type=click.FloatRange(1), default=10_000.0, help="Records/s.")
def latency(partitions: int, seconds: float, rate: float) -> None:
    """From a write to the record in the target's Kafka topic."""
    from benchmarks.figures.latency import measure

    with servers() as cluster:
        measure(cluster, partitions=partitions, rate=rate, seconds=seconds)


@main.command()
@options("partitions", "seconds")
@click.option("--rate", type=click.FloatRange(1), default=1_000.0, help="Records/s.")
def quiet(partitions: int, seconds: float, rate: float) -> None:
    """Processor time of router and delivery, idle and at a low rate."""
    from benchmarks.figures.quiet import measure

    with servers() as cluster:
        measure(cluster, partitions=partitions, rate=rate, seconds=seconds)


@main.command()
@options("partitions")
@click.option("--ids", type=click.IntRange(1_000), default=2_000_000, help="In the window.")
def start(partitions: int, ids: int) -> None:
    """Recovery of a dedup table, and the start and memory of a router that has it."""
    from benchmarks.figures.start import measure

    with servers() as cluster:
        measure(cluster, partitions=partitions, ids=ids)


@main.group()
def delay() -> None:
    """Delayed records: lateness, memory, scheduling and sending."""


@delay.command()
@click.option("--pending", type=click.IntRange(100_000), default=10_000_000, help="Rows that are not due yet.")
@click.option("--records", type=click.IntRange(1_000), default=200_000, help="That fall due meanwhile.")
@click.option("--rate", type=click.FloatRange(1), default=10_000.0, help="Records/s that fall due.")
@options("partitions")
def pending(pending: int, records: int, rate: float, partitions: int) -> None:
    """Lateness and memory with few and with many pending, and how fast these are rebuilt."""
    from benchmarks.figures.delay import pending as measure

    with servers() as cluster:
        measure(cluster, partitions=partitions, pending=pending, records=records, rate=rate)


@delay.command()
@click.option("--records", type=click.IntRange(1_000), default=600_000)
@click.option("--rounds", type=click.IntRange(1), default=3)
@options("partitions", "warm")
def scheduling(records: int, rounds: int, partitions: int, warm: float) -> None:
    """How fast delayed records are scheduled, against how fast others are routed."""
    from benchmarks.figures.delay import scheduling as measure

    with servers() as cluster:
        measure(cluster, partitions=partitions, records=records, count=rounds, warm=warm)


@delay.command()
@click.option("--records", type=click.IntRange(1_000), default=1_000_000)
@options("partitions", "warm")
def overdue(records: int, partitions: int, warm: float) -> None:
    """How fast what is overdue is sent, where nothing bounds it."""
    from benchmarks.figures.delay import overdue as measure

    with servers() as cluster:
        measure(cluster, partitions=partitions, records=records, warm=warm)


@delay.command()
@click.option("--emitted", type=click.IntRange(100_000), default=20_000_000, help="Rows that are taken, in all.")
@click.option("--pending", type=click.IntRange(1_000), default=100_000, help="Rows that are there at any time.")
def emitted(emitted: int, pending: int) -> None:
    """Whether it slows down by what was sent before; without Kafka."""
    from benchmarks.figures.delay import emitted as measure

    with tempfile.TemporaryDirectory(prefix="walstream-benchmark-") as folder:
        measure(Path(folder), click.get_current_context().obj, emitted=emitted, pending=pending)


@main.group()
def failing() -> None:
    """Delivery to targets that fail: some records, one key, all of it, or by being slow."""


KEYS = click.option("--keys", type=click.IntRange(100), default=100_000, help="Different ones.")


@failing.command()
@click.option("--ordering", type=click.Choice(["key", "none"]), default="key")
@options("records", "rounds", "partitions", "warm")
@KEYS
def transient(ordering: str, records: int, rounds: int, partitions: int, warm: float, keys: int) -> None:
    """One record in a hundred fails once, against none."""
    from benchmarks.figures.failing import transient as measure

    with servers() as cluster:
        measure(
            cluster, partitions=partitions, records=records, keys=keys, count=rounds, warm=warm, ordering=ordering,
        )  # fmt: skip


@failing.command()
@options("records", "rounds", "partitions", "warm")
@KEYS
def stuck(records: int, rounds: int, partitions: int, warm: float, keys: int) -> None:
    """One key fails for ever; how fast the others go, against none failing."""
    from benchmarks.figures.failing import stuck as measure

    with servers() as cluster:
        measure(cluster, partitions=partitions, records=records, keys=keys, count=rounds, warm=warm)


@failing.command()
@click.option("--records", type=click.IntRange(100_000), default=2_000_000)
@click.option("--seconds", type=click.FloatRange(1), default=60.0, help="For which the target is down.")
@options("partitions")
def outage(records: int, seconds: float, partitions: int) -> None:
    """The target is down for a while, in the middle of a backlog."""
    from benchmarks.figures.failing import outage as measure

    with servers() as cluster:
        measure(cluster, partitions=partitions, records=records, seconds=seconds)


@failing.command()
@click.option("--records", type=click.IntRange(100_000), default=5_000_000, help="That wait.")
@options("partitions")
def waiting(records: int, partitions: int) -> None:
    """Memory while the target is down and millions of records wait."""
    from benchmarks.figures.failing import waiting as measure

    with servers() as cluster:
        measure(cluster, partitions=partitions, records=records)


@failing.command()
@click.option("--records", type=click.IntRange(10_000), default=500_000)
@click.option("--rounds", type=click.IntRange(1), default=3)
@options("partitions", "warm")
@click.option("--latency", type=click.FloatRange(0), default=0.01, help="Seconds that a call takes.")
def slow(records: int, rounds: int, partitions: int, warm: float, latency: float) -> None:
    """A target that takes one record a call, and some time for each."""
    from benchmarks.figures.failing import slow as measure

    with servers() as cluster:
        measure(cluster, partitions=partitions, records=records, count=rounds, warm=warm, latency=latency)


@main.group()
def index() -> None:
    """Secondary indexes: live, built on rows that exist, compared."""


@index.command()
@click.option("--records", type=click.IntRange(1_000), default=200_000)
@click.option("--rounds", type=click.IntRange(1), default=3)
@options("partitions")
def live(records: int, rounds: int, partitions: int) -> None:
    """The delivery to an index, against the same statements without the log."""
    from benchmarks.figures.index import live as measure

    with servers(cassandra=True) as cluster:
        measure(cluster, records=records, count=rounds, partitions=partitions)


@index.command()
@click.option("--rows", type=click.IntRange(1_000), default=1_000_000)
@click.option("--rate", type=click.FloatRange(1), default=200.0, help="Mutations/s meanwhile.")
@options("partitions")
def existing(rows: int, rate: float, partitions: int) -> None:
    """Build and verify over rows that exist, with writes going on, against a bare loader and a bare scan."""
    from benchmarks.figures.index import existing as measure

    with servers(cassandra=True) as cluster:
        measure(cluster, rows=rows, partitions=partitions, rate=rate)


@main.group()
def replication() -> None:
    """From one region to another: two Kafkas, and a proxy that makes the way longer."""


LATENCY = click.option("--latency", type=click.FloatRange(0), default=0.1, help="Seconds to the other region and back.")


@replication.command()
@options("records", "rounds", "partitions", "warm", "limit")
def throughput(records: int, rounds: int, partitions: int, warm: float, limit: float) -> None:
    """A full log to the other region's ingress, against a loop by hand and MirrorMaker 2."""
    from benchmarks.figures.replication import throughput as measure

    with two_regions() as both:
        measure(both, records=records, count=rounds, partitions=partitions, warm=warm, limit=limit)


@replication.command()
@options("records", "rounds", "partitions", "warm", "limit")
@LATENCY
def distance(records: int, rounds: int, partitions: int, warm: float, limit: float, latency: float) -> None:
    """The same over a long way, against a short one."""
    from benchmarks.figures.replication import distance as measure

    with two_regions() as both:
        measure(both, records=records, count=rounds, partitions=partitions, warm=warm, limit=limit, latency=latency)


@replication.command()
@options("partitions", "seconds")
@click.option("--rate", type=click.FloatRange(1), default=5_000.0, help="Records/s.")
@LATENCY
def readable(partitions: int, seconds: float, rate: float, latency: float) -> None:
    """From a write in one region to the row in the other's Redis."""
    from benchmarks.figures.replication import readable as measure

    with two_regions(quick=True) as both:
        measure(both, partitions=partitions, rate=rate, seconds=seconds, latency=latency)


@main.command()
@options("records", "rounds", "partitions")
def client(records: int, rounds: int, partitions: int) -> None:
    """The client's write_many, acknowledged."""
    from benchmarks.figures.client import measure

    with servers() as cluster:
        measure(cluster, records=records, count=rounds, partitions=partitions)


@main.command()
@click.argument("worker", type=click.Choice(["router", "scheduling", "overdue", "delivery", "retries", "slow"]))
@click.option("--step", default="now", help="What the section is called; one of this name is replaced.")
@click.option("--words", default="", help="A sentence about it.")
@click.option("--records", type=click.IntRange(10_000), default=2_000_000)
@options("partitions")
@click.option(
    "--pages", type=click.Path(path_type=Path), default=Path("docs/profiles"), help="Where the page of the worker is."
)
def profile(worker: str, step: str, words: str, records: int, partitions: int, pages: Path) -> None:
    """Where the microseconds of a record go, into docs/profiles; py-spy looks at one worker."""
    from benchmarks.profile import PAGES, TITLES, markdown, put
    from benchmarks.profile import profile as run

    with servers() as cluster:
        found = run(cluster, worker, records=records, partitions=partitions)
    page = PAGES.get(worker, worker)
    put(pages / f"{page}.md", TITLES[page], step, markdown(found, step, words))


@main.command()
def table() -> None:
    """The page of all results, from results.json, with a row for each goal, and the plots."""
    from benchmarks.table import write

    write(click.get_current_context().obj)


FEW = {"records": 600_000, "rounds": 3, "warm": 0.4, "only": ("walstream router", "by hand", "exactly_once_v2, 2")}
EVERYTHING: tuple[tuple[click.Command, dict[str, Any]], ...] = (
    (router, {}),
    (delivery, {"records": 1_000_000}),
    (cassandra, {"records": 100_000, "rounds": 3}),
    (latency, {}),
    (quiet, {}),
    (start, {"ids": 30_000_000}),
    (client, {}),
    (pending, {}),
    (scheduling, {}),
    (overdue, {}),
    (emitted, {}),
    (transient, {"ordering": "none", "rounds": 3}),
    (transient, {"ordering": "key", "rounds": 3}),
    (stuck, {"rounds": 3}),
    (outage, {}),
    (waiting, {}),
    (slow, {}),
    (live, {}),
    (existing, {}),
    (throughput, {"records": 1_000_000}),
    (distance, {"records": 1_000_000}),
    (readable, {}),
    (router, FEW | {"compression": "lz4"}),
    (router, FEW | {"duplicates": 0.1}),
    (router, FEW | {"partitions": 1}),
    (router, FEW | {"partitions": 64}),
)


@main.command(name="all")
@click.option(
    "--from", "first", type=click.IntRange(1, len(EVERYTHING)), default=1, metavar="STEP",
    help="Where to begin, after an interruption; each step is announced with its number.",
)  # fmt: skip
@click.pass_context
def everything(context: click.Context, first: int) -> None:
    """All figures, in about an hour, and the page of results.

    The router also with lz4, with duplicates, and with 1 and 64 partitions, in shorter runs of fewer contenders. A step
    that fails does not keep the others from being measured.
    """
    failed = []
    for number, (figure, variant) in list(enumerate(EVERYTHING, 1))[first - 1 :]:
        words = " ".join(f"{name}={value}" for name, value in variant.items())
        begun = time.monotonic()
        console.rule(f"step {number} of {len(EVERYTHING)}: {figure.name} {words}", align="left")
        try:
            context.invoke(figure, **variant)
        except Exception as error:
            failed.append(number)
            console.print_exception()
            console.print(f"[red]step {number} failed: {error!r}")
        console.print(f"step {number} took {(time.monotonic() - begun) / 60:.1f} minutes")
        context.invoke(table)
    if failed:
        raise SystemExit(f"failed: {', '.join(f'step {number}' for number in failed)}")


if __name__ == "__main__":
    main()

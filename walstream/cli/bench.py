"""``walstream bench``: what a namespace holds, on the cluster that it is on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import IO, TYPE_CHECKING

import click

from walstream.cli.output import json_option, print_json, print_table, say, settings_options, yes_option
from walstream.settings import Settings
from walstream.units import parse_duration, parse_rate, parse_size

if TYPE_CHECKING:
    from walstream.bench import Findings, Load
    from walstream.client.write import Write
    from walstream.kafka import KafkaConnection
    from walstream.namespace import Namespace


@click.command()
@click.argument("namespace")
@click.option("--rate", help="Records, such as 5000/s.  [default: as many as are acknowledged]")
@click.option("--duration", default="30s", show_default=True, help="How long to write.")
@click.option("--size", default="300B", show_default=True, help="Bytes of a payload, which is random, such as 1KB.")
@click.option("--keys", type=click.IntRange(1), default=10_000, show_default=True, help="How many different keys.")
@click.option("--file", "-f", type=click.File("rb"), help="Records of your own: lines as `write --ndjson` takes them.")
@click.option("--targets", help="Only for these targets, comma-separated.  [default: see below]")
@click.option("--patience", default="1m", show_default=True, help="How long to wait at the end for who is behind.")
@json_option
@yes_option
@settings_options
def bench(
    settings: Settings,
    namespace: str,
    rate: str | None,
    duration: str,
    size: str,
    keys: int,
    file: IO[bytes] | None,
    targets: str | None,
    patience: str,
    as_json: bool,
    yes: bool,
) -> None:
    """Load a namespace, and say what it holds.

    Real records are written to the ingress, and the running workers route and deliver them; it asks first. Random
    payloads go to targets that are Kafka topics only, unless --targets says otherwise; records from --file go to every
    target, again and again, each time with a new id.

    It tells how many records a second were acknowledged, how long it took until they stood in the log and in the topics
    of kafka targets, whether router and targets kept up, and so how many records a second the namespace holds. The exit
    status is 1 if a record was not acknowledged.

    \b
    Examples:
      walstream bench flights --rate 5000/s --duration 1m --file flights.ndjson
      walstream bench flights --size 1KB --targets copy
      walstream bench flights --yes --json | jq .latency_ms
    """
    from walstream.bench import Load
    from walstream.cli.selection import selected

    (chosen,) = selected(settings, [namespace])
    try:
        load = Load(
            seconds=parse_duration(duration) / 1000,
            rate=None if rate is None else parse_rate(rate),
            size=parse_size(size),
            keys=keys,
            writes=_lines(file),
            targets=_targets(chosen, targets, own_records=file is not None),
        )
        seconds = parse_duration(patience) / 1000
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if not yes:
        _ask(settings, chosen, load)
    findings = _run(settings, chosen, load, seconds, quiet=as_json)
    if as_json:
        print_json({"namespace": chosen.name, **findings.document()})
    else:
        _show(chosen, findings)
    if findings.answers["true"] < sum(findings.answers.values()):
        raise SystemExit(1)


def _lines(file: IO[bytes] | None) -> list[Write]:
    from walstream.cli.lines import parse_line
    from walstream.client.write import Write
    from walstream.errors import RecordRefused

    found = []
    for number, line in enumerate(file or (), 1):
        try:
            found.append(parse_line(line, Write(None)))
        except RecordRefused as error:
            raise click.UsageError(f"line {number}: {error}") from error
    if file is not None and not found:
        raise click.UsageError("the file has no line")
    return found


def _targets(namespace: Namespace, said: str | None, *, own_records: bool) -> list[str] | None:
    """Whom the records are for."""
    if said is not None:
        names = [name.strip() for name in said.split(",")]
        if unknown := sorted(set(names) - namespace.targets.keys()):
            raise click.UsageError(f"{namespace.name} has no target {', '.join(unknown)}")
        return names
    if own_records:
        return None
    names = [name for name, target in namespace.targets.items() if target.sink == "kafka"]
    if namespace.targets and not names:
        raise click.UsageError(
            f"the targets of {namespace.name} would take random payloads for dead; give --file with records that they "
            "understand, or say --targets"
        )
    return names or None


def _ask(settings: Settings, namespace: Namespace, load: Load) -> None:
    how = "as many records as are acknowledged" if load.rate is None else f"{load.rate * load.seconds:,.0f} records"
    whom = ", ".join(load.targets if load.targets is not None else namespace.targets) or "no target"
    say(f"This writes {how}, for {load.seconds:g} s, to {namespace.name} at {','.join(settings.brokers)}, for: {whom}.")
    click.confirm("They are real records, and stay. Go on?", abort=True, err=True)


def _run(settings: Settings, namespace: Namespace, load: Load, patience: float, *, quiet: bool) -> Findings:
    from rich.console import Console
    from rich.progress import Progress

    from walstream.bench import bench as run
    from walstream.client.asynchronous import AsyncClient
    from walstream.kafka import KafkaConnection

    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what it would say comes with the receipts
    connection = KafkaConnection.from_settings(settings)

    async def work(progress: Progress) -> Findings:
        task = progress.add_task("starting", total=None)
        client = AsyncClient(connection=connection, config=settings.config)
        async with client:
            return await run(
                client,
                namespace,
                load,
                _watched(settings, namespace, connection, load.targets),
                shard=settings.shard,
                patience=patience,
                tell=lambda what, done, total: progress.update(task, description=what, completed=done, total=total),
            )

    with Progress(console=Console(stderr=True), transient=True, disable=quiet) as progress:
        return asyncio.run(work(progress))


def _watched(
    settings: Settings, namespace: Namespace, own: KafkaConnection, targets: Sequence[str] | None
) -> Mapping[str, tuple[KafkaConnection, str]]:
    from walstream import topics
    from walstream.config import load_connections
    from walstream.connections import KafkaClusterConnection

    found = {"in the log": (own, topics.log(namespace).name)}
    connections = load_connections(settings.config)
    for name, target in namespace.targets.items():
        if target.sink != "kafka" or (targets is not None and name not in targets):
            continue
        connection = own
        if target.connection is not None:
            entry = connections[target.connection]
            assert isinstance(entry, KafkaClusterConnection)
            connection = entry.kafka()
        found[f"at {name}"] = (connection, str(target.options["topic"]))
    return found


def _show(namespace: Namespace, findings: Findings) -> None:
    answers = findings.answers
    missing = sum(answers.values()) - answers["true"]
    click.echo(
        f"{answers['true']:,} records acknowledged in {findings.seconds:.1f} s: {findings.rate:,.0f} a second"
        + (f"; {answers['false']:,} were not written, {answers['unknown']:,} have no answer" if missing else "")
    )
    rows = [
        (what, *(f"{times[point]:,.1f}" for point in ("p50", "p90", "p99", "max")), f"{times['count']:,}")
        for what, times in findings.latencies.items()
        if times
    ]
    print_table(("ms until", "p50#", "p90#", "p99#", "max#", "looked at#"), rows)
    stages = [
        (
            lag.role,
            lag.workers or "[red]none[/]",
            f"{lag.before:,}",
            f"{lag.after:,}",
            f"{lag.most:,}",
            "not yet" if lag.drained is None else f"{lag.drained:.1f} s",
            "[green]keeps up[/]" if findings.keeps_up(lag) else f"[red]{findings.held(lag):,.0f} a second[/]",
        )
        for lag in findings.lags
    ]
    columns = ("stage", "workers#", "lag before#", "lag after#", "most#", "all done after#", "holds")
    print_table(columns, stages)
    if findings.limits:
        whom = ", ".join(findings.limits)
        click.echo(f"{namespace.name} holds {findings.holds:,.0f} records a second; what falls behind: {whom}")
    else:
        click.echo(f"{namespace.name} holds {findings.holds:,.0f} records a second, or more: nobody fell behind")

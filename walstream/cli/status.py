"""``walstream status``: how far everybody is, who is at work, and what waits at the targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from walstream.cli.output import json_option, plain, print_json, print_table, settings_options
from walstream.settings import Settings
from walstream.units import format_rfc3339

if TYPE_CHECKING:
    from walstream.marks import Halted
    from walstream.status import Health


@click.command()
@click.argument("namespaces", nargs=-1, metavar="[NAMESPACE]...")
@json_option
@settings_options
def status(settings: Settings, namespaces: Sequence[str], as_json: bool) -> None:
    """Show lag, workers and what waits, of every namespace.

    The lag counts positions between what a worker has finished and the end of what was committed to the topic. A
    partition for which nothing is finished yet counts from the topic's beginning.

    Of a target it shows what is tried again, what is parked behind that, and what is dead; and since when and why it is
    paused (by people) or down (it does not answer).

    \b
    Examples:
      walstream status
      walstream status flights --json
    """
    from walstream.cli.selection import selected
    from walstream.kafka import KafkaConnection
    from walstream.status import statuses

    found = statuses(selected(settings, namespaces), KafkaConnection.from_settings(settings), shard=settings.shard)
    if as_json:
        print_json([one.document() for one in found])
        return
    rows: list[tuple[Any, ...]] = []
    for one in found:
        workers = str(len(one.members)) if one.members else "[red]none[/]"
        lags = " + ".join(f"{name} {lag:,}" for name, lag in one.lags.items())
        worst = max(one.partition_lags.values(), default=0)
        waiting: tuple[str, ...] = ("", "", "")
        if one.health is not None:
            counts = one.health.counts
            waiting = tuple(f"{count:,}" for count in (counts.retrying, counts.parked, counts.dead))
        state = ", ".join(f"[red]{word}[/]" for word, _ in _halts(one.health))
        rows.append((one.namespace, one.role, state, f"{one.lag:,}", f"{worst:,}", workers, *waiting, lags))
    columns = ("namespace", "who", "", "lag#", "worst partition#", "workers#", "retrying#", "parked#", "dead#", "where")
    print_table(columns, rows)
    for one in found:
        for word, halted in _halts(one.health):
            since = format_rfc3339(halted.since // 1_000 * 1_000_000)
            why = f": {plain(halted.reason)}" if halted.reason else ""
            click.echo(f"{one.namespace}.{one.role} is {word} since {since}{why}")


def _halts(health: Health | None) -> list[tuple[str, Halted]]:
    """Whether a target is paused or down, since when, and why."""
    if health is None:
        return []
    return [(word, halt) for word, halt in (("paused", health.paused), ("down", health.down)) if halt is not None]

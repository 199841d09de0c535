"""``walstream status``: how far everybody is, and who is at work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from walstream.cli.output import json_option, print_json, print_table, settings_options
from walstream.settings import Settings


@click.command()
@click.argument("namespaces", nargs=-1, metavar="[NAMESPACE]...")
@json_option
@settings_options
def status(settings: Settings, namespaces: Sequence[str], as_json: bool) -> None:
    """Show the lag and the workers of every namespace.

    The lag counts positions between what a worker has finished and the end of what was committed to the topic. A
    partition for which nothing is finished yet counts from the topic's beginning.

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
        rows.append((one.namespace, one.role, f"{one.lag:,}", f"{worst:,}", workers, lags))
    print_table(("namespace", "who", "lag#", "worst partition#", "workers#", "where"), rows)

"""``walstream apply``: what namespaces need outside of walstream is made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import click

from walstream.changes import Action, Change
from walstream.cli.output import json_option, print_json, print_table, say, settings_options, yes_option
from walstream.settings import Settings


@click.command()
@click.argument("namespaces", nargs=-1, metavar="[NAMESPACE]...")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@json_option
@yes_option
@settings_options
def apply(settings: Settings, namespaces: Sequence[str], dry_run: bool, as_json: bool, yes: bool) -> None:
    """Make the topics, keyspaces and tables of the namespaces.

    Run again, it changes nothing. What would break order or lose data, such as another partition count, is refused,
    and then nothing is done at all. With --dry-run --json it prints all that is needed to make the topics with other
    tools. What makes brokers delete records that they would have kept is asked about, unless --yes is given.

    \b
    Examples:
      walstream apply
      walstream apply flights --dry-run
      walstream apply --dry-run --json | jq '.changes[] | select(.kind == "topic")'
    """
    from walstream.apply import apply as make
    from walstream.cli.selection import selected
    from walstream.config import load_connections
    from walstream.kafka import KafkaConnection

    chosen = selected(settings, namespaces)
    connections = load_connections(settings.config)
    kafka = KafkaConnection.from_settings(settings)

    def run(*, dry_run: bool) -> list[Change]:
        region = settings.region, settings.region_rank
        return make(chosen, connections, kafka, shard=settings.shard, region=region, dry_run=dry_run)

    changes = run(dry_run=True)
    refused = any(change.action is Action.REFUSE for change in changes)
    needed = any(change.action in (Action.CREATE, Action.ALTER) for change in changes)
    if needed and not refused and not dry_run:
        destroying = [change for change in changes if change.settings.get("destroys")]
        if destroying and not yes:
            for change in destroying:
                say(f"{change.kind} {change.name}: {change.detail}")
            click.confirm("This lets the brokers delete what they would have kept. Go on?", abort=True, err=True)
        changes = run(dry_run=False)
        refused = any(change.action is Action.REFUSE for change in changes)
    if as_json:
        print_json(_document(changes, dry_run=dry_run, done=needed and not refused and not dry_run))
    else:
        _show(changes, dry_run=dry_run, refused=refused)
    if refused:
        raise SystemExit(1)


def _document(changes: Sequence[Change], *, dry_run: bool, done: bool) -> dict[str, Any]:
    return {
        "dry_run": dry_run,
        "done": done,
        "refused": any(change.action is Action.REFUSE for change in changes),
        "changes": [
            {
                "action": change.action.value,
                "kind": change.kind,
                "name": change.name,
                "detail": change.detail,
                **change.settings,
            }
            for change in changes
        ],
    }


_STYLES = {Action.CREATE: "green", Action.ALTER: "yellow", Action.REFUSE: "red"}


def _show(changes: Sequence[Change], *, dry_run: bool, refused: bool) -> None:
    rows = [
        (
            f"[{_STYLES[change.action]}]{change.action.value}[/]",
            change.kind,
            change.name,
            change.detail.partition("\nremedy: ")[0],
        )
        for change in changes
        if change.action is not Action.NONE and not (refused and change.action is not Action.REFUSE)
    ]
    if rows:
        print_table(("", "kind", "name", "what"), rows)
    counts = Counter(change.action for change in changes)
    if refused:
        # Many topics may have one remedy.
        remedies = [remedy for change in changes for remedy in change.detail.split("\nremedy: ")[1:]]
        for remedy in dict.fromkeys(remedies):
            click.echo(f"remedy: {remedy}")
        say(f"Nothing was done: {counts[Action.REFUSE]} of {len(changes)} are refused.")
    elif not rows:
        say(f"Nothing to do: all {len(changes)} are as they must be.")
    else:
        would = "would be " if dry_run else ""
        parts = [
            f"{counts[action]} {would}{word}"
            for action, word in ((Action.CREATE, "created"), (Action.ALTER, "altered"), (Action.NONE, "unchanged"))
            if counts[action]
        ]
        say(", ".join(parts) + ".")

"""``walstream check``: is the configuration right, and are the topics what it says?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from walstream.cli.output import json_option, plural, print_json, say, settings_options
from walstream.settings import Settings

TIMEOUT = 5.0
"""Seconds until Kafka counts as not there; a check is also made where there is none."""


@click.command()
@click.argument("namespaces", nargs=-1, metavar="[NAMESPACE]...")
@click.option("--offline", is_flag=True, help="Only the files; ask no Kafka.")
@json_option
@settings_options
def check(settings: Settings, namespaces: Sequence[str], offline: bool, as_json: bool) -> None:
    """Check the configuration, and the topics if Kafka answers.

    \b
    Examples:
      walstream check
      walstream check flights --offline
      walstream check --json | jq .problems
    """
    from walstream.cli.selection import choose
    from walstream.config import check_folder, check_regions

    found, errors = check_folder(settings.config)
    if not errors:
        errors = check_regions(found, settings.config, settings.region, settings.region_rank)
    problems: list[dict[str, Any]] = [
        {"file": error.file, "line": error.line, "problem": error.message, "remedy": error.remedy} for error in errors
    ]
    texts = [str(error) for error in errors]
    chosen = [] if errors else choose(found, namespaces or settings.namespaces)
    answered = None
    if chosen and not offline:
        from walstream import topics
        from walstream.admin import Admin
        from walstream.errors import Unreachable
        from walstream.kafka import KafkaConnection

        wanted = [topic for namespace in chosen for topic in topics.all_topics(namespace)]
        try:
            admin = Admin(KafkaConnection.from_settings(settings), timeout=TIMEOUT)
            described = admin.describe({topic.name for topic in wanted})
        except Unreachable as error:
            answered = False
            if not as_json:
                say(f"The topics were not looked at. {error}")
        else:
            answered = True
            differences = topics.verify(wanted, described)
            problems += [
                {
                    "topic": difference.topic,
                    "problem": str(difference),
                    "remedy": difference.remedy,
                }
                for difference in differences
            ]
            texts += [line.removeprefix("  ") for line in topics.explain(differences)]
    if as_json:
        names = [namespace.name for namespace in chosen]
        print_json({"ok": not problems, "namespaces": names, "kafka_answered": answered, "problems": problems})
    else:
        for text in texts:
            click.echo(text)
        if not problems:
            say(f"{plural(len(chosen), 'namespace')}{' and the topics' if answered else ''}: all is right.")
    if problems:
        raise SystemExit(1)

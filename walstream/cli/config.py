"""``walstream config``: what the files say."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click

from walstream.cli.output import json_option, plural, print_json, say, settings_options
from walstream.settings import Settings


@click.group()
def config() -> None:
    """Show or lint the configuration, or print its schema."""


@config.command()
@click.argument("namespaces", nargs=-1, metavar="[NAMESPACE]...")
@json_option
@settings_options
def show(settings: Settings, namespaces: Sequence[str], as_json: bool) -> None:
    """Print namespaces with every default filled in.

    \b
    Examples:
      walstream config show
      walstream config show flights --json
    """
    from walstream.cli.selection import selected

    documents = [
        namespace.model_dump(mode="json", by_alias=True, exclude_none=True)
        for namespace in selected(settings, namespaces)
    ]
    if as_json:
        print_json(documents)
        return
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump_all(documents, sys.stdout)


@config.command()
@json_option
@settings_options
def lint(settings: Settings, as_json: bool) -> None:
    """Check the files alone, as an editor or a pre-commit hook does; asks no Kafka.

    \b
    Examples:
      walstream config lint
      walstream config lint --config deploy/namespaces --json
    """
    from walstream.config import check_folder

    namespaces, errors = check_folder(settings.config)
    if as_json:
        problems = [
            {"file": error.file, "line": error.line, "problem": error.message, "remedy": error.remedy}
            for error in errors
        ]
        print_json({"ok": not errors, "namespaces": list(namespaces), "problems": problems})
    else:
        for error in errors:
            click.echo(str(error))
        if not errors:
            say(f"{plural(len(namespaces), 'namespace')}: all is right.")
    if errors:
        raise SystemExit(1)


@config.command()
@click.option("--connections", is_flag=True, help="That of connections.yaml instead.")
@click.option("--json", "as_json", is_flag=True, help="A schema is always JSON; this changes nothing.")
def schema(connections: bool, as_json: bool) -> None:
    """Print the JSON schema of a namespace file, for editors.

    \b
    Examples:
      walstream config schema > walstream.schema.json
      walstream config schema --connections
    """
    from walstream.schema import connections_schema, namespace_schema

    document: dict[str, Any] = connections_schema() if connections else namespace_schema()
    print_json(document)

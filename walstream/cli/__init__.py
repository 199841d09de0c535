"""The command ``walstream``.

Each command is a function in a module of this package, which is imported when the command runs, so that ``--help`` is
quick and no command needs the libraries of another.
"""

from __future__ import annotations

import importlib
from typing import Any

import click
from click.shell_completion import CompletionItem

from walstream.errors import WalstreamError

COMMANDS = {
    "demo": ("walstream.cli.demo:demo", "Run the main job on real Kafka, Cassandra and flights."),
    "init": ("walstream.cli.init:init", "Write a namespace file to start from."),
    "check": ("walstream.cli.check:check", "Check the configuration, and the topics if Kafka answers."),
    "apply": ("walstream.cli.apply:apply", "Make the topics, keyspaces and tables of the namespaces."),
    "run": ("walstream.cli.run:run", "Run the router and every target, supervised."),
    "status": ("walstream.cli.status:status", "Show lag, workers and what waits, of every namespace."),
    "write": ("walstream.cli.write:write", "Write records to a namespace."),
    "cancel": ("walstream.cli.actions:cancel", "Cancel a write that is delayed."),
    "reschedule": ("walstream.cli.actions:reschedule", "Give another time to a write that is delayed."),
    "dlq": ("walstream.cli.dlq:dlq", "Look into a DLQ; have dead records tried again, or dropped."),
    "retry": ("walstream.cli.retry:retry", "Show what a target is to be given again, and what waits behind it."),
    "target": ("walstream.cli.target:target", "Pause a target, resume it, keep a record from being tried."),
    "replication": (
        "walstream.cli.replication:replication",
        "Show how far other regions are behind; compare two regions' stores.",
    ),
    "index": ("walstream.cli.index:index", "Build an index on a table, compare it with the table, mend it."),
    "config": ("walstream.cli.config:config", "Show or lint the configuration, or print its schema."),
    "bench": ("walstream.cli.bench:bench", "Load a namespace, and say what it holds."),
    "local": ("walstream.cli.local:local", "Start and stop a Kafka and a Cassandra on this machine."),
}
"""Where each command is, and what it does, so that listing them imports none."""


class Failure(click.ClickException):
    """A command did not do what it was asked: exit status 1 and a message."""

    def show(self, file: Any = None) -> None:
        click.echo(f"{click.style('error:', fg='red', bold=True)} {self.format_message()}", file=file, err=True)


class LazyGroup(click.Group):
    """The commands, each imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, function = COMMANDS[cmd_name][0].partition(":")
        try:
            command = getattr(importlib.import_module(module), function)
        except ModuleNotFoundError as error:
            if error.name == module:
                raise Failure(f"this walstream has no command {cmd_name}") from error
            raise Failure(f"walstream {cmd_name} needs {error.name}, which is not installed") from error
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        named = [
            CompletionItem(name, help=summary) for name, (_, summary) in COMMANDS.items() if name.startswith(incomplete)
        ]
        return named + click.Command.shell_complete(self, ctx, incomplete)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except WalstreamError as error:
            raise Failure(str(error)) from error


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Settings come from variables that start with WALSTREAM_, such as WALSTREAM_BROKERS and WALSTREAM_CONFIG.",
)
@click.version_option(package_name="walstream", message="walstream %(version)s")
def main() -> None:
    """A write-ahead log that any datastore can stand behind.

    \b
    Examples:
      walstream demo                      see it work, on this machine
      walstream local up                  a Kafka and a Cassandra to try it with
      walstream init flights              write config/namespaces/flights.yaml
      walstream apply                     make its topics and tables
      walstream run                       route and deliver
    """
    from stamina.instrumentation import set_on_retry_hooks

    set_on_retry_hooks(())  # which would tell of every retry on stdout; what fails in the end says so itself

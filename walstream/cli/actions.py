"""``walstream cancel`` and ``walstream reschedule``: what is said about a write that is delayed."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from walstream.cli.output import json_option, print_json, say, settings_options
from walstream.cli.parameters import Seconds
from walstream.cli.write import elsewhere, make_client, print_option
from walstream.settings import Settings
from walstream.units import format_rfc3339

if TYPE_CHECKING:
    from walstream.answers import Answer
    from walstream.client.receipt import Receipt
    from walstream.client.write import Write


def _action_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds what both commands have in common."""
    for add in reversed(
        (
            click.argument("namespace"),
            click.argument("id_", metavar="ID"),
            click.option("--key", help="The write's key. Without one: of a write by walstream's own client."),
            click.option("--source", help="The write's source."),
            click.option("--action-id", help="The id of the action itself.  [default: a new UUIDv7]"),
            click.option("--time", help="The write time of the action, RFC 3339.  [default: now]"),
            click.option(
                "--wait",
                type=Seconds(),
                default="10s",
                show_default=True,
                help="How long to wait for what becomes of it; 0s: not at all.",
            ),
            click.option(
                "--timeout",
                type=click.FloatRange(min=0.1),
                default=10.0,
                show_default=True,
                help="Seconds that the write of the action may take.",
            ),
            print_option,
            json_option,
            settings_options,
        )
    ):
        function = add(function)
    return function


def _as_action(function: Callable[..., Write]) -> Callable[..., None]:
    """Makes a command of what makes the `Write`."""

    @functools.wraps(function)
    def command(
        settings: Settings,
        namespace: str,
        id_: str,
        key: str | None,
        source: str | None,
        action_id: str | None,
        time: str | None,
        wait: float,
        timeout: float,
        tool: str | None,
        as_json: bool,
        **options: str | None,
    ) -> None:
        write = dataclasses.replace(function(**options), key=key, id=action_id, source=source, time=time, ref=id_)
        client = make_client(settings, timeout)
        if tool is not None:
            if key is None:
                raise click.UsageError("--print needs --key: without one other tools choose another partition")
            elsewhere(client, namespace, write, tool, as_json=as_json)
            return

        async def act() -> Receipt:
            async with client:
                return await client.act(namespace, write, wait or None)

        _show(asyncio.run(act()), write.action, id_, as_json=as_json)

    return command


@click.command()
@_action_options
@_as_action
def cancel() -> Write:
    """Cancel a write that is delayed: the one with the id ID, and with this key and source.

    It may come before the write: then it waits for it, as long as the namespace's dedup window. The exit status is 0 if
    the write is cancelled, or will be when it comes; and 1 if it was sent already, or no answer came.

    \b
    Examples:
      walstream write flights --row flight=UA1545 --delete --delay 30d --id purge-UA1545
      walstream cancel flights purge-UA1545 --key UA1545
      walstream cancel flights purge-UA1545 --key UA1545 --print kcat
    """
    from walstream.client.write import Write

    return Write(None, action="cancel")


@click.command()
@_action_options
@click.option("--delay", help="Deliver this long after now (or after --time), such as 10m.")
@click.option("--deliver-at", help="Deliver at this time, RFC 3339.")
@click.option("--jitter", help="Add up to so much.")
@_as_action
def reschedule(delay: str | None, deliver_at: str | None, jitter: str | None) -> Write:
    """Give another time to a write that is delayed: the one with the id ID, and with this key and source.

    It may come before the write: then it waits for it, as long as the namespace's dedup window. The exit status is 0 if
    the write is rescheduled, or will be when it comes; and 1 if it was sent or cancelled already, or no answer came.

    \b
    Examples:
      walstream reschedule flights purge-UA1545 --key UA1545 --delay 10m
      walstream reschedule flights purge-UA1545 --key UA1545 --deliver-at 2030-01-01T00:00:00Z --jitter 1h
    """
    from walstream.client.write import Write

    if (delay is None) == (deliver_at is None):
        raise click.UsageError("give one of --delay and --deliver-at")
    return Write(None, delay=delay, deliver_at=deliver_at, jitter=jitter, action="reschedule")


def _show(receipt: Receipt, action: str, ref: str, *, as_json: bool) -> None:
    """Print what became of it, and end with the exit status."""
    durable, answer = receipt.durable.value, receipt.answer
    waited = answer is not None or receipt.error is not None
    done = durable == "true" and (not waited or (answer is not None and answer.done))
    if as_json:
        print_json(
            {
                "namespace": receipt.namespace,
                "action": action,
                "ref": ref,
                "id": receipt.id,
                "durable": durable,
                "outcome": None if answer is None else answer.outcome.value,
                "due": None if answer is None or answer.due is None else format_rfc3339(answer.due),
                "log_position": None if answer is None else answer.log_position,
                "error": None if receipt.error is None else str(receipt.error),
            }
        )
    elif answer is not None:
        click.echo(f"{answer.outcome.value.upper()}: {_sentence(answer)}")
    elif durable == "true":
        click.echo(f"WRITTEN: the {action} of {ref} is in {receipt.topic}, id {receipt.id}")
        if receipt.error is not None:
            say(f"error: {receipt.error}; what became of it will be in {receipt.namespace}.answers")
    else:
        click.echo(f"{durable.upper()}: {receipt.topic}, id {receipt.id}")
        say(f"error: {receipt.error}")
        if durable == "unknown":
            say(f"It may be there. To be sure, repeat it with --action-id {receipt.id}")
    if not done:
        click.get_current_context().exit(1)


def _sentence(answer: Answer) -> str:
    ref = answer.ref
    sentences = {
        "cancelled": f"{ref} is cancelled",
        "rescheduled": f"{ref} is due at {'another time' if answer.due is None else format_rfc3339(answer.due)}",
        "superseded": f"something newer was said about {ref}; nothing is changed",
        "sent": f"{ref} is in the log already"
        + ("" if answer.log_position is None else f", at position {answer.log_position}"),
        "expired": f"{ref} had expired, and was not sent",
        "waiting": f"{ref} was not written yet; the {answer.action} waits for it",
    }
    return sentences[answer.outcome.value]

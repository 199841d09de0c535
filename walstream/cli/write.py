"""``walstream write``: records from the command line, a file or stdin."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
import stat
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import IO, TYPE_CHECKING, Any

import click

from walstream.cli.output import json_option, plural, print_json, say, settings_options
from walstream.settings import Settings

if TYPE_CHECKING:
    from rich.progress import Progress

    from walstream.client.asynchronous import AsyncClient
    from walstream.client.batch import Places
    from walstream.client.receipt import Receipt
    from walstream.client.write import Write
    from walstream.mutation import Mutation

READ_BYTES = 256 * 1024  # of NDJSON at a time: some thousand lines
UNANSWERED = 16  # such pieces may wait for answers before the next is read
SHOWN = 20  # lines that went wrong are shown one by one up to here; then only their number

print_option = click.option(
    "--print",
    "tool",
    type=click.Choice(["kcat", "console", "curl", "python"]),
    help="Write nothing; show how another producer writes the same record.",
)


@click.command()
@click.argument("namespace")
@click.argument("payload", required=False)
@click.option("--file", "-f", type=click.File("rb"), help="The payload, or with --ndjson the lines; - is stdin.")
@click.option("--ndjson", is_flag=True, help="Every line of the file, or of stdin, is a record (see below).")
@click.option("--row", multiple=True, metavar="COLUMN=VALUE", help="A key column: write a mutation of this row.")
@click.option("--set", "sets", multiple=True, metavar="COLUMN=VALUE", help="A column to put.")
@click.option("--delete", is_flag=True, help="Delete the row.")
@click.option("--table", help="The mutation's table, where the target names none.")
@click.option("--key", help="The record's key: the unit of order.")
@click.option("--id", "id_", help="The record's id; written twice, it counts once.  [default: a new UUIDv7]")
@click.option("--source", help="The source; with key and id the record's identity.")
@click.option("--type", "type_", help="The record's type.")
@click.option("--content-type", help="The payload's media type.")
@click.option("--time", help="The write time, RFC 3339.  [default: now]")
@click.option("--delay", help="Deliver this long after the write time, such as 10m or PT10M.")
@click.option("--jitter", help="Add up to so much, at random.")
@click.option("--deliver-at", help="Deliver at this time, RFC 3339.")
@click.option("--expiry", help="Do not deliver after this time, RFC 3339.")
@click.option("--targets", help="Only for these targets, comma-separated.")
@click.option("--header", "headers", multiple=True, metavar="NAME=VALUE", help="Another Kafka header.")
@click.option("--timeout", type=click.FloatRange(min=0.1), default=10.0, show_default=True, help="Seconds to wait.")
@print_option
@json_option
@settings_options
def write(
    settings: Settings,
    namespace: str,
    payload: str | None,
    file: IO[bytes] | None,
    ndjson: bool,
    row: tuple[str, ...],
    sets: tuple[str, ...],
    delete: bool,
    table: str | None,
    key: str | None,
    id_: str | None,
    source: str | None,
    type_: str | None,
    content_type: str | None,
    time: str | None,
    delay: str | None,
    jitter: str | None,
    deliver_at: str | None,
    expiry: str | None,
    targets: str | None,
    headers: tuple[str, ...],
    timeout: float,
    tool: str | None,
    as_json: bool,
) -> None:
    """Write records to a namespace.

    The exit status is 0 only if every record is surely in the log. A record whose answer did not come may be there:
    write it again with the same --id.

    \b
    Examples:
      walstream write flights 'any text' --key UA1545
      walstream write flights --row flight=UA1545 --set dep_delay=3 --set gate=null
      walstream write flights --row flight=UA1545 --delete --delay 30d --jitter 1h
      walstream write flights --ndjson --file mutations.ndjson
      walstream write flights --row flight=UA1545 --set dep_delay=3 --print kcat

    A VALUE is JSON, and what is not JSON is text: 3 is a number, '"3"' and gate are text.

    With --ndjson a line is a mutation, {"op": "put", "key": {...}, "set": {...}}, or an object with payload or
    payload_base64 and what else is to be said: key, id, source, type, content_type, time, delay, jitter, deliver_at,
    expiry, targets (a list), extensions, headers (objects). Options say what a line does not. A line with "action":
    "cancel" or "reschedule" has no payload, and the id of the write in ref; what becomes of it is not waited for.
    """
    from walstream.client.write import Write

    mutation = bool(row or sets or delete or table)
    given = [bool(mutation), payload is not None, file is not None and not ndjson]
    if ndjson:
        if any(given) or id_ is not None or tool is not None:
            raise click.UsageError("--ndjson goes with no PAYLOAD, --row, --id or --print; a line says what is in it")
    elif sum(given) != 1:
        raise click.UsageError("give one of PAYLOAD, --file, --row, or --ndjson")
    write = Write(
        None,
        key=key,
        id=id_,
        source=source,
        type=type_,
        content_type=content_type,
        time=time,
        delay=delay,
        jitter=jitter,
        deliver_at=deliver_at,
        expiry=expiry,
        targets=[name.strip() for name in targets.split(",")] if targets is not None else None,
        headers=[_header(header) for header in headers],
    )
    if mutation:
        write.payload = _mutation(row, sets, table, delete=delete)
    elif not ndjson:
        # Bytes, even where it is text: no content type is invented.
        write.payload = file.read() if file is not None else (payload or "").encode()
    client = make_client(settings, timeout)
    if tool is not None:
        elsewhere(client, namespace, write, tool, as_json=as_json)
    elif ndjson:
        summary = asyncio.run(_write_lines(client, namespace, file or click.get_binary_stream("stdin"), write))
        summary.show(namespace, as_json=as_json)
    else:
        _show(asyncio.run(_write_one(client, namespace, write)), as_json=as_json)


def make_client(settings: Settings, timeout: float) -> AsyncClient:
    """The client of a command."""
    from walstream.client.asynchronous import AsyncClient
    from walstream.kafka import KafkaConnection

    explicit = click.get_current_context().params.get("config") is not None
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what it would say comes with the receipt
    return AsyncClient(
        connection=KafkaConnection.from_settings(settings),
        config=settings.config if explicit else None,
        timeout=timeout,
    )


@dataclass
class Summary:
    """What became of the lines.

    Parameters
    ----------
    counts
        How many are ``true``, ``false``, ``unknown``.
    failures
        The first lines that are not ``true``.
    """

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[dict[str, Any]] = field(default_factory=list)

    def add(self, line: int, durable: str, id_: str | None, error: Exception | None) -> None:
        """Count a line."""
        self.counts[durable] += 1
        if durable != "true" and len(self.failures) < SHOWN:
            self.failures.append({"line": line, "durable": durable, "id": id_, "error": str(error)})

    def show(self, namespace: str, *, as_json: bool) -> None:
        """Print it, and end with its exit status."""
        counts = {name: self.counts[name] for name in ("true", "false", "unknown")}
        if as_json:
            print_json({"namespace": namespace, **counts, "failures": self.failures})
        else:
            for failure in self.failures:
                id_ = f" (id {failure['id']})" if failure["id"] else ""
                say(f"line {failure['line']}: {failure['durable'].upper()}{id_}: {failure['error']}")
            if (more := counts["false"] + counts["unknown"] - len(self.failures)) > 0:
                say(f"and {plural(more, 'line')} more")
            click.echo(", ".join(f"{name.upper()} {count:,}" for name, count in counts.items()))
        if counts["false"] or counts["unknown"]:
            click.get_current_context().exit(1)


async def _write_one(client: AsyncClient, namespace: str, write: Write) -> Receipt:
    async with client:
        (receipt,) = await client.write_many(namespace, [write])
    return receipt


async def _write_lines(client: AsyncClient, namespace: str, file: IO[bytes], defaults: Write) -> Summary:
    from walstream.cli.lines import parse_line
    from walstream.errors import RecordRefused

    summary = Summary()
    waiting: deque[tuple[list[int], Places]] = deque()
    number, rest = 0, b""

    async def hand_over(lines: list[bytes]) -> None:
        nonlocal number
        numbers, writes = [], []
        for line in lines:
            number += 1
            if not line or line.isspace():
                continue
            try:
                writes.append(parse_line(line, defaults))
            except RecordRefused as error:
                summary.add(number, "false", None, error)
            else:
                numbers.append(number)
        waiting.append((numbers, await client.add(namespace, writes)))

    async def answers() -> None:
        numbers, places = waiting.popleft()
        for line, receipt in zip(numbers, await places.receipts(), strict=True):
            summary.add(line, receipt.durable.value, receipt.id, receipt.error)

    async with client:
        with _progress() as progress:
            task = progress.add_task("", total=_size(file), written=0)
            # Whatever has come is written at once, so that a slow pipe does not hold back its lines.
            while data := await asyncio.to_thread(_read_some, file):
                *lines, rest = (rest + data).split(b"\n")
                await hand_over(lines)
                while len(waiting) > UNANSWERED:
                    await answers()
                progress.update(task, advance=len(data), written=summary.counts["true"])
            await hand_over([rest])
            while waiting:
                await answers()
                progress.update(task, written=summary.counts["true"])
    summary.failures.sort(key=lambda failure: failure["line"])
    return summary


def _read_some(file: IO[bytes]) -> bytes:
    read1 = getattr(file, "read1", file.read)
    data: bytes = read1(READ_BYTES)
    return data


def _size(file: IO[bytes]) -> int | None:
    """Bytes of a regular file; None where the end is not known."""
    try:
        status = os.fstat(file.fileno())
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (BarColumn(), DownloadColumn(), TextColumn("{task.fields[written]:,} written"), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _show(receipt: Receipt, *, as_json: bool) -> None:
    """Print a receipt, and end with its exit status."""
    durable = receipt.durable.value
    if as_json:
        document = dataclasses.asdict(receipt)
        print_json({**document, "durable": durable, "error": None if receipt.error is None else str(receipt.error)})
    elif durable == "true":
        where = "" if receipt.offset is None else f" offset {receipt.offset}"
        click.echo(f"TRUE: {receipt.topic} partition {receipt.partition}{where}, id {receipt.id}")
    else:
        click.echo(f"{durable.upper()}: {receipt.topic}, id {receipt.id}")
        say(f"error: {receipt.error}")
        if durable == "unknown":
            say(f"It may be there. To be sure, write it again with --id {receipt.id}")
    if durable != "true":
        click.get_current_context().exit(1)


def elsewhere(client: AsyncClient, namespace: str, write: Write, tool: str, *, as_json: bool) -> None:
    """Print how another tool writes the same record."""
    from walstream.cli.elsewhere import Elsewhere
    from walstream.client.ids import Ids
    from walstream.client.write import compose

    route = client.route(namespace)
    record = compose(write, route, id_=Ids().new() if write.id is None else write.id)
    text = Elsewhere(client.connection, route.topic, record).show(tool)
    if as_json:
        print_json({"tool": tool, "text": text})
    else:
        click.echo(text)


def _header(text: str) -> tuple[str, bytes | None]:
    name, equals, value = text.partition("=")
    if not name:
        raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--header")
    return name, value.encode() if equals else None


def _mutation(row: Sequence[str], sets: Sequence[str], table: str | None, *, delete: bool) -> Mutation:
    from walstream import mutation

    if not row:
        raise click.UsageError("--set, --delete and --table need --row, which says the row")
    key = dict(_column("--row", text) for text in row)
    if delete:
        if sets:
            raise click.UsageError("--delete removes the row; it goes with no --set")
        return mutation.delete(key=key, table=table)
    return mutation.put(key=key, set=dict(_column("--set", text) for text in sets), table=table)


def _column(option: str, text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise click.BadParameter(f"{text!r} is not COLUMN=VALUE", param_hint=option)
    try:
        return name, json.loads(value, parse_float=Decimal, parse_constant=_no_constant)
    except ValueError:
        return name, value


def _no_constant(text: str) -> Any:
    """Refuse NaN and Infinity, which Python reads though JSON has none: they are text."""
    raise ValueError(text)

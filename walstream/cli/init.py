"""``walstream init``: a namespace file and a connections file to start from."""

from __future__ import annotations

import os
import re
from pathlib import Path

import click

from walstream.cli.output import json_option, print_json, say, settings_options, yes_option
from walstream.errors import ConfigurationError, Unreachable
from walstream.settings import Settings

NAMESPACE = """\
# A namespace of walstream: one use of the log. All words: walstream config schema
version: 1
namespace: {name}

# Made by `walstream apply`. The partition count is fixed for life: the most workers that can share the work, later too.
topics:
  partitions: {partitions}
  replication: {replication}            # copies of each partition; 1 where there is one broker
  min_insync: {min_insync}             # copies that must have a record before it counts as written
  retention: 7d             # how long the log keeps what every target has finished, at least
  max_record: 1MB           # larger records go to the namespace's dead-letter topic

# The unit of order: the Kafka key, made from the key columns of a mutation.
key: "{{id}}"

# How long an id is remembered: a record that is written again within it takes effect once.
dedup: {{window: 24h}}

# Where records go. Each target reads the log by itself; a slow one holds back nobody else.
targets:
  base:
    sink: cassandra
    connection: main        # from connections.yaml
    options:
      keyspace: {keyspace}
      table: records
      consistency: LOCAL_QUORUM
      create:               # made by `walstream apply`; leave it out where the table exists
        replication: {{class: NetworkTopologyStrategy, datacenter1: 1}}
        primary_key: {{partition: [id]}}
        columns:
          id: text
          body: text
    start: earliest         # latest, or a time: where the target begins when it is new

  copy:
    sink: kafka             # without a connection: the same Kafka
    options: {{topic: {name}-copy}}
"""

CONNECTIONS = """\
# How to reach what targets write to. Secrets never stand here, only where they are: {{file: path}} or {{env: VARIABLE}}
main:
  sink: cassandra
  hosts: {hosts}
  # datacenter: datacenter1   # the one near by, where there are several
  # username: walstream
  # password: {{env: CASSANDRA_PASSWORD}}
  # ssl: {{cafile: /etc/walstream/cassandra-ca.pem}}
"""


@click.command()
@click.argument("namespace", required=False)
@click.option("--partitions", type=click.IntRange(1, 10_000), help="Fixed for life.  [default: 12]")
@click.option(
    "--replication", type=click.IntRange(1, 100), help="Copies of each record.  [default: 3, or as many as brokers]"
)
@json_option
@yes_option
@settings_options
def init(
    settings: Settings,
    namespace: str | None,
    partitions: int | None,
    replication: int | None,
    as_json: bool,
    yes: bool,
) -> None:
    """Write a namespace file to start from, and connections.yaml where there is none.

    Asks for what was not given, and overwrites nothing.

    \b
    Examples:
      walstream init
      walstream init flights --yes
      walstream init flights --partitions 24 --config deploy/namespaces
    """
    if namespace is None:
        namespace = "example" if yes else click.prompt("Name of the namespace", default="example", err=True)
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,62}", namespace) or namespace == "router":
        raise ConfigurationError(
            f"{namespace!r} cannot be a namespace",
            remedy="a name has lower-case letters, digits and '-', starts with a letter, and is not router",
        )
    file = settings.config / f"{namespace}.yaml"
    if file.exists():
        raise ConfigurationError(f"{file} exists already", remedy="edit it, or choose another name")
    if partitions is None:
        partitions = 12 if yes else click.prompt("Partitions, fixed for life", default=12, type=int, err=True)
    if replication is None:
        brokers = _brokers(settings)
        replication = min(3, brokers) if brokers else 3
        if brokers and replication < 3:
            say(f"Kafka has {brokers} broker{'' if brokers == 1 else 's'}, so each record will have as many copies.")
    written = [file]
    _write(
        file,
        NAMESPACE.format(
            name=namespace,
            partitions=partitions,
            replication=replication,
            min_insync=min(2, replication),
            keyspace=namespace.replace("-", "_"),
        ),
    )
    connections = settings.config / "connections.yaml"
    if connections.exists():
        say(f"{connections} exists already and stays as it is; the file's target base names the connection main.")
    else:
        local = "WALSTREAM_CASSANDRA" in os.environ  # as `walstream local env` says
        _write(connections, CONNECTIONS.format(hosts="{env: WALSTREAM_CASSANDRA}" if local else "[localhost]"))
        written.append(connections)
    if as_json:
        print_json({"written": [str(path) for path in written]})
    else:
        for path in written:
            click.echo(f"wrote {path}")
        say("Look through them; then: walstream check, walstream apply, walstream run")


def _brokers(settings: Settings) -> int:
    """How many brokers the cluster has; 0 where none answers."""
    from walstream.admin import Admin
    from walstream.kafka import KafkaConnection

    try:
        return Admin(KafkaConnection.from_settings(settings), timeout=2.0).broker_count()
    except Unreachable:
        return 0


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from error

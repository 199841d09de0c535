"""A Faust app over two sources, ``RELAY.control`` and ``RELAY.log``: what comes is relayed to ``RELAY.out``.

A control that says ``shut`` or ``open`` is about the log of its partition, for every owner from then on. `RELAY` is a
prefix from the environment, as are `BROKERS` and `DATADIR`.
"""

from __future__ import annotations

import os
from pathlib import Path

from walstream.engine.app import make_app
from walstream.engine.checkpoint import Checkpoint
from walstream.engine.source import Source
from walstream.engine.topology import TableSpec, Topology

PREFIX, BROKERS = os.environ["RELAY"], os.environ["BROKERS"]
CONTROL, LOG, OUT, CHANGELOG = (f"{PREFIX}.{name}" for name in ("control", "log", "out", "changelog"))
PARTITIONS = 4
TAKEN, DONE = 5, 2  # records that are taken at once, and how many of them are not put back
SHUT = b"shut"


class Relay:
    """The work on one partition number."""

    _is_shut = False

    async def open(self, checkpoint: Checkpoint) -> None:
        self._is_shut = checkpoint.table("said").get(b"said") == SHUT

    async def process(self, source: Source, checkpoint: Checkpoint) -> None:
        records = source.take(TAKEN)
        source.put_back(records[DONE:])
        for record in records[:DONE]:
            checkpoint.output(OUT).append(1, source.topic.encode(), record.value)
            if source.topic == CONTROL and record.value in (SHUT, b"open"):
                self._is_shut = record.value == SHUT
                checkpoint.table("said").put(b"said", record.value, 1)

    def wants(self, topic: str) -> bool:
        return topic == CONTROL or not self._is_shut

    def due_at(self) -> int | None:
        return None

    async def process_due(self, checkpoint: Checkpoint) -> None: ...

    def finish(self, checkpoint: Checkpoint) -> None: ...

    async def close(self, checkpoint: Checkpoint | None) -> None: ...


app = make_app(
    f"{PREFIX}.relay",
    [Topology("relay", (CONTROL, LOG), PARTITIONS, (TableSpec("said", CHANGELOG),), lambda partition: Relay())],
    brokers=[BROKERS],
    connection={"bootstrap_servers": BROKERS},
    datadir=Path(os.environ["DATADIR"]),
    preflight=lambda: {CHANGELOG: "id"},
    standbys=0,
)

"""Mends what a comparison found: says to the index's target what base rows are, and which entries are too many.

It writes nothing into the index itself, since only the target knows what it has written and when. What a repair says
goes to the target's retry topic, and there the sink makes the row's entries what the base row says, unless something
newer has come since.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from walstream import topics
from walstream.errors import RecordRefused
from walstream.indexes.build import Skipped
from walstream.indexes.index import Index
from walstream.indexes.lookup import Seen
from walstream.indexes.positions import Positions
from walstream.indexes.records import Shape, row_id
from walstream.indexes.rows import BaseRows, Key
from walstream.indexes.values import NoForm
from walstream.kafka import KafkaConnection
from walstream.murmur2 import partition_for
from walstream.sinks.index.repair import TYPE, Repair
from walstream.writer import Writer


class Repairs:
    """Repairs of an index, on their way.

    Parameters
    ----------
    index
        Which.
    connection
        The namespace's Kafka.
    positions
        How far the target is.
    rate
        Base rows per second, at most.
    """

    def __init__(self, index: Index, connection: KafkaConnection, positions: Positions, rate: float | None) -> None:
        self._index, self._positions = index, positions
        self._rows, self._shape = BaseRows(index.definition), Shape(index.name, TYPE)
        self._template, self._partitions = index.template, index.namespace.topics.partitions
        retries = topics.retry(index.namespace, index.target)
        self._topic = retries.name
        self._writer = Writer(connection, largest=int(retries.config["max.message.bytes"]), rate=rate)
        self.skipped: list[Skipped] = []

    def send(self, differing: Mapping[Key, Seen]) -> int:
        """Say what base rows are, and wait until that is written; answer of how many.

        Raises
        ------
        NotDurable
            It was not written, or may not be.
        """
        count = 0
        for key, seen in differing.items():
            try:
                columns = self._rows.key_json(key)
                kafka_key = self._template.render(columns)
            except (NoForm, RecordRefused) as error:
                self.skipped.append(Skipped(tuple(part.hex() for part in key), str(error)))
                continue
            now = int(time.time() * 1_000_000)
            repair = Repair(
                table=self._index.options.base,
                key=columns,
                seen=seen.when,
                above=max(seen.latest, now),
                row=None if seen.cells is None else dict(seen.cells),
                stale=sorted(seen.found.keys() - seen.wanted.keys()),
            )
            number = partition_for(kafka_key, self._partitions)
            message = self._shape.message(kafka_key, repair.to_bytes(), now, row_id(key, now))
            self._writer.write(self._topic, number, message)
            count += 1
        self._writer.flush()
        return count

    def wait(self) -> None:
        """Wait until the target has taken them.

        Raises
        ------
        Behind
            It takes nothing.
        """
        self._positions.wait(self._positions.ends([self._index.target]))

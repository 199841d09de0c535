"""Builds an index on a base table that has rows, while writes go on.

The rows are read by ranges of tokens, with the write time of every column that matters. What a row has of one write
becomes a mutation of that time, and goes to the target's retry topic: so the delivery takes it as it takes what comes
from the log, and it does not matter which of the two is first. Where a build was ended, the next one goes on.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from walstream import control, topics
from walstream.control import Control, Kind
from walstream.errors import RecordRefused
from walstream.indexes.index import Index
from walstream.indexes.pages import MOST, RANGES, Range, Row, Scan
from walstream.indexes.positions import Positions
from walstream.indexes.publisher import Publisher
from walstream.indexes.records import Shape, row_id
from walstream.indexes.rows import BaseRows, Key
from walstream.indexes.standing import Note
from walstream.indexes.values import Decode, NoForm, decoder
from walstream.kafka import KafkaConnection
from walstream.murmur2 import partition_for
from walstream.mutation import TYPE, to_json
from walstream.record import Message
from walstream.scan import Scanner

NOTED_EVERY = 2.0
"""Seconds between two notes of how far the build is."""

MOST_AHEAD = 200_000
"""Records that may be on the retry topic and not taken yet, or taken and to be tried again: a target that is down must
not let all of a table wait."""

HEALTH_EVERY = 10.0
"""Seconds between two looks at how many are to be tried again."""

EXAMPLES = 20
"""Rows that no mutation can be made of, of which the reason is kept."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A row that no mutation can be made of.

    Parameters
    ----------
    key
        Its key's bytes, as hexadecimal digits.
    """

    key: tuple[str, ...]
    reason: str


class Mutations:
    """What base rows become.

    Parameters
    ----------
    index
        Which.
    """

    def __init__(self, index: Index) -> None:
        self.rows = BaseRows(index.definition, times=True)
        self._table, self._render = index.options.base, index.template.render
        self._partitions = index.namespace.topics.partitions
        self._message = Shape(index.name, TYPE).message
        base = index.definition.base
        types = dict(zip(base.columns, index.definition.types, strict=True))
        self._to_json: dict[str, Decode] = {column: decoder(types[column]) for column in self.rows.tracked}

    def of(self, row: Row) -> Sequence[tuple[int, Message]]:
        """The records of a row, each with its partition.

        Raises
        ------
        NoForm, RecordRefused
            No mutation has such a value, or no Kafka key can be made of its key.
        """
        rows, to_json_of = self.rows, self._to_json
        key = rows.key(row)
        key_json = rows.key_json(key)
        kafka_key = self._render(key_json)
        number = partition_for(kafka_key, self._partitions)
        made = []
        for written, values in rows.writes(row).items():
            columns = {column: to_json_of[column](value) for column, value in values if column}
            payload = to_json({"op": "put", "table": self._table, "key": key_json, "set": columns})
            made.append((number, self._message(kafka_key, payload, written, row_id(key, written))))
        return made


class Build:
    """A build.

    Parameters
    ----------
    index
        Which.
    connection, scanner
        The namespace's Kafka.
    note
        Where an earlier one ended, to go on from there; None begins.
    rate
        Rows per second, at most.

    Attributes
    ----------
    note
        How far it is.
    examples
        Rows that no mutation can be made of; some of them.
    """

    def __init__(
        self, index: Index, connection: KafkaConnection, scanner: Scanner, *, note: Note | None, rate: float | None
    ) -> None:
        now = int(time.time() * 1000)
        self.note = note or Note(uuid.uuid4().hex[:12], now)
        self.examples: list[Skipped] = []
        self._index, self._scanner, self._rate = index, scanner, rate
        self._positions = Positions(scanner.admin, index.namespace)
        self._looked = time.monotonic()
        self._partitions = index.namespace.topics.partitions
        self._topic = topics.retry(index.namespace, index.target).name
        self._publisher = Publisher(connection, self._topic, self._partitions)

    def run(self, progress: Callable[[Note], object], waits: Callable[[int], object]) -> None:
        """Read the rows that are left, write their records, and say when it was all.

        Parameters
        ----------
        progress
            Told now and then how far it is.
        waits
            Told how many records the target has yet to take, where it is waited for that.

        Raises
        ------
        SinkError, NotDurable, Unreachable
            Cassandra or Kafka does not answer. What was noted stays noted.
        Behind
            The target takes nothing.
        """
        with self._publisher:
            if not self.note.is_complete:
                self._read(progress, waits)
            said = control.encode(Control(Kind.READY, reason=self.note.build))
            self._publisher.write([(number, said) for number in range(self._partitions)])

    def wait(self, progress: Callable[[int], object]) -> None:
        """Wait until the target has taken all of it.

        Raises
        ------
        Behind
            It takes nothing.
        """
        self._positions.wait(self._positions.ends([self._index.target]), progress)

    def _read(self, progress: Callable[[Note], object], waits: Callable[[int], object]) -> None:
        index, mutations = self._index, Mutations(self._index)
        base = index.definition.base
        scan = Scan(index, base.name, mutations.rows.select, base.partition)
        ranges = Range(self.note.token, MOST).split(RANGES)
        done, first = set[int](), 0
        began, read = time.monotonic(), 0
        noted = began
        for page in scan.pages(ranges):
            self._write(mutations, page.rows)
            read += len(page.rows)
            if page.is_last:
                done.add(page.number)
                while first in done:
                    done.discard(first)
                    first += 1
            progress(replace(self.note, token=ranges[first - 1].upto if first else self.note.token))
            now = time.monotonic()
            if now - noted >= NOTED_EVERY:
                self._write_note(ranges[first - 1].upto if first else self.note.token)
                self._hold_back(waits)
                noted = time.monotonic()
            if self._rate is not None:
                time.sleep(max(0.0, began + read / self._rate - time.monotonic()))
        self._write_note(MOST)
        progress(self.note)

    def _write(self, mutations: Mutations, rows: Sequence[Row]) -> None:
        records: list[tuple[int, Message]] = []
        skipped, of = 0, mutations.of
        for row in rows:
            try:
                records += of(row)
            except (NoForm, RecordRefused) as error:
                skipped += 1
                if len(self.examples) < EXAMPLES:
                    key: Key = mutations.rows.key(row)
                    self.examples.append(Skipped(tuple(part.hex() for part in key), str(error)))
        self._publisher.write(records)
        note = self.note
        self.note = replace(
            note, rows=note.rows + len(rows), records=note.records + len(records), skipped=note.skipped + skipped
        )

    def _write_note(self, token: int) -> None:
        """Note how far it is, when all that stands in front of that is acknowledged."""
        self._publisher.flush()
        self.note = replace(self.note, token=token)
        self._publisher.write([(0, control.encode(self.note.control()))])

    def _hold_back(self, waits: Callable[[int], object]) -> None:
        """Wait while the target is too far behind."""
        target = self._index.target
        ends = {place: offset + 1 for place, offset in self._publisher.acknowledged.items()}
        if self._positions.behind(target, ends) > MOST_AHEAD:
            self._positions.wait_below(target, ends, MOST_AHEAD // 2, waits)
        if time.monotonic() - self._looked > HEALTH_EVERY:
            if self._positions.waiting(self._scanner, target) > MOST_AHEAD:
                self._positions.wait_for_retries(self._scanner, target, MOST_AHEAD // 2, waits)
            self._looked = time.monotonic()

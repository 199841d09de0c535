"""Keeps an index of a base table: a table of Cassandra with an entry for each value that a row is looked up by.

Every entry of the log is a mutation of a base row, as the sink ``cassandra`` takes them. What was known of the row's
columns is in the state, so that stale entries are removed, and a mutation may name some columns only. Entries are
written before the state: after a crash the same steps are taken again, with the same result.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cassandra import InvalidRequest

from walstream.changes import Change
from walstream.connections import CassandraConnection
from walstream.entry import Entry
from walstream.errors import ConfigurationError, RecordRefused, SinkError
from walstream.mutation import TYPE as MUTATION_TYPE
from walstream.sinks.base import (
    DEAD,
    RETRY,
    SKIPPED,
    TARGET_DOWN,
    Applied,
    Dead,
    Outcome,
    Retry,
    SinkContext,
    State,
    StatefulSink,
)
from walstream.sinks.cassandra import session
from walstream.sinks.cassandra.sink import CassandraSink
from walstream.sinks.cassandra.statements import BadMutation
from walstream.sinks.cassandra.writer import Writer
from walstream.sinks.index import provision, repair
from walstream.sinks.index.definition import BadDefinition
from walstream.sinks.index.options import IndexOptions
from walstream.sinks.index.steps import Step, Taken, take_all
from walstream.sinks.index.table import IndexTable, read_definition

Failed = Mapping[int, Exception]
"""Rows whose statements failed, by their place among those that were taken, and why."""


class IndexSink(StatefulSink):
    """Every entry's payload is a mutation; what it changes in the index becomes INSERTs and DELETEs."""

    Options = IndexOptions
    needs_connection = True
    connection_kind = "cassandra"
    late_writes_harmless = True  # a statement's timestamp is made of what it is about
    replays_in_order = True  # what it removes is what it wrote, also in an attempt that was lost
    forgets_deletes = True
    errors = CassandraSink.errors

    def __init__(self, context: SinkContext) -> None:
        super().__init__(context)
        target = f"{context.namespace}.{context.target}"
        if not isinstance(context.connection, CassandraConnection):
            raise ConfigurationError(
                f"the target {target} names a connection that is no Cassandra",
                remedy="name an entry of connections.yaml with sink: cassandra",
            )
        if context.key_template is None:
            raise ConfigurationError(
                f"the target {target} is an index, and the namespace makes no keys: the mutations of a row could be in"
                " several partitions",
                remedy="write key: a template of the base table's key columns, such as {flight}",
            )
        if not context.ordered:
            raise ConfigurationError(
                f"the target {target} is an index, and has no order: what it removes follows from what it wrote before",
                remedy="leave ordering: key, which is the default",
            )
        self._session: Any = None
        self._writer: Writer
        self._known: tuple[tuple[object, object], IndexTable] | None = None
        self._reading = asyncio.Lock()

    async def open(self) -> None:
        self._session = await asyncio.to_thread(session.connect, self.context.connection, self.options.consistency)
        self._writer = Writer(self._session, self.options.keyspace, self.verdict)
        await self._table()

    async def close(self) -> None:
        if self._session is not None:
            await asyncio.to_thread(session.disconnect, self._session)
            self._session = None

    async def provision(self, *, dry_run: bool) -> Sequence[Change]:
        return await asyncio.to_thread(self._provision, dry_run)

    def _provision(self, dry_run: bool) -> Sequence[Change]:
        connected = session.connect(self.context.connection, self.options.consistency)
        try:
            return provision.provision(connected, self.options, dry_run=dry_run)
        finally:
            session.disconnect(connected)

    async def write_with(self, batch: Sequence[Entry], state: State) -> Sequence[Outcome]:
        outcomes: dict[int, Outcome] = {}
        steps = await self._steps(batch, outcomes)
        stored = self._stored(steps, state)
        table = await self._table()
        taken = take_all(table.definition, table.codec, steps, stored)
        failed = await self._write(table, taken)
        if not failed:
            for row in taken:
                _applied(row, outcomes)
            return [outcomes[i] for i in range(len(batch))]
        refused = []
        some_answered = len(failed) < sum(1 for row in taken if row.has_statements) or any(
            self.verdict(error) is not TARGET_DOWN for error in failed.values()
        )
        for number, row in enumerate(taken):
            error = failed.get(number)
            if error is None:
                _applied(row, outcomes)
            elif self.verdict(error) is DEAD:
                refused.append(row)
            else:
                reason = self._reason(error, some_answered)
                outcomes |= {step.place: Retry(reason) for step in row.steps}
        for row in refused:
            await self._one_by_one(row, outcomes)
        return [outcomes[i] for i in range(len(batch))]

    async def _steps(self, batch: Sequence[Entry], outcomes: dict[int, Outcome]) -> list[Step]:
        """The steps of a batch; what is none has its outcome at once."""
        table = await self._table()
        steps: dict[int, Step] = {}
        again: dict[int, BadMutation] = {}
        for i, entry in enumerate(batch):
            try:
                self._step(table, i, entry, steps, outcomes)
            except RecordRefused as refused:
                outcomes[i] = Dead(str(refused))
            except BadMutation as bad:
                again[i] = bad
        if again:
            # What the schema as we know it does not allow may be allowed by now: read it anew and try once more.
            table = await self._table(anew=True)
            for i in again:
                try:
                    self._step(table, i, batch[i], steps, outcomes)
                except BadMutation as bad:
                    outcomes[i] = Dead(str(bad))
        return [steps[i] for i in sorted(steps)] if again else list(steps.values())

    def _step(
        self, table: IndexTable, i: int, entry: Entry, steps: dict[int, Step], outcomes: dict[int, Outcome]
    ) -> None:
        kind, step = entry.type, None
        if kind == MUTATION_TYPE:
            step = table.step(i, entry.payload, entry.time)
        elif kind == repair.TYPE:
            mended = repair.parse(entry.payload)
            if mended.table == self.options.base:
                step = table.mend(i, mended)
        else:
            raise RecordRefused("no-mutation", f"its type is {kind}, and this sink understands {MUTATION_TYPE}")
        if step is None:
            outcomes[i] = SKIPPED  # of another table, or of columns that do not matter
        else:
            steps[i] = step

    def _stored(self, steps: Sequence[Step], state: State) -> dict[bytes, bytes | None]:
        keys = list(dict.fromkeys([step.row_key for step in steps]))
        return dict(zip(keys, state.get_many(keys), strict=True))

    async def _write(self, table: IndexTable, taken: Sequence[Taken]) -> Failed:
        return await self._writer.write(
            [write for number, row in enumerate(taken) for write in table.writes(number, row)]
        )

    async def _one_by_one(self, row: Taken, outcomes: dict[int, Outcome]) -> None:
        """Take the steps of a row one after the other, since Cassandra refuses what one of them leads to."""
        table = await self._table(anew=True)
        stored, tried = row.stored, row
        for number, step in enumerate(row.steps):
            alone = Taken(table.definition, table.codec, step.key, stored)
            alone.go_behind(tried)
            alone.take(step)
            error = (await self._write(table, [alone])).get(0)
            tried, later = alone, row.steps[number:]
            if error is None:
                _applied(alone, outcomes)
                stored = alone.after[0] or stored
                continue
            if self.verdict(error) is DEAD:
                before = Taken(table.definition, table.codec, step.key, stored)
                before.go_behind(alone)
                before.rewrite()
                undone = (await self._write(table, [before])).get(0)
                tried = before
                if undone is None:
                    outcomes[step.place] = Dead(f"{type(error).__name__}: {error}")
                    if not self.context.hold:
                        continue
                    later = row.steps[number + 1 :]
                else:
                    error = undone
            reason = f"{type(error).__name__}: {error}"
            outcomes |= {each.place: Retry(reason) for each in later}
            return

    def _reason(self, error: Exception, some_answered: bool) -> str:
        """Why an entry is tried again. Raises the error where the target is down, or it is in no table."""
        verdict = self.verdict(error)
        if verdict is RETRY or (verdict is TARGET_DOWN and some_answered):
            return f"{type(error).__name__}: {error}"
        raise error

    async def _table(self, *, anew: bool = False) -> IndexTable:
        """The index as the schema is now. It is looked at again after the server has told of a change."""
        async with self._reading:
            version = self._version(self.options.base), self._version(self.options.table)
            if self._known is not None and not anew and _same(self._known[0], version):
                return self._known[1]
            try:
                table = await asyncio.to_thread(self._read)
            except (BadDefinition, InvalidRequest) as error:
                raise SinkError(f"{error}; `walstream apply` makes the index's table, or says what is wrong") from error
            self._known = version, table
            return table

    def _read(self) -> IndexTable:
        definition = read_definition(self._session, self.options)
        if definition is None:
            raise BadDefinition(f"there is no table {self.options.keyspace}.{self.options.base} to index")
        return IndexTable(self._session, definition)

    def _version(self, name: str) -> object:
        """Another object after the server has told of a change to the table."""
        keyspace = self._session.cluster.metadata.keyspaces.get(self.options.keyspace)
        return None if keyspace is None else keyspace.tables.get(name)


def _same(known: Iterable[object], found: Iterable[object]) -> bool:
    return all(one is other for one, other in zip(known, found, strict=True))


def _applied(row: Taken, outcomes: dict[int, Outcome]) -> None:
    for step, stored in zip(row.steps, row.after, strict=True):
        outcomes[step.place] = SKIPPED if stored is None else Applied({step.row_key: stored})

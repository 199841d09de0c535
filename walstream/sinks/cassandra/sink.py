"""Writes mutations to tables of a Cassandra keyspace, by effective time.

What becomes of an error (`CassandraSink.errors`):

================================================================== ====================================================
The driver says                                                    So
================================================================== ====================================================
no host, a timeout, unavailable replicas, overload, a password or  The target is down where nothing of the batch got
permission refused; a timed-out write may have been applied, and   through; else these entries are tried again. Both are
is the same write when it is repeated                              harmless: every write has its effective time.
a replica failed to write (WriteFailure)                           These entries are tried again.
the request is invalid (a size limit, an empty partition key, …)   Once more with the schema read anew, then dead.
================================================================== ====================================================

A mutation that the table cannot take (no mutation at all, an unknown column, a value of the wrong type) is dead.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

from cassandra import (
    AuthenticationFailed,
    InvalidRequest,
    OperationTimedOut,
    ReadFailure,
    ReadTimeout,
    Unauthorized,
    Unavailable,
    WriteFailure,
    WriteTimeout,
)
from cassandra.cluster import NoHostAvailable
from cassandra.connection import ConnectionBusy, ConnectionException
from cassandra.protocol import IsBootstrappingErrorMessage, OverloadedErrorMessage
from pydantic import Field, model_validator

from walstream.changes import Action, Change
from walstream.entry import Entry
from walstream.errors import RecordRefused, SinkError
from walstream.mutation import TYPE as MUTATION_TYPE
from walstream.mutation import Mutation, parse_mutation
from walstream.namespace import Words, fault
from walstream.sinks.base import APPLIED, DEAD, RETRY, TARGET_DOWN, Dead, Outcome, Readable, Retry, Sink, SinkContext
from walstream.sinks.cassandra import provision, reading, schema, session
from walstream.sinks.cassandra.batches import Row
from walstream.sinks.cassandra.statements import BadMutation, Statements
from walstream.sinks.cassandra.writer import Writer

Consistency = Literal["ONE", "TWO", "THREE", "QUORUM", "ALL", "LOCAL_ONE", "LOCAL_QUORUM", "EACH_QUORUM"]


class CassandraOptions(Words):
    """Where mutations go. Without ``table``, each mutation names its own."""

    keyspace: str = Field(min_length=1)
    table: str | None = Field(default=None, min_length=1)
    consistency: Consistency = "LOCAL_QUORUM"
    create: provision.Create | None = None

    @model_validator(mode="after")
    def _check(self) -> CassandraOptions:
        if self.create is not None and self.table is None:
            raise fault("create describes a table that has no name", "create", remedy="write table: <its name>")
        return self


class CassandraSink(Sink, Readable):
    """Every entry's payload is a mutation; it becomes one row's INSERT or DELETE ``USING TIMESTAMP``."""

    Options = CassandraOptions
    needs_connection = True
    late_writes_harmless = True  # by its effective time, a late write changes nothing that is newer
    forgets_deletes = True
    errors: ClassVar = {
        NoHostAvailable: TARGET_DOWN,
        ConnectionException: TARGET_DOWN,
        ConnectionBusy: TARGET_DOWN,
        OperationTimedOut: TARGET_DOWN,
        WriteTimeout: TARGET_DOWN,
        Unavailable: TARGET_DOWN,
        OverloadedErrorMessage: TARGET_DOWN,
        IsBootstrappingErrorMessage: TARGET_DOWN,
        AuthenticationFailed: TARGET_DOWN,
        Unauthorized: TARGET_DOWN,
        SinkError: TARGET_DOWN,
        ReadTimeout: TARGET_DOWN,  # while it is read through
        ReadFailure: TARGET_DOWN,
        WriteFailure: RETRY,
        InvalidRequest: DEAD,
    }

    def __init__(self, context: SinkContext) -> None:
        super().__init__(context)
        self._session: Any = None
        self._writer: Writer
        self._tables: dict[str, tuple[object, Statements]] = {}
        self._reading = asyncio.Lock()

    async def open(self) -> None:
        self._session = await asyncio.to_thread(session.connect, self.context.connection, self.options.consistency)
        self._writer = Writer(self._session, self.options.keyspace, self.verdict)
        if self.options.table is not None:
            await self._statements(self.options.table)

    async def close(self) -> None:
        if self._session is not None:
            await asyncio.to_thread(session.disconnect, self._session)
            self._session = None

    @property
    def form(self) -> str:
        return "rows of a table" if self.options.table is not None else "rows of the tables of a keyspace"

    def scan(self) -> AsyncIterator[Sequence[tuple[bytes, bytes]]]:
        return reading.Rows(self._session, self.options.keyspace, self.options.table).scan()

    async def look_up(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        return await reading.Rows(self._session, self.options.keyspace, self.options.table).look_up(keys)

    async def provision(self, *, dry_run: bool) -> Sequence[Change]:
        return await asyncio.to_thread(self._provision, dry_run)

    def _provision(self, dry_run: bool) -> Sequence[Change]:
        options = self.options
        connected = session.connect(self.context.connection, options.consistency)
        try:
            steps = provision.plan(connected, options.keyspace, options.table, options.create)
            if not dry_run and not any(change.action is Action.REFUSE for change, _ in steps):
                for _, cql in steps:
                    if cql is not None:
                        connected.execute(cql)
            return [change for change, _ in steps]
        finally:
            session.disconnect(connected)

    async def write(self, batch: Sequence[Entry]) -> Sequence[Outcome]:
        outcomes: dict[int, Outcome] = {}
        mutations: dict[int, tuple[str, Mutation]] = {}
        for i, entry in enumerate(batch):
            try:
                mutations[i] = self._mutation(entry)
            except RecordRefused as refused:
                outcomes[i] = Dead(str(refused))
        failed = await self._apply(batch, mutations)
        again = {i: mutations[i] for i, error in failed.items() if isinstance(error, BadMutation | InvalidRequest)}
        if again:
            # What the schema as we know it does not allow may be allowed by now: read it anew and try once more.
            for table, _ in again.values():
                self._tables.pop(table, None)
            failed = {i: error for i, error in failed.items() if i not in again} | await self._apply(batch, again)
        some_applied = len(failed) < len(mutations)
        for i, error in failed.items():
            outcomes[i] = self._outcome(error, some_applied)
        return [outcomes.get(i, APPLIED) for i in range(len(batch))]

    def _mutation(self, entry: Entry) -> tuple[str, Mutation]:
        """An entry's mutation, and the table that it is for."""
        if entry.type != MUTATION_TYPE:
            raise RecordRefused("no-mutation", f"its type is {entry.type}, and this sink understands {MUTATION_TYPE}")
        mutation = parse_mutation(entry.payload)
        own, named = self.options.table, mutation.table
        if own is None and named is None:
            raise RecordRefused("no-table", "the mutation names no `table`, and neither does the target")
        if own is not None and named is not None and own != named:
            raise RecordRefused("wrong-table", f"the mutation is for the table {named}, and the target writes to {own}")
        return own or str(named), mutation

    def _outcome(self, error: Exception, some_applied: bool) -> Outcome:
        verdict = DEAD if isinstance(error, BadMutation) else self.verdict(error)
        reason = str(error) if isinstance(error, BadMutation) else f"{type(error).__name__}: {error}"
        if verdict is DEAD:
            return Dead(reason)
        if verdict is RETRY or (verdict is TARGET_DOWN and some_applied):
            return Retry(reason)
        raise error

    async def _apply(
        self, batch: Sequence[Entry], mutations: Mapping[int, tuple[str, Mutation]]
    ) -> dict[int, Exception]:
        """Write mutations, by their places in the batch, and answer with those that failed, and why."""
        failed: dict[int, Exception] = {}
        rows: list[Row] = []
        tables: dict[str, Statements | BadMutation] = {}
        for i, (name, mutation) in mutations.items():
            try:
                table = tables.get(name)
                if table is None:
                    table = tables[name] = await self._statements(name)
                if isinstance(table, BadMutation):
                    raise table
                entry = batch[i]
                rows.append(Row(i, name, len(entry.value or b""), *table.bind(mutation, entry.time)))
            except BadMutation as bad:
                failed[i] = bad
        return failed | await self._writer.write(rows)

    async def _statements(self, name: str) -> Statements | BadMutation:
        """The statements of a table, or why there can be none."""
        async with self._reading:
            version = self._version(name)
            known = self._tables.get(name)
            if known is not None and known[0] is version:
                return known[1]
            try:
                statements = await asyncio.to_thread(self._read, name)
            except (BadMutation, InvalidRequest) as error:
                if name != self.options.table:
                    return BadMutation(str(error))
                # The target's own table is gone or wrong: that is no record's fault.
                raise SinkError(f"{error}; `walstream apply` makes what options.create describes") from error
            self._tables[name] = version, statements
            return statements

    def _version(self, name: str) -> object:
        """Another object after the server has told of a change to the table.

        Asked for because a table that was dropped and made again with other types may take the old types' bytes.
        """
        keyspace = self._session.cluster.metadata.keyspaces.get(self.options.keyspace)
        return None if keyspace is None else keyspace.tables.get(name)

    def _read(self, name: str) -> Statements:
        table = schema.read_table(self._session, self.options.keyspace, name)
        if table is None:
            raise BadMutation(f"there is no table {self.options.keyspace}.{name}")
        if table.is_counter:
            raise BadMutation(f"{table} holds counters, which cannot be written twice with one result")
        return Statements(self._session, table)

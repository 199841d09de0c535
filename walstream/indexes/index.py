"""An index as commands see it: its target, its definition, and a connection on which rows come as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from cassandra import InvalidRequest
from cassandra.cluster import EXEC_PROFILE_DEFAULT
from cassandra.cqltypes import BytesType
from cassandra.protocol import ProtocolHandler, ResultMessage
from cassandra.query import tuple_factory

from walstream.connections import CassandraConnection, Connection
from walstream.errors import ConfigurationError, SinkError
from walstream.mutation import KeyTemplate
from walstream.namespace import Namespace
from walstream.sinks.cassandra import schema, session
from walstream.sinks.index import IndexOptions
from walstream.sinks.index.definition import BadDefinition, Definition
from walstream.sinks.index.table import read_definition

_RAW = "raw"
TIMEOUT = 15.0
"""Seconds for one page: longer than the server's own limit for reads, so that the server says what happened."""


_Decoded: Any = ProtocolHandler.message_types_by_opcode[ResultMessage.opcode]


class _RawResult(_Decoded):  # type: ignore[misc]
    """A page of rows that are not decoded: every column counts as a blob, of which the driver makes bytes."""

    column_metadata: Any

    def recv_results_metadata(self, *arguments: Any) -> None:
        super().recv_results_metadata(*arguments)
        if self.column_metadata:
            self.column_metadata = [(*column[:3], BytesType) for column in self.column_metadata]


class _RawHandler(ProtocolHandler):  # type: ignore[misc]
    message_types_by_opcode: ClassVar = ProtocolHandler.message_types_by_opcode | {ResultMessage.opcode: _RawResult}


@dataclass(frozen=True)
class Index:
    """An index, and a connection to where it is.

    Parameters
    ----------
    namespace, target
        Whose target it is.
    options, definition
        What the target says, and what that means for the base table as it is now.
    bases
        The namespace's targets that write the base table.
    session, raw
        Of the driver; `raw` is for `prepare` and `ask`.
    """

    namespace: Namespace
    target: str
    options: IndexOptions
    definition: Definition
    bases: tuple[str, ...]
    session: Any
    raw: Any

    @property
    def name(self) -> str:
        """The target's full name."""
        return f"{self.namespace.name}.{self.target}"

    @property
    def table(self) -> str:
        """The index's table, for people."""
        return f"{self.options.keyspace}.{self.options.table}"

    @property
    def template(self) -> KeyTemplate:
        """What makes the Kafka key of a base row."""
        assert self.namespace.key is not None  # the sink refuses such a target
        return KeyTemplate(self.namespace.key)

    def quoted(self, table: str) -> str:
        """A table of the keyspace, for CQL."""
        return f"{schema.quote(self.options.keyspace)}.{schema.quote(table)}"

    def prepare(self, cql: str) -> Any:
        """A SELECT for `ask`.

        Raises
        ------
        SinkError
            Cassandra refuses it: a table or column is missing, or a function, since it is too old.
        """
        try:
            prepared = self.raw.prepare(cql)
        except InvalidRequest as error:
            raise SinkError(f"{error}; `walstream apply` makes the index's table, or says what is wrong") from error
        except Exception as error:
            raise SinkError(f"Cassandra does not take {cql}: {error}") from error
        prepared.is_idempotent = True
        return prepared

    def ask(self, bound: Any, state: bytes | None = None) -> Any:
        """Send a bound SELECT, and answer with the driver's future.

        Its rows are tuples of bytes, as they came, or None.

        Parameters
        ----------
        state
            Where the page begins, as the one before said.
        """
        return self.raw.execute_async(bound, paging_state=state, execution_profile=_RAW)


def index_options(namespace: Namespace, target: str) -> IndexOptions:
    """The options of an index.

    Raises
    ------
    ConfigurationError
        The target is none.
    """
    words = namespace.targets[target]
    if words.sink != "index":
        known = [f"{namespace.name}.{name}" for name, other in namespace.targets.items() if other.sink == "index"]
        raise ConfigurationError(
            f"{namespace.name}.{target} is no index, but of sink: {words.sink}",
            remedy=f"name an index: {', '.join(known)}" if known else "write a target of sink: index first",
        )
    return IndexOptions.model_validate(words.options)


@contextmanager
def open_index(namespace: Namespace, target: str, connections: Mapping[str, Connection]) -> Iterator[Index]:
    """Connect to where an index is.

    Raises
    ------
    ConfigurationError
        The target is no index, or its connection is wrong.
    SinkError
        Cassandra does not answer, or there is no such base table.
    """
    options = index_options(namespace, target)
    name = namespace.targets[target].connection
    connection = None if name is None else connections.get(name)
    if not isinstance(connection, CassandraConnection):
        raise ConfigurationError(
            f"{namespace.name}.{target} names a connection that is no Cassandra",
            remedy="name an entry of connections.yaml with sink: cassandra",
        )
    connected = session.connect(connection, options.consistency)
    try:
        try:
            definition = read_definition(connected, options)
        except BadDefinition as error:
            raise SinkError(f"the index {namespace.name}.{target} cannot be: {error}") from error
        if definition is None:
            raise SinkError(f"there is no table {options.keyspace}.{options.base}")
        profile = connected.execution_profile_clone_update(
            EXEC_PROFILE_DEFAULT, row_factory=tuple_factory, request_timeout=TIMEOUT
        )
        connected.cluster.add_execution_profile(_RAW, profile)
        raw = connected.cluster.connect()
        raw.client_protocol_handler = _RawHandler
        yield Index(namespace, target, options, definition, _writers(namespace, options), connected, raw)
    finally:
        session.disconnect(connected)


def _writers(namespace: Namespace, options: IndexOptions) -> tuple[str, ...]:
    """The targets that write a base table, as their options say."""
    return tuple(
        name
        for name, target in namespace.targets.items()
        if target.sink == "cassandra"
        and target.options.get("keyspace") == options.keyspace
        and target.options.get("table") in (None, options.base)
    )

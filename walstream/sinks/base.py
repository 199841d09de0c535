"""What a sink is: an adaptor that writes batches of log entries to one kind of destination.

A sink answers for every entry: `APPLIED`, `SKIPPED` (already there), `Retry`, `Dead`, or `UNTRIED`. An exception is
looked up in the sink's table of errors; one that is not in the table holds the partition and is reported, and never
counts as applied. An exception that has an attribute `after` says for how many seconds the target is to be left alone.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict

from walstream.changes import Change
from walstream.entry import Entry
from walstream.errors import ConfigurationError, SinkError
from walstream.headers import Header
from walstream.units import DAY, HOUR
from walstream.wire import Record


class Verdict(enum.Enum):
    """What an exception says about the batch that raised it."""

    TARGET_DOWN = "target-down"  # the target as a whole; try the same batch again later
    RETRY = "retry"  # these entries; each is tried again later
    DEAD = "dead"  # these entries will never be accepted


TARGET_DOWN, RETRY, DEAD = Verdict.TARGET_DOWN, Verdict.RETRY, Verdict.DEAD


@dataclass(frozen=True, slots=True)
class Applied:
    """The entry is in effect at the target.

    Parameters
    ----------
    rows
        What it changes in the sink's own table, of a `StatefulSink`: key -> new value, or None to delete the row.
    """

    rows: Mapping[bytes, bytes | None] | None = None


@dataclass(frozen=True, slots=True)
class Skipped:
    """Nothing was to be done: the target had it already, or has something newer."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Not now.

    Parameters
    ----------
    reason
        What the target said.
    after
        Seconds that the target asks us to wait, if it does.
    """

    reason: str
    after: float | None = None


@dataclass(frozen=True, slots=True)
class Dead:
    """Never: the target will not take this entry.

    Parameters
    ----------
    reason
        What is wrong with it, for the person who looks into the DLQ.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Untried:
    """The entry was left alone: it follows one of its key that has to wait, or there was no time for it.

    It comes again, in its order, and no attempt is counted.
    """


Outcome = Applied | Skipped | Retry | Dead | Untried
APPLIED, SKIPPED, UNTRIED = Applied(), Skipped(), Untried()


class TargetDown(SinkError):
    """Nothing is taken now, whatever it is: of every sink this means `TARGET_DOWN`.

    Parameters
    ----------
    reason
        What the target said.
    after
        Seconds that it asks to be left alone, if it does.
    outcomes
        Where it went down in the middle of a batch: what became of each entry, None of those that are to come again
        because of it. They count as not tried.
    """

    def __init__(
        self, reason: str, after: float | None = None, outcomes: Sequence[Outcome | None] | None = None
    ) -> None:
        self.after, self.outcomes = after, outcomes
        super().__init__(reason)


class Staging(Protocol):
    """A checkpoint, as a sink that writes into it sees it."""

    def emit(
        self, topic: str, partition: int, timestamp: int, key: bytes | None, value: bytes | None, headers: list[Header]
    ) -> None:
        """Add a record to any partition of any topic of the cluster (timestamp in ms)."""

    def emit_original(self, topic: str, partition: int, raw: Record, timestamp: int) -> None:
        """Add an entry's `Entry.raw` as its producer wrote it, which costs less than to decode and encode it."""


class State(Protocol):
    """The table of a `StatefulSink`, as one call sees it.

    It holds what every earlier entry of the partition that was answered left in it, of this attempt as well, even if
    that is not written down yet.
    """

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """The value of each key's row, in the order of the keys; None where there is no row."""


class NoOptions(BaseModel):
    """The options of a sink that has none."""

    model_config = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class SinkContext:
    """What a sink is told about the target that it serves.

    Parameters
    ----------
    namespace, target
        The names; together they are the target's full name.
    options
        An instance of the sink's own `Options`.
    connection
        The entry of ``connections.yaml`` that the target names (a pydantic model), or None.
    partitions
        The namespace's partition count.
    key_template
        The namespace's ``key``, or None.
    max_record
        Bytes of key, value and headers that a record may have.
    remember
        How long (ms) a sink that refuses what is older than a delete must know of the delete (`Namespace.remember`).
    ordered
        Whether the entries of a key are to take effect in their order (``ordering: key``).
    hold
        Whether a key waits behind its dead entry (``on_dead: hold``). A sink that works on a key's entries one after
        the other then stops behind a dead one, as it does behind one that is to be tried again.
    extra
        What the worker has for the sink beside the files: ``kafka`` is how to reach the namespace's own cluster,
        ``region`` and ``rank`` say where the worker is.
    """

    namespace: str
    target: str
    options: Any
    connection: Any = None
    partitions: int = 1
    key_template: str | None = None
    max_record: int = 1024 * 1024
    remember: int = 7 * DAY + HOUR
    ordered: bool = True
    hold: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)


class Sink(abc.ABC):
    """One kind of destination. Subclass it, give `Options` and `errors`, and write three methods."""

    Options: ClassVar[type[BaseModel]] = NoOptions
    errors: ClassVar[Mapping[type[BaseException], Verdict]] = {}

    #: Whether a request that arrives late, from a worker that is dead by then, changes nothing that is newer. Where it
    #: may, a new owner that finds no sign of an orderly end waits one deadline before it writes.
    late_writes_harmless: ClassVar[bool] = False

    #: Whether it tells old from new by effective time, and forgets a delete after `SinkContext.remember`: something
    #: older might then bring back what was deleted, and is redriven only by who insists.
    forgets_deletes: ClassVar[bool] = False

    #: Whether what it sends for an entry depends on all that it was given before, so that after a crash it must be
    #: given the same again in the same order: records from outside the log too (`walstream.delivery.admission`).
    replays_in_order: ClassVar[bool] = False

    #: Entries of one call, at most. A checkpoint may end between two calls.
    batch_size: ClassVar[int] = 500

    #: Records that may be at the sink and not answered yet, where the target's file does not say (`limits.in_flight`).
    in_flight: ClassVar[int | None] = None

    #: Whether it is given control entries too: what was said about delayed writes, which is for other regions only.
    takes_controls: ClassVar[bool] = False

    #: Whether it keeps rows of its own: it is a `StatefulSink`.
    stateful: ClassVar[bool] = False

    #: Whether a target has to name an entry of ``connections.yaml``.
    needs_connection: ClassVar[bool] = False

    #: What that entry has as its ``sink``, where it is not the name of this sink.
    connection_kind: ClassVar[str | None] = None

    def __init__(self, context: SinkContext) -> None:
        if self.needs_connection and context.connection is None:
            raise ConfigurationError(
                f"the target {context.namespace}.{context.target} names no connection",
                remedy="write connection: <an entry of connections.yaml>",
            )
        self.context = context
        self.options: Any = context.options

    @classmethod
    def for_context(cls, context: SinkContext) -> Sink:
        """Make the sink for a target. A sink of several kinds takes the one that fits."""
        return cls(context)

    def verdict(self, error: BaseException) -> Verdict | None:
        """What the table of errors says of an error: the entry of its most specific class, or None."""
        if isinstance(error, TargetDown):
            return TARGET_DOWN
        return next((self.errors[kind] for kind in type(error).__mro__ if kind in self.errors), None)

    async def open(self) -> None:  # noqa: B027 - a sink that needs no connection need not say so
        """Connect. Called once, before the first batch."""

    @abc.abstractmethod
    async def write(self, batch: Sequence[Entry]) -> Sequence[Outcome]:
        """Write a batch, in order, and answer with one outcome per entry, in the same order.

        Entries of one key are in the order of the log and must take effect in it. The same batch may come again after a
        crash. Called by several partitions at the same time.
        """

    async def leave(self, partition: int) -> None:  # noqa: B027
        """Let go of what belongs to a partition of the log, since another worker has it from now on.

        Called after the partition's last batch was answered, or given up. Others may still be written to.
        """

    async def close(self) -> None:  # noqa: B027
        """Disconnect. Called once, after the last batch was answered."""

    async def provision(self, *, dry_run: bool) -> Sequence[Change]:
        """Make what the target needs to exist (a table, a topic), and say what was changed, or would be."""
        return ()


class Readable(abc.ABC):
    """What a sink is beside `Sink` whose destination can be read through: two regions' can be compared then.

    A row is two texts as bytes: its key and its content. Both are what people see, and equal exactly where rows are.
    """

    @property
    @abc.abstractmethod
    def form(self) -> str:
        """How rows are made such texts, in words. What two sinks have is comparable where this is equal."""

    @abc.abstractmethod
    def scan(self) -> AsyncIterator[Sequence[tuple[bytes, bytes]]]:
        """All rows, in pages, in any order. A row may come twice, and what is written meanwhile may be there or not."""

    @abc.abstractmethod
    async def look_up(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        """What rows have now, in the order of the keys; None where there is none."""


class CheckpointSink(Sink):
    """A sink whose writes are Kafka records on the namespace's own cluster, and so part of the checkpoint itself."""

    late_writes_harmless = True  # the former owner is fenced

    async def write(self, batch: Sequence[Entry]) -> Sequence[Outcome]:
        raise NotImplementedError("a checkpoint sink stages its records; it does not write them")

    @abc.abstractmethod
    def stage(self, batch: Sequence[Entry], checkpoint: Staging) -> Sequence[Outcome]:
        """Add the batch's records to the checkpoint, and answer with one outcome per entry, in the same order."""


class StatefulSink(Sink):
    """A sink that keeps rows of its own beside the target, in a table of the delivery's partition.

    The table is changelogged: the next owner of the partition has it. What an outcome changes is written in the
    checkpoint in which its entry is finished, in the order of the entries. After a crash a call may come again with
    the table as it was before, and must then do the same.
    """

    stateful = True

    async def write(self, batch: Sequence[Entry]) -> Sequence[Outcome]:
        raise NotImplementedError("a stateful sink is given its table with each batch")

    @abc.abstractmethod
    async def write_with(self, batch: Sequence[Entry], state: State) -> Sequence[Outcome]:
        """Write a batch as `write` does; what it changes in the table goes with the outcomes (`Applied.rows`)."""

"""What a source is: it says what rows are now, where a target was told only that they have changed."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel

from walstream.errors import SinkError
from walstream.sinks.base import Dead, NoOptions, Retry, SinkContext


@dataclass(frozen=True, slots=True)
class Wanted:
    """A row that has changed.

    Parameters
    ----------
    table
        The table that its mutation named, if it named one.
    key
        The columns of its key, as of `walstream.mutation.Mutation`.
    time
        The effective time (µs) of the change.
    """

    table: str | None
    key: Mapping[str, Any]
    time: int


@dataclass(frozen=True, slots=True)
class Found:
    """The row is there.

    Parameters
    ----------
    columns
        All of them, with values as `walstream.put` takes them. Those of the key may be among them, those that are null
        may be left out.
    time
        The effective time (µs) of the newest change that the source has of the row, if it knows: before that of the
        change that is asked about, it was asked too early. It is asked again then.
    """

    columns: Mapping[str, Any]
    time: int | None = None


@dataclass(frozen=True, slots=True)
class Gone:
    """There is no such row.

    Parameters
    ----------
    time
        As of `Found`; a source that does not know of any change of the row says 0.
    """

    time: int | None = None


Answer = Found | Gone | Retry | Dead
"""`Retry` and `Dead` are about this row alone, and mean what they mean of a sink."""


class Source(abc.ABC):
    """One kind of place to read rows at. Subclass it, and write `read`."""

    Options: ClassVar[type[BaseModel]] = NoOptions

    #: Exceptions that say that it cannot be read now. The target counts as down then. Any other holds the partition.
    unreachable: ClassVar[tuple[type[BaseException], ...]] = (OSError, SinkError)

    #: Rows that are asked for in one call, at most.
    batch_size: ClassVar[int] = 500

    #: Whether the words have to name an entry of ``connections.yaml``, and what that has as its ``sink``.
    needs_connection: ClassVar[bool] = False
    connection_kind: ClassVar[str | None] = None

    def __init__(self, context: SinkContext) -> None:
        """
        Parameters
        ----------
        context
            As the target's sink has it, but for ``options`` and ``connection``, which are the source's.
        """
        self.context = context
        self.options: Any = context.options

    async def open(self) -> None:  # noqa: B027 - a source that needs no connection need not say so
        """Connect. Called once, before the first rows are read; they wait for it."""

    @abc.abstractmethod
    async def read(self, wanted: Sequence[Wanted]) -> Sequence[Answer]:
        """Say what rows are now, with one answer for each, in the same order.

        No row is asked for twice in one call. Called several times at once.
        """

    async def close(self) -> None:  # noqa: B027
        """Disconnect. Called once, also where `open` failed."""

"""What a producer learns about a write: surely there, surely not, or unknown."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NoReturn, Self

from walstream.answers import Answer
from walstream.errors import NotDurable


class Durable(enum.Enum):
    """Whether a record is in the log."""

    TRUE = "true"  # acknowledged by all in-sync replicas
    FALSE = "false"  # surely not written
    UNKNOWN = "unknown"  # sent, and no answer came: it may be there


@dataclass(slots=True)
class Receipt:
    """The answer to one write.

    Parameters
    ----------
    durable
        `Durable.TRUE`, `FALSE` or `UNKNOWN`. An UNKNOWN is resolved by writing again with the same `id`: if the first
        one is there, the second is a duplicate, and is dropped.
    namespace, id
        What was written where. The id is the one given, or the one that the client made.
    topic
        The namespace's ingress topic.
    partition, offset
        Where the record is. None where that is not known: always unless `durable` is TRUE, and the offset also in the
        rare case that the broker only remembers that it has the record.
    error
        Why `durable` is not TRUE, or why there is no answer though one was waited for; else None.
    answer
        What became of a cancel or reschedule, where it was waited for.

    Examples
    --------
    >>> receipt = Receipt(Durable.TRUE, "flights", "1", "flights.ingress", partition=0, offset=7)
    >>> receipt.raise_for_durability().offset
    7
    """

    durable: Durable
    namespace: str
    id: str
    topic: str
    partition: int | None = None
    offset: int | None = None
    error: Exception | None = None
    answer: Answer | None = None

    def raise_for_durability(self) -> Self:
        """Raise unless the record is surely in the log.

        Returns
        -------
        Receipt
            Itself, so that calls can be chained.

        Raises
        ------
        NotDurable
            With what happened as its cause.
        """
        if self.durable is Durable.TRUE:
            return self
        what = "was not written" if self.durable is Durable.FALSE else "may or may not be written"
        remedy = "" if self.durable is Durable.FALSE else "; write it again with the same id to be sure"
        raise NotDurable(f"record {self.id} of {self.namespace} {what}: {self.error}{remedy}") from self.error

    def __bool__(self) -> NoReturn:
        """Refuse, so that nobody takes UNKNOWN for yes."""
        raise TypeError("a receipt is neither true nor false: look at receipt.durable, or call raise_for_durability()")

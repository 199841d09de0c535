"""What an app runs: its sources, its tables, and the processor that turns the one into changes of the other.

A topology reads topics with the same partition count. For each partition number there is one task, which has a
processor, a store and a transactional producer of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from walstream.engine.checkpoint import Checkpoint
    from walstream.engine.source import Source


def _decode_hex(key: bytes, value: bytes) -> Mapping[str, Any]:
    return {"key": key.hex(), "value": value.hex()}


def _find_hex(words: Sequence[str]) -> bytes:
    (word,) = words
    return bytes.fromhex(word)


@dataclass(frozen=True, slots=True)
class TableSpec:
    """A changelogged table, one part of it per partition.

    Parameters
    ----------
    name
        The name that people know it by, such as ``flights.dedup``.
    changelog
        The topic with every change, which the table can be rebuilt from.
    span
        For a table whose rows expire by segment: a segment is dropped once the youngest one's number is larger by this
        much. 0 for a table whose rows are put and deleted one by one.
    ordered
        Whether rows are read by ranges of keys, and not looked up one by one. Not together with a span.
    help
        One sentence for ``faust tables``.
    decode
        Turns a row (key, value) into words and values for people; None for one that is only for the table itself.
    find
        Turns the words that somebody looks a row up by into its key; ``find_help`` says which words.
    until
        For an ordered table whose keys begin with a time: turns one (µs since the epoch) into the key before which are
        all rows of earlier times.
    """

    name: str
    changelog: str
    span: int = 0
    ordered: bool = False
    help: str = ""
    decode: Callable[[bytes, bytes], Mapping[str, Any] | None] = _decode_hex
    find: Callable[[Sequence[str]], bytes] = _find_hex
    find_help: str = "the key in hexadecimal"
    until: Callable[[int], bytes] | None = None


class Processor(Protocol):
    """The work on one partition number. Its methods are never called at the same time."""

    async def open(self, checkpoint: Checkpoint) -> None:
        """Get ready. The tables are complete and nothing was read yet; what it writes is committed before that."""

    async def process(self, source: Source, checkpoint: Checkpoint) -> None:
        """Take records out of the source, do their work, and put all that it causes inside Kafka into the checkpoint.

        It returns when every record that it took is finished, put back, or on its way. Of what is on its way it says
        so (`Source.unfinished`), and the checkpoint has nothing of it; it is finished in a later call, also of
        `process_due` or `close`, until which `due_at` answers that something is due. `Checkpoint.news` says when there
        may be more to take meanwhile. It takes a stretch at a time, after which a checkpoint may be committed. It may
        be cancelled; the records then come again.
        """

    def wants(self, topic: str) -> bool:
        """Whether what was fetched of this source may be processed now; until then it waits, and no more is read.

        It is asked before every stretch, and must be cheap. Who put everything back that `process` took answers False
        until there is a reason to try again: the task asks at once. The answer may change at any time; `due_at` says
        when it is worth asking again (without that, the task looks once a second).
        """

    def due_at(self) -> int | None:
        """When there will be work that comes of time and not of a fetch; None where nothing waits. It is asked often.

        In µs since the epoch, as `checkpoint.clock` counts, which is never ahead of the brokers' clocks. They are known
        from what was written: who waits for a time writes something in `open`, or nothing is due before the next fetch.
        """

    async def process_due(self, checkpoint: Checkpoint) -> None:
        """Do a stretch of the work that is due, at most as much as of a fetch; fetches wait meanwhile.

        It is called when `due_at` has come, as often as that is so, and in turn with `process`: both go into one
        checkpoint. Like that, it may be cancelled, and must be due again then. It may find nothing to do, where it was
        only time to ask `wants` again.
        """

    def finish(self, checkpoint: Checkpoint) -> None:
        """Nothing more comes into the checkpoint: write down what is kept once per checkpoint."""

    async def close(self, checkpoint: Checkpoint | None) -> None:
        """End. With a checkpoint the partition is left in order, and what is written into it is committed."""


@dataclass(frozen=True, slots=True)
class Topology:
    """A set of co-partitioned topics, the tables beside them, and the processor.

    Parameters
    ----------
    name
        Part of the transactional ids and of the data folder.
    sources
        The topics that are read. What stands in an earlier one when a task opens is processed before a later one is
        read at all; from then on they take turns. While `Processor.wants` declines an earlier one, that takes longer.
    partitions
        The partition count that sources, changelogs and tracked outputs share.
    tables
        The changelogged tables.
    processor
        Makes the processor of one partition number.
    tracked
        Output topics to which this topology is the only writer, so that a record's position is known when it is made.
    upkeep
        Called now and then, in a thread, by the worker that has partition 0.
    latency
        How long (ms) records may wait at the broker for more that then share a checkpoint, while some keep coming.
    """

    name: str
    sources: tuple[str, ...]
    partitions: int
    tables: tuple[TableSpec, ...]
    processor: Callable[[int], Processor]
    tracked: tuple[str, ...] = ()
    upkeep: Callable[[], object] | None = None
    latency: int = 0

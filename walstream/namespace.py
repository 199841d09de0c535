"""A namespace: one use of the log, as its YAML file says it.

The models hold what was read: durations in milliseconds, sizes in bytes, rates per second, times in microseconds. Files
are read by `walstream.config`, which adds the line to an error and checks what spans several files.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PrivateAttr,
    StringConstraints,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from walstream.mutation import KeyTemplate
from walstream.units import DAY, HOUR, MINUTE, Duration, Rate, Size, format_rfc3339, format_size, parse_rfc3339

VERSION = 1
"""The version of the namespace file that this walstream writes, and the newest that it reads."""

HEADROOM = 64 * 1024
"""Bytes that topics behind the router allow beyond the record limit, for the headers that walstream adds."""

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,62}$")]
"""The name of a namespace or of a target."""

REPLICATE = "replicate"
"""The sink of a target that is another region."""

_KAFKA_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")


def fault(message: str, *path: str, remedy: str | None = None) -> PydanticCustomError:
    """An error of a validator that looks at several words.

    Parameters
    ----------
    path
        Which word, seen from the model that raises, the error is about.
    """
    return PydanticCustomError("fault", "{message}", {"message": message, "path": path, "remedy": remedy})


def _start(value: Any) -> Any:
    if value in ("earliest", "latest"):
        return value
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a start; write earliest, latest, or a time such as 2013-01-01T00:00:00Z")
    try:
        return parse_rfc3339(value)
    except ValueError as error:
        raise ValueError(f"a start is earliest, latest, or a time: {error}") from None


Start = Annotated[
    Literal["earliest", "latest"] | int,
    BeforeValidator(_start),
    PlainSerializer(lambda value: format_rfc3339(value) if isinstance(value, int) else value, when_used="json"),
    WithJsonSchema({"anyOf": [{"enum": ["earliest", "latest"]}, {"type": "string", "format": "date-time"}]}),
]
"""Where a new target begins in the log: an end of it, or an append time in microseconds."""


class Words(BaseModel):
    """A part of the file, in which unknown words are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_by_name=True, validate_by_alias=True)


class TopicNames(Words):
    """Topics that are not called as walstream would call them.

    Parameters
    ----------
    ingress
        A topic that exists already, and that others made, to read the records from: it is adopted, never altered.
    """

    ingress: str | None = None

    @field_validator("ingress")
    @classmethod
    def _is_a_topic(cls, name: str | None) -> str | None:
        if name is not None and (not _KAFKA_NAME.fullmatch(name) or name in (".", "..")):
            raise ValueError(f"{name!r} is no name of a Kafka topic; it has letters, digits, '.', '_' and '-'")
        return name


class TopicOptions(Words):
    """How the namespace's topics are made.

    Parameters
    ----------
    partitions
        Of every topic; fixed for life.
    replication, min_insync
        Copies of each partition, and how many must have a record before it counts as written. With one broker, both
        are 1.
    retention
        How long (ms) the log keeps what every target has finished, at least.
    max_record
        Bytes of key, value and headers that a record may have.
    """

    partitions: int = Field(12, ge=1, le=10_000)
    replication: int = Field(3, ge=1, le=100)
    min_insync: int = Field(2, ge=1, le=100)
    retention: Duration = 7 * DAY
    max_record: Size = Field(1024 * 1024, ge=1024, le=512 * 1024 * 1024)
    names: TopicNames = TopicNames()

    @model_validator(mode="before")
    @classmethod
    def _two_in_sync_where_there_are_two(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("replication") == 1 and "min_insync" not in values:
            return values | {"min_insync": 1}
        return values

    @model_validator(mode="after")
    def _enough_copies(self) -> TopicOptions:
        if self.min_insync > self.replication:
            raise fault(
                f"min_insync is {self.min_insync} of {self.replication} copies: nothing could be written",
                "min_insync",
                remedy=f"write replication: {self.min_insync} or more, or min_insync: {self.replication} or less",
            )
        return self


class DedupOptions(Words):
    """Deduplication.

    Parameters
    ----------
    window
        How long (ms) an identity is remembered, at least.
    """

    window: Duration = Field(24 * HOUR, ge=1_000)


class ScheduleOptions(Words):
    """Delayed records.

    Parameters
    ----------
    overdue_rate
        How many records per second may go out that are late by more than a second, of all partitions together: those
        that fell due while the router was stopped. They go oldest first. What falls due on time is not bounded, and
        what is behind the overdue ones waits for them: a rate below the one at which records usually fall due never
        makes up for a stop.
    where
        In which region a delayed record waits, where there are several: the one in which it was written (``origin``),
        from which it is sent to the others when it is due; or ``each``, to which it is sent at once.
    """

    overdue_rate: Rate = 20_000.0
    where: Literal["origin", "each"] = "origin"


class RetryOptions(Words):
    """How a record is tried again that a target could not take yet.

    Parameters
    ----------
    attempts, age
        Bounds; the age (ms) counts from the first attempt.
    initial, multiplier, max
        The backoff: the first wait (ms), its growth, and the longest (ms).
    """

    attempts: int = Field(10, ge=1)
    age: Duration = HOUR
    initial: Duration = Field(200, ge=1)
    multiplier: float = Field(2.0, ge=1.0, le=100.0)
    max: Duration = 5 * MINUTE

    @model_validator(mode="after")
    def _grows(self) -> RetryOptions:
        if self.max < self.initial:
            raise fault("the longest wait is shorter than the first", "max", remedy="write a max of at least initial")
        return self


class LimitOptions(Words):
    """How much a target is given at a time.

    Parameters
    ----------
    in_flight, bytes
        Records, and their bytes, that are at the sink and not answered yet.
    rate
        Records per second; None is as many as it takes.
    parked
        Records that may wait at the target, of all partitions together: those to be tried again, and those parked
        behind one of them; and as many keys that dead ones hold. Beyond that the partition stops.
    dead
        Dead letters per second, over a minute, beyond which the target is paused while most of its records die.
    """

    in_flight: int = Field(2_000, ge=1)
    bytes: Size = 64 * 1024 * 1024
    rate: Rate | None = None
    parked: int = Field(1_000_000, ge=1)
    dead: Rate = 10.0


class SourceOptions(Words):
    """Where a target reads rows of which another region tells it only that they have changed (``mode: keys``).

    Parameters
    ----------
    kind
        A name in the entry point group ``walstream.sources``.
    connection
        An entry of ``connections.yaml``.
    options
        What belongs to the source, as written.
    wait
        How long (ms) after it heard of a change the target reads a source that does not know how new its rows are.
    """

    kind: str = Field(pattern=r"^[a-z][a-z0-9_-]*$")
    connection: str | None = None
    options: dict[str, Any] = {}
    wait: Duration = Field(2_000, ge=0)


class Target(Words):
    """A named destination of a namespace.

    Parameters
    ----------
    sink
        The kind of destination: a name in the entry point group ``walstream.sinks``.
    connection
        An entry of ``connections.yaml``; a ``kafka`` target without one is on the namespace's own cluster.
    options
        What belongs to the sink, as written; checked against the sink's own ``Options`` where files are read.
    source
        Where it reads rows of which it is told the keys only; None is that it forgets them.
    start
        Where in the log the target begins when it is new.
    ordering
        ``key``: each key's records in order; ``none``: failing records step aside.
    on_dead
        ``continue`` with the key's next record, or ``hold`` it.
    """

    sink: str = Field(pattern=r"^[a-z][a-z0-9_-]*$")
    connection: str | None = None
    options: dict[str, Any] = {}
    source: SourceOptions | None = None
    start: Start = "earliest"
    ordering: Literal["key", "none"] = "key"
    on_dead: Literal["continue", "hold"] = "continue"
    retry: RetryOptions = RetryOptions()
    limits: LimitOptions = LimitOptions()
    _stateful: bool = PrivateAttr(False)

    @property
    def stateful(self) -> bool:
        """Whether the sink keeps rows of its own beside the target: no word of the file, but of the sink's class."""
        return self._stateful

    def with_state(self) -> Target:
        """The same target, with a sink that keeps rows."""
        target = self.model_copy()
        target._stateful = True
        return target

    @model_validator(mode="after")
    def _hold_needs_order(self) -> Target:
        if self.on_dead == "hold" and self.ordering == "none":
            raise fault(
                "on_dead: hold keeps a key's queue waiting, and ordering: none has no such queues",
                "on_dead",
                remedy="write ordering: key, or on_dead: continue",
            )
        return self


class Namespace(Words):
    """One use of the log.

    Parameters
    ----------
    version
        The version of the file's words.
    name
        ``namespace`` in the file.
    key
        A template that makes the Kafka key from a mutation's key columns, or None where keys are the producers' own.
    latency
        How long (ms) the router may let a record wait for more, so that they share a checkpoint, and a delivery, as far
        as that has anything to gather. What comes after a pause does not wait.
    delayed_time
        What a delayed record's effective time is made from: when it was written, or when it was due. By the first a
        delete that is spread over an hour leaves rows alone that were written meanwhile; by the second it removes them.
    """

    version: Literal[1]
    name: Name = Field(alias="namespace")
    topics: TopicOptions = TopicOptions()
    key: str | None = None
    dedup: DedupOptions = DedupOptions()
    schedule: ScheduleOptions = ScheduleOptions()
    latency: Duration = Field(25, ge=0, le=10_000)
    delayed_time: Literal["write", "due"] = "write"
    targets: dict[Name, Target] = {}

    @field_validator("version", mode="before")
    @classmethod
    def _known_version(cls, version: Any) -> Any:
        if isinstance(version, int) and version > VERSION:
            raise ValueError(
                f"version {version} is newer than this walstream understands ({VERSION}); upgrade walstream"
            )
        return version

    @field_validator("name")
    @classmethod
    def _not_the_routers(cls, name: str) -> str:
        if name == "router":
            raise ValueError("a namespace cannot be called router: the routers' own consumer groups have that name")
        return name

    @field_validator("key")
    @classmethod
    def _well_formed(cls, key: str | None) -> str | None:
        if key is not None:
            KeyTemplate(key)
        return key

    @property
    def replicates(self) -> bool:
        """Whether its records are sent to other regions."""
        return any(target.sink == REPLICATE for target in self.targets.values())

    @model_validator(mode="after")
    def _one_time_in_all_regions(self) -> Namespace:
        if self.schedule.where == "each" and self.delayed_time == "due":
            raise fault(
                "where: each and delayed_time: due do not go together: each region would give the record another time",
                *("schedule", "where"),
                remedy="write where: origin, or delayed_time: write",
            )
        return self

    def remember(self, target: str) -> int:
        """How long (ms) a target's sink must refuse what is older than a delete: for as long as such a thing may come.

        That is while it may still be in the log, and then as long as a record is tried again.
        """
        return self.topics.retention + self.targets[target].retry.age

    @model_validator(mode="after")
    def _adopts_a_foreign_topic(self) -> Namespace:
        adopted = self.topics.names.ingress
        if adopted is not None and adopted.startswith(f"{self.name}."):
            raise fault(
                f"{adopted} cannot be adopted: names that start with {self.name}. are walstream's own",
                *("topics", "names", "ingress"),
                remedy="leave the name out, and walstream makes the topic",
            )
        return self

    @model_validator(mode="after")
    def _largest_record_fits(self) -> Namespace:
        for name, target in self.targets.items():
            if target.limits.bytes < self.topics.max_record + HEADROOM:
                least = format_size(-(-(self.topics.max_record + HEADROOM) // 1024) * 1024)
                raise fault(
                    f"target {name} allows fewer bytes in flight than the largest record has",
                    *("targets", name, "limits", "bytes"),
                    remedy=f"write bytes: {least} or more, or a smaller max_record",
                )
        return self

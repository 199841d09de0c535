"""What happened in a test, as plain data: what producers were told, and what was read back afterwards.

The verifier (`invariants`) works on these alone. They read CloudEvents and the ``walstream-`` headers with code of
their own, from the contract and not with walstream's modules, so that a mistake there cannot hide itself.
"""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import NamedTuple

Headers = tuple[tuple[str, bytes | None], ...]
Position = tuple[int, int]
"""Partition and offset."""

OURS = "walstream-"


class Identity(NamedTuple):
    """What makes a record the same record: key, ``ce_source`` and ``ce_id``."""

    key: bytes | None
    source: str
    id: str


class Answer(enum.Enum):
    """What a producer was told about a record."""

    ACKED = "acknowledged"
    FAILED = "surely not written"
    ABORTED = "written in a transaction that was aborted"
    UNKNOWN = "no answer"


class Content(NamedTuple):
    """What must survive byte for byte: key, value, headers (without walstream's own) and timestamp (ms)."""

    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp: int | None


@dataclass(frozen=True, slots=True)
class Written:
    """One record as a producer wrote it, and the answer.

    Parameters
    ----------
    content
        As it was handed to the client; a timestamp of None left it to the client.
    sequence
        The producer's own count, from 0.
    answer, partition, offset
        The last two are None unless the broker told them.
    understood
        False for what was written on purpose so that the router must refuse it.
    """

    content: Content
    sequence: int
    answer: Answer
    partition: int | None = None
    offset: int | None = None
    understood: bool = True

    @property
    def identity(self) -> Identity | None:
        return identity_of(self.content)

    @property
    def position(self) -> Position | None:
        return None if self.partition is None or self.offset is None else (self.partition, self.offset)


@dataclass(frozen=True)
class Observed:
    """One record as it was read back from a topic, or as a sink double saw it.

    Parameters
    ----------
    timestamp
        Kafka's, in ms. `content` takes the original one from ``walstream-timestamp`` where that stands.
    """

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp: int

    def header(self, name: str) -> bytes | None:
        """Value of the first header of that name."""
        for header, value in self.headers:  # a generator costs twice as much, and there are many records
            if header == name:
                return value
        return None

    def number(self, name: str) -> int | None:
        """A header that holds an integer in ASCII; None where it is absent or holds something else."""
        try:
            return int(self.header(name) or b"")
        except ValueError:
            return None

    @property
    def position(self) -> Position:
        return self.partition, self.offset

    @cached_property
    def ingress_position(self) -> int | None:
        """Offset in the ingress, from ``walstream-position``."""
        return self.number(f"{OURS}position")

    @property
    def log_position(self) -> Position:
        """Partition and offset in the log, of a record of a DLQ or retry topic (``walstream-log-position``)."""
        offset = self.number(f"{OURS}log-position")
        return self.partition, -1 if offset is None else offset

    @property
    def time(self) -> int | None:
        """Effective time, from ``walstream-time`` (microseconds)."""
        return self.number(f"{OURS}time")

    @cached_property
    def content(self) -> Content:
        original = self.number(f"{OURS}timestamp")
        return Content(self.key, self.value, foreign(self.headers), self.timestamp if original is None else original)

    @cached_property
    def identity(self) -> Identity | None:
        return _identity(self.key, self.attributes)

    @cached_property
    def attributes(self) -> dict[str, str]:
        return attributes_of(self.content)

    @property
    def write_time(self) -> int:
        """``time`` of the event in microseconds, or where it is absent the original Kafka timestamp."""
        text = self.attributes.get("time")
        return (self.content.timestamp or 0) * 1000 if text is None else microseconds(text)

    @property
    def is_action(self) -> bool:
        """Whether it is a cancel or a reschedule."""
        return self.attributes.get("walaction", "write") != "write"

    @property
    def ref(self) -> Identity | None:
        """The identity of the write that a cancel or reschedule is about."""
        if self.identity is None or "walref" not in self.attributes:
            return None
        return self.identity._replace(id=self.attributes["walref"])

    @property
    def is_delayed(self) -> bool:
        """Whether it declares a time."""
        return not self.attributes.keys().isdisjoint(("waldelay", "waldeliverat", "waljitter"))

    @property
    def due(self) -> tuple[int, int]:
        """The earliest and the latest time, in microseconds, at which what it says may be due: the jitter between."""
        given = self.attributes
        due = self.write_time + duration(given["waldelay"]) if "waldelay" in given else self.write_time
        if "waldeliverat" in given:
            due = microseconds(given["waldeliverat"])
        return due, due + (duration(given["waljitter"]) if "waljitter" in given else 0)

    @property
    def expiry(self) -> int | None:
        """``expirytime`` in microseconds."""
        text = self.attributes.get("expirytime")
        return None if text is None else microseconds(text)

    def is_for(self, target: str) -> bool:
        """Whether ``waltargets`` names the target, or is absent."""
        names = self.attributes.get("waltargets")
        return names is None or target in {name.strip() for name in names.split(",")}

    def __str__(self) -> str:
        return f"{self.partition}@{self.offset} {self.identity or self.key!r}"


def foreign(headers: Headers) -> Headers:
    """Headers that are not walstream's own."""
    return tuple([header for header in headers if not _is_ours(header[0])])


@lru_cache
def _is_ours(name: str) -> bool:
    return name.lower().startswith(OURS)


def attributes_of(content: Content) -> dict[str, str]:
    """Attributes of a CloudEvent in either mode; empty for what is none."""
    attributes = {name[3:]: value for name, value in content.headers if name.startswith("ce_") and value is not None}
    media_type = next((value or b"" for name, value in content.headers if name.lower() == "content-type"), b"")
    try:
        if attributes and not media_type.lower().startswith(b"application/cloudevents"):
            return {name: value.decode() for name, value in attributes.items()}
        event = json.loads(content.value or b"")
        return {name: value for name, value in event.items() if isinstance(value, str) and not name.startswith("data")}
    except (AttributeError, ValueError):
        return {}


def identity_of(content: Content) -> Identity | None:
    """Identity of a CloudEvent in either mode; None for what is none."""
    return _identity(content.key, attributes_of(content))


def _identity(key: bytes | None, attributes: Mapping[str, str]) -> Identity | None:
    if "source" not in attributes or "id" not in attributes:
        return None
    if key is None and "partitionkey" in attributes:
        key = attributes["partitionkey"].encode()
    return Identity(key, attributes["source"], attributes["id"])


def microseconds(text: str) -> int:
    """Microseconds since the epoch of an RFC 3339 time."""
    moment = datetime.fromisoformat(text)
    return int(moment.replace(microsecond=0).timestamp()) * 1_000_000 + moment.microsecond


def duration(text: str) -> int:
    """Microseconds of an ISO 8601 duration without months and years; what is finer is cut off."""
    seconds = {"W": 604_800, "D": 86_400, "H": 3_600, "M": 60, "S": 1}
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)([WDHMS])", text)
    return int(sum(Fraction(amount) * seconds[unit] for amount, unit in parts) * 1_000_000)


class Reply(NamedTuple):
    """What a cancel or reschedule was answered.

    Parameters
    ----------
    partition, offset
        Where the answer stands in ``<namespace>.answers``.
    action
        ``cancel`` or ``reschedule``.
    identity, ref
        Of the action, and of the write that it is about.
    outcome
        A word.
    due
        The new time of what was rescheduled, in microseconds.
    log_position
        Where in the log the write stands that was sent before.
    """

    partition: int
    offset: int
    action: str
    identity: Identity
    ref: Identity
    outcome: str
    due: int | None = None
    log_position: int | None = None

    def __str__(self) -> str:
        return f"{self.action} {self.identity.id!r} of {self.ref}: {self.outcome}"


def reply_of(record: Observed) -> Reply | None:
    """Read an answer; None is a record that is none."""
    try:
        data = json.loads(record.value or b"")
        data = data["data"] if "specversion" in data else data
        return Reply(
            *record.position,
            data["action"],
            Identity(record.key, data["source"], data["id"]),
            Identity(record.key, data["source"], data["ref"]),
            data["outcome"],
            microseconds(data["due"]) if "due" in data else None,
            data.get("log_position"),
        )
    except (KeyError, TypeError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class Progress:
    """What a consumer group had committed at one moment, and how far its outputs reached just afterwards.

    Parameters
    ----------
    stage
        ``router``, or the name of a target.
    committed
        Next offset of each partition of what the stage reads.
    outputs
        For each output (``log``, ``dlq``, ``answers``, or ``target``) and partition the high watermark, asked for
        **after** the committed offsets. It is the high watermark and not the last stable offset, because the offsets of
        a transaction may be seen a moment before its records are, and those are below the high watermark by then.
    """

    stage: str
    committed: Mapping[int, int]
    outputs: Mapping[str, Mapping[int, int]]


@dataclass(frozen=True)
class Target:
    """What one target got.

    Parameters
    ----------
    deliveries
        In the order in which the target got them (of one key at least).
    dead
        What of the target's DLQ is dead for good.
    ordered
        Whether the target has ``ordering: key``.
    once
        Whether each record must come exactly once, as into a Kafka topic within the checkpoint.
    whole
        Whether deliveries show key, value, headers and timestamp; else the headers only as far as they are attributes.
    redriven
        What of the DLQ was tried anew since.
    redrives
        How often somebody asked for that, by the position in the log.
    held
        Whether a dead record keeps its key waiting, so that it is in its place when it is redriven.
    pending
        How many records wait: to be tried again, parked behind such, or unread on the retry topic.
    """

    name: str
    deliveries: Sequence[Observed]
    dead: Sequence[Observed] = ()
    ordered: bool = True
    once: bool = False
    whole: bool = True
    redriven: Sequence[Observed] = ()
    redrives: Mapping[Position, int] = field(default_factory=dict)
    held: bool = False
    pending: int = 0


@dataclass(frozen=True, eq=False)
class History:
    """Everything about one namespace in one test, read back at rest.

    Parameters
    ----------
    written
        The ledger.
    ingress, log, refused
        The ingress and log topics and the namespace's DLQ, read committed, each partition in order. Those of the
        ingress without the headers that only walstream may add: they are ignored there.
    targets
        Targets whose deliveries can be seen one by one.
    progress
        Samples taken while it ran.
    lag
        How far each stage is behind at the end, in records.
    answers
        The topic of that name, read committed.
    pending
        How many delayed records are in the schedule at the end.
    ended
        When it was read back, in ms since the epoch: what had not expired by then is not expired.
    """

    written: Sequence[Written]
    ingress: Sequence[Observed]
    log: Sequence[Observed]
    refused: Sequence[Observed] = ()
    targets: Sequence[Target] = ()
    progress: Sequence[Progress] = ()
    lag: Mapping[str, int] = field(default_factory=dict)
    answers: Sequence[Observed] = ()
    pending: int = 0
    ended: int = 0

    @cached_property
    def replies(self) -> list[Reply]:
        """The answers, as far as they can be read."""
        return [reply for record in self.answers if (reply := reply_of(record)) is not None]

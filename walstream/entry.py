"""Entries: what stands in the log, as a sink sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from walstream.errors import RecordRefused, StateMismatch
from walstream.headers import (
    HEADERS_VERSION,
    KIND_HEADER,
    LOCAL,
    PATH_HEADER,
    POSITION_HEADER,
    PREFIX,
    TIME_HEADER,
    TIMESTAMP_HEADER,
    VERSION_HEADER,
    Header,
)
from walstream.record import Record, parse
from walstream.structured import ANNOUNCEMENT
from walstream.wire import Record as KafkaRecord
from walstream.wire import plain_entry


class Entry:
    """One entry of the log, as a sink sees it.

    Attributes
    ----------
    partition, position
        Where in the log.
    key, value, headers, timestamp
        The record's own, byte for byte as its producer wrote them; the timestamp in milliseconds.
    time
        The effective time, microseconds since the epoch: the only time to compare by.
    ingress_position
        Where in the ingress.
    path
        The regions passed, comma-separated; empty for what was written in this one.
    kind
        Nothing for an ordinary write; else one of the words of `walstream.headers`.
    """

    __slots__ = (
        "_for_all",
        "_headers",
        "_raw",
        "_record",
        "_type",
        "ingress_position",
        "key",
        "kind",
        "partition",
        "path",
        "position",
        "time",
        "timestamp",
        "value",
    )

    def __init__(
        self,
        partition: int,
        position: int,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[Header],
        timestamp: int,
        time: int,
        ingress_position: int,
        path: bytes = b"",
        raw: KafkaRecord | None = None,
        kind: bytes = b"",
    ) -> None:
        self.partition, self.position = partition, position
        self.key, self.value, self.timestamp = key, value, timestamp
        self.time, self.ingress_position, self.path, self.kind = time, ingress_position, path, kind
        self._headers: Sequence[Header] | None = headers
        self._record: Record | None = None
        self._raw = raw
        self._for_all = False  # whether that is known without a look at the headers
        self._type: bytes | None = None  # if it is known to be in binary mode

    @classmethod
    def from_record(cls, partition: int, record: KafkaRecord) -> Entry:
        """Read a record of the log where it was fetched to.

        Raises
        ------
        StateMismatch, RecordRefused
            As `from_log`; a header's name that is not UTF-8 is refused with the code ``not-utf8``.
        """
        found = plain_entry(record)
        if found is None:
            refuse_misnamed(record)
            entry = cls.from_log(partition, record.offset, record.key, record.value, record.headers, record.timestamp)
            entry._raw = record
            return entry
        time, ingress_position, timestamp, path, for_all, kind = found
        entry = cls.from_fetched(partition, record.offset, record, time, ingress_position, timestamp, kind, path)
        entry._for_all = for_all
        return entry

    @classmethod
    def from_fetched(
        cls,
        partition: int,
        position: int,
        record: KafkaRecord,
        time: int,
        ingress_position: int,
        timestamp: int,
        type: bytes | None,
        path: bytes = b"",
    ) -> Entry:
        """An entry of whose record, where it was fetched to, the headers in front have been read.

        Parameters
        ----------
        timestamp
            That the record had before, ms.
        type
            Its type, if it is known to be in binary mode.
        """
        entry = cls(partition, position, record.key, record.value, (), timestamp, time, ingress_position, path, record)
        entry._headers, entry._type = None, type
        return entry

    @classmethod
    def from_log(
        cls,
        partition: int,
        position: int,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[Header],
        timestamp: int,
    ) -> Entry:
        """Read a record of the log (or of a retry topic or DLQ, which have more headers of ours, in front as well).

        Parameters
        ----------
        timestamp
            Of the record on the log. The entry's is the one that the record had before.

        Raises
        ------
        StateMismatch
            The headers that walstream adds are of a newer format.
        RecordRefused
            They are missing or broken: it was not written by walstream. The code is ``not-an-entry``.
        """
        ours: dict[str, bytes | None] = {}
        for name, text in headers:
            if name[:10] != PREFIX:
                break
            ours[name] = text
        try:
            if ours[VERSION_HEADER] != b"1":
                _refuse_version(ours[VERSION_HEADER], partition, position)
            return cls(
                partition,
                position,
                key,
                value,
                headers[len(ours) :],
                int(ours[TIMESTAMP_HEADER]),  # type: ignore[arg-type]
                int(ours[TIME_HEADER]),  # type: ignore[arg-type]
                int(ours[POSITION_HEADER]),  # type: ignore[arg-type]
                ours.get(PATH_HEADER) or b"",
                kind=ours.get(KIND_HEADER) or b"",
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RecordRefused(
                "not-an-entry",
                f"the record at position {position} of partition {partition} was not written by walstream:"
                f" its headers {PREFIX}… are missing or broken ({error})",
            ) from None

    @property
    def headers(self) -> Sequence[Header]:
        """The record's own headers, decoded when they are first asked for."""
        if self._headers is None:
            assert self._raw is not None
            headers = self._raw.headers
            added = next((i for i, (name, _) in enumerate(headers) if name[:10] != PREFIX), len(headers))
            self._headers = headers[added:]
        return self._headers

    @property
    def raw(self) -> KafkaRecord | None:
        """The record of the log or of a retry topic, where it was fetched to, if the entry was made of one."""
        return self._raw

    @property
    def size(self) -> int:
        """Bytes of key, value and headers, and a few more for each header."""
        if self._raw is not None:
            return self._raw.size
        headers = sum(len(name.encode()) + len(value or b"") + 10 for name, value in self.headers)
        return len(self.key or b"") + len(self.value or b"") + headers

    @property
    def record(self) -> Record:
        """The record, read when it is first asked for."""
        if self._record is None:
            self._record = parse(self.key, self.value, self.headers, self.timestamp)
        return self._record

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def source(self) -> str:
        return self.record.source

    @property
    def type(self) -> str:
        return self.record.type if self._type is None else self._type.decode()

    @property
    def payload(self) -> bytes | None:
        return self.record.payload if self._type is None else self.value

    def is_for(self, target: str, *, controls: bool = False) -> bool:
        """Whether the record is meant for a target of that name.

        Parameters
        ----------
        controls
            Whether the target's sink acts on control entries (`Sink.takes_controls`): for others there is nothing in
            them.
        """
        if self._for_all:
            return True
        if self.kind and self.kind != LOCAL and not controls:
            return False
        targets = None if self._record is None and _surely_for_all(self.headers) else self.record.targets
        return targets is None or target in targets

    def __repr__(self) -> str:
        return f"<Entry {self.partition}:{self.position} key={self.key!r} time={self.time}>"


def refuse_misnamed(record: KafkaRecord) -> None:
    """Refuse a record with a header whose name is not UTF-8: no client that checks the format could read it again.

    Raises
    ------
    RecordRefused
        With the code ``not-utf8``.
    """
    if record.misnamed:
        names = ", ".join(name[:100] for name in record.misnamed[:5])
        raise RecordRefused("not-utf8", f"the name of a header is not UTF-8: {names}")


def _surely_for_all(headers: Sequence[Header]) -> bool:
    """Whether the headers alone say that a record is for all targets: it is in binary mode, without ``waltargets``."""
    binary = False
    for name, text in headers:
        if name == "ce_waltargets":
            return False
        if name == "ce_specversion":
            binary = True
        elif len(name) == 12 and name.lower() == "content-type" and (text or b"")[:23].lower() == ANNOUNCEMENT:
            return False
    return binary


def _refuse_version(version: bytes | None, partition: int, position: int) -> NoReturn:
    number = int(version or b"")
    if number > HEADERS_VERSION:
        raise StateMismatch(
            f"the record at position {position} of partition {partition} has added headers of format {number};"
            f" this version of walstream reads {HEADERS_VERSION}"
        )
    raise ValueError(f"format {number}")

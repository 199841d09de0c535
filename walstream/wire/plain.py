"""Records of Kafka's format 2, read and written in Python; `compiled.pyx` is the same, for machines with a compiler.

What is called plain is read where it stands, without an object for what nobody looks at; only compiled that is quicker.

The format: https://kafka.apache.org/documentation/#recordbatch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from aiokafka.record.default_records import DefaultRecordBatchBuilder

from walstream.headers import (
    KIND_HEADER,
    PATH_HEADER,
    PREFIX,
    TIME_HEADER,
    TIMESTAMP_HEADER,
    Header,
    log_headers,
    sent_headers,
)
from walstream.murmur2 import partition_for

BATCH_HEADER: Final = 61  # bytes in front of a batch's records
COLUMN_KINDS: Final = ("text", "ascii", "boolean", "tinyint", "smallint", "int", "bigint")
"""What `plain_mutation` knows."""
Asked = tuple[int | None, int | None, int | None, int | None]
"""What a record asks for: delay, deliver-at, jitter and expiry, in µs; None where it does not."""


class Record:
    """A record, its headers decoded when they are asked for.

    Attributes
    ----------
    offset, timestamp, timestamp_type
        Milliseconds; type 1 is the broker's append time, 0 the producer's.
    key, value
        Bytes, or None.
    """

    __slots__ = ("_headers", "_reader", "key", "offset", "size", "timestamp", "timestamp_type", "value")

    def __init__(
        self, reader: RecordReader, offset: int, timestamp: int, timestamp_type: int, key: bytes | None,
        value: bytes | None, headers: tuple[int, int, int],
    ) -> None:  # fmt: skip
        self._reader, self._headers = reader, headers
        self.offset, self.timestamp, self.timestamp_type = offset, timestamp, timestamp_type
        self.key, self.value = key, value
        _, start, end = headers
        self.size = len(key or b"") + len(value or b"") + end - start

    @property
    def headers(self) -> list[Header]:
        """Names and values. Bytes of a name that are not UTF-8 stand there as ``\\xff``."""
        return [(name.decode(errors="backslashreplace"), value) for name, value in self._raw_headers()]

    @property
    def parts(self) -> tuple[bytes, int, bytes]:
        """Key and value as they are encoded, how many headers there are, and the headers as they are encoded.

        Of them `record_of` makes the record again.
        """
        count, start, end = self._headers
        return encode_block(self.key) + encode_block(self.value), count, self._reader.between(start, end)

    @property
    def misnamed(self) -> tuple[str, ...]:
        """The names of headers that are not UTF-8, which no client that checks the format could read again."""
        names = [(raw, raw.decode(errors="backslashreplace")) for raw, _ in self._raw_headers()]
        return tuple(text for raw, text in names if text.encode() != raw)

    def _raw_headers(self) -> list[tuple[bytes, bytes | None]]:
        count, at, _ = self._headers
        return self._reader.headers(count, at)[0]


class RecordReader:
    """The records of one batch, one after the other.

    Parameters
    ----------
    data, start, end
        Bytes, and where in them the records are, not compressed.
    count
        How many there are.
    base, first_timestamp
        The offset and the timestamp (ms) that the records' own count from.
    append_time
        The timestamp (ms) of all, where it is the broker's.

    Raises
    ------
    ValueError
        They do not follow the format. All of them are looked at before the first one is given out.
    """

    def __init__(
        self, data: bytes, start: int, end: int, count: int, base: int, first_timestamp: int,
        append_time: int | None = None,
    ) -> None:  # fmt: skip
        if not 0 <= start <= end <= len(data):
            raise ValueError(f"there are no bytes {start} to {end} in {len(data)}")
        self._data, self._end = data, end
        self._base, self._first_timestamp, self._append_time = base, first_timestamp, append_time
        self._records = self._read(start, count)

    def __iter__(self) -> Iterator[Record]:
        return self._records

    def __next__(self) -> Record:
        return next(self._records)

    def _read(self, at: int, count: int) -> Iterator[Record]:
        records = []
        for number in range(count):
            try:
                record, at = self._record(at)
            except (IndexError, ValueError):
                raise ValueError(f"record {number} of the batch does not follow the format") from None
            records.append(record)
        if at != self._end:
            raise ValueError(f"{self._end - at} bytes stand behind the last record")
        return iter(records)

    def _record(self, at: int) -> tuple[Record, int]:
        length, at = self._varint(at)
        end = at + length
        if length < 1 or end > self._end:
            raise ValueError(length)
        delta, at = self._varint(at + 1)  # behind the attributes, of which none is in use
        offset, at = self._varint(at)
        key, at = self._block(at)
        value, at = self._block(at)
        header_count, start = self._varint(at)
        if header_count < 0 or self.headers(header_count, start)[1] != end:
            raise ValueError(header_count)
        timestamp, kind = (self._first_timestamp + delta, 0) if self._append_time is None else (self._append_time, 1)
        return Record(self, self._base + offset, timestamp, kind, key, value, (header_count, start, end)), end

    def headers(self, count: int, at: int) -> tuple[list[tuple[bytes, bytes | None]], int]:
        """Names and values of so many headers, and where they end."""
        headers = []
        for _ in range(count):
            name, at = self._block(at)
            value, at = self._block(at)
            headers.append((name or b"", value))
        return headers, at

    def between(self, start: int, end: int) -> bytes:
        """The bytes from one place to another."""
        return self._data[start:end]

    def _varint(self, at: int) -> tuple[int, int]:
        """A signed integer of up to ten bytes, seven bits in each, the lowest first; zigzag, of 64 bits."""
        number = 0
        for shift in range(0, 70, 7):
            byte = self._data[at]
            at += 1
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                number &= (1 << 64) - 1
                return (number >> 1) ^ -(number & 1), at
        raise ValueError("an integer has more than ten bytes")

    def _block(self, at: int) -> tuple[bytes | None, int]:
        """Bytes with their length in front; a negative one is null."""
        length, at = self._varint(at)
        if length < 0:
            return None, at
        if at + length > self._end:
            raise ValueError(length)
        return self._data[at : at + length], at + length


def record_of(data: bytes, start: int, fields_size: int, header_count: int, offset: int, timestamp: int) -> Record:
    """A record made of its `Record.parts`.

    Parameters
    ----------
    data, start, fields_size
        Key and value stand in these bytes from there on, and have so many; behind them are the headers to the end.
    header_count
        How many headers.
    offset, timestamp
        What the record is to say, the timestamp in ms.

    Raises
    ------
    ValueError
        They do not follow the format.
    """
    if not 0 <= start <= start + fields_size <= len(data):
        raise ValueError(f"there are no bytes {start} to {start + fields_size} in {len(data)}")
    end = start + fields_size
    body = bytes(3) + data[start:end] + encode_varint(header_count) + data[end:]
    encoded = encode_varint(len(body)) + body
    try:
        (record,) = RecordReader(encoded, 0, len(encoded), 1, offset, timestamp)
    except ValueError:
        raise ValueError("the parts of the record do not follow the format") from None
    return record


def encode_varint(number: int) -> bytes:
    """A signed integer as records have it: zigzag, seven bits in each byte, the lowest first."""
    zigzag = (number << 1) ^ (number >> 63)
    encoded = bytearray()
    while zigzag > 0x7F:
        encoded.append(zigzag & 0x7F | 0x80)
        zigzag >>= 7
    encoded.append(zigzag)
    return bytes(encoded)


def encode_block(block: bytes | None) -> bytes:
    """Bytes with their length in front, which is -1 for None."""
    return encode_varint(-1) if block is None else encode_varint(len(block)) + block


def plain_event(record: Record) -> tuple[bytes, int | None, bytes, Asked | None] | None:
    """Read the common kind of record without decoding it: a write in binary mode that asks for a time at most.

    Returns
    -------
    tuple or None
        Its identity (`walstream.identity`), its write time in microseconds or None, its type, and what it asks for, or
        None. None alone where the record is of another kind or has a fault, and `walstream.record.parse` is to look at
        it: here always.
    """
    return None


def plain_entry(record: Record) -> tuple[int, int, int, bytes, bool, bytes | None] | None:
    """Read the headers that walstream added in front of an entry of the log.

    Returns
    -------
    tuple or None
        Effective time (µs), position in the ingress, original timestamp (ms), path, whether the entry surely is for all
        targets, and its type if it surely is in binary mode. None where they are not as expected, and `walstream.entry`
        is to look at them: here always.
    """
    return None


def plain_replica(record: Record) -> tuple[bytes, int, int, bytes] | None:
    """Read the common kind of record that another region sent: an ordinary write in binary mode.

    Returns
    -------
    tuple or None
        Its identity, effective time (µs), original timestamp (ms) and path. None where it is of another kind, or from
        nowhere else, and `walstream.replica.read_replica` is to look at it: here always.
    """
    return None


def plain_attempt(found: Record) -> tuple[int, int, int, int, int, int, int, int, bytes] | None:
    """Read the common kind of record of a retry topic: in binary mode, and of which no target has said anything.

    Returns
    -------
    tuple or None
        Effective time (µs), position in the ingress, original timestamp (ms), position in the log or -1, attempts, age
        (ms), when it is due (µs), when that was said (ms), and its type. None where it is of another kind, and
        `walstream.attempt` is to look at it: here always.
    """
    return None


def plain_mutation(
    payload: bytes, key: dict[bytes, int], others: dict[bytes, int]
) -> tuple[bool, str | None, list[bytes], list[tuple[int, bytes | None]]] | None:
    """Read the common kind of mutation (`walstream.mutation`) as the bytes that Cassandra has of its values.

    Parameters
    ----------
    key, others
        The columns of the primary key, all of which it must name, and others, by their names in UTF-8. Of each its
        place, less than 64, times 16, and by what its bytes are made: one of `COLUMN_KINDS`, by its place there.

    Returns
    -------
    tuple or None
        Whether it is a put, the table that it names, the key in the order of its places, and place and value of other
        columns. None where it is of another kind or has a fault, and `walstream.mutation.parse_mutation` is to look at
        it: here always.
    """
    return None


def plain_key(payload: bytes) -> dict[str, str | int | bool] | None:
    """Read which row the common kind of mutation (`walstream.mutation`) is about.

    Returns
    -------
    dict or None
        The columns of its key. None where it is of another kind or has a fault, and
        `walstream.mutation.mutation_parts` is to look at it: here always.
    """
    return None


def partition_of(record: Record, partitions: int) -> int:
    """The partition of a record's key, of so many (`walstream.murmur2`); -1 for a record without one."""
    return -1 if record.key is None else partition_for(record.key, partitions)


class RecordWriter:
    """The records of a batch that is being filled.

    Parameters
    ----------
    limit
        Bytes that the batch may have, but for a first record that is larger.

    Attributes
    ----------
    count
        Records so far.
    first_timestamp, max_timestamp
        Of these, ms; -1 where there is none.
    """

    def __init__(self, limit: int) -> None:
        self._builder: Any = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, 0, limit)
        self.count = 0
        self.first_timestamp = self.max_timestamp = -1

    @property
    def size(self) -> int:
        """Bytes of the records, not compressed."""
        return int(self._builder.size()) - BATCH_HEADER

    def payload(self) -> bytes:
        """The records as they are encoded. To be asked for once: nothing goes in any more."""
        return bytes(self._builder.build())[BATCH_HEADER:]

    def append(
        self, timestamp: int, key: bytes | None, value: bytes | None, headers: list[Header] | None = None
    ) -> bool:
        """Add a record (timestamp in ms); False where it does not fit."""
        if self._builder.append(self.count, timestamp, key, value, headers or []) is None:
            return False
        if not self.count:
            self.first_timestamp = timestamp
        self.max_timestamp = max(self.max_timestamp, timestamp) if self.count else timestamp
        self.count += 1
        return True

    def append_rows(self, timestamp: int, prefix: bytes, rows: Sequence[tuple[bytes, bytes | None]], start: int) -> int:
        """Add rows of a table from one on, each with a prefix in front of its key; the index of the first that does not
        fit is returned, or else how many there are."""
        for index in range(start, len(rows)):
            key, value = rows[index]
            if not self.append(timestamp, prefix + key, value):
                return index
        return len(rows)

    def append_entry(self, record: Record, time: int) -> bool:
        """Add a record of the ingress as an entry of the log, with the headers that walstream adds (time in µs).

        The record has no headers ``walstream-…`` of its own.
        """
        headers = log_headers(record.headers, time_us=time, position=record.offset, timestamp_ms=record.timestamp)
        return self.append(record.timestamp, record.key, record.value, headers)

    def append_original(self, record: Record, timestamp: int) -> bool:
        """Add an entry of the log as it was before walstream added headers in front (timestamp in ms)."""
        headers = record.headers
        added = next((i for i, (name, _) in enumerate(headers) if name[:10] != PREFIX), len(headers))
        return self.append(timestamp, record.key, record.value, headers[added:])

    def append_sent(self, record: Record, timestamp: int, path: bytes) -> bool:
        """Add an entry of the log, or what stands on a retry topic, as it is sent to another region.

        Parameters
        ----------
        timestamp
            That it had before, ms.
        path
            The regions that it has passed then.
        """
        added, own = _added(record)
        headers = sent_headers(
            own, time=added[TIME_HEADER], timestamp=added[TIMESTAMP_HEADER], path=path, kind=added.get(KIND_HEADER, b"")
        )
        return self.append(timestamp, record.key, record.value, headers)

    def append_received(self, record: Record) -> bool:
        """Add a record that another region sent as an entry of the log."""
        added, own = _added(record)
        headers = log_headers(
            own,
            time_us=int(added[TIME_HEADER]),
            position=record.offset,
            timestamp_ms=int(added[TIMESTAMP_HEADER]),
            path=added[PATH_HEADER],
            kind=added.get(KIND_HEADER, b""),
        )
        return self.append(record.timestamp, record.key, record.value, headers)


def _added(record: Record) -> tuple[dict[str, bytes], list[Header]]:
    """The headers that walstream added in front, and the record's own."""
    headers = record.headers
    count = next((i for i, (name, _) in enumerate(headers) if name[:10] != PREFIX), len(headers))
    return {name: text or b"" for name, text in headers[:count]}, headers[count:]

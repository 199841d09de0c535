"""Decodes a record batch that aiokafka's decoder gives up on, as far as it can be decoded at all.

aiokafka wants every header's name to be UTF-8, as the format does. Brokers do not check it, and clients in C write what
they are given. This decoder is slow and used for such batches only. It keeps every record whole, and notes which ones
have such names.

The format is version 2, https://kafka.apache.org/documentation/#recordbatch.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from aiokafka import codec

from walstream.errors import RecordRefused

HEADER = struct.Struct(">qiibIhiqqqhii")
LENGTH = struct.Struct(">qi")  # what is in front of the bytes that the length counts
CODEC_MASK, LOG_APPEND_TIME = 0x07, 0x08
CODECS = {1: "gzip", 2: "snappy", 3: "lz4", 4: "zstd"}


@dataclass(frozen=True, slots=True)
class DecodedRecord:
    """A record as `KafkaRecord` has it.

    Attributes
    ----------
    misnamed
        The names of headers that are not UTF-8. Here, and in `headers`, they have ``\\xff`` for a byte that is wrong.
    """

    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    misnamed: tuple[str, ...] = ()


def refuse_misnamed(record: object) -> None:
    """Refuse a record with a header whose name is not UTF-8: no client that checks the format could read it again.

    Raises
    ------
    RecordRefused
        With the code ``not-utf8``.
    """
    if isinstance(record, DecodedRecord) and record.misnamed:
        names = ", ".join(name[:100] for name in record.misnamed[:5])
        raise RecordRefused("not-utf8", f"the name of a header is not UTF-8: {names}")


def split_batches(raw: bytes) -> dict[int, bytes]:
    """The whole batches of a fetch response, by their first offsets."""
    batches = {}
    at = 0
    while at + LENGTH.size <= len(raw):
        base, length = LENGTH.unpack_from(raw, at)
        end = at + LENGTH.size + length
        if end > len(raw) or end - at < HEADER.size:
            break
        batches[base] = raw[at:end]
        at = end
    return batches


def last_offset(batch: bytes) -> int:
    """The offset of a batch's last record."""
    fields = HEADER.unpack_from(batch)
    return int(fields[0] + fields[6])


def decode_batch(batch: bytes) -> list[DecodedRecord]:
    """Decode a batch whose checksum is right.

    Raises
    ------
    Exception
        It does not follow the format, it cannot be decompressed, or its codec is not installed.
    """
    fields = HEADER.unpack_from(batch)
    base, magic, attributes, first_timestamp, max_timestamp, count = (fields[i] for i in (0, 3, 5, 7, 8, 12))
    if magic != 2:
        raise ValueError(f"the batch has format {magic}, not 2")
    reader = _Reader(_decompress(batch[HEADER.size :], attributes & CODEC_MASK))
    append_time = bool(attributes & LOG_APPEND_TIME)
    records = []
    for _ in range(count):
        end = reader.varint() + reader.at
        reader.take(1)  # attributes, of which none is in use
        timestamp = first_timestamp + reader.varint()
        offset = base + reader.varint()
        key, value = reader.block(), reader.block()
        headers: list[tuple[str, bytes | None]] = []
        misnamed = []
        for _ in range(reader.varint()):
            raw_name = reader.block() or b""
            name = raw_name.decode(errors="backslashreplace")
            if name.encode() != raw_name:
                misnamed.append(name)
            headers.append((name, reader.block()))
        if reader.at != end:
            raise ValueError(f"the record at offset {offset} ends {reader.at - end} bytes behind where it says")
        records.append(
            DecodedRecord(
                offset, max_timestamp if append_time else timestamp, int(append_time), key, value, headers,
                tuple(misnamed),
            )
        )  # fmt: skip
    if reader.at != len(reader.data):
        raise ValueError(f"{len(reader.data) - reader.at} bytes stand behind the last record")
    return records


def _decompress(data: bytes, number: int) -> bytes:
    if number == 0:
        return data
    name = CODECS.get(number)
    if name is None:
        raise ValueError(f"compression {number} is unknown")
    if not getattr(codec, f"has_{name}")():
        raise ValueError(f'the library for {name} is not installed: pip install "aiokafka[{name}]"')
    return bytes(getattr(codec, f"{name}_decode")(data))


class _Reader:
    """The bytes of records, and how far they were read."""

    __slots__ = ("at", "data")

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        at, self.at = self.at, self.at + count
        if self.at > len(self.data):
            raise ValueError("the batch ends in the middle of a record")
        return self.data[at : self.at]

    def varint(self) -> int:
        """A signed integer of up to ten bytes, seven bits in each, the lowest first; zigzag."""
        number = 0
        for shift in range(0, 70, 7):
            (byte,) = self.take(1)
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return (number >> 1) ^ -(number & 1)
        raise ValueError("an integer has more than ten bytes")

    def block(self) -> bytes | None:
        """Bytes with their length in front; a negative one is null."""
        length = self.varint()
        return None if length < 0 else self.take(length)

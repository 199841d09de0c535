"""A record batch as it was fetched: its header is read at once, its records when they are asked for."""

from __future__ import annotations

import struct
from typing import Final

from aiokafka import codec
from aiokafka.record.util import calc_crc32c

from walstream.wire import RecordReader

HEADER: Final = struct.Struct(">qiibIhiqqqhii")
LENGTH: Final = struct.Struct(">qi")  # what is in front of the bytes that the length counts
CHECKED_AT: Final = 21  # the checksum is about all that follows it
CODEC_MASK, LOG_APPEND_TIME, TRANSACTIONAL, CONTROL = 0x07, 0x08, 0x10, 0x20
CODECS: Final = {1: "gzip", 2: "snappy", 3: "lz4", 4: "zstd"}
NO_PRODUCER: Final = -1


class Batch:
    """One batch in fetched bytes.

    Parameters
    ----------
    raw
        The bytes.
    at
        Where in them the batch begins; it is there to its end.

    Attributes
    ----------
    base_offset, next_offset
        The offset that the records' own count from, and the one behind the batch; compaction keeps both.
    end
        Where in the bytes the batch ends.
    """

    __slots__ = (
        "_append_time", "_at", "_count", "_crc", "_first_timestamp", "_flags", "_intact", "_magic", "_raw",
        "base_offset", "end", "next_offset", "producer_id",
    )  # fmt: skip

    def __init__(self, raw: bytes, at: int = 0) -> None:
        (
            self.base_offset, length, _, self._magic, self._crc, self._flags, last, self._first_timestamp,
            max_timestamp, self.producer_id, _, _, self._count,
        ) = HEADER.unpack_from(raw, at)  # fmt: skip
        self._raw, self._at, self.end = raw, at, at + LENGTH.size + length
        self.next_offset = self.base_offset + last + 1
        self._append_time = max_timestamp if self._flags & LOG_APPEND_TIME else None
        self._intact: bool | None = None

    @property
    def is_transactional(self) -> bool:
        return bool(self._flags & TRANSACTIONAL)

    @property
    def is_control(self) -> bool:
        """Whether it is no data, but the marker of a transaction's end."""
        return bool(self._flags & CONTROL)

    def is_intact(self) -> bool:
        """Whether the checksum is right. It is computed once."""
        if self._intact is None:
            checked = memoryview(self._raw)[self._at + CHECKED_AT : self.end]
            self._intact = self._magic == 2 and calc_crc32c(checked) == self._crc
        return self._intact

    def records(self) -> RecordReader:
        """Decode the batch.

        Raises
        ------
        Exception
            It does not follow the format, it cannot be decompressed, or its codec is not installed.
        """
        start, number = self._at + HEADER.size, self._flags & CODEC_MASK
        if number == 0 or not self._count:  # compaction may have emptied it
            data, end = self._raw, self.end
        else:
            data = _decompress(memoryview(self._raw)[start : self.end], number)
            start, end = 0, len(data)
        return RecordReader(data, start, end, self._count, self.base_offset, self._first_timestamp, self._append_time)


def split(raw: bytes) -> list[Batch]:
    """The whole batches of a fetch; at its end there may be a part of one more.

    Of a batch that says that it is shorter than its own header nothing is believed; it comes last, and is not intact.
    """
    batches = []
    at = 0
    while at + HEADER.size <= len(raw):
        batch = Batch(raw, at)
        if batch.end > len(raw):
            break
        batches.append(batch)
        if batch.end < at + HEADER.size:
            break
        at = batch.end
    return batches


def _decompress(data: memoryview, number: int) -> bytes:
    name = CODECS.get(number)
    if name is None:
        raise ValueError(f"compression {number} is unknown")
    if not getattr(codec, f"has_{name}")():
        raise ValueError(f'the library for {name} is not installed: pip install "aiokafka[{name}]"')
    return bytes(getattr(codec, f"{name}_decode")(data))

"""A record batch that is being filled and then sent: what aiokafka's producer asks of a batch, and no more.

aiokafka's own builder compresses with LZ4 at its ninth level, which takes ten times as long as the first and makes
batches a sixth smaller: for a log it is the dearest thing of all. Here it is the first level.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import cramjam
from aiokafka import codec
from aiokafka.record.util import calc_crc32c

from walstream.wire import RecordWriter
from walstream.wire.batch import CHECKED_AT, CODECS, HEADER, LENGTH, TRANSACTIONAL

CRC_AT: Final = 17
WORTHWHILE: Final = 512  # bytes; less is sent as it is
NUMBERS: Final = {name: number for number, name in CODECS.items()}


def lz4(data: bytes) -> bytes:
    """LZ4 at its first level, in a frame of independent blocks, which is what brokers read (KIP-57)."""
    compressor = cramjam.lz4.Compressor(level=1, content_checksum=False, block_linked=False)
    compressor.compress(data)
    return bytes(compressor.finish())


def compressor(name: str) -> Callable[[bytes], bytes]:
    """What compresses as Kafka names it: ``lz4``, ``zstd``, ``snappy`` or ``gzip``."""
    if name == "lz4":
        return lz4
    compress: Callable[[bytes], bytes] = getattr(codec, f"{name}_encode")
    return compress


class BatchBuilder:
    """A batch for aiokafka's `AIOKafkaProducer.send_batch`, in the place of aiokafka's own builder.

    Parameters
    ----------
    limit
        Bytes of records, not compressed; a first record may be larger.
    compression
        A name of Kafka's, or None.
    transactional
        Whether it belongs to a transaction.

    Attributes
    ----------
    writer
        Takes the records.
    """

    __slots__ = ("_built", "_closed", "_compression", "_producer", "_transactional", "writer")

    def __init__(self, limit: int, compression: str | None, *, transactional: bool) -> None:
        self.writer = RecordWriter(limit)
        self._compression, self._transactional = compression, transactional
        self._producer = (-1, -1, -1)
        self._built: bytes | None = None
        self._closed = False

    # What aiokafka's accumulator and sender call

    def size(self) -> int:
        """Bytes: of the records as they are, or of the batch once it is built."""
        return HEADER.size + self.writer.size if self._built is None else len(self._built)

    def record_count(self) -> int:
        return int(self.writer.count)

    def close(self) -> None:
        self._closed = True

    def closed(self) -> bool:
        return self._closed

    def _set_producer_state(self, producer_id: int, producer_epoch: int, base_sequence: int) -> None:
        self._producer = (producer_id, producer_epoch, base_sequence)

    def _build(self) -> bytes:
        """The batch as it is sent, and sent again: the same bytes every time."""
        if self._built is None:
            self.close()
            self._built = self._encode()
        return self._built

    def _encode(self) -> bytes:
        writer = self.writer
        payload = writer.payload()
        flags = TRANSACTIONAL if self._transactional else 0
        if self._compression is not None and len(payload) >= WORTHWHILE:
            packed = compressor(self._compression)(payload)
            if len(packed) < len(payload):
                payload = packed
                flags |= NUMBERS[self._compression]
        batch = bytearray(HEADER.size + len(payload))
        HEADER.pack_into(
            batch, 0, 0, len(batch) - LENGTH.size, -1, 2, 0, flags, writer.count - 1, writer.first_timestamp,
            writer.max_timestamp, *self._producer, writer.count,
        )  # fmt: skip
        batch[HEADER.size :] = payload
        crc: int = calc_crc32c(memoryview(batch)[CHECKED_AT:])
        batch[CRC_AT : CRC_AT + 4] = crc.to_bytes(4, "big")
        return bytes(batch)

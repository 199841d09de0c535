"""Record batches made by hand, byte by byte, as a client writes them that checks nothing."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from aiokafka import codec
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import for_code
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import TopicPartition

from walstream.headers import Header
from walstream.wire.batch import HEADER, LOG_APPEND_TIME, Batch
from walstream.wire.plain import encode_block, encode_varint

CODECS = {
    "none": bytes, "gzip": gzip.compress, "snappy": codec.snappy_encode, "lz4": codec.lz4_encode,
    "zstd": codec.zstd_encode,
}  # fmt: skip
NUMBERS = {name: number for number, name in enumerate(("none", "gzip", "snappy", "lz4", "zstd"))}
CRC_AT, ATTRIBUTES_AT = 17, 21
TIMEOUT = 10_000  # ms


class RawRecord(NamedTuple):
    """A record whose headers have names of bytes."""

    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[bytes, bytes | None]] = ()


def encode_batch(
    records: Sequence[RawRecord], *, base: int = 0, timestamp: int = 1_000, compression: str = "none",
    trailing: bytes = b"", append_time: bool = False,
) -> bytes:  # fmt: skip
    """Encode a batch; ``trailing`` is written behind the compressed records, where nothing belongs."""
    flags = NUMBERS[compression] | (LOG_APPEND_TIME if append_time else 0)
    body = b"".join(_record(delta, record) for delta, record in enumerate(records))
    compress: Any = CODECS[compression]
    payload = bytes(compress(body)) + trailing
    last = len(records) - 1
    length = HEADER.size - 12 + len(payload)
    header = HEADER.pack(base, length, -1, 2, 0, flags, last, timestamp, timestamp + last, -1, -1, -1, len(records))
    return seal(header + payload)


def batches_of(records: Iterable[Any]) -> list[Batch]:
    """Batches of one record each, for what has the fields of a record: offset, timestamp, key, value, headers."""
    batches = []
    for record in records:
        headers = [(name.encode(errors="surrogateescape"), value) for name, value in record.headers]
        raw = encode_batch(
            [RawRecord(record.key, record.value, headers)], base=record.offset, timestamp=record.timestamp,
            append_time=record.timestamp_type == 1,
        )  # fmt: skip
        batches.append(Batch(raw))
    return batches


def record_on_wire(
    wire: Any, message: tuple[bytes | None, bytes | None, Sequence[Header]], *, offset: int = 0, timestamp: int = 1_000
) -> Any:
    """A record of key, value and headers, as a module of `walstream.wire` reads what it wrote."""
    writer = wire.RecordWriter(1 << 30)
    key, value, headers = message
    writer.append(timestamp, key, value, list(headers))
    data = writer.payload()
    return next(iter(wire.RecordReader(data, 0, len(data), 1, offset, timestamp)))


def seal(batch: bytes) -> bytes:
    """Set the checksum of a batch."""
    crc: int = calc_crc32c(batch[ATTRIBUTES_AT:])
    return batch[:CRC_AT] + crc.to_bytes(4, "big") + batch[ATTRIBUTES_AT:]


def _record(delta: int, record: RawRecord) -> bytes:
    body = b"\0" + encode_varint(delta) + encode_varint(delta) + encode_block(record.key) + encode_block(record.value)
    body += encode_varint(len(record.headers)) + b"".join(
        encode_block(name) + encode_block(value) for name, value in record.headers
    )
    return encode_varint(len(body)) + body


async def produce_batch(brokers: str, topic: str, partition: int, batch: bytes) -> int:
    """Write a batch as it is; return the offset that its first record got."""
    client = AIOKafkaClient(bootstrap_servers=brokers)
    await client.bootstrap()
    try:
        await client._wait_on_metadata(topic)
        leader = client.cluster.leader_for_partition(TopicPartition(topic, partition))
        response: Any = await client.send(leader, ProduceRequest(None, -1, TIMEOUT, [(topic, [(partition, batch)])]))
    finally:
        await client.close()
    ((_, (answer,)),) = response.topics
    error: Any = for_code(answer[1])
    if answer[1]:
        raise error(f"{topic}-{partition}: {answer}")
    return int(answer[2])

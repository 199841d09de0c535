"""The router's work as one would write it by hand: aiokafka and RocksDB, batches, no framework, no transactions."""

from __future__ import annotations

import asyncio
import gc
import signal
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.structs import ConsumerRecord, TopicPartition
from rocksdict import BlockBasedOptions, Options, Rdict, WriteBatch

from benchmarks.contenders.events import ROW, added, identity, parse
from benchmarks.contenders.job import COMPRESSION, Job

Headers = list[tuple[str, bytes]]
BATCH = 1_000_000  # bytes
RECORDS = 20_000  # of one look


def options() -> Options:
    """RocksDB for keys that are mostly new."""
    found = Options(raw_mode=True)
    found.create_if_missing(True)
    blocks = BlockBasedOptions()
    blocks.set_bloom_filter(10, False)
    found.set_block_based_table_factory(blocks)
    found.set_memtable_prefix_bloom_ratio(0.1)
    found.set_memtable_whole_key_filtering(True)
    return found


class Writer:
    """Fills batches of one partition of a topic, and sends them."""

    def __init__(self, producer: AIOKafkaProducer, topic: str, partition: int) -> None:
        self._producer, self._topic, self._partition = producer, topic, partition
        self._batch: Any = None
        self._full: list[Any] = []

    def append(self, key: bytes | None, value: bytes | None, timestamp: int, headers: Headers) -> None:
        if self._batch is None:
            self._batch = self._producer.create_batch()
        if self._batch.append(key=key, value=value, timestamp=timestamp, headers=headers) is None:
            self._full.append(self._batch)
            self._batch = self._producer.create_batch()
            self._batch.append(key=key, value=value, timestamp=timestamp, headers=headers)

    async def send(self) -> list[Any]:
        full, self._full = self._full, []
        if self._batch is not None:
            full.append(self._batch)
            self._batch = None
        return [await self._producer.send_batch(batch, self._topic, partition=self._partition) for batch in full]


class Partition:
    """The state of one partition, and the work on its records."""

    def __init__(self, producer: AIOKafkaProducer, job: Job, partition: int) -> None:
        self._log = Writer(producer, job.output, partition)
        self._changelog = Writer(producer, job.changelog, partition)
        self._store = Rdict(str(Path(job.folder) / str(partition)), options())

    async def work(self, records: list[ConsumerRecord]) -> list[Any]:
        parsed = []
        for record in records:
            source, id_, written = parse(record.headers)
            parsed.append((record, identity(record.key, source, id_), written))
        stored: Any = self._store.get([name for _, name, _ in parsed])
        batch, seen = WriteBatch(raw_mode=True), set()
        for (record, name, written), row in zip(parsed, stored, strict=True):
            position = record.offset
            if name in seen or (row is not None and ROW.unpack(row)[1] != position):
                continue
            seen.add(name)
            row = ROW.pack(1, position, 0)
            timestamp = record.timestamp
            self._log.append(record.key, record.value, timestamp, added(record.headers, written, position, timestamp))
            self._changelog.append(name, row, timestamp, [])
            batch.put(name, row)
        futures = [*await self._log.send(), *await self._changelog.send()]
        self._store.write(batch)
        return futures


async def run(job: Job) -> None:
    consumer = AIOKafkaConsumer(
        job.source,
        bootstrap_servers=job.brokers,
        group_id=job.group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=BATCH,
    )
    producer = AIOKafkaProducer(
        bootstrap_servers=job.brokers,
        acks="all",
        compression_type=COMPRESSION,
        max_batch_size=BATCH,
        max_request_size=16 * BATCH,
    )
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    async with producer, consumer:
        partitions: dict[TopicPartition, Partition] = {}
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 50, 100)
        unanswered: list[Any] = []
        unfinished: dict[TopicPartition, int] = {}
        while not stopping.is_set():
            found = await consumer.getmany(timeout_ms=100, max_records=RECORDS)
            futures: list[Any] = []
            for tp, records in found.items():
                if tp not in partitions:
                    partitions[tp] = Partition(producer, job, tp.partition)
                futures += await partitions[tp].work(records)
            # What was sent in the round before is answered while this one was worked on.
            await asyncio.gather(*unanswered)
            if unfinished:
                await consumer.commit(unfinished)
            unanswered = futures
            unfinished = {tp: records[-1].offset + 1 for tp, records in found.items()}


if __name__ == "__main__":
    asyncio.run(run(Job.given()))

"""Delivery to a Kafka topic as one would write it by hand: consume, take our headers off, produce, commit."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Callable
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.structs import TopicPartition

from benchmarks.contenders.job import COMPRESSION, Job
from benchmarks.contenders.loop import BATCH, RECORDS, Headers, Writer

PREFIX = "walstream-"


def taken_off(record: Any) -> tuple[int, Headers]:
    """The original timestamp and the headers of what was written."""
    ours = dict(record.headers[:4])
    headers = [header for header in record.headers if not header[0].startswith(PREFIX)]
    return int(ours["walstream-timestamp"]), headers


async def run(job: Job, compose: Callable[[Any], tuple[int, Headers]]) -> None:
    """Copy, with the timestamps and headers that `compose` makes of each record."""
    consumer = AIOKafkaConsumer(
        job.source,
        bootstrap_servers=job.brokers,
        group_id=job.group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        max_partition_fetch_bytes=BATCH,
    )
    producer = AIOKafkaProducer(
        bootstrap_servers=job.there or job.brokers,
        acks="all",
        compression_type=COMPRESSION,
        max_batch_size=BATCH,
        max_request_size=16 * BATCH,
    )
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    async with producer, consumer:
        writers: dict[TopicPartition, Writer] = {}
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 50, 100)
        unanswered: list[Any] = []
        unfinished: dict[TopicPartition, int] = {}
        while not stopping.is_set():
            found = await consumer.getmany(timeout_ms=100, max_records=RECORDS)
            futures: list[Any] = []
            for tp, records in found.items():
                writer = writers.setdefault(tp, Writer(producer, job.output, tp.partition))
                for record in records:
                    timestamp, headers = compose(record)
                    writer.append(record.key, record.value, timestamp, headers)
                futures += await writer.send()
            await asyncio.gather(*unanswered)
            if unfinished:
                await consumer.commit(unfinished)
            unanswered = futures
            unfinished = {tp: records[-1].offset + 1 for tp, records in found.items()}


if __name__ == "__main__":
    asyncio.run(run(Job.given(), taken_off))

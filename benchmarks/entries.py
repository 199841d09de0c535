"""Entries in a log, as a router would have put them: to have millions waiting, routing them would take the longest."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor

from aiokafka import AIOKafkaProducer

from benchmarks.load import WRITERS, Shape, records
from walstream.headers import log_headers
from walstream.wire.builder import BatchBuilder

_BATCH = 900_000  # bytes
_UNANSWERED = 8  # batches


def fill_log(brokers: str, log: str, partitions: int, shape: Shape, count: int, *, distinct: bool = True) -> None:
    """Write so many entries, the same number into each partition; a partition's keys are its own.

    Parameters
    ----------
    distinct
        False: some thousands of records come again and again, which takes a fifth of the time.
    """
    own = _share(shape, partitions)
    with ProcessPoolExecutor(WRITERS, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [
            pool.submit(_fill, brokers, log, number, own, count // partitions, distinct) for number in range(partitions)
        ]
        for future in futures:
            future.result()


def count_key(key: bytes, partitions: int, shape: Shape, count: int) -> int:
    """How many of the entries that `fill_log` writes first have this key, in the first partition."""
    return sum(found == key for found, *_ in records(_share(shape, partitions), count // partitions, 0))


def _share(shape: Shape, partitions: int) -> Shape:
    """What the records of one partition are like."""
    return Shape(shape.size, keys=max(shape.keys // partitions, 1))


def _fill(brokers: str, log: str, partition: int, shape: Shape, count: int, distinct: bool) -> None:
    asyncio.run(_write(brokers, log, partition, shape, count, distinct))


async def _write(brokers: str, log: str, partition: int, shape: Shape, count: int, distinct: bool) -> None:
    now = time.time_ns() // 1_000
    async with AIOKafkaProducer(bootstrap_servers=brokers, acks="all", max_request_size=8_000_000) as target:
        answers: list[asyncio.Future[object]] = []

        async def hand_over(batch: BatchBuilder) -> BatchBuilder:
            answers.append(await target.send_batch(batch, log, partition=partition))
            if len(answers) >= _UNANSWERED:
                await answers.pop(0)
            return BatchBuilder(_BATCH, "lz4", transactional=False)

        batch, number = BatchBuilder(_BATCH, "lz4", transactional=False), 0
        while number < count:
            some = count - number if distinct else min(count - number, 4_096)
            for key, value, headers, _ in records(shape, some, partition):
                ours = log_headers(headers, time_us=now + number, position=number, timestamp_ms=now // 1_000)
                if not batch.writer.append(now // 1_000, key, value, ours):
                    batch = await hand_over(batch)
                    batch.writer.append(now // 1_000, key, value, ours)
                number += 1
        await hand_over(batch)
        await asyncio.gather(*answers)

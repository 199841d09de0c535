"""Delayed records: as producers write them, and as rows in the changelogs, where a router would have put them.

To have millions pending, it would take hours of a producer's and a router's time to write them; the rows are the same.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from aiokafka import AIOKafkaProducer

from benchmarks.load import SENT_AT, WRITERS, Answers, Shape, producer, records, send
from walstream import topics
from walstream.attributes import write_time
from walstream.namespace import Namespace
from walstream.pending import Pending, encode_row
from walstream.router.delayed import encode_delayed
from walstream.schedule import key_of
from walstream.wire.builder import BatchBuilder

DAY = 86_400_000_000  # µs
SPREAD = (("ce_waldelay", b"P1D"), ("ce_waljitter", b"PT1H"))
"""Headers of what is due in a day, give or take: in another order than it comes."""
_SAMPLES = 4_096  # records that the rows of a table repeat: far more than compression looks back
_BATCH = 900_000  # bytes
_STRIDE = 7_368_787  # a prime: rows come in another order than they are due
_IDENTITY = slice(34, 50)  # in a stored record


def prepare(brokers: str, namespace: Namespace, count: int, first_us: int, last_us: int) -> None:
    """Write rows into the changelogs of what is pending, the same number into each partition.

    Parameters
    ----------
    first_us, last_us
        Between which they are due, evenly; µs since the epoch.
    """
    by_time, by_identity = (topics.router_changelogs(namespace)[table].name for table in ("schedule", "pending"))
    partitions = namespace.topics.partitions
    with ProcessPoolExecutor(WRITERS, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [
            pool.submit(_prepare, brokers, by_time, by_identity, number, count // partitions, first_us, last_us)
            for number in range(partitions)
        ]
        for future in futures:
            future.result()


def _prepare(
    brokers: str, by_time: str, by_identity: str, partition: int, count: int, first_us: int, last_us: int
) -> None:
    asyncio.run(_write_rows(brokers, by_time, by_identity, partition, rows(count, first_us, last_us, partition)))


def rows(count: int, first_us: int, last_us: int, seed: int) -> Iterator[tuple[int, int, bytes, bytes]]:
    """When each row is due (µs), its position, its identity, and what the schedule holds."""
    now = time.time_ns() // 1_000
    samples = [
        encode_delayed(now // 1_000, now, now // 1_000, None, bytes(16), key, value, headers)
        for key, value, headers, _ in records(Shape(), min(count, _SAMPLES), seed)
    ]
    heads = [sample[: _IDENTITY.start] for sample in samples]
    tails = [sample[_IDENTITY.stop :] for sample in samples]
    for number in range(count):
        identity = os.urandom(16)
        due = first_us + number * _STRIDE % count * (last_us - first_us) // count
        at = number % len(samples)
        yield due, number, identity, heads[at] + identity + tails[at]


async def _write_rows(
    brokers: str, by_time: str, by_identity: str, partition: int, given: Iterator[tuple[int, int, bytes, bytes]]
) -> None:
    async with AIOKafkaProducer(bootstrap_servers=brokers, acks="all", max_request_size=8_000_000) as target:
        answers = []
        builders = {by_time: _builder(), by_identity: _builder()}

        async def append(topic: str, key: bytes, value: bytes) -> None:
            if not builders[topic].writer.append(now, key, value):
                await hand_over(topic)
                builders[topic].writer.append(now, key, value)

        async def hand_over(topic: str) -> None:
            answers.append(await target.send_batch(builders[topic], topic, partition=partition))
            builders[topic] = _builder()

        now = time.time_ns() // 1_000_000
        for due, position, identity, stored in given:
            await append(by_time, key_of(due, position), stored)
            await append(by_identity, identity, encode_row(Pending(due, position, now * 1_000, position)))
        for topic in builders:
            await hand_over(topic)
        await asyncio.gather(*answers)


def _builder() -> BatchBuilder:
    return BatchBuilder(_BATCH, "lz4", transactional=False)


def write_due(brokers: str, topic: str, count: int, first_us: int, every_us: float) -> None:
    """Write records that fall due one after the other, in another order; their values begin with when.

    Parameters
    ----------
    first_us, every_us
        When the first one is due, µs since the epoch, and how much later each next one.
    """
    target, answers = producer(brokers, "none", 50), Answers()
    order = list(range(count))
    random.Random(count).shuffle(order)
    for number, (key, value, headers, _) in zip(order, records(Shape(), count, time.time_ns()), strict=True):
        due = first_us + round(number * every_us)
        value = SENT_AT.pack(due * 1_000) + value[SENT_AT.size :]
        send(target, topic, key, value, [*headers, ("ce_waldeliverat", write_time("waldeliverat", due))], answers)
        target.poll(0)
    target.flush(120)
    if answers.count != count:
        raise RuntimeError(f"{answers.count} of {count} delayed records were acknowledged")


def writing_due(*arguments: Any) -> Any:
    """Start `write_due` in a process of its own; join it."""
    process = multiprocessing.get_context("spawn").Process(target=write_due, args=arguments, daemon=True)
    process.start()
    return process

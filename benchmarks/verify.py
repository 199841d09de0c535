"""Reads back what a contender wrote, counts it, and compares a sample of it with the input."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, TopicPartition

BATCH = 10_000
WAIT = 0.2  # s for that many, which are not there at the end
READERS = min(4, os.cpu_count() or 1)
SAMPLED = b"00"  # ids that start so are compared byte by byte: one in 256
ADDED = "walstream-"

Content = tuple[int, bytes | None, bytes | None, tuple[tuple[str, bytes | None], ...]]
"""Partition, key, value, and headers without those that were added."""


@dataclass(frozen=True, slots=True)
class Output:
    """What stands in a topic.

    Parameters
    ----------
    records, distinct
        How many, and how many different ids.
    sample
        Some records by their ids; None where records were only counted.
    """

    records: int
    distinct: int
    sample: Mapping[bytes, Content] | None


def read(brokers: str, topic: str, ends: Mapping[int, int], *, only_count: bool = False) -> Output:
    """Read a topic from its beginning up to these offsets; only what is committed.

    Processes share the partitions. An id is in one partition only, since its key is; the sample would tell.

    Parameters
    ----------
    only_count
        Whether to count records, which takes less time: all are taken for distinct, and there is no sample.
    """
    numbers = sorted(ends)
    shares = [{number: ends[number] for number in numbers[index::READERS]} for index in range(READERS)]
    with ProcessPoolExecutor(READERS, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = list(
            pool.map(_read, *zip(*((brokers, topic, share, only_count) for share in shares if share), strict=True))
        )
    sample = {id_: content for each in found for id_, content in (each.sample or {}).items()}
    records, distinct = sum(each.records for each in found), sum(each.distinct for each in found)
    return Output(records, distinct, None if only_count else sample)


def _read(brokers: str, topic: str, ends: Mapping[int, int], only_count: bool) -> Output:
    if only_count:
        counted = sum(1 for _ in _messages(brokers, topic, ends))
        return Output(counted, counted, None)
    records, ids, sample = 0, set(), {}
    for message in _messages(brokers, topic, ends):
        records += 1
        headers = [(name, data) for name, data in message.headers() or () if not name.startswith(ADDED)]
        id_ = next(data for name, data in headers if name == "ce_id")
        ids.add(id_)
        if id_.startswith(SAMPLED) and id_ not in sample:
            sample[id_] = (message.partition(), message.key(), message.value(), tuple(headers))
    return Output(records, len(ids), sample)


def _messages(brokers: str, topic: str, ends: Mapping[int, int]) -> Iterator[Any]:
    consumer = Consumer(
        {
            "bootstrap.servers": brokers,
            "group.id": "benchmark-verify",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "fetch.message.max.bytes": 4_000_000,
            "queued.max.messages.kbytes": 65_536,
        }
    )
    try:
        open_ = {partition for partition, end in ends.items() if end}
        consumer.assign([TopicPartition(topic, partition, 0) for partition in open_])
        while open_:
            for message in consumer.consume(BATCH, timeout=WAIT):
                error = message.error()
                if error is None:
                    yield message
                elif error.name() == "_PARTITION_EOF":
                    open_.discard(message.partition())
                else:
                    raise RuntimeError(f"reading {topic}: {error}")
    finally:
        consumer.close()


def compare(given: Output, found: Output, *, expected: int, complete: bool, once: bool) -> list[str]:
    """What is wrong with an output.

    Parameters
    ----------
    expected
        How many distinct records there must be, if the contender got through all of them.
    once
        Whether each must be there no more than once.
    """
    wrong = []
    if complete and found.distinct != expected:
        wrong.append(f"{found.distinct:,} distinct records came out, and not {expected:,}")
    if once and found.records != found.distinct:
        wrong.append(f"{found.records - found.distinct:,} came out more than once")
    if found.sample is None:
        return wrong
    assert given.sample is not None
    unequal = [id_ for id_, content in found.sample.items() if given.sample.get(id_) != content]
    if unequal:
        wrong.append(f"{len(unequal)} of {len(found.sample)} sampled records differ from what was written")
    if not found.sample:
        wrong.append("there was no record to compare")
    return wrong

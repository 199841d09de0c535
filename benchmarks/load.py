"""The records of a benchmark: CloudEvents in binary mode with eight headers, 300 bytes in all, that do not compress.

Ids are random UUIDs. They are written by librdkafka from several processes: as fast as it goes, or at a rate.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import orjson
from confluent_kafka import Producer

RECENT = 100_000  # ids that a duplicate may repeat
SENT_AT = struct.Struct(">Q")  # ns since the epoch, the first bytes of every value
LINGER = 5  # ms; what clients wait by default, of librdkafka and, since Kafka 4, Java's
WRITERS = min(4, os.cpu_count() or 1)
Headers = list[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Shape:
    """What the records are like.

    Parameters
    ----------
    size
        Bytes of a record: key, value, names and values of headers.
    duplicates
        The share of records that repeat an earlier one's key and id.
    rows
        If not 0, the values are mutations of a table with so many rows a partition, which `size` does not govern.
    extra
        Headers that all of them have besides; they come on top of `size`.
    keys
        How many different ones there are.
    stamped
        Whether the text of a row is when it was written, in ns since the epoch.
    """

    size: int = 300
    duplicates: float = 0.0
    rows: int = 0
    extra: tuple[tuple[str, bytes], ...] = ()
    keys: int = 1_000_000
    stamped: bool = False


def mutation(number: int, rows: int, note: str | None = None) -> tuple[str, int, str]:
    """Partition key, clustering key and text of the row of a number; the same from every process."""
    return f"row-{number // rows:09d}", number % rows, note or random.Random(number).randbytes(50).hex()


def records(shape: Shape, count: int, seed: int, first: int = 0) -> Iterator[tuple[bytes, bytes, Headers, bool]]:
    """Key, value, headers of each record, and whether it repeats an earlier one.

    Parameters
    ----------
    first
        The number of the first row, where values are mutations.
    """
    rng = random.Random(seed)
    recent: list[tuple[bytes, bytes]] = []
    prefix, second = b"", -1
    for number in range(first, first + count):
        nanoseconds = time.time_ns()
        if nanoseconds // 10**9 != second:
            second = nanoseconds // 10**9
            prefix = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second)).encode()
        repeated = shape.duplicates > 0 and bool(recent) and rng.random() < shape.duplicates
        if repeated:
            key, id_ = rng.choice(recent)
        else:
            bits = f"{rng.getrandbits(128):032x}"
            id_ = f"{bits[:8]}-{bits[8:12]}-4{bits[13:16]}-a{bits[17:20]}-{bits[20:]}".encode()
            key = b"key-%08d" % rng.randrange(shape.keys)
        headers: Headers = [
            ("ce_specversion", b"1.0"),
            ("ce_id", id_),
            ("ce_source", b"/bench/app"),
            ("ce_type", b"bench.write"),
            ("ce_time", b"%b%06dZ" % (prefix, nanoseconds // 1000 % 1_000_000)),
            ("content-type", b"application/octet-stream"),
            ("ce_subject", key),
            ("trace", b"%016x" % rng.getrandbits(64)),
        ]
        if shape.rows:
            row, seq, note = mutation(number, shape.rows, str(nanoseconds) if shape.stamped else None)
            key, value = (
                row.encode(),
                orjson.dumps({"op": "put", "key": {"id": row, "seq": seq}, "set": {"note": note}}),
            )
            headers[3], headers[5] = ("ce_type", b"walstream.mutation"), ("content-type", b"application/json")
        else:
            taken = len(key) + sum(len(name) + len(data) for name, data in headers)
            value = SENT_AT.pack(nanoseconds) + rng.randbytes(max(0, shape.size - taken - SENT_AT.size))
        if shape.duplicates and not repeated:
            if len(recent) < RECENT:
                recent.append((key, id_))
            else:
                recent[rng.randrange(RECENT)] = (key, id_)
        headers += shape.extra
        yield key, value, headers, repeated


def producer(brokers: str, compression: str, linger_ms: int) -> Producer:
    """A producer of librdkafka that puts keys where Java's clients would."""
    return Producer(
        {
            "bootstrap.servers": brokers,
            "compression.type": compression,
            "linger.ms": linger_ms,
            "log_level": 2,
            "batch.size": 500_000,
            "queue.buffering.max.messages": 1_000_000,
            "queue.buffering.max.kbytes": 200_000,
            "partitioner": "murmur2_random",
            "enable.idempotence": True,
        }
    )


def send(target: Producer, topic: str, key: bytes, value: bytes, headers: Any, delivered: Callable[..., None]) -> None:
    while True:
        try:
            target.produce(topic, value, key, headers=headers, on_delivery=delivered)
            return
        except BufferError:
            target.poll(0.05)


class Answers:
    """Raises for the first record that was not acknowledged."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, error: Any, _message: Any) -> None:
        if error is not None:
            raise RuntimeError(f"a record of the benchmark was not written: {error}")
        self.count += 1


def write(brokers: str, topic: str, shape: Shape, count: int, seed: int, first: int, compression: str) -> int:
    """Write records as fast as they are taken, and return how many are not repetitions."""
    target, answers, distinct = producer(brokers, compression, 50), Answers(), 0
    for number, (key, value, headers, repeated) in enumerate(records(shape, count, seed, first)):
        send(target, topic, key, value, headers, answers)
        distinct += not repeated
        if number % 1000 == 0:
            target.poll(0)
    target.flush(120)
    if answers.count != count:
        raise RuntimeError(f"{answers.count} of {count} records were acknowledged")
    return distinct


def fill(brokers: str, topic: str, shape: Shape, count: int, compression: str = "none", seed: int = 1) -> int:
    """Write records from several processes, and return how many distinct ones there are."""
    shares = [count // WRITERS + (index < count % WRITERS) for index in range(WRITERS)]
    with ProcessPoolExecutor(WRITERS, mp_context=multiprocessing.get_context("spawn")) as pool:
        # Rows of one partition stay in one process, so that they stand beside each other in the log.
        futures = [
            pool.submit(write, brokers, topic, shape, share, seed * 1000 + index, sum(shares[:index]), compression)
            for index, share in enumerate(shares)
        ]
        return sum(future.result() for future in futures)


def write_paced(brokers: str, topic: str, shape: Shape, rate: float, seconds: float, linger_ms: int = LINGER) -> None:
    """Write at a rate (records/s), a few records every millisecond; never the same ones again."""
    target, answers = producer(brokers, "none", linger_ms), Answers()
    source = records(shape, round(rate * seconds), time.time_ns())
    begun, sent, done = time.perf_counter(), 0, False
    while not done:
        due = int((time.perf_counter() - begun) * rate) + 1
        for _ in range(due - sent):
            try:
                key, value, headers, _repeated = next(source)
            except StopIteration:
                done = True
                break
            send(target, topic, key, value, headers, answers)
            sent += 1
        target.poll(0)
        time.sleep(0.001)
    target.flush(60)


def paced(brokers: str, topic: str, shape: Shape, rate: float, seconds: float, linger_ms: int = LINGER) -> Any:
    """Start `write_paced` in a process of its own, so that it disturbs nobody's clock; join it."""
    process = multiprocessing.get_context("spawn").Process(
        target=write_paced, args=(brokers, topic, shape, rate, seconds, linger_ms), daemon=True
    )
    process.start()
    return process

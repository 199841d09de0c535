"""Rows into Cassandra by the driver's own ways: callbacks, or `execute_concurrent`. No Kafka, no log.

Arguments: address, keyspace, table, records, rows a partition, way, statements in flight, share that warms up.
"""

from __future__ import annotations

import gc
import itertools
import json
import logging
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile
from cassandra.concurrent import execute_concurrent_with_args
from cassandra.policies import DCAwareRoundRobinPolicy, TokenAwarePolicy

from benchmarks.load import mutation

PROTOCOL = 4  # as a worker speaks; the next one adds checksums
CHUNK = 20_000  # rows of one execute_concurrent


def by_callbacks(session: Any, statement: Any, rows: Iterator[tuple[Any, ...]], concurrency: int) -> None:
    """Keep so many statements in flight; each answer sends the next one."""
    lock, done, errors = threading.Lock(), threading.Event(), []
    open_ = concurrency

    def answered(_: Any = None) -> None:
        nonlocal open_
        with lock:
            row = next(rows, None)
            if row is None:
                open_ -= 1
                if not open_:
                    done.set()
                return
        session.execute_async(statement, row).add_callbacks(answered, failed)

    def failed(error: Exception) -> None:
        errors.append(error)
        answered()

    for _ in range(concurrency):
        answered()
    done.wait()
    if errors:
        raise errors[0]


def by_execute_concurrent(session: Any, statement: Any, rows: Iterator[tuple[Any, ...]], concurrency: int) -> None:
    """Chunk by chunk."""
    while chunk := list(itertools.islice(rows, CHUNK)):
        execute_concurrent_with_args(session, statement, chunk, concurrency=concurrency)


def main() -> None:
    address, keyspace, table, records, per_partition, way, concurrency, warm = sys.argv[1:]
    logging.getLogger("cassandra").setLevel(logging.ERROR)
    host, _, port = address.rpartition(":")
    profile = ExecutionProfile(load_balancing_policy=TokenAwarePolicy(DCAwareRoundRobinPolicy()))
    cluster = Cluster(
        [host], port=int(port), execution_profiles={EXEC_PROFILE_DEFAULT: profile}, protocol_version=PROTOCOL
    )
    session = cluster.connect(keyspace)
    statement = session.prepare(f"INSERT INTO {table} (id, seq, note) VALUES (?, ?, ?) USING TIMESTAMP ?")
    statement.is_idempotent = True
    now = time.time_ns() // 1000
    rows = [(*mutation(number, int(per_partition)), now + number) for number in range(int(records))]
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)  # as a worker has them
    execute = by_callbacks if way == "callbacks" else by_execute_concurrent
    first = int(len(rows) * float(warm))
    execute(session, statement, iter(rows[:first]), int(concurrency))
    begun, cpu = time.perf_counter(), time.process_time()
    execute(session, statement, iter(rows[first:]), int(concurrency))
    seconds, used = time.perf_counter() - begun, time.process_time() - cpu
    count = len(rows) - first
    print(json.dumps({"rate": count / seconds, "cpu": used / count * 1e6}))
    cluster.shutdown()


if __name__ == "__main__":
    main()

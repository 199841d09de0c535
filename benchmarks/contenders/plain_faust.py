"""The router's work as Faust's documentation teaches it: one event at a time, a Table in RocksDB, `topic.send`."""

from __future__ import annotations

import sys
from typing import Any

import faust

from benchmarks.contenders.events import ROW, added, identity, parse
from benchmarks.contenders.job import COMPRESSION, Job

job = Job.given()
app = faust.App(
    job.group,
    broker=f"kafka://{job.brokers}",
    store="rocksdb://?driver=rocksdict",
    datadir=job.folder,
    topic_partitions=int(sys.argv[2]),
    topic_replication_factor=1,
    topic_disable_leader=True,
    web_enabled=False,
    key_serializer="raw",
    value_serializer="raw",
    producer_acks=-1,
    producer_compression_type=COMPRESSION,
    consumer_auto_offset_reset="earliest",
    stream_wait_empty=False,
)
source = app.topic(job.source, key_type=bytes, value_type=bytes)
output = app.topic(job.output, key_type=bytes, value_type=bytes)
known = app.Table("dedup", key_type=bytes, value_type=bytes)


@app.agent(source)
async def route(stream: Any) -> None:
    async for event in stream.events():
        message = event.message
        headers = list(message.headers)
        origin, id_, written = parse(headers)
        name = identity(message.key, origin, id_)
        row = known.get(name)
        if row is not None and ROW.unpack(row)[1] != message.offset:
            continue
        timestamp = int(message.timestamp * 1000)
        known[name] = ROW.pack(1, message.offset, 0)
        await output.send(
            key=message.key,
            value=message.value,
            partition=message.partition,
            timestamp=message.timestamp,
            headers=added(headers, written, message.offset, timestamp),
        )


if __name__ == "__main__":
    sys.argv = [sys.argv[0], "--datadir", job.folder, "worker", "--without-web", "-l", "warn"]
    app.main()

"""The router's work with Quix Streams: state in RocksDB, with a changelog."""

from __future__ import annotations

from typing import Any

from quixstreams import Application, State, message_context

from benchmarks.contenders.events import ROW, added, identity, parse
from benchmarks.contenders.job import COMPRESSION, Job

job = Job.given()
app = Application(
    broker_address=job.brokers,
    consumer_group=job.group,
    auto_offset_reset="earliest",
    state_dir=job.folder,
    use_changelog_topics=True,
    loglevel="WARNING",
    producer_extra_config={"partitioner": "murmur2_random", "batch.size": 1_000_000, "compression.type": COMPRESSION},
)
source = app.topic(job.source, key_deserializer="bytes", value_deserializer="bytes")
output = app.topic(job.output, key_serializer="bytes", value_serializer="bytes")


def is_new(value: Any, key: Any, timestamp: int, headers: Any, state: State) -> bool:
    origin, id_, _ = parse(headers)
    name = identity(key, origin, id_).hex()
    if state.get_bytes(name) is not None:
        return False
    state.set_bytes(name, ROW.pack(1, message_context().offset, 0))
    return True


def log_headers(value: Any, key: Any, timestamp: int, headers: Any) -> Any:
    _, _, written = parse(headers)
    return added(headers, written, message_context().offset, timestamp)


frame = app.dataframe(source)
frame = frame.filter(is_new, stateful=True, metadata=True)
frame = frame.set_headers(log_headers)
frame.to_topic(output)

if __name__ == "__main__":
    app.run()

"""A region that is told keys only, with workers: its store reads at the other region's, which may be late, or away."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable

from redis import Redis

from walstream.connections import RedisConnection
from walstream.mutation import put
from walstream.sinks.base import SinkContext
from walstream.sinks.redis import RedisOptions, RedisSink
from walstream.testing.conformance import entry
from walstream.testing.sandbox import OwnTarget, Sandbox
from walstream.testing.servers import Server
from walstream.testing.waiting import wait_until
from walstream.testing.workload import cloud_event

CACHE = "cache"
HERE, THERE = "west:{flight}", "east:{flight}"


def write_there(connection: RedisConnection, rows: dict[str, int]) -> None:
    """Write rows as the other region's target does; by now they have the changes that were told."""

    async def write() -> None:
        sink = RedisSink(SinkContext("flights", "cache", RedisOptions(key=THERE, value="json"), connection))
        payloads = [put(key={"flight": flight}, set={"seq": seq}).to_bytes() for flight, seq in rows.items()]
        now = int(time.time() * 1e6)
        await sink.open()
        await sink.write(
            [
                entry(i, key=None, payload=payload, type="walstream.mutation", time=now + i)
                for i, payload in enumerate(payloads)
            ]
        )
        await sink.close()

    asyncio.run(write())


def test_rows_come_when_the_source_has_them(
    make_sandbox: Callable[..., Sandbox], make_redis: Callable[..., Server]
) -> None:
    server = make_redis()
    words = {"sink": "redis", "url": f"redis://{server.address}"}
    source = {"kind": "redis", "connection": CACHE, "options": {"key": THERE}}
    target = {"sink": "redis", "options": {"key": HERE, "value": "json"}, "source": source}
    sandbox = make_sandbox(targets={CACHE: OwnTarget(target, words)}, partitions=2)
    connection = RedisConnection.model_validate(words)
    rows = {f"f{i}": i for i in range(20)}
    sandbox.start("router", CACHE)

    def tell(round: int) -> None:
        sandbox.write(*(
            cloud_event(
                flight.encode(), b'{"key":{"flight":"%b"}}' % flight.encode(), id=f"{round}-{flight}", source="/east",
                type="walstream.invalidation",
            )
            for flight in rows
        ))  # fmt: skip

    def here() -> dict[str, int]:
        with Redis(port=server.address.port) as client:
            found = client.mget([HERE.format(flight=flight) for flight in rows])
        return {flight: json.loads(text)["seq"] for flight, text in zip(rows, found, strict=True) if text}

    def says_that_it_is_behind() -> bool:
        return any("the source is behind" in worker.output() for worker in sandbox.workers)

    tell(1)
    wait_until(says_that_it_is_behind, 20, "the source is behind")
    assert here() == {}
    write_there(connection, rows)
    wait_until(lambda: here() == rows, 20, lambda: f"all rows, but there is {here()}")
    rows = {flight: seq + 100 for flight, seq in rows.items()}
    write_there(connection, rows)
    tell(2)
    write_there(connection, rows)
    wait_until(lambda: here() == rows, 20, lambda: f"all rows anew, but there is {here()}")
    sandbox.drain()
    assert not sandbox.readback.records(sandbox.dlq(CACHE))

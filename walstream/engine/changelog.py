"""Reads changelogs into a store: all that is there (recovery), or on and on (a standby).

Whole fetches go in, one write batch each, with the offset behind them, so an interrupted recovery goes on where it was.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from walstream.engine.fetch import Fetch, drain, wait_ready
from walstream.engine.store import Store
from walstream.engine.table_writer import SEGMENT
from walstream.engine.topology import TableSpec

log = logging.getLogger(__name__)

FETCH_SIZE = 4 << 20  # bytes per partition and fetch
MOST_AGE = 6 * 86_400.0  # s; compacted changelogs keep a delete for a week
STALL = 60.0  # s without a single record, though the end is not reached


class ChangelogReader:
    """A consumer without a group that hands out whole fetches of some partitions.

    Parameters
    ----------
    connection
        Options for aiokafka that say how to reach the cluster.
    positions
        Where each partition is read from.
    """

    def __init__(self, connection: Mapping[str, Any], positions: Mapping[TopicPartition, int]) -> None:
        self.positions = dict(positions)
        self._consumer = AIOKafkaConsumer(
            **connection,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            max_partition_fetch_bytes=FETCH_SIZE,
            fetch_max_wait_ms=200,
        )

    async def __aenter__(self) -> ChangelogReader:
        try:
            await self._consumer.start()
        except BaseException:
            await self._consumer.stop()  # else its connections stay; a rebalance may cancel this
            raise
        self._consumer.assign(list(self.positions))
        for tp, position in self.positions.items():
            self._consumer.seek(tp, position)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()

    async def fetch(self, timeout: float = 1.0) -> list[Fetch]:
        """Wait for the next fetches (seconds); an empty list where nothing came."""
        fetcher = self._consumer._fetcher
        for _ in range(2):
            with fetcher._subscriptions.fetch_context():
                fetches, errors = drain(fetcher, lambda tp: 0)
            for error in errors.values():
                raise error
            if fetches:
                break
            await wait_ready(fetcher, timeout)
        for fetch in fetches:
            self.positions[TopicPartition(fetch.topic, fetch.partition)] = fetch.next_offset
        return fetches


def apply(store: Store, tables: Mapping[str, TableSpec], fetch: Fetch) -> int:
    """Write a fetch of a changelog into the store, and return the number of records."""
    spec = tables[fetch.topic]
    writes: dict[int, dict[bytes, bytes | None]] = {}
    count = 0
    for record in fetch:
        key = record.key
        segment = 0
        if spec.span:
            (segment,) = SEGMENT.unpack_from(key or b"")
            key = (key or b"")[SEGMENT.size :]
        writes.setdefault(segment, {})[key or b""] = record.value
        count += 1
    store.write({spec.name: writes}, {fetch.topic: fetch.next_offset})
    return count


async def recover(
    connection: Mapping[str, Any],
    store: Store,
    tables: Sequence[TableSpec],
    partition: int,
    bounds: Mapping[str, tuple[int, int]],
) -> int:
    """Bring a store up to the end of its changelogs.

    Parameters
    ----------
    bounds
        For each changelog its first and its end offset, taken after the former owner was fenced.

    Returns
    -------
    int
        The number of records read.
    """
    by_changelog = {table.changelog: table for table in tables}
    ahead = any(store.offset(changelog) > end for changelog, (_, end) in bounds.items())
    behind = any(0 < store.offset(changelog) < end for changelog, (_, end) in bounds.items())
    if ahead or (behind and store.age() > MOST_AGE):
        # It has what the changelog has not: it belongs to another life of this topic, or to a time of which compaction
        # has forgotten the deletes, and rows that are gone would be back.
        log.warning("%s cannot be brought up to date; it is rebuilt from its changelogs", store.path)
        store.clear()
    start = {
        TopicPartition(changelog, partition): max(store.offset(changelog), first)
        for changelog, (first, _) in bounds.items()
    }
    todo = {tp for tp in start if start[tp] < bounds[tp.topic][1]}
    if not todo:
        return 0
    count = 0
    async with ChangelogReader(connection, {tp: start[tp] for tp in todo}) as reader:
        async with asyncio.timeout(STALL) as stall:
            while any(reader.positions[tp] < bounds[tp.topic][1] for tp in todo):
                for fetch in await reader.fetch():
                    count += apply(store, by_changelog, fetch)
                    stall.reschedule(asyncio.get_running_loop().time() + STALL)
                    await asyncio.sleep(0)
    return count

"""A store that is rebuilt from its changelogs equals the one that was written with them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition
from confluent_kafka import TopicPartition as Deleted
from confluent_kafka.admin import AdminClient

from walstream.engine.changelog import MOST_AGE, ChangelogReader, apply, recover
from walstream.engine.checkpoint import Checkpoint
from walstream.engine.producer import TransactionalProducer
from walstream.engine.store import Store
from walstream.engine.topology import TableSpec
from walstream.topics import TOMBSTONES

MakeTopic = Callable[..., str]
Rows = dict[str, list[tuple[int, bytes, bytes]]]


class Partition:
    """A partition with two tables and the store of its owner."""

    def __init__(self, brokers: str, folder: Path, plain: str, seg: str) -> None:
        self.connection = {"bootstrap_servers": brokers}
        self.tables = (TableSpec("plain", plain), TableSpec("seg", seg, span=3))
        self.producers: list[TransactionalProducer] = []
        self._folder = folder
        self._stores: list[Store] = []
        self.store = self.new_store()

    def new_store(self) -> Store:
        self._stores.append(Store(self._folder / str(len(self._stores)), self.tables))
        return self._stores[-1]

    async def own(self) -> None:
        producer = TransactionalProducer(self.connection, f"{self.tables[0].changelog}.0")
        await producer.start()
        self.producers.append(producer)

    def begin(self) -> Checkpoint:
        return Checkpoint(0, self.producers[-1].new_batch, self.store, self.tables, {})

    async def commit(self, checkpoint: Checkpoint) -> None:
        checkpoint.seal()
        placed = await self.producers[-1].commit(checkpoint.batches, {}, "group")
        ends = {at[0]: offsets[-1] + checkpoint.batches[at][-1].record_count() for at, offsets in placed.items()}
        self.store.write(checkpoint.writes, ends)

    async def abort(self, checkpoint: Checkpoint) -> None:
        """Die in the middle of a transaction; the next owner aborts it."""
        checkpoint.seal()
        await self.producers[-1].write(checkpoint.batches, {}, "group")
        await self.producers[-1].abandon()
        await self.own()

    async def bounds(self) -> dict[str, tuple[int, int]]:
        consumer = AIOKafkaConsumer(**self.connection, isolation_level="read_committed")
        await consumer.start()
        try:
            tps = [TopicPartition(table.changelog, 0) for table in self.tables]
            first, end = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
            return {tp.topic: (first[tp], end[tp]) for tp in tps}
        finally:
            await consumer.stop()

    async def recover(self, store: Store) -> int:
        return await recover(self.connection, store, self.tables, 0, await self.bounds())

    async def fill(self, checkpoints: int = 5, *, seed: int = 0) -> None:
        draw = random.Random(seed)
        for number in range(checkpoints):
            checkpoint = self.begin()
            for _ in range(50):
                key = b"%d" % draw.randrange(60)
                if draw.random() < 0.2:
                    checkpoint.table("plain").delete(key, 1)
                else:
                    checkpoint.table("plain").put(key, draw.randbytes(20), 1)
                checkpoint.table("seg").put(key, draw.randbytes(20), 1, 10 + number // 2)
            await self.commit(checkpoint)

    def close(self) -> None:
        for store in self._stores:
            store.close()


def rows(store: Store) -> Rows:
    return {table: list(store.items(table)) for table in ("plain", "seg")}


@pytest.fixture
async def partition(brokers: str, tmp_path: Path, make_topic: MakeTopic) -> AsyncIterator[Partition]:
    # As real changelogs have it: by the times that these tests give, Kafka would delete the records for their age.
    arrival = {"message_timestamp_type": "LogAppendTime"}
    plain = make_topic("plain.changelog", cleanup_policy="compact", **arrival)
    seg = make_topic("seg.changelog", **arrival)
    partition = Partition(brokers, tmp_path, plain, seg)
    await partition.own()
    yield partition
    for producer in partition.producers:
        await producer.abandon()
    partition.close()


async def test_a_rebuilt_store_equals_the_one_that_was_written(partition: Partition) -> None:
    await partition.fill()
    fresh = partition.new_store()
    assert await partition.recover(fresh) == 2 * 5 * 50
    assert rows(fresh) == rows(partition.store)
    assert await partition.recover(fresh) == 0, "markers at the end are behind it"


async def test_a_store_that_was_away_for_longer_than_deletes_are_kept_is_rebuilt(
    partition: Partition, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = partition.new_store()
    await partition.fill()
    await partition.recover(old)
    # It has a row that was deleted since, and compaction has forgotten the delete.
    gone = dict.fromkeys([b"gone"], b"x")
    old.write({"plain": {0: gone}}, {table.changelog: old.offset(table.changelog) for table in partition.tables})
    await partition.fill(1, seed=1)
    monkeypatch.setattr(Store, "age", lambda store: MOST_AGE - 1)
    assert await partition.recover(old) == 2 * 50, "it is not old enough"
    await partition.fill(1, seed=2)
    monkeypatch.setattr(Store, "age", lambda store: MOST_AGE + 1)
    assert await partition.recover(old) == 2 * 7 * 50
    assert rows(old) == rows(partition.store)
    old.write({"plain": {0: gone}}, {})
    assert await partition.recover(old) == 0, "an owner that had nothing to write for so long is up to date"


def test_a_store_knows_its_age(partition: Partition, monkeypatch: pytest.MonkeyPatch) -> None:
    assert partition.store.age() == 0
    partition.store.write({}, {})
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 100)
    assert 99 <= partition.store.age() <= 101


def test_deletes_are_kept_for_longer_than_a_store_may_be_away() -> None:
    assert MOST_AGE < TOMBSTONES / 1000


async def test_empty_changelogs_are_recovered_at_once(partition: Partition) -> None:
    assert await partition.recover(partition.new_store()) == 0


async def test_aborted_transactions_are_left_out(partition: Partition) -> None:
    await partition.fill(2)
    for _ in range(2):
        lost = partition.begin()
        lost.table("plain").put(b"lost", b"x", 1)
        lost.table("plain").delete(b"1", 1)
        lost.table("seg").put(b"lost", b"x", 1, 99)
        await partition.abort(lost)
        await partition.fill(1, seed=1)
    lost = partition.begin()
    lost.table("plain").put(b"lost", b"x", 1)
    await partition.abort(lost)
    fresh = partition.new_store()
    await partition.recover(fresh)
    assert rows(fresh) == rows(partition.store)
    assert fresh.get("plain", b"lost") is None


async def test_only_what_is_missing_is_read(partition: Partition) -> None:
    await partition.fill(2)
    behind = partition.new_store()
    await partition.recover(behind)
    await partition.fill(1, seed=2)
    assert await partition.recover(behind) == 100
    assert rows(behind) == rows(partition.store)


async def test_the_owner_s_own_store_needs_no_record(partition: Partition) -> None:
    await partition.fill(2)
    assert await partition.recover(partition.store) == 0


async def test_an_interrupted_recovery_goes_on_where_it_was(partition: Partition) -> None:
    await partition.fill(3)
    fresh = partition.new_store()
    bounds = await partition.bounds()
    half = {topic: (first, (first + end) // 2) for topic, (first, end) in bounds.items()}
    read = await recover(partition.connection, fresh, partition.tables, 0, half)
    assert await partition.recover(fresh) == 300 - read
    assert rows(fresh) == rows(partition.store)


async def test_a_store_that_is_ahead_of_its_changelog_is_rebuilt(partition: Partition) -> None:
    await partition.fill(2)
    strange = partition.new_store()
    strange.write({"plain": {0: {b"strange": b"x"}}}, {partition.tables[0].changelog: 10_000})
    await partition.recover(strange)
    assert rows(strange) == rows(partition.store)


def trim(brokers: str, topic: str, offset: int) -> None:
    admin = AdminClient({"bootstrap.servers": brokers})
    for future in admin.delete_records([Deleted(topic, 0, offset)]).values():
        future.result(timeout=30)


async def test_a_trimmed_changelog_is_read_from_its_start(partition: Partition, brokers: str) -> None:
    await partition.fill(4)
    seg = partition.tables[1].changelog
    trim(brokers, seg, 2 * 51)  # two checkpoints with their markers
    fresh = partition.new_store()
    assert await partition.recover(fresh) == 200 + 100
    kept = [row for row in rows(partition.store)["seg"] if row[0] == 11]
    assert rows(fresh)["seg"] == kept


@pytest.mark.parametrize("known", [True, False])
async def test_an_emptied_changelog_is_recovered_at_once(partition: Partition, brokers: str, known: bool) -> None:
    await partition.fill(2)
    for table in partition.tables[1:]:
        trim(brokers, table.changelog, (await partition.bounds())[table.changelog][1])
    store = partition.store if known else partition.new_store()
    before = rows(partition.store)["seg"]
    async with asyncio.timeout(10):
        assert await partition.recover(store) == (0 if known else 100)
    assert rows(store)["seg"] == (before if known else [])


async def test_a_reader_follows_what_is_committed(partition: Partition) -> None:
    standby = partition.new_store()
    changelogs = {table.changelog: table for table in partition.tables}
    async with ChangelogReader(partition.connection, {TopicPartition(name, 0): 0 for name in changelogs}) as reader:
        for seed in range(3):
            await partition.fill(1, seed=seed)
            ends = {name: partition.store.offset(name) for name in changelogs}
            async with asyncio.timeout(10):
                while any(standby.offset(name) < end for name, end in ends.items()):
                    for fetch in await reader.fetch():
                        apply(standby, changelogs, fetch)
            assert rows(standby) == rows(partition.store)


async def test_a_reader_that_cannot_start_leaves_nothing_open() -> None:
    reader = ChangelogReader({"bootstrap_servers": "127.0.0.1:1"}, {TopicPartition("t", 0): 0})
    with pytest.raises(Exception, match="Unable to bootstrap"):
        async with reader:
            pass
    consumer: Any = reader._consumer
    assert consumer._closed

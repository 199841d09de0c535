"""The private seams of Faust and aiokafka that the engine leans on: one test each, which says in one line what moved.

A failure here after an upgrade names the place; the engine's own tests then say what it means.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import warnings
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import cramjam
import faust
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, codec
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer import fetcher as aiokafka_fetcher
from aiokafka.consumer.fetcher import Fetcher, FetchError, FetchResult, PartitionRecords
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.producer import message_accumulator as aiokafka_accumulator
from aiokafka.producer.message_accumulator import MessageAccumulator, MessageBatch
from aiokafka.producer.sender import SendProduceReqHandler
from aiokafka.protocol import transaction
from aiokafka.protocol.produce import ProduceRequest, ProduceResponse_v8
from aiokafka.record.control_record import ABORT_MARKER, ControlRecord
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import TopicPartition
from faust.app.base import BootStrategy
from faust.assignor import PartitionAssignor
from faust.assignor.client_assignment import ClientAssignment, ClientMetadata
from faust.tables import TableManager
from faust.transport.consumer import Consumer
from faust.transport.drivers import aiokafka as driver
from faust.types.tuples import ConsumerMessage

from walstream.engine.fetch import RawRecords
from walstream.wire.batch import CHECKED_AT, CODECS
from walstream.wire.builder import CRC_AT, BatchBuilder, compressor

TP0 = TopicPartition("topic", 0)


def raw_batch(records: int = 3, base: int = 0, **options: Any) -> bytes:
    settings = {
        "compression_type": 0,
        "is_transactional": 0,
        "producer_id": -1,
        "producer_epoch": -1,
        "base_sequence": 0,
    }
    builder = DefaultRecordBatchBuilder(2, **{**settings, **options}, batch_size=10_000)
    for offset in range(records):
        builder.append(offset, 1_000, b"k%d" % offset, b"v", [("h", b"x")])
    return base.to_bytes(8, "big") + bytes(builder.build())[8:]


def partition_records(raw: bytes, offset: int = 0) -> PartitionRecords:
    return PartitionRecords(TP0, RawRecords(raw), [], offset, None, None, True, 1)


def builder(records: int = 2) -> BatchBuilder:
    built = BatchBuilder(10_000, None, transactional=True)
    for _ in range(records):
        built.writer.append(1_000, b"k", b"v", [("h", b"x")])
    return built


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def attributes_set_by(kind: type) -> str:
    return inspect.getsource(kind)


@pytest.fixture
async def fetcher() -> AsyncIterator[Fetcher]:
    client = SimpleNamespace(_loop=asyncio.get_running_loop(), _metadata_max_age_ms=1000)
    fetcher = Fetcher(client, SubscriptionState(), prefetch_backoff=0.5)
    yield fetcher
    await fetcher.close()


@pytest.fixture
async def producer() -> AsyncIterator[AIOKafkaProducer]:
    producer = AIOKafkaProducer(bootstrap_servers="127.0.0.1:1", transactional_id="t", max_batch_size=10_000)
    yield producer
    producer._closed = True


@pytest.fixture
def app() -> faust.App:
    return faust.App("seams", broker="kafka://127.0.0.1:1", store="memory://")


# ------------------------------------------------------------------------------------------------ aiokafka, reading


def test_fetch_result() -> None:
    state = SimpleNamespace(paused=False, position=0, consumed_to=lambda position: moved.append(position))
    assignment = SimpleNamespace(active=True, state_value=lambda tp: state)
    moved: list[int] = []
    part = partition_records(raw_batch())
    result = FetchResult(TP0, assignment=assignment, partition_records=part, backoff=0)
    assert result.has_more() and result.check_assignment(TP0), "FetchResult.has_more/check_assignment"
    assert result._partition_records is part, "FetchResult._partition_records"
    part.next_fetch_offset = 7
    result._update_position()
    assert moved == [7], "FetchResult._update_position does not take PartitionRecords.next_fetch_offset"
    assert not result.check_assignment(TP0), "FetchResult.check_assignment does not compare the position"
    assert not result.has_more(), "FetchResult.check_assignment does not let go of what is stale"


def test_fetch_error_is_told_by_check_raise() -> None:
    assert not hasattr(FetchResult, "check_raise"), "FetchResult has a check_raise: it is taken for an error"
    with pytest.raises(ValueError, match="x"):
        FetchError(error=ValueError("x"), backoff=0).check_raise()


def test_partition_records_fields() -> None:
    part = partition_records(raw_batch(), offset=1)
    for field in ("_records", "_records_iterator", "_aborted_producers", "_aborted_transactions", "next_fetch_offset"):
        assert hasattr(part, field), f"PartitionRecords.{field}"
    assert part.next_fetch_offset == 1, "PartitionRecords.next_fetch_offset"
    part._records_iterator.close()


def test_partition_records_notes_aborted_transactions() -> None:
    part = PartitionRecords(TP0, RawRecords(raw_batch()), [(5, 10)], 0, None, None, True, 1)
    part._consume_aborted_up_to(9)
    assert part._aborted_producers == set(), "PartitionRecords._consume_aborted_up_to"
    part._consume_aborted_up_to(10)
    assert part._aborted_producers == {5}, "PartitionRecords._consume_aborted_up_to"
    part._records_iterator.close()


def test_fetched_bytes_come_through_a_global_of_the_fetcher_s_module() -> None:
    assert aiokafka_fetcher.MemoryRecords is RawRecords, "somebody else replaced fetcher.MemoryRecords"
    source = inspect.getsource(Fetcher._proc_fetch_request)
    assert "MemoryRecords(part_data[-1])" in source, "Fetcher._proc_fetch_request makes no MemoryRecords of the bytes"
    assert Fetcher._proc_fetch_request.__globals__ is vars(aiokafka_fetcher), "it is looked up elsewhere"
    asked = [name for name in ("has_next", "size_in_bytes", "next_batch") if f"records.{name}(" in source]
    assert asked == ["has_next", "size_in_bytes"], "Fetcher._proc_fetch_request asks MemoryRecords for something else"


def test_memory_records_is_subclassed_with_bytes() -> None:
    raw = raw_batch(base=40) + raw_batch(base=43)
    records = RawRecords(raw + raw[:-1])
    assert records.raw == raw + raw[:-1] and isinstance(records, MemoryRecords), "MemoryRecords cannot be subclassed"
    assert records.has_next() and records.size_in_bytes() == len(records.raw), "MemoryRecords.has_next/size_in_bytes"
    part = RawRecords(raw_batch()[:-1])
    assert not part.has_next() and part.size_in_bytes() > 0, "MemoryRecords.has_next with a part of a batch"
    assert not RawRecords(b"").has_next(), "MemoryRecords.has_next with nothing"


def test_partition_records_keeps_the_records_that_it_was_given() -> None:
    part = partition_records(raw_batch())
    assert part._records.raw == raw_batch(), "PartitionRecords._records"
    part._records_iterator.close()


def test_control_records() -> None:
    assert ControlRecord.parse(b"\0\0\0\0") == ABORT_MARKER, "ControlRecord.parse/ABORT_MARKER"
    assert ControlRecord.parse(b"\0\0\0\1") != ABORT_MARKER, "ControlRecord.parse/ABORT_MARKER"


async def test_fetcher_keeps_what_it_fetched_in_records(fetcher: Fetcher) -> None:
    assert isinstance(fetcher._records, dict), "Fetcher._records"
    source = inspect.getsource(Fetcher._proc_fetch_request)
    assert "self._records[tp] = FetchResult(" in source, "Fetcher._proc_fetch_request puts results elsewhere"
    assert "tp in self._records" in inspect.getsource(Fetcher._get_actions_per_node), "Fetcher fetches what it holds"


async def test_fetcher_waiters(fetcher: Fetcher) -> None:
    waiter = fetcher._create_fetch_waiter()
    assert waiter in fetcher._fetch_waiters, "Fetcher._create_fetch_waiter/_fetch_waiters"
    fetcher._notify(waiter)
    fetcher._notify(waiter)
    await waiter
    await asyncio.sleep(0)
    assert waiter not in fetcher._fetch_waiters, "Fetcher._fetch_waiters keeps what is done"


async def test_fetcher_passes_errors_of_the_group_to_waiters(fetcher: Fetcher) -> None:
    assert fetcher._subscriptions._fetch_waiters is fetcher._fetch_waiters, "SubscriptionState.register_fetch_waiters"


async def test_fetcher_is_woken_by_the_consume_future(fetcher: Fetcher) -> None:
    assert hasattr(fetcher, "_wait_consume_future"), "Fetcher._wait_consume_future"
    fetcher._notify(None)
    assert "self._wait_consume_future" in inspect.getsource(Fetcher._fetch_requests_routine), "nobody waits for it"


async def test_fetcher_reads_how_long_to_wait_for_each_request(fetcher: Fetcher) -> None:
    source = inspect.getsource(Fetcher._get_actions_per_node)
    assert fetcher._fetch_min_bytes == 1, "a fetch is not answered as soon as something comes"
    name = "_fetch_max_wait_ms"
    assert hasattr(fetcher, name) and f"self.{name}" in source, f"Fetcher.{name}"


async def test_fetcher_asks_what_to_do_and_for_how_long_before_it_waits(fetcher: Fetcher) -> None:
    routine = " ".join(inspect.getsource(Fetcher._fetch_requests_routine).split())
    names = "( fetch_requests, reset_requests, timeout, invalid_metadata, resume_futures, )"
    assert f"{names} = self._get_actions_per_node(assignment)" in routine, "Fetcher._get_actions_per_node"
    assert "timeout=timeout," in routine, "Fetcher._get_actions_per_node's third part"


async def test_fetcher_backoff_before_it_skips_a_held_partition(fetcher: Fetcher) -> None:
    assert fetcher._prefetch_backoff == 0.5, "Fetcher._prefetch_backoff"
    assert "backoff=self._prefetch_backoff" in inspect.getsource(Fetcher._proc_fetch_request), (
        "Fetcher._prefetch_backoff"
    )


async def test_fetcher_error_future(fetcher: Fetcher) -> None:
    assert fetcher.error_future is fetcher._fetch_task, "Fetcher.error_future"


async def test_fetcher_asks_for_offsets_where_there_is_no_position() -> None:
    source = inspect.getsource(Fetcher._get_actions_per_node)
    assert source.index("has_valid_position") < source.index("tp_state.paused"), (
        "a paused partition needs no position any more: FetchConsumer.hold need not seek"
    )


async def test_subscription_state(fetcher: Fetcher) -> None:
    subscriptions = fetcher._subscriptions
    with subscriptions.fetch_context():
        pass
    assert subscriptions.reassignment_in_progress is True, "SubscriptionState.reassignment_in_progress"
    assert subscriptions.is_assigned(TP0) is False, "SubscriptionState.is_assigned"


async def test_consumer_parts() -> None:
    consumer = AIOKafkaConsumer(bootstrap_servers="127.0.0.1:1", group_id=None)
    source = inspect.getsource(AIOKafkaConsumer)
    assert "self._fetcher = Fetcher(" in source, "AIOKafkaConsumer._fetcher"
    assert "self._coordinator = GroupCoordinator(" in source, "AIOKafkaConsumer._coordinator"
    assert "group_instance_id" in parameters(AIOKafkaConsumer), "AIOKafkaConsumer has no static membership"
    await consumer.stop()


def test_seek_drops_what_was_fetched() -> None:
    assert "seek_to" in inspect.getsource(AIOKafkaConsumer.seek), "AIOKafkaConsumer.seek"
    assert not inspect.iscoroutinefunction(AIOKafkaConsumer.seek), "AIOKafkaConsumer.seek is a coroutine"
    assert "_records" in inspect.getsource(Fetcher.seek_to), "Fetcher.seek_to keeps what was fetched"


# ------------------------------------------------------------------------------------------------ aiokafka, the group


def test_coordinator_leaves_only_without_an_instance_id() -> None:
    source = inspect.getsource(GroupCoordinator._maybe_leave_group)
    assert "self._group_instance_id is None" in source, "GroupCoordinator._group_instance_id"


def test_coordinator_heartbeat() -> None:
    assert inspect.iscoroutinefunction(GroupCoordinator._do_heartbeat), "GroupCoordinator._do_heartbeat"
    assert parameters(GroupCoordinator._do_heartbeat) == ["self"], "GroupCoordinator._do_heartbeat"
    source = inspect.getsource(GroupCoordinator._do_heartbeat)
    assert "return True" in source and "return False" in source, "GroupCoordinator._do_heartbeat says nothing"


def test_coordinator_rejoin_future_and_generation() -> None:
    source = attributes_set_by(GroupCoordinator)
    assert "self._rejoin_needed_fut = " in source, "GroupCoordinator._rejoin_needed_fut"
    assert "self.generation = " in source, "GroupCoordinator.generation"


def test_coordinator_fetches_committed_offsets() -> None:
    assert parameters(GroupCoordinator.fetch_committed_offsets) == ["self", "partitions"], "fetch_committed_offsets"
    source = inspect.getsource(GroupCoordinator._do_fetch_commit_offsets)
    assert "if offset == UNKNOWN_OFFSET" in source, "partitions without an offset are no longer left out"


# ------------------------------------------------------------------------------------------------ aiokafka, writing


async def test_producer_parts(producer: AIOKafkaProducer) -> None:
    assert producer._closed is False, "AIOKafkaProducer._closed"
    assert parameters(producer._sender.close) == [], "Sender.close"
    assert inspect.iscoroutinefunction(producer._sender.close), "Sender.close"
    assert inspect.iscoroutinefunction(producer.client.close), "AIOKafkaClient.close"


async def test_producer_is_thrown_away_by_its_accumulator(producer: AIOKafkaProducer) -> None:
    accumulator = producer._message_accumulator
    assert accumulator._batches == {}, "MessageAccumulator._batches"
    assert accumulator._pending_batches == set(), "MessageAccumulator._pending_batches"
    producer._txn_manager.set_pid_and_epoch(1, 0)
    producer._txn_manager.begin_transaction()
    await accumulator.add_batch(builder(), TP0, 1)
    (batch,) = accumulator._batches[TP0]
    assert not batch.future.done(), "MessageBatch.future"


async def test_closed_producer_does_not_complain(producer: AIOKafkaProducer) -> None:
    producer._closed = True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        producer.__del__()


def test_what_the_producer_calls_on_a_builder() -> None:
    """Whatever it calls, `BatchBuilder` has, but for `append`, which belongs to records that are sent one by one."""
    called = set()
    for kind in (MessageBatch, MessageAccumulator, SendProduceReqHandler):
        called |= set(re.findall(r"_builder\.(\w+)", inspect.getsource(kind)))
    assert called == {"_set_producer_state", "_build", "record_count", "close", "closed", "append"}, (
        "the producer calls something else on a batch's builder"
    )
    for name in called - {"append"}:
        given = parameters(getattr(aiokafka_accumulator.BatchBuilder, name))
        assert parameters(getattr(BatchBuilder, name)) == given, f"BatchBuilder.{name}"
    source = inspect.getsource(AIOKafkaProducer.send_batch)
    assert "add_batch(\n            batch, tp" in source, "AIOKafkaProducer.send_batch looks into the batch"


async def test_a_builder_of_ours_goes_all_the_way_to_the_request(producer: AIOKafkaProducer) -> None:
    manager, accumulator = producer._txn_manager, producer._message_accumulator
    manager.set_pid_and_epoch(7, 3)
    manager.begin_transaction()
    first, second = builder(), builder()
    await accumulator.add_batch(first, TP0, 1)
    batch = accumulator._pop_batch(TP0)
    assert batch.get_data_buffer() is batch.get_data_buffer(), "a batch that is sent again is not the same"
    sent = MemoryRecords(batch.get_data_buffer()).next_batch()
    assert (sent.producer_id, sent.producer_epoch, sent.base_sequence) == (7, 3, 0), "BatchBuilder._set_producer_state"
    assert sent.is_transactional and sent.validate_crc(), "BatchBuilder._build"
    assert batch.record_count == 2 and not batch.is_empty(), "BatchBuilder.record_count"
    await accumulator.add_batch(second, TP0, 1)
    batch = accumulator._pop_batch(TP0)
    assert MemoryRecords(batch.get_data_buffer()).next_batch().base_sequence == 2, (
        "TransactionManager's sequence numbers"
    )
    batch.future.cancel()


def test_aiokafka_s_builder_of_records() -> None:
    """What the wire's plain twin writes with."""
    records = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, 0, 1_000)
    assert records.append(0, 1, b"k", b"x" * 20_000, []) is not None, "the first record is not taken whatever its size"
    assert records.append(1, 1, b"k", b"x", []) is None, "a full builder does not answer None"
    size = records.size()
    assert len(records.build()) == size > 20_000, "DefaultRecordBatchBuilder.size/build"


def test_checksums() -> None:
    raw = raw_batch()
    checksum = int.from_bytes(raw[CRC_AT : CRC_AT + 4], "big")
    assert calc_crc32c(memoryview(raw)[CHECKED_AT:]) == checksum, "calc_crc32c does not take a memoryview"


@pytest.mark.parametrize("name", CODECS.values())
def test_codecs(name: str) -> None:
    assert getattr(codec, f"has_{name}")() is True, f"aiokafka.codec.has_{name}"
    data = b"some data " * 100
    decode = getattr(codec, f"{name}_decode")
    assert bytes(decode(memoryview(compressor(name)(data)))) == data, f"aiokafka.codec.{name}_encode/{name}_decode"


def test_lz4_is_told_its_level_and_that_blocks_are_independent() -> None:
    data = b"".join(b"%d" % number for number in range(100_000))
    packed = compressor("lz4")(data)
    assert packed[:4] == b"\x04\x22\x4d\x18", "cramjam.lz4.Compressor writes no frame"
    assert packed[4] & 0b0010_0000, "cramjam.lz4.Compressor(block_linked=False)"
    assert not packed[4] & 0b0000_0100, "cramjam.lz4.Compressor(content_checksum=False)"
    best = cramjam.lz4.Compressor(level=9, content_checksum=False, block_linked=False)
    best.compress(data)
    assert len(packed) > len(bytes(best.finish())), "cramjam.lz4.Compressor(level=1)"


WHO = ["transactional_id", "producer_id", "producer_epoch"]


def test_client_that_transactions_go_through() -> None:
    assert parameters(AIOKafkaClient.send) == ["self", "node_id", "request", "group"], "AIOKafkaClient.send"
    assert parameters(AIOKafkaClient.coordinator_lookup) == ["self", "coordinator_type", "coordinator_key"]
    assert inspect.iscoroutinefunction(AIOKafkaClient._wait_on_metadata), "AIOKafkaClient._wait_on_metadata"
    assert parameters(AIOKafkaClient.force_metadata_update) == ["self"], "AIOKafkaClient.force_metadata_update"


@pytest.mark.parametrize(
    ("request_", "names"),
    [
        (transaction.InitProducerIdRequest, ["transactional_id", "transaction_timeout_ms"]),
        (transaction.AddPartitionsToTxnRequest, [*WHO, "topics"]),
        (transaction.AddOffsetsToTxnRequest, [*WHO, "group_id"]),
        (transaction.TxnOffsetCommitRequest, ["transactional_id", "group_id", *WHO[1:], "topics"]),
        (transaction.EndTxnRequest, [*WHO, "transaction_result"]),
        (ProduceRequest, ["transactional_id", "required_acks", "timeout", "topics"]),
    ],
)
def test_requests_of_a_transaction(request_: type, names: list[str]) -> None:
    assert parameters(request_.__init__) == ["self", *names], request_.__name__  # type: ignore[misc]


def test_append_time_in_the_answer_to_a_batch() -> None:
    names = ProduceResponse_v8.SCHEMA.fields[0].array_of.fields[1].array_of.names
    assert list(names[:4]) == ["partition", "error_code", "offset", "timestamp"], "ProduceResponse"


# ------------------------------------------------------------------------------------------------ Faust


def test_topic_decode(app: faust.App) -> None:
    assert "self._compile_decode()" in inspect.getsource(faust.Topic.__init__), "Topic._compile_decode"
    assert "self.decode = " in inspect.getsource(faust.Topic._compile_decode), "Topic._compile_decode"
    event = app.topic("t")._create_event(None, b"", headers=None, message=SimpleNamespace())
    assert event.value == b"", "Topic._create_event"


def test_conductor_takes_decode_from_the_channel() -> None:
    from faust.transport import conductor

    assert "chan.decode(message, propagate=True)" in inspect.getsource(conductor.ConductorCompiler.build), "Conductor"


def test_table_manager(app: faust.App) -> None:
    tables = TableManager(app)
    for name in ("_tables_finalized", "_tables_registered", "_channels", "changelog_queue"):
        assert hasattr(tables, name), f"TableManager.{name}"
    for name in ("on_start", "_update_channels", "on_stop", "wait_until_recovery_completed"):
        assert inspect.iscoroutinefunction(getattr(TableManager, name)), f"TableManager.{name}"
    for name in ("on_partitions_revoked", "on_actives_ready", "on_standbys_ready"):
        assert callable(getattr(TableManager, name)), f"TableManager.{name}"
    wanted = ["self", "assigned", "revoked", "newly_assigned", "generation_id"]
    assert parameters(TableManager.on_rebalance) == wanted, "TableManager.on_rebalance"


def test_table_recovery_is_reached_only_through_the_table_manager() -> None:
    source = inspect.getsource(faust.App)
    assert "tables.recovery" not in source, "App goes to the recovery directly"


def test_assignor_is_subclassed() -> None:
    assert parameters(PartitionAssignor._perform_assignment) == ["self", "cluster", "member_metadata"], (
        "_perform_assignment"
    )
    wanted = ["self", "assignments", "cl_distribution", "tp_distribution", "topic_groups"]
    assert parameters(PartitionAssignor._protocol_assignments) == wanted, "PartitionAssignor._protocol_assignments"
    for name in ("_update_member_urls", "_get_client_metadata", "_decompress", "assigned_standbys"):
        assert hasattr(PartitionAssignor, name), f"PartitionAssignor.{name}"


def test_topics_with_one_partition_count_are_assigned_together() -> None:
    counts = {"log": 4, "retry": 4, "marks": 4, "other": 2}
    cluster: Any = SimpleNamespace(partitions_for_topic=lambda topic: set(range(counts[topic])))
    groups = PartitionAssignor._get_copartitioned_groups(set(counts), cluster, {"a": list(counts), "b": list(counts)})
    assert [*groups[4]] == [{"log", "retry", "marks"}], "a task needs all its sources at one place"


def test_assignor_takes_up_an_assignment() -> None:
    source = inspect.getsource(PartitionAssignor.on_assignment)
    names = (
        "_assignment", "_topic_groups", "_active_tps", "_standby_tps",
        "changelog_distribution", "external_topic_distribution",
    )  # fmt: skip
    taken = [line.strip().removeprefix("self.").split(" = ")[0] for line in source.splitlines() if "self." in line[:16]]
    assert [name for name in taken if name in names] == list(names), "PartitionAssignor.on_assignment sets other fields"
    metadata = ClientMetadata(
        assignment=ClientAssignment(actives={}, standbys={}), url="http://x", changelog_distribution={},
        external_topic_distribution={}, topic_groups={},
    )  # fmt: skip
    loaded = ClientMetadata.loads(metadata.dumps())
    assert loaded.assignment.active_tps == set() and loaded.topic_groups == {}, "ClientMetadata"


def test_consumer_read_offset() -> None:
    source = inspect.getsource(Consumer._drain_messages)
    assert "self._read_offset.__getitem__" in source, "Consumer._read_offset"
    assert "self._read_offset.__setitem__" in source, "Consumer._read_offset"
    assert "r_offset is None or" in source, "Consumer._read_offset drops what it has not read"


def test_consumer_getmany() -> None:
    source = inspect.getsource(Consumer._drain_messages)
    assert "getmany(timeout=1.0)" in source and "async for tp, message in ait" in source, "Consumer.getmany"


@pytest.mark.parametrize(
    "name", ["commit", "force_commit", "perform_seek", "_add_gap", "track_message", "verify_event_path"]
)
def test_consumer_bookkeeping_that_is_switched_off(name: str) -> None:
    from walstream.engine.transport import FetchConsumer

    faust_s, ours = getattr(Consumer, name, None), getattr(FetchConsumer, name)
    assert faust_s is not None, f"Consumer.{name} is gone; what does its work now?"
    assert inspect.iscoroutinefunction(faust_s) == inspect.iscoroutinefunction(ours), f"Consumer.{name}"


def test_consumer_thread() -> None:
    thread = driver.AIOKafkaConsumerThread
    assert parameters(thread._create_worker_consumer) == ["self", "transport"], "_create_worker_consumer"
    assert inspect.iscoroutinefunction(thread.on_thread_stop), "AIOKafkaConsumerThread.on_thread_stop"
    assert parameters(thread._ensure_consumer) == ["self"], "AIOKafkaConsumerThread._ensure_consumer"
    assert any("thread_loop" in inspect.getsource(kind) for kind in thread.__mro__[:-1]), "ServiceThread.thread_loop"
    assert "AIOKafkaConsumerThread(self, loop=self.loop, beacon=self.beacon)" in inspect.getsource(
        driver.Consumer._new_consumer_thread
    ), "Consumer._new_consumer_thread"
    assert driver.Transport.Consumer is driver.Consumer, "Transport.Consumer"


def test_generation_is_set_before_the_assignment_is_announced() -> None:
    source = inspect.getsource(driver.ConsumerRebalanceListener.on_partitions_assigned)
    assert "app.consumer_generation_id = generation" in source, "App.consumer_generation_id"


def test_consumer_message() -> None:
    fields = parameters(ConsumerMessage)
    wanted = [
        "topic", "partition", "offset", "timestamp", "timestamp_type", "headers", "key", "value", "checksum",
        "serialized_key_size", "serialized_value_size", "tp",
    ]  # fmt: skip
    assert fields[: len(wanted)] == wanted, "ConsumerMessage's fields"
    assert "generation_id" in fields, "ConsumerMessage.generation_id"


def test_boot_strategy_without_a_producer(app: faust.App) -> None:
    assert hasattr(BootStrategy, "enable_kafka_producer"), "BootStrategy.enable_kafka_producer"
    app.boot_strategy.enable_kafka_producer = False
    assert list(app.boot_strategy.kafka_producer()) == [], "BootStrategy.enable_kafka_producer"


def test_app_hooks(app: faust.App) -> None:
    for name in ("_create_directories", "on_rebalance_return", "on_rebalance_end", "on_start", "on_stop"):
        assert callable(getattr(faust.App, name)), f"App.{name}"
    assert app.rebalancing is False, "App.rebalancing"
    assert hasattr(app, "consumer_generation_id"), "App.consumer_generation_id"
    assert callable(app._fetcher.maybe_start), "App._fetcher.maybe_start"
    assert callable(app.flow_control.resume), "App.flow_control"
    assert callable(Consumer.resume_flow), "Consumer.resume_flow"


def test_app_announces_rebalances_to_signals() -> None:
    revoked = inspect.getsource(faust.App._on_partitions_revoked)
    assigned = inspect.getsource(faust.App._on_partitions_assigned)
    assert "self.on_partitions_revoked.send" in revoked, "App.on_partitions_revoked"
    assert "self.on_partitions_assigned.send" in assigned, "App.on_partitions_assigned"
    assert assigned.index("self.tables.on_rebalance") < assigned.index("on_partitions_assigned.send"), "their order"
    assert "if self.should_stop" in assigned, "an app that stops is assigned partitions"


def test_datadir_reaches_us_through_the_environment() -> None:
    from faust.cli import base

    assert 'os.environ["F_DATADIR"] = datadir' in inspect.getsource(base), "faust --datadir sets F_DATADIR no more"

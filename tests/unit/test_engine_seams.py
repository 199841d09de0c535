"""The private seams of Faust and aiokafka that the engine leans on: one test each, which says in one line what moved.

A failure here after an upgrade names the place; the engine's own tests then say what it means.
"""

from __future__ import annotations

import asyncio
import inspect
import warnings
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import faust
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer.fetcher import Fetcher, FetchError, FetchResult, PartitionRecords
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.protocol import fetch
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition
from faust.app.base import BootStrategy
from faust.assignor import PartitionAssignor
from faust.assignor.client_assignment import ClientAssignment, ClientMetadata
from faust.tables import TableManager
from faust.transport.consumer import Consumer
from faust.transport.drivers import aiokafka as driver
from faust.types.tuples import ConsumerMessage

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
    return PartitionRecords(TP0, MemoryRecords(raw), [], offset, None, None, True, 1)


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
    part = PartitionRecords(TP0, MemoryRecords(raw_batch()), [(5, 10)], 0, None, None, True, 1)
    part._consume_aborted_up_to(9)
    assert part._aborted_producers == set(), "PartitionRecords._consume_aborted_up_to"
    part._consume_aborted_up_to(10)
    assert part._aborted_producers == {5}, "PartitionRecords._consume_aborted_up_to"
    part._records_iterator.close()


def test_memory_records_and_batches() -> None:
    records = MemoryRecords(raw_batch(base=40) + raw_batch(base=43, is_transactional=1, producer_id=8))
    assert records.has_next() and records.size_in_bytes() > 0, "MemoryRecords.has_next/size_in_bytes"
    first, second = records.next_batch(), records.next_batch()
    assert not records.has_next(), "MemoryRecords.has_next"
    assert (first.base_offset, first.next_offset) == (40, 43), "a batch's base_offset/next_offset"
    assert first.validate_crc(), "a batch's validate_crc"
    assert (second.is_transactional, second.is_control_batch, second.producer_id) == (True, False, 8), "a batch's flags"
    assert [record.offset for record in first] == [40, 41, 42], "a batch is iterated once, from its base offset"
    record = next(second)
    assert (record.key, record.value, record.headers) == (b"k0", b"v", [("h", b"x")]), "a record's fields"


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


def test_bytes_are_fetched_with_a_plain_client() -> None:
    for name in ("bootstrap", "_wait_on_metadata", "send", "close"):
        assert inspect.iscoroutinefunction(getattr(AIOKafkaClient, name)), f"AIOKafkaClient.{name}"
    wanted = ["self", "max_wait_time", "min_bytes", "max_bytes", "isolation_level", "topics"]
    assert parameters(FetchRequest.__init__)[: len(wanted)] == wanted, "FetchRequest"
    answers = [(kind.API_VERSION, kind.SCHEMA) for kind in vars(fetch).values() if kind_of_answer(kind)]
    for version, schema in answers:
        fields: Any = schema.fields[schema.names.index("topics")].array_of.fields[1].array_of
        assert (fields.names[0], fields.names[1], fields.names[-1]) == ("partition", "error_code", "message_set")
        if version >= 4:
            assert fields.names[5 if version >= 5 else 4] == "aborted_transactions", f"FetchResponse_v{version}"
    assert len(answers) > 5, "FetchResponse_v…"


def kind_of_answer(kind: Any) -> bool:
    return isinstance(kind, type) and kind.__name__.startswith("FetchResponse_v")


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
    await accumulator.add_batch(producer.create_batch(), TP0, 1)
    (batch,) = accumulator._batches[TP0]
    assert not batch.future.done(), "MessageBatch.future"


async def test_closed_producer_does_not_complain(producer: AIOKafkaProducer) -> None:
    producer._closed = True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        producer.__del__()


async def test_batches_belong_to_a_transaction(producer: AIOKafkaProducer) -> None:
    builder = producer.create_batch()
    assert isinstance(builder, BatchBuilder), "AIOKafkaProducer.create_batch"
    builder.append(timestamp=1, key=None, value=b"v", headers=[])
    batch = MemoryRecords(bytes(builder._build())).next_batch()
    assert batch.is_transactional, "AIOKafkaProducer.create_batch forgets the transaction"


async def test_batch_builder_is_appended_to_directly(producer: AIOKafkaProducer) -> None:
    batch = producer.create_batch()
    for offset in range(3):
        assert batch._builder.append(offset, 1_000, b"k", None, []) is not None, "BatchBuilder._builder.append"
    batch._relative_offset = 3
    assert batch.record_count() == 3, "BatchBuilder._relative_offset"
    batch.close()
    assert batch.closed() and batch.size() > 0, "BatchBuilder.closed/size"
    records = list(MemoryRecords(bytes(batch._build())).next_batch())
    assert [record.offset for record in records] == [0, 1, 2], "BatchBuilder._builder.append"


async def test_full_batch_builder_answers_none(producer: AIOKafkaProducer) -> None:
    append = producer.create_batch()._builder.append
    assert append(0, 1, b"k", b"x" * 20_000, []) is not None, "the first record is not taken whatever its size"
    assert append(1, 1, b"k", b"x", []) is None, "a full builder does not answer None"


def test_offsets_of_a_transaction_cannot_be_empty() -> None:
    from aiokafka.util import commit_structure_validate

    with pytest.raises(ValueError, match=r"\{\}"):
        commit_structure_validate({})


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

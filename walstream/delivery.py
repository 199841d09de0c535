"""Delivery: log -> sink, one worker (and one consumer group) per target.

A sink answers for every entry. Applied and skipped entries are finished, and dead ones once they are in the target's
DLQ, which is part of the checkpoint. What is to be tried again holds the partition, with a growing wait.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry

from walstream import deadletter, topics
from walstream.backoff import Backoff
from walstream.config import load_connections, load_namespaces
from walstream.connections import Connection
from walstream.engine.app import App, make_app
from walstream.engine.checkpoint import Checkpoint
from walstream.engine.fetch import Fetch
from walstream.engine.topology import TableSpec, Topology
from walstream.entry import Entry
from walstream.errors import ConfigurationError, Fenced, RecordRefused
from walstream.kafka import KafkaConnection
from walstream.marks import STOPPED, decode_mark, encode_mark
from walstream.metrics import DeliveryMetrics, serve
from walstream.namespace import Namespace
from walstream.preflight import preflight
from walstream.settings import Settings
from walstream.sinks.base import Applied, CheckpointSink, Dead, Outcome, Retry, Sink, SinkContext, Skipped, Verdict
from walstream.sinks.registry import sink_class
from walstream.sinks.shared import SharedSink
from walstream.wire import Record as KafkaRecord

log = logging.getLogger(__name__)

SINK_DEADLINE = 30.0  # s; no call may take longer, so that a checkpoint never waits for ever
BATCH = 500  # entries in one call; a checkpoint may be between two


class DeliveryProcessor:
    """The delivery of one partition of the log to one target.

    Parameters
    ----------
    namespace, target
        What it serves.
    partition
        The partition number.
    sink
        The target's sink.
    metrics
        Where it counts.
    """

    def __init__(
        self, namespace: Namespace, target: str, partition: int, sink: SharedSink, metrics: DeliveryMetrics
    ) -> None:
        self._metrics = metrics
        self._namespace, self._target, self._partition = namespace, target, partition
        self._name = f"{namespace.name}.{target}"
        self._dlq = topics.target_dlq(namespace, target).name
        self._marks = marks_table(namespace, target)
        self._retry = namespace.targets[target].retry
        self._shared = sink
        self._sink: Sink | None = None
        self._acquired = False

    async def open(self, checkpoint: Checkpoint) -> None:
        self._acquired = True
        self._sink = await self._shared.acquire()
        if self._sink.late_writes_harmless:
            return
        marks = checkpoint.table(self._marks)
        mark = marks.get(STOPPED)
        if mark is not None and not decode_mark(mark):
            # The former owner may have died with a request on its way, which must not overtake ours.
            await asyncio.sleep(SINK_DEADLINE)
        marks.put(STOPPED, encode_mark(False), int(time.time() * 1000))

    async def process(self, fetch: Fetch, checkpoint: Checkpoint) -> None:
        batch: list[Entry] = []
        for record in fetch.take(BATCH):
            try:
                entry = Entry.from_record(self._partition, record)
            except RecordRefused as refusal:
                self._bury_foreign(record, refusal, checkpoint)
                continue
            if entry.is_for(self._target):
                batch.append(entry)
        if batch:
            await self._deliver(batch, checkpoint)

    def wants(self, topic: str) -> bool:
        """All of the log, at any time."""
        return True

    def due_at(self) -> int | None:
        """Nothing waits for its time."""
        return None

    async def process_due(self, checkpoint: Checkpoint) -> None:
        """Nothing falls due."""

    def finish(self, checkpoint: Checkpoint) -> None:
        """Nothing is kept once per checkpoint."""

    async def close(self, checkpoint: Checkpoint | None) -> None:
        if checkpoint is not None and self._sink is not None and not self._sink.late_writes_harmless:
            checkpoint.table(self._marks).put(STOPPED, encode_mark(True), int(time.time() * 1000))
        if self._acquired:
            self._acquired = False
            await self._shared.release()

    async def _deliver(self, batch: Sequence[Entry], checkpoint: Checkpoint) -> None:
        """Deliver entries until each is finished."""
        backoff = Backoff(self._retry)
        attempt = 0
        first: dict[int, str] = {}
        while batch:
            attempt += 1
            outcomes = await self._attempt(batch, checkpoint)
            for kind, number in Counter(type(outcome).__name__.lower() for outcome in outcomes).items():
                self._metrics.count(self._namespace.name, self._target, kind, number)
            again: list[Entry] = []
            held: set[bytes | None] = set()
            after = 0.0
            for entry, outcome in zip(batch, outcomes, strict=True):
                match outcome:
                    case Applied() | Skipped():
                        if entry.key in held:
                            again.append(entry)  # it went ahead of one that it follows, and must end up behind it
                    case Dead(reason):
                        self._bury(entry, reason, attempt, first.get(entry.position), checkpoint)
                    case Retry(reason, wait):
                        first.setdefault(entry.position, reason)
                        again.append(entry)
                        if entry.key is not None:
                            held.add(entry.key)
                        after = max(after, wait or 0.0)
            if again:
                reason = first[again[0].position]  # the first that is held gave one
                backoff.report(
                    f"{self._name}-{self._partition}: {len(again)} entries from log position {again[0].position} on "
                    f"are held and tried again: {reason}"
                )
                await asyncio.sleep(max(backoff.next(), after))
            batch = again

    async def _attempt(self, batch: Sequence[Entry], checkpoint: Checkpoint) -> Sequence[Outcome]:
        """Call the sink once, and turn whatever happens into one outcome per entry."""
        sink = self._sink
        assert sink is not None
        began = time.monotonic()
        try:
            if isinstance(sink, CheckpointSink):
                outcomes = sink.stage(batch, checkpoint)
            else:
                if not sink.late_writes_harmless:
                    await checkpoint.make_sure()
                async with asyncio.timeout(SINK_DEADLINE):
                    outcomes = await sink.write(batch)
        except Fenced:
            raise
        except Exception as exc:
            verdict = Verdict.TARGET_DOWN if isinstance(exc, TimeoutError) else sink.verdict(exc)
            reason = f"{type(exc).__name__}: {exc}"
            if verdict is None:
                log.exception("%s: an error that is not in the sink's table holds the partition", self._name)
            if verdict is not Verdict.DEAD:
                return [Retry(reason)] * len(batch)
            if len(batch) == 1:
                return [Dead(reason)]
            # One of them is at fault; each is tried by itself, in order. What follows a held one is not tried.
            alone: list[Outcome] = []
            for entry in batch:
                held = alone[-1] if alone and isinstance(alone[-1], Retry) else None
                alone.append(held or (await self._attempt([entry], checkpoint))[0])
            return alone
        self._metrics.took(self._namespace.name, self._target, time.monotonic() - began)
        count = len(outcomes) if isinstance(outcomes, Sequence) else 0
        if count != len(batch) or not all(isinstance(outcome, Outcome) for outcome in outcomes):
            reason = f"the sink did not answer with one outcome for each of {len(batch)} entries, but with {count}"
            log.error("%s: %s; the partition is held", self._name, reason)
            return [Retry(reason)] * len(batch)
        return outcomes

    def _bury_foreign(self, record: KafkaRecord, refusal: RecordRefused, checkpoint: Checkpoint) -> None:
        """Put aside what somebody else wrote into the log."""
        limit, now = self._namespace.topics.max_record, int(time.time() * 1000)
        message = deadletter.not_understood(record, refusal, limit=limit, now=now)
        checkpoint.output(self._dlq).append(record.timestamp, message.key, message.value, message.headers)

    def _bury(self, entry: Entry, reason: str, attempt: int, first: str | None, checkpoint: Checkpoint) -> None:
        message = deadletter.dead(
            entry, target=self._name, reason=reason, attempt=attempt, now=int(time.time() * 1000), first=first
        )
        checkpoint.output(self._dlq).append(entry.timestamp, message.key, message.value, message.headers)


def marks_table(namespace: Namespace, target: str) -> str:
    """The name of the table of marks: whether the last owner of a partition left in order."""
    return f"{namespace.name}.{target}.marks"


def sink_context(
    namespace: Namespace, target: str, connection: Connection | None, kafka: KafkaConnection
) -> tuple[type[Sink], SinkContext]:
    """The class of a target's sink, and what it is told."""
    description = namespace.targets[target]
    kind = sink_class(description.sink)
    return kind, SinkContext(
        namespace=namespace.name,
        target=target,
        options=kind.Options.model_validate(description.options),
        connection=connection,
        partitions=namespace.topics.partitions,
        key_template=namespace.key,
        max_record=namespace.topics.max_record,
        remember=namespace.remember(target),
        extra={"kafka": kafka},
    )


def _show_mark(key: bytes, value: bytes) -> Mapping[str, Any]:
    return {key.decode(): decode_mark(value)}


def topology(namespace: Namespace, target: str, sink: SharedSink, metrics: DeliveryMetrics) -> Topology:
    """What the delivery to a target does."""
    marks = marks_table(namespace, target)
    changelog = topics.target_changelogs(namespace, target)["marks"].name
    return Topology(
        name=f"{namespace.name}.{target}",
        sources=(topics.log(namespace).name,),
        partitions=namespace.topics.partitions,
        tables=(
            TableSpec(
                marks, changelog, help="whether the last owner of a partition left in order", decode=_show_mark,
                find=lambda words: words[0].encode(), find_help="stopped",
            ),
        ),
        processor=lambda partition: DeliveryProcessor(namespace, target, partition, sink, metrics),
        latency=namespace.latency,
    )  # fmt: skip


def find_target(settings: Settings) -> tuple[Namespace, str]:
    """The namespace and the target that `WALSTREAM_TARGET` names.

    Raises
    ------
    ConfigurationError
        It names none, or one that does not exist.
    """
    namespaces = load_namespaces(settings.config)
    known = sorted(f"{name}.{target}" for name, namespace in namespaces.items() for target in namespace.targets)
    if settings.target not in known:
        said = "is not set" if settings.target is None else f"is {settings.target!r}, which does not exist"
        raise ConfigurationError(
            f"WALSTREAM_TARGET {said}", remedy=f"set it to one of: {', '.join(known) or '(there is no target)'}"
        )
    name, _, target = settings.target.partition(".")
    return namespaces[name], target


def make_delivery(settings: Settings) -> App:
    """The Faust app of the delivery to a target."""
    namespace, target = find_target(settings)
    kafka = KafkaConnection.from_settings(settings)
    connection_name = namespace.targets[target].connection
    connection = load_connections(settings.config)[connection_name] if connection_name is not None else None
    kind, context = sink_context(namespace, target, connection, kafka)
    registry = CollectorRegistry()
    app = make_app(
        topics.delivery_app_id(namespace, target),
        [topology(namespace, target, SharedSink(context, kind), DeliveryMetrics(registry))],
        brokers=kafka.brokers,
        connection=kafka.aiokafka(),
        datadir=settings.datadir,
        preflight=preflight(kafka, [topics.log(namespace), *topics.target_topics(namespace, target)]),
    )
    serve(app, registry)
    return app

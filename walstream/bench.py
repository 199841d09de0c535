"""Loads a namespace of somebody's own cluster, and sees what becomes of it: how much it takes, and how late it comes.

Records are written by the client as an application would. Watchers, processes of their own so that they do not disturb
the writing, take the time at the log and at the targets that are Kafka topics; how far everybody is, Kafka tells.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import multiprocessing
import os
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from walstream.client.asynchronous import AsyncClient
from walstream.client.batch import Places
from walstream.client.write import Write
from walstream.errors import Unreachable, WalstreamError
from walstream.kafka import KafkaConnection
from walstream.namespace import Namespace
from walstream.status import Status, statuses

TICK = 0.005  # s between two looks at how many records are due
CHUNK = 500  # records that are handed to the client at once
UNANSWERED = 64  # such chunks may wait for their answers
LOOKS = 20  # records of a batch whose age a watcher looks at: reading all headers would make it late itself
LAG_EVERY = 1.0  # s
POOL = 4 << 20  # bytes of which payloads are cut: making random ones costs more than writing them
ROUTER = "router"
KEEPS_UP = 2.0  # a lag that is worth fewer seconds than this is no lag

Progress = Callable[[str, float, float], object]
"""What is being done, how far it is, and how far it has to come."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is to be written.

    Parameters
    ----------
    seconds
        For how long.
    rate
        Records a second; None is as many as are acknowledged.
    size
        Bytes of a payload.
    keys
        How many different keys.
    writes
        Records to write again and again, each time with a new id, instead of payloads of random bytes.
    targets
        Whom the records are for; None is everybody.
    """

    seconds: float
    rate: float | None = None
    size: int = 300
    keys: int = 10_000
    writes: Sequence[Write] = ()
    targets: Sequence[str] | None = None

    def records(self, source: str) -> Iterator[Write]:
        """Without end. An id begins with the time (ns since the epoch) at which its record was made."""
        if self.writes:
            for number, write in enumerate(itertools.cycle(self.writes)):
                id_ = f"{time.time_ns()}-{number}"
                yield dataclasses.replace(write, id=id_, source=source, targets=self.targets or write.targets)
        pool, last = random.randbytes(POOL + self.size), POOL - 1
        for number in itertools.count():
            start = random.randint(0, last)
            yield Write(
                pool[start : start + self.size],
                key=f"bench-{number % self.keys}",
                id=f"{time.time_ns()}-{number}",
                source=source,
                type="walstream.bench",
                targets=self.targets,
            )


@dataclass(frozen=True, slots=True)
class Lag:
    """How far one stage was behind, in positions.

    Parameters
    ----------
    role
        ``router``, or a target's name.
    before, after
        When the writing began, and when it ended.
    most
        At any look.
    drained
        Seconds from the end of the writing until nothing was left; None where that took too long to wait for.
    workers
        Members of its group at the end of the writing.
    """

    role: str
    before: int
    after: int
    most: int
    drained: float | None
    workers: int


@dataclass(slots=True)
class Findings:
    """What a namespace holds.

    Parameters
    ----------
    answers
        How many records were acknowledged (``true``), surely not written (``false``), or ``unknown``.
    seconds
        How long the writing took, answers included.
    latencies
        Milliseconds until a record was acknowledged, stood in the log, and stood in the topics of targets, each as
        percentiles, with how many were looked at.
    """

    answers: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    latencies: dict[str, dict[str, float]] = field(default_factory=dict)
    lags: list[Lag] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Acknowledged records a second."""
        return self.answers["true"] / self.seconds if self.seconds else 0.0

    def keeps_up(self, lag: Lag) -> bool:
        """Whether a stage kept up with the writing."""
        return lag.after - lag.before <= KEEPS_UP * self.rate

    def held(self, lag: Lag) -> float:
        """Records a second that a stage got through while there was more to do; what came in, where it kept up."""
        router = next((each for each in self.lags if each.role == ROUTER and each is not lag), None)
        came = self.rate if router is None else self.held(router)  # targets get no more than the router lets through
        grown = 0 if self.keeps_up(lag) else lag.after - lag.before
        return max(0.0, came - grown / self.seconds) if self.seconds else 0.0

    @property
    def holds(self) -> float:
        """Records a second that went all the way; it may be able to do more, where nobody was behind."""
        return min([self.rate, *(self.held(lag) for lag in self.lags)])

    @property
    def limits(self) -> list[str]:
        """The stages that fell behind; without any, the namespace may hold more than was written."""
        return [lag.role for lag in self.lags if not self.keeps_up(lag)]

    def document(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "written": {name: self.answers[name] for name in ("true", "false", "unknown")},
            "seconds": round(self.seconds, 3),
            "acknowledged_per_s": round(self.rate, 1),
            "holds_per_s": round(self.holds, 1),
            "limited_by": self.limits,
            "latency_ms": self.latencies,
            "stages": [
                {
                    "role": lag.role,
                    "workers": lag.workers,
                    "lag_before": lag.before,
                    "lag_after": lag.after,
                    "lag_most": lag.most,
                    "drained_after_s": lag.drained,
                    "keeps_up": self.keeps_up(lag),
                    "held_per_s": round(self.held(lag), 1),
                }
                for lag in self.lags
            ],
        }


async def bench(
    client: AsyncClient,
    namespace: Namespace,
    load: Load,
    watched: Mapping[str, tuple[KafkaConnection, str]],
    *,
    shard: str | None = None,
    patience: float = 60.0,
    tell: Progress = lambda *_: None,
) -> Findings:
    """Write, watch, and wait until everything is applied.

    Parameters
    ----------
    watched
        Topics in which the records come to stand, by the names under which their latency is to be told.
    shard
        That of the routers which serve the namespace.
    patience
        Seconds to wait at the end for who is behind.

    Raises
    ------
    WalstreamError
        Kafka does not answer, or topics are missing.
    """
    source = f"walstream/bench/{uuid.uuid4()}"
    # Before anything is written: if topics are missing, this says it.
    before = await _stages(namespace, client.connection, shard)
    watchers = [Watcher(name, connection, topic, source) for name, (connection, topic) in watched.items()]
    findings, looks = Findings(), [before]
    try:
        for watcher in watchers:
            await asyncio.to_thread(watcher.wait_ready)
        looking = asyncio.create_task(_look(namespace, client.connection, shard, looks))
        try:
            findings.latencies["acknowledged"] = await _write(client, namespace.name, load, source, findings, tell)
        finally:
            looking.cancel()
            with suppress(asyncio.CancelledError):
                await looking
        looks.append(await _stages(namespace, client.connection, shard))
        drained = await _drain(namespace, client.connection, shard, before, patience, tell)
        for watcher in watchers:
            findings.latencies[watcher.name] = await asyncio.to_thread(watcher.stop)
    finally:
        for watcher in watchers:
            watcher.kill()
    for role in before:
        lags = [look[role].lag for look in looks]
        workers = len(looks[-1][role].members)
        findings.lags.append(Lag(role, lags[0], lags[-1], max(lags), drained.get(role), workers))
    return findings


async def _write(
    client: AsyncClient, namespace: str, load: Load, source: str, findings: Findings, tell: Progress
) -> dict[str, float]:
    """Write for as long as was asked for, and return the percentiles of the time until the answers came."""
    ages: list[float] = []
    open_ = asyncio.Semaphore(UNANSWERED)
    records = load.records(source)
    tasks: set[asyncio.Task[None]] = set()

    async def answered(places: Places, sent: float) -> None:
        try:
            receipts = await places.receipts()
            ages.append((time.perf_counter() - sent) * 1000)
            findings.answers.update(receipt.durable.value for receipt in receipts)
        finally:
            open_.release()

    begun, written = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - begun) < load.seconds:
        due = CHUNK if load.rate is None else min(CHUNK, int(elapsed * load.rate) + 1 - written)
        if due <= 0:
            await asyncio.sleep(TICK)
            continue
        await open_.acquire()
        sent = time.perf_counter()
        places = await client.add(namespace, list(itertools.islice(records, due)))
        task = asyncio.create_task(answered(places, sent))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        written += due
        tell("writing", min(elapsed, load.seconds), load.seconds)
        await asyncio.sleep(0 if load.rate is None else TICK)
    await asyncio.gather(*tasks)
    findings.seconds = time.perf_counter() - begun
    return percentiles(ages)


async def _stages(namespace: Namespace, connection: KafkaConnection, shard: str | None) -> dict[str, Status]:
    found = await asyncio.to_thread(statuses, [namespace], connection, shard=shard)
    return {status.role: status for status in found}


async def _look(
    namespace: Namespace, connection: KafkaConnection, shard: str | None, looks: list[dict[str, Status]]
) -> None:
    while True:
        await asyncio.sleep(LAG_EVERY)
        with suppress(Unreachable):  # a look that fails says nothing about the load
            looks.append(await _stages(namespace, connection, shard))


async def _drain(
    namespace: Namespace,
    connection: KafkaConnection,
    shard: str | None,
    before: Mapping[str, Status],
    patience: float,
    tell: Progress,
) -> dict[str, float]:
    """Seconds until each stage had nothing left. What the router has still to do becomes lag of the targets."""
    drained: dict[str, float] = {}
    begun = time.monotonic()
    while len(drained) < len(before) and time.monotonic() - begun < patience:
        stages = await _stages(namespace, connection, shard)
        for role, status in stages.items():
            if not status.lag and (role == ROUTER or ROUTER in drained):
                drained.setdefault(role, time.monotonic() - begun)
        tell("waiting for who is behind", len(drained), len(before))
        if len(drained) < len(before):
            await asyncio.sleep(LAG_EVERY / 2)
    return drained


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """The median and the tail, and how many values there are; empty where there are none."""
    if not values:
        return {}
    ranked = sorted(values)
    points = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    found = {name: round(ranked[min(len(ranked) - 1, int(len(ranked) * share))], 2) for name, share in points.items()}
    return found | {"count": len(ranked)}


class Watcher:
    """Takes the time at which records stand in a topic, in a process of its own.

    Parameters
    ----------
    name
        Under which the latency is told.
    source
        Of the records that count.
    """

    def __init__(self, name: str, connection: KafkaConnection, topic: str, source: str) -> None:
        self.name = name
        self._ours, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("spawn").Process(
            target=watch, args=(connection.librdkafka(), topic, source.encode(), theirs), daemon=True
        )
        self._process.start()
        theirs.close()

    def wait_ready(self) -> None:
        """Wait until it reads.

        Raises
        ------
        WalstreamError
            The topic cannot be read.
        """
        self._answer()

    def stop(self) -> dict[str, float]:
        """End it, and give the percentiles of the milliseconds that it saw."""
        self._ours.send(None)
        return percentiles(self._answer())

    def kill(self) -> None:
        """End it in whatever state it is."""
        self._process.kill()
        self._process.join()
        self._ours.close()

    def _answer(self) -> Any:
        try:
            answer = self._ours.recv()
        except EOFError:
            raise WalstreamError(f"what watches {self.name} ended unexpectedly") from None
        if isinstance(answer, str):
            raise Unreachable(f"{self.name} cannot be watched: {answer}")
        return answer


def watch(config: Mapping[str, Any], topic: str, source: bytes, pipe: Connection) -> None:
    """The work of a watcher: answers ``[]`` once it reads, and the milliseconds when it is told to stop."""
    from confluent_kafka import Consumer, KafkaException, TopicPartition

    ages: list[float] = []
    try:
        consumer = Consumer(
            {
                **config,
                "group.id": f"walstream-bench-{os.getpid()}",  # for librdkafka's sake; no group is joined
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 100,
                "fetch.queue.backoff.ms": 1,
                "log_level": 2,
            }
        )
        partitions = list(consumer.list_topics(topic, timeout=20).topics[topic].partitions)
        ends = {number: consumer.get_watermark_offsets(TopicPartition(topic, number), 20)[1] for number in partitions}
        consumer.assign([TopicPartition(topic, number, end) for number, end in ends.items()])
        pipe.send([])
        while not pipe.poll():
            messages = consumer.consume(1_000, timeout=0.05)
            now = time.time_ns()
            for message in messages[:: max(1, len(messages) // LOOKS)]:
                headers: dict[str, Any] = {} if message.error() is not None else dict(message.headers() or ())
                if headers.get("ce_source") == source:
                    ages.append((now - int(headers["ce_id"].partition(b"-")[0])) / 1e6)
        pipe.send(ages)
    except KafkaException as error:
        pipe.send(error.args[0].str())

"""`AsyncClient`: writes records to namespaces, from asyncio code."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import time as time_module
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from aiokafka.errors import KafkaError

from walstream.client.batch import Places
from walstream.client.ids import Ids
from walstream.client.listener import Listener
from walstream.client.receipt import Durable, Receipt
from walstream.client.sender import Sender, Timeout
from walstream.client.write import SOURCE, Headers, Moment, Payload, Route, Span, Write, compose
from walstream.config import load_namespaces
from walstream.errors import ConfigurationError, RecordRefused, WalstreamError
from walstream.kafka import KafkaConnection
from walstream.mutation import KeyTemplate, Mutation
from walstream.namespace import Namespace
from walstream.settings import Settings
from walstream.topics import ingress

CHUNK = 1_000  # records that are encoded before the event loop gets a turn: about 10 ms


class AsyncClient:
    """Writes records; for asyncio. `Client` is the same without.

    Parameters
    ----------
    brokers
        ``host:port``, or several, as a list or with commas. Left out: what ``WALSTREAM_BROKERS`` says, with the TLS and
        SASL settings of the environment.
    connection
        Instead of `brokers`: a `KafkaConnection`, with TLS and SASL of its own.
    config
        The folder of the namespace files. Left out: ``WALSTREAM_CONFIG``, if it has any. A namespace needs no file
        here; with it the client knows the key of mutations, the record limit and an adopted topic's name.
    source
        The CloudEvents source of records that are given none.
    timeout
        Seconds until a write without an answer is given up.

    Raises
    ------
    ConfigurationError
        A setting, or a file in the folder, cannot be.

    Examples
    --------
    >>> async with AsyncClient("localhost:9092") as client:  # doctest: +SKIP
    ...     receipt = await client.write("flights", b"...", key="UA1")
    ...     receipt.raise_for_durability()
    """

    def __init__(
        self,
        brokers: str | Sequence[str] | None = None,
        *,
        connection: KafkaConnection | None = None,
        config: Path | str | None = None,
        source: str = SOURCE,
        timeout: float = 10.0,
    ) -> None:
        if timeout <= 0:
            raise ConfigurationError(f"a timeout of {timeout} s cannot be", remedy="give a timeout of some seconds")
        if brokers is not None and connection is not None:
            raise ConfigurationError("brokers and a connection are given", remedy="give one of them")
        if isinstance(brokers, Sequence) and not isinstance(brokers, str):
            brokers = ",".join(brokers)
        settings = Settings.load(brokers=brokers)
        self.connection = connection or KafkaConnection.from_settings(settings)
        self.source, self.timeout = source, timeout
        namespaces = _namespaces(settings.config if config is None else Path(config), required=config is not None)
        self._routes = {name: _known_route(namespace) for name, namespace in namespaces.items()}
        self._sender = Sender(self.connection.aiokafka(), timeout=timeout)
        self._ids = Ids()
        self._counts: dict[str, asyncio.Task[int]] = {}
        self._listeners: dict[str, Listener] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def write(
        self,
        namespace: str,
        payload: Payload,
        *,
        key: bytes | str | None = None,
        id: str | None = None,
        source: str | None = None,
        type: str | None = None,
        content_type: str | None = None,
        time: Moment | None = None,
        delay: Span | None = None,
        jitter: Span | None = None,
        deliver_at: Moment | None = None,
        expiry: Moment | None = None,
        targets: Collection[str] | None = None,
        extensions: Mapping[str, str] | None = None,
        headers: Headers = (),
    ) -> Receipt:
        """Write one record, and wait for the answer.

        The arguments are those of `Write`. Writes that wait at the same time travel together. A write whose task is
        cancelled may still take place.

        Returns
        -------
        Receipt
            Look at `Receipt.durable`, or call `Receipt.raise_for_durability`. What the contract forbids is not sent: it
            gives FALSE with a `RecordRefused`.
        """
        write = Write(
            payload,
            key,
            id,
            source,
            type,
            content_type,
            time,
            delay,
            jitter,
            deliver_at,
            expiry,
            targets,
            extensions,
            headers,
        )
        (receipt,) = await (await self.add(namespace, (write,))).receipts()
        return receipt

    async def write_many(self, namespace: str, writes: Iterable[Write | Mutation | bytes]) -> list[Receipt]:
        """Write many records, in their order, and wait for all answers.

        This is the fast way. A record that is refused or fails stops none of the others.

        Parameters
        ----------
        writes
            Each a `Write`, or only a payload. It is iterated in the event loop, and should not block.

        Returns
        -------
        list[Receipt]
            One for each, in the same order.
        """
        places = Places()
        iterator = iter(writes)
        while chunk := tuple(itertools.islice(iterator, CHUNK)):
            places.extend(await self.add(namespace, chunk))
        return await places.receipts()

    async def cancel(
        self,
        namespace: str,
        ref: str,
        *,
        key: bytes | str | None = None,
        source: str | None = None,
        id: str | None = None,
        time: Moment | None = None,
        wait: float | None = None,
    ) -> Receipt:
        """Cancel a write that is delayed, or that is still to come.

        Parameters
        ----------
        ref
            The id of the write.
        key, source
            Those of the write, or it is another one.
        id
            Of the cancel itself; a new UUIDv7 where there is none.
        time
            The write time. A cancel does nothing to what was said about the record after it.
        wait
            Seconds to wait for the answer, from when the cancel is durable. Left out: the answer is not waited for.

        Returns
        -------
        Receipt
            Of the cancel, with `Receipt.answer` where it was waited for and has come. It is safe to cancel again.
        """
        return await self.act(namespace, Write(None, key, id, source, time=time, action="cancel", ref=ref), wait)

    async def reschedule(
        self,
        namespace: str,
        ref: str,
        *,
        delay: Span | None = None,
        deliver_at: Moment | None = None,
        jitter: Span | None = None,
        key: bytes | str | None = None,
        source: str | None = None,
        id: str | None = None,
        time: Moment | None = None,
        wait: float | None = None,
    ) -> Receipt:
        """Give another time to a write that is delayed, or that is still to come.

        Parameters
        ----------
        delay
            Counted from the write time of the reschedule, which is now where `time` is left out.
        deliver_at
            Instead of a delay.
        jitter
            As for `Write`.
        ref, key, source, id, time, wait
            As for `cancel`.
        """
        write = Write(
            None,
            key,
            id,
            source,
            time=time,
            delay=delay,
            jitter=jitter,
            deliver_at=deliver_at,
            action="reschedule",
            ref=ref,
        )
        return await self.act(namespace, write, wait)

    async def act(self, namespace: str, write: Write, wait: float | None) -> Receipt:
        """Write a cancel or reschedule, and wait so many seconds for what becomes of it, or not at all."""
        if wait is None:
            (receipt,) = await (await self.add(namespace, (write,))).receipts()
            return receipt
        write = dataclasses.replace(write, id=self._ids.new() if write.id is None else write.id)
        route = self.route(namespace)
        async with contextlib.AsyncExitStack() as stack:
            try:
                compose(write, route, id_=write.id or "", source=self.source)  # before anybody is asked anything
                listener = await self._listener(namespace)
                answered = await stack.enter_async_context(
                    listener.listening(write.source or self.source, write.id or "")
                )
            except (WalstreamError, KafkaError, OSError) as error:
                return self._unwritten(route, write, error)
            (receipt,) = await (await self.add(namespace, (write,))).receipts()
            if receipt.durable is Durable.FALSE:
                return receipt
            try:
                receipt.answer = await answered(wait)
            except Exception as error:  # the record is there all the same, and its receipt is not to be lost
                receipt.error = receipt.error or error
            else:
                if receipt.answer is not None:
                    receipt.durable, receipt.error = Durable.TRUE, None  # who is answered was read
                elif receipt.error is None:
                    receipt.error = Timeout(f"no answer within {wait:g} s; is a router running?")
        return receipt

    async def _listener(self, namespace: str) -> Listener:
        topic = f"{namespace}.answers"
        partitions = await self._partition_count(topic)
        if topic not in self._listeners:
            self._listeners[topic] = Listener(topic, partitions, self.connection.aiokafka(), timeout=self.timeout)
        return self._listeners[topic]

    async def add(self, namespace: str, writes: Sequence[Write | Mutation | bytes]) -> Places:
        """Hand records over to be sent; waits only while too much is unsent, not for their answers."""
        places = Places()
        route = self.route(namespace)
        topic, sender, new_id = route.topic, self._sender, self._ids.new
        deadline = asyncio.get_running_loop().time() + self.timeout
        try:
            partitions = await self._partition_count(topic)
        except (WalstreamError, KafkaError, OSError) as error:
            for item in writes:
                places.answered(self._unwritten(route, item, error))
            return places
        lanes = sender.lanes(topic, partitions)
        now = int(time_module.time() * 1000)
        for item in writes:
            if sender.full and not await sender.room(deadline):
                places.answered(self._unwritten(route, item, Timeout(f"too much was unsent for {self.timeout:g} s")))
                continue
            write = item if isinstance(item, Write) else Write(item)
            id_ = new_id() if write.id is None else write.id
            try:
                record = compose(write, route, id_=id_, source=self.source)
            except RecordRefused as refusal:
                places.answered(Receipt(Durable.FALSE, namespace, id_, topic, error=refusal))
                continue
            lane = lanes[record.partition(partitions)]
            places.waiting(sender.add(lane, namespace, id_, now, record.key, record.value, record.headers, deadline))
        await asyncio.sleep(0)
        return places

    def _unwritten(self, route: Route, item: Write | Mutation | bytes, error: Exception) -> Receipt:
        id_ = item.id if isinstance(item, Write) else None
        return Receipt(Durable.FALSE, route.namespace, id_ or self._ids.new(), route.topic, error=error)

    async def close(self) -> None:
        """Wait for the answers that are outstanding, and disconnect."""
        await self._sender.close()
        for listener in self._listeners.values():
            await listener.close()
        for count in self._counts.values():
            count.cancel()

    def route(self, namespace: str) -> Route:
        """Where a namespace's records go, and what its file says about them."""
        return self._routes.get(namespace) or Route(namespace, f"{namespace}.ingress")

    async def _partition_count(self, topic: str) -> int:
        """Ask once; the count is fixed for life, by contract. Who writes at the same time shares the question."""
        count = self._counts.get(topic)
        if count is None:
            count = asyncio.create_task(self._sender.partition_count(topic))
            self._counts[topic] = count
            count.add_done_callback(lambda task: self._forget_failure(topic, task))
        return await asyncio.shield(count)

    def _forget_failure(self, topic: str, count: asyncio.Task[int]) -> None:
        if count.cancelled() or count.exception() is not None:
            del self._counts[topic]


def _known_route(namespace: Namespace) -> Route:
    key = None if namespace.key is None else KeyTemplate(namespace.key)
    return Route(namespace.name, ingress(namespace).name, known=True, key=key, max_record=namespace.topics.max_record)


def _namespaces(folder: Path, *, required: bool) -> Mapping[str, Namespace]:
    return load_namespaces(folder, connections=False) if required or any(folder.glob("*.y*ml")) else {}

"""An aiokafka producer that can be thrown away at once, and knows what it has sent.

aiokafka flushes when it is stopped, and retries an idempotent batch for ever: a producer that was cut off would write
when the network is back, long after its caller was told that the outcome is unknown. So a producer with a write that
timed out is discarded: its connections are reset with what is unsent in them, and nothing connects any more.

This is the only module of the client that touches aiokafka's private parts; a contract test names each.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterator, Mapping
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.conn import create_conn
from aiokafka.errors import KafkaError, NodeNotReadyError
from aiokafka.protocol.produce import ProduceRequest

from walstream.wire.batch import Batch
from walstream.wire.builder import BatchBuilder

_RESET_ON_CLOSE = struct.pack(
    "ii", 1, 0
)  # SO_LINGER with no time to linger: close() sends RST and drops what is unsent
CLOSE_SECONDS = 5.0  # after a discard: the connections are dead, so that their tasks end in a moment

_NO_LIMIT = 1 << 30  # callers know the size; a builder with a limit leaves out what goes beyond it


def new_builder() -> BatchBuilder:
    """Make an empty record batch."""
    return BatchBuilder(_NO_LIMIT, "lz4", transactional=False)


def split(builder: BatchBuilder, parts: int) -> Iterator[BatchBuilder]:
    """Make record batches anew, that no producer has numbered yet, with the records of one."""
    size = -(-builder.record_count() // parts)
    part = new_builder()
    for record in Batch(builder._build()).records():
        if part.record_count() == size:
            yield part
            part = new_builder()
        part.writer.append(record.timestamp, record.key, record.value, record.headers)
    yield part


async def why_unreachable(options: Mapping[str, Any]) -> Exception | None:
    """Connect once more, and return what goes wrong: aiokafka only logs it when it starts.

    Parameters
    ----------
    options
        As for `DiscardableProducer`.
    """
    host, _, port = options["bootstrap_servers"][0].rpartition(":")
    known = {name: value for name, value in options.items() if name.startswith(("sasl_", "ssl_", "security_"))}
    try:
        connection = await create_conn(host.strip("[]"), int(port), request_timeout_ms=2_000, **known)
    except (OSError, KafkaError) as error:
        return error
    connection.close()
    return None


class DiscardableProducer(AIOKafkaProducer):  # type: ignore[misc]
    """An idempotent producer with `discard`.

    Parameters
    ----------
    **options
        As for `aiokafka.AIOKafkaProducer`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(enable_idempotence=True, **options)
        self.discarded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transports: set[asyncio.Transport] = set()
        self._sent: set[tuple[str, int]] = set()
        self._connect, self._request = self.client._get_conn, self.client.send
        self.client._get_conn, self.client.send = self._get_connection, self._send

    def was_sent(self, topic: str, partition: int) -> bool:
        """Say whether the last batch of a partition was handed to a connection."""
        return (topic, partition) in self._sent

    async def produce(self, builder: BatchBuilder, topic: str, partition: int) -> int | None:
        """Send a record batch, wait for its answer, and return the offset of its first record, if it is known.

        One at a time for each partition.
        """
        self._sent.discard((topic, partition))
        answer = await (await self.send_batch(builder, topic, partition=partition))
        return None if answer.offset < 0 else int(answer.offset)

    async def partition_count(self, topic: str) -> int | None:
        """Ask the cluster how many partitions a topic has; None: there is no such topic.

        All topics are asked for, because a question about one by name would create it, where brokers create topics
        automatically.
        """
        cluster = await self.client.fetch_all_metadata()
        partitions = cluster.partitions_for_topic(topic)
        return len(partitions) if partitions else None

    def discard(self) -> None:
        """Send nothing more, from this moment on. `aclose` releases the rest."""
        if self.discarded.done():
            return
        self.discarded.set_result(None)
        if self._sender.sender_task is not None:
            self._sender.sender_task.cancel()
        for transport in self._transports:
            sock: socket.socket | None = transport.get_extra_info("socket")
            with contextlib.suppress(OSError):
                if sock is not None:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            transport.abort()

    async def aclose(self, grace: float) -> None:
        """Close; what is unsent is sent first, for `grace` seconds at most, unless the producer was discarded."""
        if not self.discarded.done():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stop(), grace)
                return
            self.discard()
        self._closed = True
        with contextlib.suppress(Exception):  # it may be broken in any way, and nobody waits for it any more
            await asyncio.wait_for(self._sender.close(), CLOSE_SECONDS)
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self.client.close(), CLOSE_SECONDS)

    async def _get_connection(self, node_id: Any, **options: Any) -> Any:
        if self.discarded.done():
            return None
        connection = await self._connect(node_id, **options)
        if connection is None or connection._writer is None:
            return connection
        transport = connection._writer.transport
        if transport not in self._transports:
            # A connection that aiokafka gave up may hold unsent bytes until its peer reads: it stays until it is empty.
            self._transports = {t for t in self._transports if not t.is_closing() or t.get_write_buffer_size()}
            self._transports.add(transport)
            if self.discarded.done():
                transport.abort()
                return None
        return connection

    async def _send(self, node_id: Any, request: Any, **options: Any) -> Any:
        if isinstance(request, ProduceRequest):
            if not await self.client.ready(node_id):
                raise NodeNotReadyError(f"broker {node_id} cannot be reached")
            self._sent.update((topic, part[0]) for topic, parts in request._topics for part in parts)
        return await self._request(node_id, request, **options)

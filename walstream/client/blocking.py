"""`Client`: writes records to namespaces, from code without asyncio."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from walstream.client.asynchronous import CHUNK, AsyncClient
from walstream.client.background import Background
from walstream.client.batch import Places
from walstream.client.receipt import Receipt
from walstream.client.write import SOURCE, Headers, Moment, Payload, Span, Write
from walstream.errors import WalstreamError
from walstream.kafka import KafkaConnection
from walstream.mutation import Mutation

T = TypeVar("T")


class Client:
    """Writes records; may be used by several threads. An `AsyncClient` in a thread of its own does the work.

    Parameters
    ----------
    brokers, connection, config, source, timeout
        As for `AsyncClient`.

    Examples
    --------
    >>> with Client("localhost:9092") as client:  # doctest: +SKIP
    ...     client.write("flights", b"...", key="UA1").raise_for_durability()
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
        self._client = AsyncClient(brokers, connection=connection, config=config, source=source, timeout=timeout)
        self._background = Background("walstream-client")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def write(
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
        """Write one record, and wait for the answer; as `AsyncClient.write`."""
        return self._run(
            self._client.write(
                namespace,
                payload,
                key=key,
                id=id,
                source=source,
                type=type,
                content_type=content_type,
                time=time,
                delay=delay,
                jitter=jitter,
                deliver_at=deliver_at,
                expiry=expiry,
                targets=targets,
                extensions=extensions,
                headers=headers,
            )
        )

    def write_many(self, namespace: str, writes: Iterable[Write | Mutation | bytes]) -> list[Receipt]:
        """Write many records, in their order, and wait for all answers; as `AsyncClient.write_many`.

        `writes` is iterated in the caller's thread, and may block.
        """
        places = Places()
        iterator = iter(writes)
        while chunk := tuple(itertools.islice(iterator, CHUNK)):
            places.extend(self._run(self._client.add(namespace, chunk)))
        return self._run(places.receipts())

    def cancel(
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
        """Cancel a write that is delayed, or that is still to come; as `AsyncClient.cancel`."""
        return self._run(self._client.cancel(namespace, ref, key=key, source=source, id=id, time=time, wait=wait))

    def reschedule(
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
        """Give another time to a write that is delayed, or is still to come; as `AsyncClient.reschedule`."""
        return self._run(
            self._client.reschedule(
                namespace,
                ref,
                delay=delay,
                deliver_at=deliver_at,
                jitter=jitter,
                key=key,
                source=source,
                id=id,
                time=time,
                wait=wait,
            )
        )

    def close(self) -> None:
        """Wait for the answers that are outstanding, and disconnect."""
        if self._background.is_stopped:
            return
        self._run(self._client.close())
        self._background.stop()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        if self._background.is_stopped:
            work.close()
            raise WalstreamError("the client is closed")
        return self._background.run(work)

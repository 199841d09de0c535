"""A sink that all partitions of a worker share."""

from __future__ import annotations

import asyncio

from walstream.backoff import Backoff
from walstream.errors import SinkError
from walstream.namespace import RetryOptions
from walstream.sinks.base import Sink, SinkContext


class SharedSink:
    """A target's sink, opened once for all partitions of a worker.

    Parameters
    ----------
    context
        What the sink is told.
    kind
        Its class.
    """

    def __init__(self, context: SinkContext, kind: type[Sink]) -> None:
        self._context, self._kind = context, kind
        self._opening: asyncio.Task[Sink] | None = None
        self._users = 0

    @property
    def users(self) -> int:
        """How many have acquired it, or wait for it."""
        return self._users

    async def acquire(self) -> Sink:
        """Open the sink if it is not, and wait until it is: a target that is down at the start is waited for."""
        self._users += 1
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
        return await asyncio.shield(self._opening)

    async def _open(self) -> Sink:
        backoff = Backoff(RetryOptions())
        while True:
            sink = self._kind.for_context(self._context)
            try:
                await sink.open()
                return sink
            except asyncio.CancelledError:
                await sink.close()
                raise
            except Exception as exc:
                if sink.verdict(exc) is None and not isinstance(exc, SinkError):
                    raise
                name = f"{self._context.namespace}.{self._context.target}"
                backoff.report(f"{name}: the sink cannot be opened: {exc}")
                await sink.close()
                await asyncio.sleep(backoff.next())

    async def release(self, partition: int) -> None:
        """Tell the sink that a partition's user is gone; close it when it was the last one."""
        self._users -= 1
        opening = self._opening
        if opening is None:
            return
        if not self._users:
            self._opening = None
        if not opening.done():
            if not self._users:
                opening.cancel()
        elif not opening.cancelled() and opening.exception() is None:
            sink = opening.result()
            await (sink.leave(partition) if self._users else sink.close())

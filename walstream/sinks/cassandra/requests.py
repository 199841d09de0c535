"""Statements on their way to Cassandra: a bounded number at a time, one asyncio future per call.

The driver answers in a thread of its own. Waking the event loop for every answer would cost more than the answer, so
the loop is woken once, when the last statement of a call is answered; the next statement is sent from the thread that
brought an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True, eq=False)
class _Call:
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[None]
    open: int
    errors: list[Exception | None] = field(default_factory=list)
    abandoned: bool = False

    def finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)


class Requests:
    """Runs statements, never more than `limit` at a time over all calls.

    Parameters
    ----------
    session
        A connected session of the driver.
    limit
        Statements in flight. The driver would take 32,768 a connection, but a queue that long inside Cassandra only
        turns into timeouts.
    """

    def __init__(self, session: Any, limit: int) -> None:
        self._session, self._limit = session, limit
        self._lock = threading.Lock()
        self._waiting: deque[tuple[_Call, int, Any]] = deque()
        self._in_flight = 0
        self._sending = False

    async def run(self, statements: Sequence[Any]) -> list[Exception | None]:
        """Execute every statement, and answer, in the same order, with its error or None."""
        if not statements:
            return []
        loop = asyncio.get_running_loop()
        call = _Call(loop, loop.create_future(), len(statements), [None] * len(statements))
        with self._lock:
            self._waiting.extend((call, i, statement) for i, statement in enumerate(statements))
        self._send()
        try:
            await call.done
        except asyncio.CancelledError:
            call.abandoned = True  # what is not yet sent need not be
            raise
        return call.errors

    def _send(self) -> None:
        # A statement that fails at once is answered inside execute_async's own call. So one thread at a time sends,
        # in a loop: a thousand such failures must not become a thousand nested calls.
        with self._lock:
            if self._sending:
                return
            self._sending = True
        while True:
            with self._lock:
                while self._waiting and self._waiting[0][0].abandoned:
                    self._waiting.popleft()
                if not self._waiting or self._in_flight >= self._limit:
                    self._sending = False
                    return
                call, i, statement = self._waiting.popleft()
                self._in_flight += 1
            try:
                self._session.execute_async(statement).add_callbacks(
                    self._applied, self._failed, callback_args=(call, i), errback_args=(call, i)
                )
            except Exception as error:
                self._failed(error, call, i)

    def _applied(self, _rows: Any, call: _Call, i: int) -> None:
        self._answered(call)

    def _failed(self, error: Exception, call: _Call, i: int) -> None:
        call.errors[i] = error
        self._answered(call)

    def _answered(self, call: _Call) -> None:
        with self._lock:
            self._in_flight -= 1
            call.open -= 1
            last = call.open == 0
        if last:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                call.loop.call_soon_threadsafe(call.finish)
        self._send()

"""Sends entries to an application over HTTP, one request each.

What becomes of an error (`HttpSink.errors`; `answer` has the table of statuses):

================================================================== ====================================================
what happens                                                       So
================================================================== ====================================================
no address, no connection, TLS fails                               The target is down.
a connection breaks, no answer in time                             These entries are tried again where the application
                                                                   answered others meanwhile; else the target is down.
the answer breaks off behind its status                            The status counts.
what comes back is no HTTP                                         As where a connection breaks.
================================================================== ====================================================

Where the target goes down in the middle of a batch, what was answered counts (`TargetDown.outcomes`).
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal

import aiohttp
from pydantic import Field, field_validator
from yarl import URL

from walstream.entry import Entry
from walstream.errors import RecordRefused
from walstream.namespace import Words
from walstream.sinks.base import TARGET_DOWN, UNTRIED, Dead, Outcome, Retry, Sink, SinkContext, TargetDown, Verdict
from walstream.sinks.http.answer import Answer, Unreached, outcome
from walstream.sinks.http.message import Message, message
from walstream.units import SECOND, Duration

# A call ends well before a delivery's own deadline of 30 s: what is not sent by then comes again.
CALL_S = 25.0
LONGEST = 20 * SECOND  # ms; of one request
# Bytes of an answer that are read so that the connection can be used again; of a longer one it is closed.
ANSWER_BYTES = 64 * 1024


class HttpOptions(Words):
    """What is asked of the application.

    Parameters
    ----------
    path
        Behind the connection's url; it may have a query.
    timeout
        How long (ms) a request may take until it is answered, its connection included.
    connections
        Requests at a time, of all partitions of a worker.
    conflict
        What 409 means: ``retry``, that the same request is still worked on; or ``skip``, that it was done before.
    compares_times
        The application ignores what is older, by ``walstream-time``, than what it has of the same key.
    """

    path: str = "/"
    method: Literal["POST", "PUT", "PATCH"] = "POST"
    timeout: Duration = Field(5 * SECOND, ge=1, le=LONGEST)
    connections: int = Field(50, ge=1, le=10_000)
    conflict: Literal["retry", "skip"] = "retry"
    compares_times: bool = False

    @field_validator("path")
    @classmethod
    def _is_a_path(cls, path: str) -> str:
        if not path.startswith("/") or "#" in path:
            raise ValueError(f"{path!r} is no path of a url; it starts with / and has no #")
        return path


@dataclass(slots=True, eq=False)
class _Call:
    """One call of `HttpSink.write`.

    Parameters
    ----------
    runs
        The places of entries that go one after the other, which is those of a key.
    until
        The loop's time after which nothing more is sent.
    """

    batch: Sequence[Entry]
    messages: dict[int, Message]
    runs: deque[list[int]]
    until: float
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    down: Exception | None = None
    answered: bool = False


class HttpSink(Sink):
    """Every entry is a request; those of one key follow each other, different keys go at the same time."""

    Options = HttpOptions
    needs_connection = True
    batch_size = 100  # all of one key, at 200 ms each, take as long as a call may
    errors: ClassVar = {
        aiohttp.ClientError: TARGET_DOWN,
        TimeoutError: TARGET_DOWN,
    }

    def __init__(self, context: SinkContext) -> None:
        super().__init__(context)
        self._url = URL(context.connection.url.rstrip("/") + self.options.path)
        self._timeout = self.options.timeout / SECOND
        self._session: aiohttp.ClientSession | None = None
        self._headers: dict[str, str] = {}
        self._refused = False  # whether the credentials were, and are to be read anew
        self._answers = 0

    @classmethod
    def for_context(cls, context: SinkContext) -> Sink:
        return (TimedHttpSink if context.options.compares_times else cls)(context)

    async def open(self) -> None:
        tls, self._headers = await asyncio.to_thread(self._credentials)
        self._slots = asyncio.Semaphore(self.options.connections)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=True if tls is None else tls),
            timeout=aiohttp.ClientTimeout(total=None),  # ours spans more than a single try
            headers={"User-Agent": "walstream"},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type"),
        )

    def _credentials(self) -> tuple[ssl.SSLContext | None, dict[str, str]]:
        connection = self.context.connection
        return None if connection.ssl is None else connection.ssl.context(), connection.request_headers()

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def write(self, batch: Sequence[Entry]) -> Sequence[Outcome]:
        if self._refused:
            self._headers = await asyncio.to_thread(self.context.connection.request_headers)
            self._refused = False
        call = self._call(batch)
        async with asyncio.TaskGroup() as group:
            for _ in range(min(len(call.runs), self.options.connections)):
                group.create_task(self._work(call))
        down = call.down
        if down is None:
            return [call.outcomes.get(i, UNTRIED) for i in range(len(batch))]
        if self.verdict(down) is not Verdict.TARGET_DOWN or not call.answered:
            raise down
        known = [call.outcomes.get(i) for i in range(len(batch))]
        raise TargetDown(_reason(down), getattr(down, "after", None), known) from down

    def _call(self, batch: Sequence[Entry]) -> _Call:
        call = _Call(batch, {}, deque(), asyncio.get_running_loop().time() + CALL_S - self._timeout)
        runs: dict[bytes | int, list[int]] = {}
        for i, entry in enumerate(batch):
            try:
                call.messages[i] = message(entry)
            except RecordRefused as refused:
                call.outcomes[i] = Dead(str(refused))
            else:
                key = entry.record.key if self.context.ordered else None
                runs.setdefault(i if key is None else key, []).append(i)
        call.runs.extend(runs.values())
        return call

    async def _work(self, call: _Call) -> None:
        """Send one run after the other, as long as there are some and the target is not down."""
        now = asyncio.get_running_loop().time
        while call.runs:
            run = call.runs.popleft()
            for n, i in enumerate(run):
                async with self._slots:
                    if call.down is not None or now() > call.until:
                        return
                    try:
                        found = await self._send(call.messages[i])
                    except Exception as error:  # one that is in no table is raised when the others have ended
                        call.down = call.down or error
                        return
                call.outcomes[i] = found
                call.answered = True
                if isinstance(found, Retry) or (self.context.hold and isinstance(found, Dead)):
                    call.outcomes.update(dict.fromkeys(run[n + 1 :], UNTRIED))
                    break

    async def _send(self, sent: Message) -> Outcome:
        """Send one request.

        Raises
        ------
        aiohttp.ClientError, TimeoutError, TargetDown
            The target may be down.
        """
        answers = self._answers
        try:
            answer = await self._ask(sent)
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ClientError, TimeoutError) as error:
            if self._answers == answers:
                raise
            return _again(error)  # it answers others: this is about the one request
        try:
            found = outcome(answer, datetime.now(UTC), conflict_skips=self.options.conflict == "skip")
        except Unreached as error:
            if self._answers == answers:
                raise
            return _again(error)
        except TargetDown:
            self._refused |= answer.status in (401, 407)
            raise
        self._answers += 1
        return found

    async def _ask(self, sent: Message) -> Answer:
        deadline = asyncio.get_running_loop().time() + self._timeout
        try:
            async with asyncio.timeout_at(deadline):
                response = await self._request(sent)
        except TimeoutError:
            raise TimeoutError(f"no answer within {self._timeout:g} s") from None
        body = b""
        try:
            if not response.content.at_eof():
                async with asyncio.timeout_at(deadline):
                    body = await _beginning(response.content)
        except (aiohttp.ClientError, TimeoutError):
            pass  # the status says it all
        finally:
            response.release()
        return Answer(response.status, response.headers, body)

    async def _request(self, sent: Message) -> aiohttp.ClientResponse:
        try:
            return await self._try(sent)
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientConnectionResetError):
            # Servers close connections that rest, just when we use one: that is no sign of a target that is down.
            return await self._try(sent)

    async def _try(self, sent: Message) -> aiohttp.ClientResponse:
        assert self._session is not None  # it is open
        return await self._session.request(
            self.options.method,
            self._url,
            headers=[*self._headers.items(), *sent.headers],
            data=sent.body or b"",
            allow_redirects=False,
        )


class TimedHttpSink(HttpSink):
    """To an application that ignores what is older than what it has."""

    late_writes_harmless = True


def _again(error: Exception) -> Retry:
    return Retry(_reason(error), getattr(error, "after", None))


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, TargetDown) else f"{type(error).__name__}: {error}"


async def _beginning(stream: Any) -> bytes:
    """What an answer's body begins with; all of it, where it is no longer than `ANSWER_BYTES`."""
    body = b""
    while len(body) < ANSWER_BYTES and (chunk := await stream.read(ANSWER_BYTES - len(body))):
        body += chunk
    return body

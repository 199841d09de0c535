"""An application behind HTTP that fails on a schedule from a seed, and has a ledger of every request.

It runs in a thread of the tests' own process, so that workers may be killed while it remembers. Whatever it answers, it
applies an identity once.
"""

from __future__ import annotations

import asyncio
import enum
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import unquote, unquote_to_bytes

from aiohttp import web

from walstream.testing.history import Identity, Observed

RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER with no time: closing sends RST
HANG = 60.0  # s; longer than any client waits
START = 10.0  # s


class Answer(enum.Enum):
    """What the application does with a request."""

    APPLIED = "applied, 204"
    REFUSED = "400"
    FAILED = "500"
    BUSY = "429 with Retry-After"
    HANGS = "no answer"
    RESET = "the connection is reset"
    APPLIED_HANGS = "applied, and no answer"
    APPLIED_RESET = "applied, and the connection is reset"
    UNAVAILABLE = "503"

    @property
    def applies(self) -> bool:
        return self in (Answer.APPLIED, Answer.APPLIED_HANGS, Answer.APPLIED_RESET)


PASSING = (
    Answer.FAILED, Answer.FAILED, Answer.BUSY, Answer.RESET, Answer.HANGS, Answer.APPLIED_RESET, Answer.APPLIED_HANGS,
)  # fmt: skip
"""What goes wrong now and then, with its weight."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    Parameters
    ----------
    entry
        What it says about the entry: partition and position are those in the log. Of the headers it has those that
        travel: attributes, content type, and the ones that walstream adds.
    identity
        Key, source and id.
    count
        The how manyth of its identity it is, from 1.
    at
        When it came, in seconds of a clock that only goes forward.
    answer
        What it got.
    """

    entry: Observed
    identity: Identity
    count: int
    at: float
    answer: Answer


class Faults:
    """What each identity meets, one request after the other; equal seeds give equal faults.

    Parameters
    ----------
    seed
        What is drawn from.
    failing
        Share of identities that fail at first, and at most so often: ``most``.
    refused
        Share of identities that are refused with 400, until `repair`.
    stubborn
        Share of identities that fail with 500 until `repair`, and never are applied before.
    """

    def __init__(
        self, seed: int, *, failing: float = 0.0, most: int = 3, refused: float = 0.0, stubborn: float = 0.0
    ) -> None:
        self._seed, self._failing, self._most = seed, failing, most
        self._refused, self._stubborn = refused, stubborn
        self._repaired = False

    def repair(self) -> None:
        """From now on everything is taken that is not only failing at first."""
        self._repaired = True

    def answer(self, identity: Identity, count: int) -> Answer:
        """What the request of an identity gets, the how manyth it is."""
        rng = random.Random(f"{self._seed} {identity}")
        draw = rng.random()
        if draw < self._refused:
            return Answer.APPLIED if self._repaired else Answer.REFUSED
        if draw < self._refused + self._stubborn:
            return Answer.APPLIED if self._repaired else Answer.FAILED
        if draw < self._refused + self._stubborn + self._failing:
            passing = [rng.choice(PASSING) for _ in range(rng.randint(1, self._most))]
            if count <= len(passing):
                return passing[count - 1]
        return Answer.APPLIED

    def never_takes(self, identity: Identity) -> bool:
        """Whether an identity is one that is not taken before `repair`."""
        return random.Random(f"{self._seed} {identity}").random() < self._refused + self._stubborn


@dataclass(slots=True, eq=False)
class _Work:
    """A request that is worked on: those of the same key that came meanwhile."""

    met: list[Identity] = field(default_factory=list)


class FailingTarget:
    """The application, as a context: it serves at `url` until the end.

    Parameters
    ----------
    faults
        What goes wrong.
    latency
        The longest that an answer takes, s.
    """

    def __init__(self, faults: Faults, *, latency: float = 0.0) -> None:
        self.faults, self._latency = faults, latency
        self.url = ""
        self.requests: list[Request] = []
        self.overlaps: list[str] = []
        self._down: Answer | None = None
        self._random = random.Random(0)
        self._counts: Counter[Identity] = Counter()
        self._at_work: dict[bytes, _Work] = {}
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="target", daemon=True)
        self._loop: asyncio.AbstractEventLoop
        self._end: asyncio.Event

    # What is done to it

    def break_down(self, how: Answer = Answer.UNAVAILABLE) -> None:
        """Answer everything like that, until `come_back`."""
        self._down = how

    def come_back(self) -> None:
        """Be as before."""
        self._down = None

    # What is seen of it

    @property
    def deliveries(self) -> list[Observed]:
        """Entries in the order in which they took effect; again where they came again."""
        return [request.entry for request in list(self.requests) if request.answer.applies]

    @property
    def applied(self) -> dict[Identity, Request]:
        """Of each identity the first request that took effect."""
        found: dict[Identity, Request] = {}
        for request in list(self.requests):
            if request.answer.applies:
                found.setdefault(request.identity, request)
        return found

    def answers(self) -> Counter[Answer]:
        """How often it gave which answer."""
        return Counter(request.answer for request in list(self.requests))

    def of(self, identity: Identity) -> Sequence[Request]:
        """The requests of an identity."""
        return [request for request in list(self.requests) if request.identity == identity]

    # Serving

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(START):
            raise TimeoutError(f"the application does not serve after {START:g} s")
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(START)

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", self._handle)
        # Who hangs up ends the request, as most servers have it.
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._ready.set()
        await self._end.wait()
        await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        entry = _entry(request, await request.read())
        identity = entry.identity
        assert identity is not None, "the sink sends CloudEvents"
        if self._down is not None:
            answer = self._down
        else:
            self._counts[identity] += 1
            answer = self.faults.answer(identity, self._counts[identity])
        work = _Work()
        if entry.key is not None and answer not in (Answer.HANGS, Answer.APPLIED_HANGS):
            if entry.key in self._at_work:
                self._at_work[entry.key].met.append(identity)
            self._at_work[entry.key] = work
        try:
            if self._latency:
                await asyncio.sleep(self._random.uniform(0, self._latency))
            self.requests.append(Request(entry, identity, self._counts[identity], time.monotonic(), answer))
        finally:
            if entry.key is not None and self._at_work.get(entry.key) is work:
                del self._at_work[entry.key]
        # Who gave up on it, or died, does not wait for it any more: only then may another one come meanwhile.
        if request.transport is not None and not request.transport.is_closing():
            self.overlaps += [f"{other} came while {identity} was worked on" for other in work.met]
        return await self._respond(request, answer)

    async def _respond(self, request: web.Request, answer: Answer) -> web.StreamResponse:
        match answer:
            case Answer.APPLIED:
                return web.Response(status=204)
            case Answer.REFUSED:
                return web.Response(status=400, text="it is refused")
            case Answer.FAILED:
                return web.Response(status=500, text="it fails")
            case Answer.BUSY:
                return web.Response(status=429, headers={"Retry-After": "1"}, text="it is busy")
            case Answer.UNAVAILABLE:
                return web.Response(status=503, text="it is down")
            case Answer.HANGS | Answer.APPLIED_HANGS:
                await asyncio.sleep(HANG)
            case Answer.RESET | Answer.APPLIED_RESET if (transport := request.transport) is not None:
                connection: socket.socket = transport.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                transport.abort()
        return web.Response(status=500)


def _entry(request: web.Request, body: bytes) -> Observed:
    """What a request says of its entry, read by the contract and with no code of walstream's."""
    given = request.headers
    headers: list[tuple[str, bytes | None]] = []
    for name, text in given.items():
        lower = name.lower()
        if lower.startswith("ce-"):
            headers.append((f"ce_{lower[3:]}", unquote(text).encode()))
        elif lower.startswith("walstream-") or (lower == "content-type" and text != "application/octet-stream"):
            headers.append((lower, text.encode()))
    return Observed(
        int(given["walstream-partition"]),
        int(given["walstream-log-position"]),
        unquote_to_bytes(given["walstream-key"]) if "walstream-key" in given else None,
        None if given.get("walstream-null") == "true" else body,
        tuple(headers),
        int(given["walstream-timestamp"]),
    )

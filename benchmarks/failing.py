"""Targets that fail on purpose: sinks in the worker's own process, which cost next to nothing themselves.

They count what they take and watch the order of each key, and write down several times a second what they saw. Which
records fail follows from their positions, so that every run has the same ones.

As sinks of other packages do, they come by entry points: of a package that exists in a temporary folder only, so that
nobody else has them.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import orjson
from pydantic import BaseModel, ConfigDict

from walstream.entry import Entry
from walstream.sinks.base import APPLIED, TARGET_DOWN, Outcome, Retry, Sink, SinkContext, Verdict

PERIOD = 0.1  # s between two notes of what was seen, and two looks whether the target is to be down
TICK = 0.000_5  # s; calls whose time comes within it are answered together
BUSY = Retry("busy, come again")
BROKEN = Retry("this key is broken")
BEHIND = Retry("behind another one of its key")
_HASH = 2_654_435_761  # Knuth's: 2^32 / the golden ratio


@dataclass
class Seen:
    """What a target saw.

    Parameters
    ----------
    applied, refused
        Records, each time that they came.
    misordered
        Those that were taken after a later one of their key, or while an earlier one was being worked on.
    calls, at_once
        Calls, and how many at the same time at most.
    """

    applied: int = 0
    refused: int = 0
    misordered: int = 0
    calls: int = 0
    at_once: int = 0


class Options(BaseModel):
    """How a target fails.

    Parameters
    ----------
    folder
        Where it writes what it saw, as ``seen``; while there is a file ``down`` in it, the target is down.
    share
        Of the records, which fail when they come for the first time.
    broken
        A key that fails for ever, in the first partition.
    latency
        Seconds that a call takes; of the sink ``slow`` only.
    """

    model_config = ConfigDict(extra="forbid")
    folder: str
    share: float = 0.0
    broken: str | None = None
    latency: float = 0.0


class Failing(Sink):
    """Takes some hundreds of records a call, at once."""

    Options = Options
    errors: ClassVar[Mapping[type[BaseException], Verdict]] = {ConnectionError: TARGET_DOWN}
    late_writes_harmless = True

    def __init__(self, context: SinkContext) -> None:
        super().__init__(context)
        self._folder = Path(self.options.folder)
        self._failing = int(self.options.share * 2**32)
        self._broken = None if self.options.broken is None else self.options.broken.encode()
        self._is_down = False
        self._tried: set[tuple[int, int]] = set()  # that failed, and have not come again
        self._last: list[dict[bytes | None, int]] = [{} for _ in range(context.partitions)]
        self._seen = Seen()
        self._noting: asyncio.Task[None] | None = None

    async def open(self) -> None:
        self._is_down = (self._folder / "down").exists()
        self._noting = asyncio.create_task(self._note())

    async def _note(self) -> None:
        while True:
            self._write_down()
            await asyncio.sleep(PERIOD)
            self._is_down = (self._folder / "down").exists()

    def _write_down(self) -> None:
        beside = self._folder / "seen.new"
        beside.write_bytes(orjson.dumps(asdict(self._seen)))
        beside.replace(self._folder / "seen")

    async def close(self) -> None:
        if self._noting is not None:
            self._noting.cancel()
            with suppress(asyncio.CancelledError):
                await self._noting
            self._write_down()

    async def write(self, batch: Sequence[Entry]) -> Sequence[Outcome]:
        seen = self._seen
        seen.calls += 1
        self._fail_if_down(batch)
        return self._take(batch)

    def _fail_if_down(self, batch: Sequence[Entry]) -> None:
        if self._is_down:
            self._seen.refused += len(batch)
            raise ConnectionError("down on purpose")

    def _take(self, batch: Sequence[Entry]) -> list[Outcome]:
        seen, failing = self._seen, self._failing
        broken = self._broken if batch[0].partition == 0 else None
        outcomes: list[Outcome] = []
        waiting: set[bytes | None] = set()
        last = self._last[batch[0].partition]
        for entry in batch:
            key, position = entry.key, entry.position
            if failing and position * _HASH % 2**32 < failing and self._is_first(entry):
                found: Outcome = BUSY
            elif broken is not None and key == broken:
                found = BROKEN
            elif key in waiting:
                found = BEHIND
            else:
                if last.get(key, -1) > position:
                    seen.misordered += 1
                last[key] = position
                seen.applied += 1
                outcomes.append(APPLIED)
                continue
            waiting.add(key)
            seen.refused += 1
            outcomes.append(found)
        return outcomes

    def _is_first(self, entry: Entry) -> bool:
        which = entry.partition, entry.position
        if which in self._tried:
            self._tried.discard(which)
            return False
        self._tried.add(which)
        return True


class Slow(Failing):
    """Takes one record a call, and a while for it."""

    batch_size = 1

    def __init__(self, context: SinkContext) -> None:
        super().__init__(context)
        self._waiting: deque[tuple[float, asyncio.Future[None]]] = deque()
        self._working: set[tuple[int, bytes | None]] = set()

    async def write(self, batch: Sequence[Entry]) -> Sequence[Outcome]:
        seen, working, (entry,) = self._seen, self._working, batch
        seen.calls += 1
        which = entry.partition, entry.key
        if which in working:
            seen.misordered += 1
        working.add(which)
        seen.at_once = max(seen.at_once, len(working))
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        if not self._waiting:
            loop.call_later(self.options.latency, self._answer)
        self._waiting.append((loop.time() + self.options.latency, future))
        try:
            await future
        finally:
            working.discard(which)
        self._fail_if_down(batch)
        return self._take(batch)

    def _answer(self) -> None:
        """Answer the calls whose time has come: one timer for all, as one connection would be."""
        waiting, loop = self._waiting, asyncio.get_running_loop()
        now = loop.time()
        while waiting and waiting[0][0] <= now:
            future = waiting.popleft()[1]
            if not future.done():
                future.set_result(None)
        if waiting:
            loop.call_later(max(waiting[0][0] - now, TICK), self._answer)


class Target:
    """A target with such a sink, as the harness sees it.

    Parameters
    ----------
    folder
        Its own.
    sink
        ``failing`` or ``slow``.
    options
        Of the sink.
    words
        Further words of the target.
    """

    def __init__(self, folder: Path, sink: str = "failing", *, options: Mapping[str, Any], **words: Any) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self.document = {"sink": sink, "options": {"folder": str(folder), **options}, **words}

    @property
    def seen(self) -> Seen:
        """What it has seen by now."""
        path = self._folder / "seen"
        return Seen(**orjson.loads(path.read_bytes())) if path.exists() else Seen()

    def applied(self) -> int:
        """How many records it has taken."""
        return self.seen.applied

    def stop(self) -> None:
        """The target is down from now on, or a moment later."""
        (self._folder / "down").touch()

    def start(self) -> None:
        """It is back."""
        (self._folder / "down").unlink()


@contextmanager
def installed(folder: Path) -> Iterator[dict[str, str]]:
    """Let this process, and those with the environment that is given, have the sinks."""
    package = folder / "failing_sinks-1.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: failing-sinks\nVersion: 1\n")
    (package / "entry_points.txt").write_text(
        f"[walstream.sinks]\nfailing = {__name__}:Failing\nslow = {__name__}:Slow\n"
    )
    sys.path.append(str(folder))
    try:
        yield {"PYTHONPATH": os.pathsep.join((os.getcwd(), str(folder)))}
    finally:
        sys.path.remove(str(folder))

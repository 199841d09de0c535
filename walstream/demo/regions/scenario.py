"""What the demo of two regions does, from the start of two Kafkas to the comparison of two stores."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from walstream.comparison import Comparison, compare
from walstream.demo.check import Findings, compare_rows
from walstream.demo.flights import Flights, Step
from walstream.demo.folder import clear, own_folder
from walstream.demo.regions.conflicts import EAST, RANKS, WEST, Said, conflicts, rows_of, said
from walstream.demo.regions.link import Link
from walstream.demo.regions.region import Region
from walstream.demo.scenario import START_SECONDS, STILL_SECONDS, timed
from walstream.errors import WalstreamError
from walstream.local import KafkaOptions, Servers
from walstream.replication import Replication
from walstream.sinks.base import Readable

PARTITIONS = {EAST: 4, WEST: 3}
DAYS = 7  # of the month
CUT, ASKED, HEALED = 0.4, 0.45, 0.75  # how much is written when it happens
KILLS = ((0.6, EAST, "router"), (0.85, WEST, "flights.to-east"))
CALM = 4.0  # seconds before the cut of which latencies are shown; servers that were just started are slow before that
LOOK_EVERY = 2.0  # seconds between two comparisons of the stores on the way
SETTLE = 5.0  # seconds for which rows that differ in the end are looked at


class Audience(Protocol):
    """Who is shown the demo."""

    def stage(self, words: str) -> None:
        """A new part begins."""

    def event(self, words: str) -> None:
        """Something happened."""

    def console(self) -> Any:
        """The rich console for progress bars, or None."""

    def watching(self, view: View) -> contextlib.AbstractContextManager[None]:
        """Show how it goes, for the length of a with statement."""


@dataclass
class View:
    """What can be seen on the way.

    Parameters
    ----------
    regions
        Both.
    total
        How many writes each is to get.
    is_cut
        Whether the way between them is cut.
    rows
        How many rows each store has,
    differing
        and how many are not the same in both.
    """

    regions: Mapping[str, Region]
    total: int
    is_cut: bool = False
    rows: dict[str, int] = field(default_factory=lambda: dict.fromkeys(RANKS, 0))
    differing: int = 0

    def look(self) -> None:
        """Compare the stores as they are now."""
        east, west = (self.regions[name].rows() for name in (EAST, WEST))
        self.rows = {EAST: len(east), WEST: len(west)}
        self.differing = sum(east.get(key) != west.get(key) for key in east.keys() | west.keys())


@dataclass
class Side:
    """What was found in a region.

    Parameters
    ----------
    written
        Records in its ingress that were written there,
    sent
        that the other region sent, also more than once, and
    circled
        that came back to where they had been.
    in_log
        How many records its log has.
    log
        Whether each record of both regions stands there once, with the effective time that it must have.
    rows
        The comparison of its store with what was written.
    behind
        How many positions of its log the other region was behind when the way was open again.
    latency_ms
        From a write in the other region into the log here, in the last seconds before the cut.
    """

    written: int = 0
    sent: int = 0
    circled: int = 0
    in_log: int = 0
    log: Findings = field(default_factory=Findings)
    rows: Findings = field(default_factory=Findings)
    behind: int = 0
    latency_ms: dict[str, float | int] = field(default_factory=dict)


@dataclass
class Example:
    """A step of a flight of which both regions said something with the same write time."""

    flight: str
    said: dict[str, dict[str, Any]]
    rows: dict[str, dict[str, Any]]


@dataclass
class Result:
    """What the demo found.

    Parameters
    ----------
    flights
        How many were written about,
    writes
        how many writes each region got, and
    conflicting
        of how many flights these would make different rows.
    differing_when_cut
        Rows that were not the same in both stores when the way was open again.
    compared
        What `walstream replication verify` compares: rows of each store, and those that differ.
    """

    month: int
    flights: int = 0
    writes: int = 0
    conflicting: int = 0
    differing_when_cut: int = 0
    sides: dict[str, Side] = field(default_factory=lambda: {name: Side() for name in RANKS})
    compared: tuple[int, int] = (0, 0)
    different: int | None = None
    killed: list[str] = field(default_factory=list)
    dead: dict[str, int] = field(default_factory=dict)
    example: Example | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def problems(self) -> list[str]:
        """What is wrong, in words; nothing if all is right."""
        found = [f"{topic} holds {count} records" for topic, count in self.dead.items()]
        for name, side in self.sides.items():
            found += [f"{name}: {problem}" for problem in side.log.problems]
            found += [f"{name}: row {problem}" for problem in side.rows.problems]
            if side.circled:
                found.append(f"{name}: {side.circled} records came back to where they had been")
            if min(side.written, side.sent) < self.writes:
                found.append(
                    f"{name}: its ingress has {side.written} of its own writes, and {side.sent} of the other's"
                )
            if not (side.log.ok and side.rows.ok) and not (side.log.problems or side.rows.problems):
                found.append(f"{name}: there was nothing to compare")
        if self.different is None or min(self.compared) == 0:
            found.append("the stores were not compared")
        elif self.different:
            found.append(f"{self.different} rows of the stores differ")
        # Else it was no test.
        if self.differing_when_cut == 0 or self.conflicting == 0:
            found.append("the regions never differed")
        return found

    @property
    def ok(self) -> bool:
        """Whether both stores have the rows that they must have."""
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"ok": self.ok, **asdict(self), "problems": self.problems}


class RegionsDemo:
    """The demo of two regions in a folder.

    Parameters
    ----------
    folder
        Where everything is kept; made if it does not exist.
    month
        Which month of 2013; it takes its first days.
    audience
        Who is shown what happens.
    """

    def __init__(self, folder: Path, *, month: int, audience: Audience) -> None:
        self.folder = folder.absolute()
        self._audience = audience
        self.result = Result(month)
        self._links = {name: Link() for name in RANKS}  # the ways to each region
        self._servers = Servers(
            self.folder / "local",
            regional={name: KafkaOptions(quick=True, advertised=link.port) for name, link in self._links.items()},
        )
        self._regions: dict[str, Region] = {}
        self._cut_at = 0.0  # seconds since the epoch

    def run(self) -> Result:
        """Do it all.

        Raises
        ------
        WalstreamError
            It could not be done to its end.
        """
        begin = time.monotonic()
        with own_folder(self.folder), contextlib.ExitStack() as stack:
            stack.callback(self._clean_up)
            clear(self.folder)
            with ThreadPoolExecutor(1) as pool, timed(self.result.seconds, "start"):
                reading = pool.submit(_read, self.result.month)
                self._start()
                steps = reading.result()
            writes = said(steps)
            everything = [write for several in writes.values() for write in several]
            self.result.flights, self.result.writes = len({step.flight for step in steps}), len(steps)
            self.result.conflicting = sum(1 for _ in conflicts(everything))
            for region in self._regions.values():
                stack.enter_context(region.traffic.looking())
            self._audience.stage("Starting routers, stores and what sends to the other region")
            with timed(self.result.seconds, "workers"):
                self._start_workers()
            view = View(self._regions, len(steps))
            self._audience.stage(f"Writing {len(steps):,} mutations of the same flights in each region")
            with self._audience.watching(view), self._looking(view):
                with timed(self.result.seconds, "write"):
                    self._write(view, writes)
                self._audience.stage("Waiting until each region has everything")
                with timed(self.result.seconds, "drain"):
                    self._drain(2 * len(steps))
            with timed(self.result.seconds, "check"):
                self._check(everything)
            self.result.seconds["all"] = round(time.monotonic() - begin, 1)
        return self.result

    def _start(self) -> None:
        self._audience.stage("Starting a Kafka for the east and one for the west")
        self._servers.up(cassandra=False, regions=list(RANKS), console=self._audience.console())
        for name, link in self._links.items():
            link.lead_to(self._servers.address(f"{name}/kafka", "PROXIED"))
        for name, other in ((EAST, WEST), (WEST, EAST)):
            self._regions[name] = Region(
                name,
                other,
                self.folder,
                brokers=self._servers.address(f"{name}/kafka"),
                way=self._links[other].address,
                partitions=PARTITIONS[name],
            )
        with ThreadPoolExecutor(len(RANKS)) as pool:
            made = list(pool.map(Region.apply, self._regions.values()))
        for region, count in zip(self._regions.values(), made, strict=True):
            self._audience.event(
                f"{region.name}: Kafka answers at {region.settings['WALSTREAM_BROKERS']}; "
                f"walstream apply made {count} topics and offsets, of {region.namespace.topics.partitions} partitions"
            )

    def _start_workers(self) -> None:
        """One region after the other, since each `walstream run` takes ports that are free when it starts."""
        deadline = time.monotonic() + START_SECONDS
        for region in self._regions.values():
            workers = region.start()
            while not (workers.ports and all(_answers(port) for port in workers.ports.values())):
                self._wait(deadline)
        while not all(region.traffic.everybody_works() for region in self._regions.values()):
            self._wait(deadline)

    def _wait(self, deadline: float) -> None:
        self._look()
        if time.monotonic() > deadline:
            raise WalstreamError(f"the workers did not join their groups in {START_SECONDS:g} s")
        time.sleep(0.1)

    def _write(self, view: View, writes: Mapping[str, Sequence[Said]]) -> None:
        regions = list(self._regions.values())
        kills = list(KILLS)
        asked: list[Future[Replication]] = []
        healed = False
        for region in regions:
            region.write(writes[region.name])
        with ThreadPoolExecutor(len(regions)) as pool:
            while kills or not healed or any(region.is_writing for region in regions):
                self._look()
                share = min(region.written for region in regions) / view.total
                if share >= CUT and not (view.is_cut or healed):
                    self._cut(view)
                if share >= ASKED and not asked:
                    asked = [pool.submit(region.replication) for region in regions]
                if kills and share >= kills[0][0] and (healed or kills[0][0] < HEALED):
                    self._kill(*kills.pop(0)[1:])
                if share >= HEALED and view.is_cut and all(one.done() for one in asked):
                    for region, one in zip(regions, asked, strict=True):
                        self._say(region, one.result())
                    self._heal(view)
                    healed = True
                time.sleep(0.05)
        self._look()

    def _cut(self, view: View) -> None:
        for link in self._links.values():
            link.cut()
        self._cut_at = time.time()
        view.is_cut = True
        self._audience.event("the way between the regions is cut; both are written to as before")

    def _say(self, region: Region, found: Replication) -> None:
        state = "answers" if found.problem is None else "does not answer"
        self._audience.event(
            f"walstream replication status in {region.name}: {found.region} {state}, and was {found.records:,} records "
            f"or {found.seconds:.1f} s behind"
        )

    def _heal(self, view: View) -> None:
        view.look()
        self.result.differing_when_cut = view.differing
        for name, region in self._regions.items():
            self.result.sides[name].behind = region.traffic.lags[region.sender]
        self._audience.event(f"{view.differing:,} rows of the two stores differ; the way is open again")
        for link in self._links.values():
            link.heal()
        view.is_cut = False

    def _kill(self, name: str, worker: str) -> None:
        workers = self._regions[name].workers
        assert workers is not None
        if worker in workers.pids:
            pid = workers.kill(worker)
            self.result.killed.append(f"{worker} of {name}")
            self._audience.event(f"killed {worker} of {name} (process {pid}) with SIGKILL, on purpose, while it works")

    def _drain(self, records: int) -> None:
        traffics = [region.traffic for region in self._regions.values()]
        last: tuple[int, ...] = ()
        enough: list[int] = []  # looks, of which the last began when all was in the logs
        changed = time.monotonic()
        while True:
            self._look()
            lags = [lag for traffic in traffics for lag in traffic.lags.values()]
            place = (*(traffic.in_log for traffic in traffics), *lags)
            if not enough and all(traffic.in_log >= records for traffic in traffics):
                enough = [traffic.looks + 2 for traffic in traffics]
            looked = enough and all(traffic.looks >= least for traffic, least in zip(traffics, enough, strict=True))
            if looked and not any(lags):
                return
            if place != last:
                last, changed = place, time.monotonic()
            elif time.monotonic() - changed > STILL_SECONDS:
                self._audience.event(f"nothing has come for {STILL_SECONDS:g} s; what is missing will not come")
                return
            time.sleep(0.1)

    def _look(self) -> None:
        for region in self._regions.values():
            region.check()
            if region.workers is not None:
                for happened in region.workers.news():
                    self._audience.event(f"{region.name}: {happened.words}")

    @contextlib.contextmanager
    def _looking(self, view: View) -> Iterator[None]:
        """Compare the stores every few seconds, for who looks on."""
        ended = threading.Event()

        def repeat() -> None:
            while not ended.wait(LOOK_EVERY):
                view.look()

        thread = threading.Thread(target=repeat, name="demo-view", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _check(self, writes: Sequence[Said]) -> None:
        self._audience.stage("Comparing both stores with each other and with what was written")
        result, expected = self.result, rows_of(writes)
        found: dict[str, list[dict[str, Any]]] = {}
        for name, region in self._regions.items():
            side, traffic = result.sides[name], region.traffic
            side.written, side.sent, side.circled = traffic.written, traffic.sent, traffic.circled
            side.in_log = traffic.in_log
            side.latency_ms = traffic.latencies(self._cut_at - CALM, self._cut_at).summary()
            side.log = compare_log(writes, traffic.counts, traffic.times)
            found[name] = [json.loads(text) for text in region.rows().values()]
            side.rows = compare_rows(expected, found[name], "flight")
            result.dead |= {f"{name}: {topic}": count for topic, count in traffic.dead().items()}
        comparison = asyncio.run(self._compare())
        result.compared = comparison.rows
        result.different = 0 if comparison.equal else max(1, len(comparison.differences) + len(comparison.unsettled))
        result.example = example_of(writes, found)

    async def _compare(self) -> Comparison:
        """As `walstream replication verify` does."""
        sinks = [region.sink() for region in self._regions.values()]
        try:
            for sink in sinks:
                await sink.open()
            first, second = sinks
            assert isinstance(first, Readable) and isinstance(second, Readable)
            return await compare(first, second, settle=SETTLE)
        finally:
            for sink in sinks:
                await sink.close()

    def _clean_up(self) -> None:
        self._audience.stage("Stopping")
        with ThreadPoolExecutor(len(RANKS)) as pool:
            list(pool.map(Region.close, self._regions.values()))
        self._servers.down()
        for link in self._links.values():
            link.close()


def compare_log(writes: Sequence[Said], counts: Mapping[bytes, int], times: Mapping[bytes, int]) -> Findings:
    """Check that a log has each write once, with the effective time that the region gave where it was written."""
    findings = Findings()
    wanted = {write.id.encode(): write.effective for write in writes}
    for id, time_ in wanted.items():
        if counts.get(id, 0) != 1:
            findings.add(f"{id.decode()} stands in the log {counts.get(id, 0)} times")
        elif times[id] != time_:
            findings.add(f"{id.decode()} has the effective time {times[id]}, and not {time_}")
        else:
            findings.right += 1
    for id in counts.keys() - wanted.keys():
        findings.add(f"{id.decode(errors='replace')} stands in the log, and was never written")
    return findings


def example_of(writes: Sequence[Said], rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> Example | None:
    """A late flight of which both regions said at the same time when it arrived, differently."""
    arrived: dict[tuple[str, int], dict[str, dict[str, Any]]] = {}
    for write in writes:
        if write.status == "arrived" and write.columns is not None and write.columns["arr_delay"] > 0:
            arrived.setdefault((write.flight, write.time), {})[write.region] = dict(write.columns)
    for (flight, _), words in arrived.items():
        if len(words) == len(RANKS):
            own = {
                name: next((dict(row) for row in found if row["flight"] == flight), {}) for name, found in rows.items()
            }
            return Example(flight, words, own)
    return None


def _read(month: int) -> list[Step]:
    """The steps of the first days."""
    return [step for step in Flights.load(month).steps() if int(step.flight[-2:]) <= DAYS]


def _answers(port: int) -> bool:
    """Whether somebody listens there."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False

"""The page of results: every figure with a goal, whether it is reached, and all measurements behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.compare import COLUMNS, cells
from benchmarks.plot import bars
from benchmarks.results import BUSY, Spread, console, load

ROUTER = "walstream router"
TWO_ROUTERS = "walstream router, 2 workers"
DELIVERY = "walstream delivery"
REPLICATION = "replication"
REPLICATOR = "walstream replication"
MIRROR = "MirrorMaker 2"
NEAR, FAR = "walstream, no latency", "walstream, with latency"
BY_HAND = "aiokafka loop, by hand"
EXACTLY_ONCE = "Kafka Streams exactly_once_v2, 1 thread"
EXACTLY_ONCE_2 = "Kafka Streams exactly_once_v2, 2 threads"
Entry = Mapping[str, Any]
Find = Callable[["Measurements"], "tuple[Entry, Spread] | None"]


class Measurements:
    """What stands in ``results.json``; of what was measured more than once alike, the latest."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = [each for each in entries if each["measured"]]

    def latest(self, figure: str, *names: str, **settings: Any) -> Entry | None:
        """The latest measurement of a figure with these settings, in which all of these took part."""
        found = [
            each
            for each in self.entries
            if each["figure"] == figure
            and all(each["settings"].get(name) == value for name, value in settings.items())
            and all(name in each["measured"] for name in names)
        ]
        return found[-1] if found else None


def ratio(entry: Entry, ours: str, theirs: str, what: str) -> Spread:
    """One against the other, round by round: what a round has in common is not in a ratio."""
    both = [entry["measured"][name]["rounds"] for name in (ours, theirs)]
    return Spread([one[what] / other[what] for one, other in zip(*both, strict=False)])


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure, and what it is to be.

    Parameters
    ----------
    bound
        The least that is good enough, or the most, where `at_most`.
    unit
        As it is to be read; ``x`` is a ratio.
    find
        Looks it up.
    """

    figure: str
    bound: float
    unit: str
    find: Find
    at_most: bool = False

    def row(self, measurements: Measurements) -> tuple[str, ...]:
        """A row of the table."""
        wanted = f"{'≤' if self.at_most else '≥'} {self._number(self.bound)}"
        found = self.find(measurements)
        if found is None:
            return self.figure, wanted, "not measured", "", ""
        entry, spread = found
        text = self._number(spread.median)
        if len(spread.values) > 1:
            text += f" ({self._number(min(spread.values))} to {self._number(max(spread.values))})"
        good = spread.median <= self.bound if self.at_most else spread.median >= self.bound
        return self.figure, wanted, text, "yes" if good else "**no**", _remark(entry)

    def _number(self, value: float) -> str:
        digits = 2 if self.unit == "x" else 0 if value >= 100 else 1
        if self.unit == "x":
            return f"{value:.{digits}f}x"
        return f"{value:,.{digits}f} {self.unit}".strip()


def _remark(entry: Entry) -> str:
    """What a reader should know before believing a measurement."""
    settings, words = entry["settings"], []
    if not entry.get("done", True):
        words.append("interrupted")
    rounds = settings.get("rounds")
    if rounds is not None and rounds < 5:
        words.append(f"{rounds} round{'s' if rounds > 1 else ''}")
    if entry["figure"] == "failing outage" and settings["seconds"] < OUTAGE:
        words.append(f"down for {settings['seconds']:g} s only")
    if entry["figure"] == "failing memory" and settings["records"] < WAITING:
        words.append(f"{settings['records']:,} records waited")
    if entry["figure"] == "replication to Redis" and settings["seconds"] < FOLLOWED:
        words.append(f"for {settings['seconds']:g} s only")
    if entry["figure"] in (REPLICATION, "replication with latency") and settings["records"] < REPLICATED:
        words.append(f"{settings['records']:,} records")
    others = [max(found) for place, found in flat(entry["measured"]).items() if place.endswith(" others")]
    if max(entry["machine"]["busy_before"], *others, 0) > BUSY:
        words.append("the machine was busy with something else")
    return ", ".join(words)


OUTAGE = 60.0  # s
WAITING = 5_000_000  # records
FOLLOWED = 30.0  # s
REPLICATED = 1_000_000  # records
MAIN = {"partitions": 4, "duplicates": 0.0}


def _ratio(figure: str, ours: str, theirs: Sequence[str], what: str, **settings: Any) -> Find:
    def find(measurements: Measurements) -> tuple[Entry, Spread] | None:
        entry = measurements.latest(figure, ours, theirs[0], **MAIN, **settings)
        if entry is None:
            return None
        found = [ratio(entry, ours, their, what) for their in theirs if their in entry["measured"]]
        # Against several, the one that is hardest to beat.
        return entry, (max if what == "cpu" else min)(found, key=lambda each: each.median)

    return find


def _value(figure: str, read: Callable[[Any], Any], **settings: Any) -> Find:
    def find(measurements: Measurements) -> tuple[Entry, Spread] | None:
        entry = measurements.latest(figure, **settings)
        if entry is None:
            return None
        found = read(entry["measured"])
        return entry, Spread(found if isinstance(found, list) else [found])

    return find


def _resident(measurements: Measurements) -> tuple[Entry, Spread] | None:
    entry = measurements.latest("router", ROUTER, **MAIN, compression="none", records=2_000_000)
    if entry is None:
        return None
    return entry, Spread([each["peak_rss"] / 2**20 for each in entry["measured"][ROUTER]["rounds"]])


def _scheduling(measurements: Measurements) -> tuple[Entry, Spread] | None:
    entry = measurements.latest("delay scheduling", "delayed", "undelayed", partitions=4)
    return None if entry is None else (entry, ratio(entry, "delayed", "undelayed", "rate"))


def _failing(figure: str, **settings: Any) -> Find:
    """Those with failures against those without, by rounds."""

    def find(measurements: Measurements) -> tuple[Entry, Spread] | None:
        entry = measurements.latest(figure, "failing", "none failing", partitions=4, **settings)
        return None if entry is None else (entry, ratio(entry, "failing", "none failing", "rate"))

    return find


MANY = {"pending": 10_000_000, "rate": 10_000.0}
GOALS = (
    Goal(
        "router, records/s, against a hand-written loop", 1.2, "x",
        _ratio("router", ROUTER, [BY_HAND], "rate", compression="none"),
    ),
    Goal(
        "router, CPU a record, against Kafka Streams `exactly_once_v2`, both warm", 0.7, "x",
        _ratio("router", ROUTER, [EXACTLY_ONCE_2, EXACTLY_ONCE], "cpu", compression="none"), at_most=True,
    ),
    Goal(
        "one router worker, records/s, against Kafka Streams `exactly_once_v2` with two threads, warm", 1.0, "x",
        _ratio("router", ROUTER, [EXACTLY_ONCE_2], "rate", compression="none"),
    ),
    Goal(
        "two router workers against the same", 1.3, "x",
        _ratio("router", TWO_ROUTERS, [EXACTLY_ONCE_2], "rate", compression="none"),
    ),
    Goal(
        "delivery to a Kafka topic, records/s, against a hand-written loop", 1.0, "x",
        _ratio("delivery to Kafka", DELIVERY, [BY_HAND], "rate"),
    ),
    Goal(
        "delivery to Cassandra, 10 rows a partition, rows/s, against the driver's best way", 1.5, "x",
        _value("delivery to Cassandra", lambda found: found["ratio"], **{"rows a partition": 10}),
    ),
    Goal(
        "delivery to Cassandra, 1 row a partition, rows/s, against the driver's best way", 1.0, "x",
        _value("delivery to Cassandra", lambda found: found["ratio"], **{"rows a partition": 1}),
    ),
    Goal(
        "write to applied in a Kafka topic, at 10,000 records/s, p99", 60, "ms",
        _value("latency", lambda found: found["target"]["p99"], rate=10_000.0), at_most=True,
    ),
    Goal(
        "recovery of a dedup table from its changelog, records/s", 200_000, "",
        _value("start", lambda found: found["recovery_records_per_s"]),
    ),
    Goal(
        "start of a router after a clean stop, 30 million ids in its window", 5, "s",
        _value("start", lambda found: found["start_after_clean_stop_s"], ids=30_000_000), at_most=True,
    ),
    Goal("memory of a router, 2 million records waiting", 250, "MB", _resident, at_most=True),
    Goal(
        "memory of a router, 30 million ids in its window", 500, "MB",
        _value("start", lambda found: found["resident_mb"], ids=30_000_000), at_most=True,
    ),
    Goal(
        "client `write_many`, records/s, acknowledged", 100_000, "",
        _value("client", lambda found: [each["rate"] for each in found]),
    ),
    Goal(
        "idle worker, CPU of a core", 2, "%",
        _value("quiet", lambda found: max(each["idle"] for each in found.values()), rate=1_000.0), at_most=True,
    ),
    Goal(
        "router and one delivery together at 1,000 records/s, CPU of a core", 15, "%",
        _value("quiet", lambda found: sum(each["at rate"] for each in found.values()), rate=1_000.0), at_most=True,
    ),
    Goal(
        "due to read from the log, 10,000 records/s falling due, 10 million pending, p99", 100, "ms",
        _value("delay pending", lambda found: found["many"]["lateness"]["read"]["p99"], **MANY), at_most=True,
    ),
    Goal(
        "the same, an idle worker, one record at a time, p99", 30, "ms",
        _value("delay pending", lambda found: found["many"]["one_by_one"]["read"]["p99"], **MANY), at_most=True,
    ),
    Goal(
        "memory of a router, 10 million pending, more than with 10 thousand", 100, "MB",
        _value("delay pending", lambda found: found["more_resident_mb"]["resident_mb"], **MANY), at_most=True,
    ),
    Goal("scheduling of delayed records, records/s, against routing others", 0.5, "x", _scheduling),
    Goal(
        "sending of a million overdue records, unbounded, records/s", 80_000, "",
        _value("delay overdue", lambda found: found["rate"], records=1_000_000),
    ),
    Goal(
        "rebuilding of 10 million pending from the changelogs, pending records/s", 150_000, "",
        _value("delay pending", lambda found: found["rebuild"]["pending_per_s"], **MANY),
    ),
    Goal(
        "sending after 20 million were sent, against the start", 1.0, "x",
        _value("delay emitted", lambda found: found["last_against_first"], emitted=20_000_000),
    ),
    Goal(
        "delivery with 1 % of the records failing once, `ordering: none`, records/s, against none failing", 0.9, "x",
        _failing("failing transient", ordering="none"),
    ),
    Goal(
        "the same, `ordering: key`, 100 thousand keys", 0.7, "x",
        _failing("failing transient", ordering="key", keys=100_000),
    ),
    Goal(
        "one key of 100 thousand failing for ever, records/s of the others, against none failing", 0.95, "x",
        _failing("failing key", keys=100_000),
    ),
    Goal(
        "a target down for a minute under full load, records in the DLQ after it", 0, "",
        _value("failing outage", lambda found: found["in_dlq"]), at_most=True,
    ),
    Goal(
        "memory while a target is down and 5 million records wait, more than idle before", 100, "MB",
        _value("failing memory", lambda found: found["more_mb"]), at_most=True,
    ),
    Goal(
        "delivery at 10 ms a call of one record, one worker, in the order of keys, records/s", 15_000, "",
        _value("failing slow", lambda found: [each["rate"] for each in found["rounds"]], latency=0.01),
    ),
    Goal(
        "an index kept live, mutations/s a process, against the same statements without the log", 0.7, "x",
        _value("index live", lambda found: [each["ratio"] for each in found["rounds"]]),
    ),
    Goal(
        "build of an index over a million rows with writes going on, rows/s (or 0.8x of a bare loader)", 20_000, "",
        _value("index existing", lambda found: found["build"], rows=1_000_000),
    ),
    Goal("the same, against a bare loader", 0.8, "x", _value("index existing", lambda found: found["build_ratio"])),
    Goal(
        "verify of the same, rows/s (or 0.8x of a bare scan of both tables)", 50_000, "",
        _value("index existing", lambda found: found["verify"], rows=1_000_000),
    ),
    Goal("the same, against a bare scan", 0.8, "x", _value("index existing", lambda found: found["verify_ratio"])),
    Goal(
        "replication, one region to another, records/s a process", 80_000, "",
        _value(REPLICATION, lambda found: [each["rate"] for each in found[REPLICATOR]["rounds"]]),
    ),
    Goal("the same, against a hand-written loop", 0.75, "x", _ratio(REPLICATION, REPLICATOR, [BY_HAND], "rate")),
    Goal(
        "the same, CPU a record, against MirrorMaker 2", 1.0, "x",
        _ratio(REPLICATION, REPLICATOR, [MIRROR], "cpu"), at_most=True,
    ),
    Goal(
        "the same with 100 ms there and back between the regions, records/s, against none", 0.8, "x",
        _ratio("replication with latency", FAR, [NEAR], "rate", latency=0.1),
    ),
    Goal(
        "write to readable in the other region's Redis, at 5,000 records/s in 4 partitions, p99, beyond the way there",
        150, "ms",
        _value("replication to Redis", lambda found: found["beyond"]["p99"], rate=5_000.0, latency=0.1, partitions=4),
        at_most=True,
    ),
)  # fmt: skip

INTRODUCTION = """\
# Benchmarks

`make bench` measures all of this, in about an hour, on a machine that does nothing else meanwhile; then it writes this
page, from [results.json](results.json), where every single round is. `make bench BENCH="router --rounds 3"` measures
one figure, `.venv/bin/python -m benchmarks --help` lists them.

- Kafka, all contenders, and the harness share one machine. Contenders take turns on the same broker and the same
  topic; every other round goes backwards. Two runs that are not counted warm the broker up.
- Records are CloudEvents of 300 bytes with eight headers, random UUIDs as ids, and values that do not compress. They
  are in the topic before anybody starts; `compression` is how they were written there. What is written is lz4 for
  everybody, since walstream's workers write so; topics keep what the producer chose (`compression.type=producer`), with
  `LogAppendTime`.
- Everybody does the same: check the event, read its time, look the id up in a table that has a changelog, write the
  record with four more headers, the table and the changelog. The router also assigns effective times, and does all of
  it in transactions; so does Kafka Streams with `exactly_once_v2`, and nobody else.
- What came out is counted in every round, and in the first compared with what went in: all ids, and one record in 256
  byte by byte.
- **Warm** is what comes after the share of the records that is called `warm`, for everybody alike. CPU is that of all
  processes and threads of a contender. A slow contender is stopped after 20 s, and measured by what it got done; its
  row says how much that was.
- Millions pending are written into the changelogs as a router would have written them, due in a month, in another order
  than they are due; a worker then rebuilds its tables from these. What falls due meanwhile comes through the ingress.
  Lateness is the time from when a record is due until a consumer of committed records has it; one that came early would
  end the measurement. Records that are scheduled are due in a day, with a jitter of an hour.
- Targets that fail are sinks in the worker's own process, which cost next to nothing, so that what failures cost is
  not hidden behind the target. They count what they take, and watch the order of each key: a run in which something is
  missing, or out of order where keys have one, ends the measurement. The log is written as a router would have written
  it. While millions wait for a target that is down, some thousands of records come again and again.
- Between two regions are two Kafkas on this machine; what a contender has to itself is what they and the proxy leave
  of it. The proxy delays each direction by half of the latency, and bounds nothing else; the run without latency goes
  by the same proxy. The loop by hand sends each record to the partition of the same number, and does not hash its
  key. MirrorMaker 2 runs two tasks, with fetches and batches enlarged, as a process of its own, and copies the log as
  it is; its code is not compiled yet in a run of fewer than a million records, which is then no comparison. Rows are
  looked for in the other region's Redis every ten milliseconds, 100 a second, once both Kafkas have had a minute to
  compile their code. They do without Java's second compiler there, which takes a core for seconds at a time for many
  minutes; the writer, librdkafka, gathers for 10 ms, since it sends a request for each partition. Half of the latency
  is the way there, and not counted as `beyond`. What makes the rest is that ten processes share two cores, most of
  them waiting for one: each hop gathers for longer where its commits take longer, and a compaction of the routers'
  tables takes what is left.
- Figures are medians; in parentheses, the range of the rounds. A ratio is taken round by round.
- The loop by hand is aiokafka with batches of 1 MB, RocksDB with bloom filters, and the garbage collector tamed. Kafka
  Streams is the Processor API with batches of 256 KiB, the parallel collector, and commits each second with
  `exactly_once_v2`; each of these was tried, and made it faster or no slower.

"""


def write(folder: Path) -> None:
    """Write the page and its plots beside ``results.json``, and print the table."""
    measurements = Measurements(load(folder / "results.json"))
    head = ("figure", "goal", "measured", "reached", "")
    rows = [goal.row(measurements) for goal in GOALS]
    parts = [INTRODUCTION, "## Goals\n\n", _markdown(head, rows), "\n", *_comparisons(measurements, folder)]
    parts += _others(measurements)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text("".join(parts))
    for row in rows:
        console.print(f"{row[0]:<94} {row[1]:>10}  {row[2]:<32} {row[3]} {row[4]}", markup=False)
    console.print(f"written to {folder / 'README.md'}")


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _settings(entry: Entry) -> str:
    return ", ".join(f"{name} {_word(value)}" for name, value in entry["settings"].items())


def _word(value: Any) -> str:
    if isinstance(value, list):
        return "/".join(_word(each) for each in value)
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)


def _where(entry: Entry) -> str:
    machine = entry["machine"]
    remark = _remark(entry)
    return f"{machine['at'][:10]}, commit {machine['commit']}, {machine['cores']} cores, Python {machine['python']}" + (
        f"; {remark}" if remark else ""
    )


SIZES = ("records", "rounds", "warm")


def _latest_of_each(measurements: Measurements, figures: Sequence[str]) -> Iterator[Entry]:
    """Of everything that differs in more than its size, the latest."""
    found: dict[tuple[Any, ...], Entry] = {}
    for entry in measurements.entries:
        if entry["figure"] in figures:
            kind = {name: value for name, value in entry["settings"].items() if name not in SIZES}
            found[entry["figure"], str(sorted(kind.items()))] = entry
    yield from sorted(found.values(), key=lambda each: figures.index(each["figure"]))


def _comparisons(measurements: Measurements, folder: Path) -> Iterator[str]:
    """Tables and plots of those who took turns."""
    for entry in _latest_of_each(
        measurements, ["router", "delivery to Kafka", REPLICATION, "replication with latency"]
    ):
        settings, contenders = entry["settings"], entry["measured"]
        title = f"{entry['figure']}: {_settings(entry)}"
        words = [
            entry["figure"].split(" to ")[0].replace(" ", "-"),
            str(settings["partitions"]),
            settings.get("compression", ""),
        ]
        if settings["duplicates"]:
            words.append("duplicates")
        plot = "-".join(word for word in words if word) + ".svg"
        bars(
            folder / plot,
            title,
            {
                label: {name: [each[figure] for each in found["rounds"]] for name, found in contenders.items()}
                for label, figure in (("records/s, warm", "rate"), ("CPU µs per record, warm", "cpu"))
            },
        )
        yield f"## {title[0].upper()}{title[1:]}\n\n{_where(entry)}\n\n![{title}]({plot})\n\n"
        yield _markdown(COLUMNS, [cells(name, found) for name, found in contenders.items()]) + "\n"


def _others(measurements: Measurements) -> Iterator[str]:
    """Everything else, number by number."""
    figures = [
        "delivery to Cassandra", "latency", "start", "client", "quiet",
        "delay pending", "delay scheduling", "delay overdue", "delay emitted",
        "failing transient", "failing key", "failing outage", "failing memory", "failing slow", "replication to Redis",
    ]  # fmt: skip
    for entry in _latest_of_each(measurements, figures):
        title = f"{entry['figure']}: {_settings(entry)}"
        yield f"## {title[0].upper()}{title[1:]}\n\n{_where(entry)}\n\n"
        numbers = [
            (name or "value", Spread(values).text(0 if min(values) >= 100 else 2))
            for name, values in flat(entry["measured"]).items()
        ]
        yield _markdown(("what", "measured"), numbers) + "\n"


def flat(measured: Any, path: str = "") -> dict[str, list[float]]:
    """All numbers by their place; of rounds, those of one place together."""
    found: dict[str, list[float]] = {}
    parts = measured.items() if isinstance(measured, dict) else [("", each) for each in measured]
    for name, part in parts:
        place = f"{path} {name}".strip() if name != "rounds" else path
        if isinstance(part, dict | list):
            for inner, values in flat(part, place).items():
                found.setdefault(inner, []).extend(values)
        elif isinstance(part, int | float) and not isinstance(part, bool):
            found.setdefault(place, []).append(float(part))
    return found

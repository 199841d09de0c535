"""Contenders in turns: each round runs every one of them once, against the same topic."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.cluster import Cluster
from benchmarks.drain import Drained, drain
from benchmarks.processes import Processes
from benchmarks.results import Results, Spread, console
from benchmarks.verify import Output, compare, read

SLOW_LIMIT = 20.0  # s that a slow contender is given, from its first output on


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a contender.

    Parameters
    ----------
    commands, environments
        Its programs.
    output
        The topic that it writes.
    """

    commands: Sequence[Sequence[str]]
    environments: Sequence[dict[str, str]]
    output: str


@dataclass(frozen=True, slots=True)
class Contender:
    """Somebody who does the work.

    Parameters
    ----------
    name
        For tables.
    prepare
        Makes the topics of a run; it is given the run's name, which all of them start with.
    once
        Whether it promises that nothing comes out twice; so it is checked.
    slow
        Whether it would take many minutes for everything. It is stopped sooner then, and measured by what it got done.
    """

    name: str
    prepare: Callable[[str], Run]
    once: bool = True
    slow: bool = False


@dataclass(slots=True)
class Measured:
    """All rounds of a contender."""

    rounds: list[Drained] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {"rounds": [asdict(each) for each in self.rounds], "wrong": self.wrong}


def rounds(
    cluster: Cluster,
    contenders: Sequence[Contender],
    given: Output,
    *,
    expected: int,
    count: int,
    warm: float,
    limit: float,
    results: Results,
    broker_cpu: Callable[[], float] | None = None,
) -> None:
    """Run all, in turns; every other round backwards, so that nobody always follows the same one.

    What comes out is counted each time, and compared in the first round.

    Parameters
    ----------
    given
        What was written.
    expected
        How many distinct records have to come out.
    limit
        Seconds from the first output on, after which a contender that is not called slow is stopped, too.
    results
        Where each run is kept as soon as it ends.
    broker_cpu
        The processor seconds of the servers, where `cluster`, into which all write, is not the only one.
    """
    found = {contender.name: Measured() for contender in contenders}
    cpu = broker_cpu or cluster.cpu
    # A broker that has just started is slow until its code is compiled: the first two runs are for it.
    for index in sorted({0, len(contenders) - 1}):
        _run(cluster, contenders[index], f"r0c{index}", given, expected, warm, limit, True, cpu)
    for number in range(1, count + 1):
        for index, contender in list(enumerate(contenders))[:: 1 if number % 2 else -1]:
            result, wrong = _run(
                cluster, contender, f"r{number}c{index}", given, expected, warm, limit, number > 1, cpu
            )
            measured = found[contender.name]
            measured.rounds.append(result)
            measured.wrong += wrong
            console.print(
                f"round {number}: {contender.name:<36} {result.rate:>9,.0f} records/s {result.cpu:>6.2f} us"
                f" {result.peak_rss / 2**20:>5,.0f} MB, {result.others:.1f} cores busy with others"
                f"{'' if result.complete else f'  stopped after {result.records:,}'}"
                + "".join(f"\n  [red]{each}[/]" for each in wrong)
            )
            _keep(results, found, done=False)
    results.show(COLUMNS, [cells(name, measured.document()) for name, measured in found.items()])
    _keep(results, found, done=True)


def _run(
    cluster: Cluster,
    contender: Contender,
    name: str,
    given: Output,
    expected: int,
    warm: float,
    limit: float,
    only_count: bool,
    broker_cpu: Callable[[], float],
) -> tuple[Drained, list[str]]:
    """One run, and what is wrong with what came out."""
    run = contender.prepare(name)
    before = sum(cluster.ends(run.output).values())
    with Processes(cluster.folder / name / "run", run.commands, run.environments) as processes:
        result = drain(
            processes,
            lambda: sum(cluster.ends(run.output).values()),
            broker_cpu,
            expected=expected,
            warm=warm,
            limit=min(limit, SLOW_LIMIT) if contender.slow else limit,
        )
    output = read(cluster.brokers, run.output, cluster.ends(run.output), only_count=only_count)
    wrong = compare(given, output, expected=expected, complete=result.complete, once=contender.once)
    if before:
        wrong.append(f"{run.output} was not empty")
    cluster.delete(name)
    shutil.rmtree(cluster.folder / name, ignore_errors=True)
    time.sleep(1)  # the broker removes files
    return result, wrong


def _keep(results: Results, found: Mapping[str, Measured], *, done: bool) -> None:
    results.save({name: measured.document() for name, measured in found.items() if measured.rounds}, done=done)


COLUMNS = (
    "contender",
    "records/s warm",
    "CPU µs/record warm",
    "CPU µs/record in all",
    "broker's CPU µs",
    "peak MB",
    "output",
)


def cells(name: str, measured: Mapping[str, Any]) -> tuple[str, ...]:
    """The row of a contender under `COLUMNS`, from what stands in the JSON."""

    def spread(figure: str, digits: int = 0, scale: float = 1.0) -> str:
        return Spread([each[figure] * scale for each in measured["rounds"]]).text(digits)

    if measured["wrong"]:
        output = "wrong"
    elif all(each["complete"] for each in measured["rounds"]):
        output = "equal"
    else:
        output = f"equal, as far as it came: {Spread([each['records'] for each in measured['rounds']]).median:,.0f}"
    return (
        name,
        spread("rate"),
        spread("cpu", 2),
        spread("total_cpu", 2),
        spread("broker_cpu", 2),
        spread("peak_rss", scale=1 / 2**20),
        output,
    )

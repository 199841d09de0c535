"""Contenders in turns: each round runs every one of them once, against the same topic."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

from benchmarks.cluster import Cluster
from benchmarks.drain import Drained, drain
from benchmarks.plot import bars
from benchmarks.processes import Processes
from benchmarks.results import Results, Spread, console
from benchmarks.verify import Output, compare, read


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
    """

    name: str
    prepare: Callable[[str], Run]
    once: bool = True


@dataclass(slots=True)
class Measured:
    """All rounds of a contender."""

    rounds: list[Drained] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def spread(self, figure: str, scale: float = 1.0) -> Spread:
        return Spread([getattr(each, figure) * scale for each in self.rounds])


def rounds(
    cluster: Cluster,
    contenders: Sequence[Contender],
    given: Output,
    *,
    expected: int,
    count: int,
    warm: float,
    limit: float,
) -> dict[str, Measured]:
    """Run all, in turns; every other round backwards, so that nobody always follows the same one.

    Parameters
    ----------
    given
        What was written.
    expected
        How many distinct records have to come out.
    """
    found = {contender.name: Measured() for contender in contenders}
    for number in range(1, count + 1):
        for index, contender in list(enumerate(contenders))[:: 1 if number % 2 else -1]:
            name = f"r{number}c{index}"
            run = contender.prepare(name)
            before = sum(cluster.ends(run.output).values())
            with Processes(cluster.folder / name / "run", run.commands, run.environments) as processes:
                result = drain(
                    processes,
                    lambda output=run.output: sum(cluster.ends(output).values()),  # type: ignore[misc]
                    cluster.cpu,
                    expected=expected,
                    warm=warm,
                    limit=limit,
                )
            output = read(cluster.brokers, run.output, cluster.ends(run.output))
            wrong = compare(given, output, expected=expected, complete=result.complete, once=contender.once)
            if before:
                wrong.append(f"{run.output} was not empty")
            measured = found[contender.name]
            measured.rounds.append(result)
            measured.wrong += wrong
            console.print(
                f"round {number}: {contender.name:<36} {result.rate:>9,.0f} records/s {result.cpu:>6.2f} us"
                f" {result.peak_rss / 2**20:>5,.0f} MB, {result.others:.1f} cores busy with others"
                f"{'' if result.complete else f'  stopped after {result.records:,}'}"
                + "".join(f"\n  [red]{each}[/]" for each in wrong)
            )
            cluster.delete(name)
            shutil.rmtree(cluster.folder / name, ignore_errors=True)
            time.sleep(1)  # the broker removes files
    return found


def report(results: Results, found: dict[str, Measured], plot: str) -> None:
    """Print the table, append to the JSON, and draw it."""
    results.show(
        (
            "contender",
            "records/s warm",
            "CPU us/record warm",
            "records/s from first output",
            "CPU us/record in all",
            "broker CPU us",
            "peak MB",
            "others, cores",
            "output",
        ),
        [
            (
                name,
                measured.spread("rate").text(),
                measured.spread("cpu").text(2),
                measured.spread("cold_rate").text(),
                measured.spread("total_cpu").text(2),
                measured.spread("broker_cpu").text(2),
                measured.spread("peak_rss", 1 / 2**20).text(),
                measured.spread("others").text(1),
                "wrong"
                if measured.wrong
                else "equal"
                if all(r.complete for r in measured.rounds)
                else "equal, in part",
            )
            for name, measured in found.items()
        ],
    )
    results.save(
        {
            name: {"rounds": [asdict(each) for each in measured.rounds], "wrong": measured.wrong}
            for name, measured in found.items()
        }
    )
    bars(
        results.folder / f"{plot}.svg",
        f"{results.figure}, {results.machine['cores']} cores, {results.settings}",
        {
            "records/s, warm": {name: measured.spread("rate").values for name, measured in found.items()},
            "CPU us per record, warm": {name: measured.spread("cpu").values for name, measured in found.items()},
        },
    )

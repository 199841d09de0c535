"""Watches a contender drain a topic: how fast, with how much processor time and memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from benchmarks.processes import Processes

PERIOD = 0.1  # s between two looks
SETTLED = 2.0  # s without progress, once enough came out, until it counts as drained
START_LIMIT = 120.0  # s until the first output
STALL_LIMIT = 60.0  # s without progress before everything came out


@dataclass(frozen=True, slots=True)
class Sample:
    """A look: when (s), how far (records), processor seconds of the contender, the broker, and everybody else."""

    at: float
    done: int
    cpu: float
    broker_cpu: float
    others: float = 0.0


@dataclass(frozen=True, slots=True)
class Drained:
    """How a contender did.

    Parameters
    ----------
    records
        What came out.
    complete
        Whether that is all; otherwise the time limit came first.
    rate, cpu
        Records/s and processor microseconds a record, once warm.
    cold_rate
        Records/s from the first output on.
    total_cpu
        Processor microseconds a record, from the start of the process.
    broker_cpu
        The broker's, once warm.
    peak_rss
        Bytes, of all the contender's processes together.
    start
        Seconds from the start of the process to the first output.
    others
        Cores that were busy with something else meanwhile. Where it is much, the rate is not to be believed.
    """

    records: int
    complete: bool
    rate: float
    cpu: float
    cold_rate: float
    total_cpu: float
    broker_cpu: float
    peak_rss: int
    start: float
    others: float


def drain(
    processes: Processes,
    progress: Callable[[], int],
    broker_cpu: Callable[[], float],
    *,
    expected: int,
    warm: float,
    limit: float,
) -> Drained:
    """Watch until everything came out, or the time is over.

    Parameters
    ----------
    progress
        How many records came out by now and are committed. Markers of transactions may be counted too; they are few.
    expected
        How many there will be.
    warm
        The share of what comes out after which a contender counts as warm; the same for all.
    limit
        Seconds after the first output.
    """
    begun = time.monotonic()
    before = progress()
    samples: list[Sample] = []
    changed = begun
    while True:
        time.sleep(PERIOD)
        processes.check()
        done = progress() - before
        now = time.monotonic()
        cpu, _ = processes.usage()
        if not samples:
            if done:
                samples.append(look(now, done, cpu, broker_cpu()))
                changed = now
            elif now - begun > START_LIMIT:
                raise TimeoutError(f"no output within {START_LIMIT:.0f} s")
            continue
        if done > samples[-1].done:
            samples.append(look(now, done, cpu, broker_cpu()))
            changed = now
        if (done >= expected and now - changed > SETTLED) or now - samples[0].at > limit:
            break
        if now - changed > STALL_LIMIT:
            raise TimeoutError(f"no progress for {STALL_LIMIT:.0f} s, with {done:,} of {expected:,} records out")
    return figures(samples, begun, expected, warm, processes.peak_rss)


def look(now: float, done: int, cpu: float, broker_cpu: float) -> Sample:
    """A sample, with what the machine does besides."""
    times, own = psutil.cpu_times(), psutil.Process().cpu_times()
    busy = sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)
    return Sample(now, done, cpu, broker_cpu, busy - cpu - broker_cpu - own.user - own.system)


def figures(samples: list[Sample], begun: float, expected: int, warm: float, peak_rss: int) -> Drained:
    """What the looks at a contender say; it was started at `begun`."""
    first, last = samples[0], samples[-1]
    complete = last.done >= expected
    reached = expected if complete else last.done
    # Who was stopped is warm after the same share of what it got done.
    since = next((each for each in samples if each.done >= warm * reached), first)
    if since is last:
        since = first
    if since is last:
        raise RuntimeError("everything came out between two looks: take more records")
    records, seconds = reached - since.done, last.at - since.at
    return Drained(
        records=reached,
        complete=complete,
        rate=records / seconds,
        cpu=(last.cpu - since.cpu) / records * 1e6,
        cold_rate=(reached - first.done) / (last.at - first.at),
        total_cpu=last.cpu / reached * 1e6,
        broker_cpu=(last.broker_cpu - since.broker_cpu) / records * 1e6,
        peak_rss=peak_rss,
        start=first.at - begun,
        others=(last.others - since.others) / seconds,
    )

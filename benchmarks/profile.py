"""Where the microseconds of a record go: a worker under py-spy, as tables of self time.

The profiler looks at all Python threads some hundred times a second, native frames included. A share of the looks is
made into time by the processor time that the process used in the meantime, so the profiler's own is not in it.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.cluster import Cluster
from benchmarks.delayed import DAY, SPREAD, prepare
from benchmarks.deployment import Deployment
from benchmarks.entries import fill_log
from benchmarks.failing import Target, installed
from benchmarks.figures.delay import UNBOUNDED, namespace_of
from benchmarks.figures.delivery import routed
from benchmarks.load import Shape, fill
from benchmarks.processes import Processes
from benchmarks.results import console, machine

LOOKS = 97  # a second; a prime, so that nothing periodic is always or never seen
WARM = 0.25  # the share of the records that is routed before it looks
FUNCTIONS = 40  # in the table
LEAST = 0.05  # µs; what is less is left out
FRAME = re.compile(r"(?P<function>.*) \((?P<file>[^()]*?)(:\d+)?\)")
WAITS = re.compile(r"(pthread_cond_(timed)?wait|sem_\w*wait|epoll_wait|PyThread_acquire_lock_timed)\b")
"""Among the innermost frames of a thread that waits, be it for the interpreter lock: no processor time."""
AIOKAFKA = re.compile(r"(default_records|memory_records|legacy_records|cutil|crc32c)\.")
"""The C files of aiokafka's compiled half. All other C files are Python's own, and count for who called them."""

HOW = """\
Made by `python -m benchmarks profile {role} --step NAME`: py-spy looks at one worker, once it is warm, while it works
off records of 300 bytes with eight headers from four partitions. It is self time: what a function calls is not in it,
but for what is part of Python, such as a dictionary or a copy of bytes. A worker that is looked at needs more time, by
a third or so: shares are what to read here, and times are in the [benchmarks](../benchmarks/README.md)."""
TITLES = {
    "router": "# Where the microseconds of a record go: router\n\n" + HOW.format(role="router"),
    "delivery": "# Where the microseconds of a record go: delivery\n\n"
    + HOW.format(role="delivery (or retries, slow)"),
    "delay": "# Where the microseconds of a delayed record go\n\n" + HOW.format(role="scheduling (or overdue)"),
}
PAGES = {"scheduling": "delay", "overdue": "delay", "retries": "delivery", "slow": "delivery"}
"""Which page a worker's profile is on, where it is not of its name."""
FAILING: dict[str, tuple[str, dict[str, Any]]] = {
    "retries": ("failing", {"share": 0.01}),
    "slow": ("slow", {"latency": 0.01}),
}
"""The sink and its options, of targets that fail."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What was seen.

    Parameters
    ----------
    looks
        How often a thread was seen at work in each function: group and name.
    python
        Processor microseconds a record, of the threads that run Python.
    others
        The same of all other threads, by their names: they are seen in no look.
    records
        How many were worked on meanwhile.
    """

    looks: Mapping[tuple[str, str], int]
    python: float
    others: Mapping[str, float]
    records: int


def profile(cluster: Cluster, role: str, *, records: int, partitions: int) -> Profile:
    """Let one worker work off a topic, and look at it once it is warm.

    Parameters
    ----------
    role
        ``router``; ``scheduling`` or ``overdue``, which are one with delayed records; ``delivery``, which is one to a
        Kafka topic; or ``retries`` or ``slow``, to a target of which one record in a hundred fails once, or which
        takes one record a call.
    """
    with installed(cluster.folder / "sinks") as sinks:
        command, environment, done = _prepare(cluster, role, records, partitions)
        raw = cluster.folder / "profile.raw"
        with Processes(cluster.folder / "profile-run", [command], [environment | sinks]) as processes:
            _wait(processes, done, WARM * records)
            (pid,) = processes.pids
            before, first = _threads(pid), done()
            spy = subprocess.Popen(
                [_py_spy(), "record", "--pid", str(pid), "--native", "--function", "--format", "raw",
                 "--rate", str(LOOKS), "--duration", "3600", "--output", str(raw)],
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            )  # fmt: skip
            _wait(processes, done, 0.95 * records)
            after, last = _threads(pid), done()
            spy.send_signal(signal.SIGINT)
            _, said = spy.communicate(timeout=60)
            if not raw.exists():
                raise RuntimeError(f"py-spy saw nothing: {said.decode()}")
    worked = last - first
    threads: dict[str, float] = {}
    for thread, (name, used) in after.items():
        used -= before[thread][1] if thread in before else 0.0
        threads[name] = threads.get(name, 0.0) + used / worked * 1e6
    python = threads.pop(after[pid][0])  # Python's threads have the name of the process
    return Profile(count(raw.read_text().splitlines()), python, threads, worked)


def _prepare(
    cluster: Cluster, role: str, records: int, partitions: int
) -> tuple[list[str], dict[str, str], Callable[[], int]]:
    """A topic to work off, how the worker is started, and what says how far it is."""

    def ends(topic: str) -> Callable[[], int]:
        return lambda: sum(cluster.ends(topic).values())

    if role == "delivery":
        deployment, _ = routed(cluster, "profile", records, partitions, "none", Shape())
        deployment.add_target("copy", {"sink": "kafka", "options": {"topic": "profile-copy"}})
        return *deployment.command("copy"), ends("profile-copy")
    deployment = Deployment(cluster, "profile", partitions=partitions, schedule=UNBOUNDED)
    deployment.apply()
    if role in FAILING:
        fill_log(cluster.brokers, deployment.log, partitions, Shape(keys=100_000), records)
        sink, options = FAILING[role]
        target = Target(cluster.folder / "target", sink, options=options, ordering="key")
        deployment.add_target("target", target.document)
        return *deployment.command("target"), target.applied
    if role == "overdue":
        now = time.time_ns() // 1_000
        prepare(cluster.brokers, namespace_of(deployment), records, now - DAY, now - DAY // 2)
    else:
        extra = SPREAD if role == "scheduling" else ()
        fill(cluster.brokers, deployment.ingress, Shape(extra=extra), records)
    return *deployment.command("router"), ends("profile.schedule.changelog" if role == "scheduling" else "profile.log")


def _py_spy() -> str:
    beside = Path(sys.executable).with_name("py-spy")
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    if found is None:
        raise RuntimeError("there is no py-spy: pip install py-spy")
    return found


def _wait(processes: Processes, done: Callable[[], int], records: float) -> None:
    while done() < records:
        processes.check()
        time.sleep(0.05)


def _threads(pid: int) -> dict[int, tuple[str, float]]:
    """Name and processor seconds of each thread."""
    found = {}
    for thread in psutil.Process(pid).threads():
        name = Path(f"/proc/{pid}/task/{thread.id}/comm").read_text().strip()
        found[thread.id] = (name.rstrip("0123456789"), thread.user_time + thread.system_time)
    return found


def count(lines: Sequence[str]) -> Counter[tuple[str, str]]:
    """Looks by group and function, from stacks as py-spy writes them: frames, outermost first, and how often."""
    looks: Counter[tuple[str, str]] = Counter()
    for line in lines:
        stack, _, number = line.rpartition(" ")
        frames = stack.split(";")
        if not any(WAITS.match(frame) for frame in frames[-4:]):
            looks[place(frames)] += int(number)
    return looks


def place(stack: Sequence[str]) -> tuple[str, str]:
    """The group and the function that a stack's time belongs to."""
    for frame in reversed(stack):
        found = FRAME.fullmatch(frame)
        if found is None:
            continue
        path, function = Path(found["file"]), found["function"]
        if path.suffix in (".c", ".h"):
            if AIOKAFKA.match(path.name):
                return "aiokafka, compiled", function
        elif ".so" in path.suffixes:
            if len(path.parts) > 1:  # of a package; those of the system, and Python's, stand alone
                return f"{path.parts[0]}, compiled", "" if function.startswith("0x") else function
        elif path.parts[0] == "walstream":
            return str(path), function  # each module by itself; of everybody else, the package
        elif path.suffix == ".py":
            return path.parts[0].removesuffix(".py"), function
    return "interpreter", ""


def markdown(found: Profile, step: str, words: str) -> str:
    """A section of a page: what the step was, and the tables."""
    total, looks = found.python + sum(found.others.values()), sum(found.looks.values())
    scale = found.python / looks
    groups: Counter[str] = Counter()
    for (group, _), number in found.looks.items():
        groups[group] += number
    where = machine()
    lines = [
        f"## {step}",
        "",
        *([words, ""] if words else []),
        f"{total:.1f} µs of processor time a record; {where['at'][:10]}, commit {where['commit']}, "
        f"{found.records:,} records, {looks:,} looks.",
        "",
        "| where | µs a record | share |",
        "|---|---|---|",
        *(
            _row(f"`{group}`", number * scale, total)
            for group, number in groups.most_common()
            if number * scale >= 0.05
        ),
        *(_row(f"threads `{name}`", used, total) for name, used in sorted(found.others.items()) if used >= 0.05),
        "",
        "| function | in | µs a record |",
        "|---|---|---|",
        *(
            f"| `{function or '(without a name)'}` | {group} | {number * scale:.2f} |"
            for (group, function), number in Counter(found.looks).most_common(FUNCTIONS)
        ),
        "",
    ]
    return "\n".join(lines)


def _row(name: str, microseconds: float, total: float) -> str:
    return f"| {name} | {microseconds:.2f} | {microseconds / total:.0%} |"


def put(page: Path, title: str, step: str, section: str) -> None:
    """Add a section to a page, or put it in the place of the one with its name."""
    text = page.read_text() if page.exists() else f"{title}\n\n"
    head, *sections = re.split(r"^(?=## )", text, flags=re.M)
    kept = [section if each.startswith(f"## {step}\n") else each for each in sections]
    if section not in kept:
        kept.append(section)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(each.rstrip("\n") + "\n" for each in (head, *kept)))
    console.print(f"{step} is in {page}")

"""The supervisor, with children that crash, hang, talk too much, or will not stop."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from walstream.errors import WorkerFailed
from walstream.supervisor import Program, Restarts, Supervisor, describe_exit

QUICK = Restarts(initial=0.01, longest=0.02, failures=3)

SLEEP = "import time; print('up', flush=True); time.sleep(60)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


def python(name: str, code: str) -> Program:
    return Program(name, [sys.executable, "-S", "-c", code])


class Seen:
    """An observer that keeps everything, and wakes who waits for something."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.pids: list[tuple[str, int]] = []
        self.ends: list[tuple[str, str, float | None]] = []
        self._news = asyncio.Event()

    def output(self, name: str, line: str) -> None:
        self.lines.append((name, line))
        self._news.set()

    def started(self, program: Program, pid: int) -> None:
        self.pids.append((program.name, pid))
        self._news.set()

    def ended(self, name: str, pid: int, how: str, restart_in: float | None) -> None:
        self.ends.append((name, how, restart_in))
        self._news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self._news.clear()
                await self._news.wait()


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # nobody may be there to reap an orphan


def wait_for_end(pid: int) -> None:
    """Wait for the end of a process that was killed, or should have been, and is not a child."""
    deadline = time.monotonic() + 10
    while alive(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there after ten seconds"
        time.sleep(0.005)


@pytest.fixture
def seen() -> Seen:
    return Seen()


async def test_output_is_handed_on_line_by_line_with_the_name(seen: Seen) -> None:
    code = "import sys; print('one'); print('two', file=sys.stderr); sys.stdout.write('no newline')"
    supervisor = Supervisor([python("a", code)], seen, restarts=Restarts(failures=1))
    with pytest.raises(WorkerFailed):
        await supervisor.run()
    assert sorted(seen.lines) == [("a", "no newline"), ("a", "one"), ("a", "two")]


async def test_a_line_without_end_comes_in_pieces(seen: Seen) -> None:
    supervisor = Supervisor([python("a", "print('x' * 100_000)")], seen, restarts=Restarts(failures=1))
    with pytest.raises(WorkerFailed):
        await supervisor.run()
    assert "".join(line for _, line in seen.lines) == "x" * 100_000
    assert max(len(line) for _, line in seen.lines) < 40_000


async def test_what_ends_is_started_again(seen: Seen, tmp_path: Path) -> None:
    code = f"""
import pathlib, sys, time
mark = pathlib.Path({str(tmp_path / "mark")!r})
if mark.exists():
    print("second life", flush=True)
    time.sleep(60)
mark.touch()
sys.exit(3)
"""
    supervisor = Supervisor([python("a", code)], seen, restarts=QUICK)
    running = asyncio.create_task(supervisor.run())
    await seen.until(lambda: ("a", "second life") in seen.lines)
    assert seen.ends == [("a", "exit status 3", 0.01)]
    supervisor.stop()
    await running
    assert seen.ends[1:] == [("a", "killed by SIGTERM", None)]


async def test_one_that_fails_again_and_again_ends_all_and_is_named_with_its_last_words(seen: Seen) -> None:
    programs = [python("good", SLEEP), python("bad", "print('no such topic'); raise SystemExit(1)")]
    with pytest.raises(WorkerFailed) as raised:
        await Supervisor(programs, seen, restarts=QUICK).run()
    assert "bad failed 3 times in a row" in str(raised.value)
    assert "exit status 1" in str(raised.value)
    assert "no such topic" in str(raised.value)
    assert "good" not in str(raised.value)
    assert not any(alive(pid) for _, pid in seen.pids)


async def test_an_end_that_nobody_asked_for_is_a_failure_even_with_status_0(seen: Seen) -> None:
    with pytest.raises(WorkerFailed, match="exit status 0"):
        await Supervisor([python("a", "pass")], seen, restarts=QUICK).run()


async def test_what_ignores_sigterm_is_killed_at_the_deadline_and_named(seen: Seen) -> None:
    supervisor = Supervisor([python("deaf", DEAF), python("good", SLEEP)], seen, deadline=0.5)
    running = asyncio.create_task(supervisor.run())
    await seen.until(lambda: len(seen.lines) == 2)
    supervisor.stop()
    with pytest.raises(WorkerFailed, match=r"^deaf did not stop within 0\.5 s"):
        await running
    assert ("deaf", "killed by SIGKILL", None) in seen.ends
    assert ("good", "killed by SIGTERM", None) in seen.ends


async def test_a_second_stop_does_not_wait_for_the_deadline(seen: Seen) -> None:
    supervisor = Supervisor([python("deaf", DEAF)], seen, deadline=60)
    running = asyncio.create_task(supervisor.run())
    await seen.until(lambda: len(seen.lines) == 1)
    supervisor.stop()
    supervisor.stop()
    async with asyncio.timeout(10):
        await running
    assert seen.ends == [("deaf", "killed by SIGKILL", None)]


async def test_a_stop_while_it_waits_to_restart_starts_nothing(seen: Seen) -> None:
    supervisor = Supervisor([python("a", "raise SystemExit(1)")], seen, restarts=Restarts(initial=60))
    running = asyncio.create_task(supervisor.run())
    await seen.until(lambda: len(seen.ends) == 1)
    supervisor.stop()
    async with asyncio.timeout(10):
        await running
    assert len(seen.pids) == 1


async def test_a_grandchild_that_holds_the_output_open_neither_stays_nor_stops_the_restart(seen: Seen) -> None:
    code = "import subprocess; print(subprocess.Popen(['sleep', '60']).pid, flush=True); raise SystemExit(1)"
    with pytest.raises(WorkerFailed, match="3 times"):
        await Supervisor([python("a", code)], seen, restarts=QUICK).run()
    assert len(seen.lines) == 3
    for _, line in seen.lines:
        wait_for_end(int(line))


async def test_a_cancelled_supervisor_leaves_nothing_running(seen: Seen) -> None:
    running = asyncio.create_task(Supervisor([python("deaf", DEAF)], seen).run())
    await seen.until(lambda: len(seen.lines) == 1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not alive(seen.pids[0][1])


async def test_an_observer_that_fails_ends_everything(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(name: str, line: str) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(seen, "output", closed)
    supervisor = Supervisor([python("talks", SLEEP), python("silent", "import time; time.sleep(60)")], seen)
    with pytest.raises(BrokenPipeError):
        await supervisor.run()
    assert not any(alive(pid) for _, pid in seen.pids)


async def test_its_processes_get_its_environment_and_their_own(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WALSTREAM_ONE", "1")
    code = "import os; print(os.environ['WALSTREAM_ONE'] + os.environ['WALSTREAM_TWO'])"
    program = Program("a", [sys.executable, "-S", "-c", code], {"WALSTREAM_TWO": "2"})
    with pytest.raises(WorkerFailed):
        await Supervisor([program], seen, restarts=Restarts(failures=1)).run()
    assert seen.lines == [("a", "12")]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends processes with their parent")
def test_no_orphan_when_the_supervisor_is_killed() -> None:
    code = f"""
import asyncio, sys
from walstream.supervisor import Program, Supervisor

class Observer:
    def started(self, program, pid): pass
    def ended(self, name, pid, how, restart_in): pass
    def output(self, name, line): print(self.pid, flush=True)

observer = Observer()
observer.started = lambda program, pid: setattr(observer, "pid", pid)
asyncio.run(Supervisor([Program("deaf", [sys.executable, "-S", "-c", {DEAF!r}])], observer).run())
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        pid = int(supervisor.stdout.readline())
        assert alive(pid)
        supervisor.send_signal(signal.SIGKILL)
    wait_for_end(pid)


def test_it_refuses_to_run_in_another_thread(seen: Seen) -> None:
    raised: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(Supervisor([], seen).run())
        except RuntimeError as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert "main thread" in str(raised[0])


def test_waits_grow_to_a_bound_until_it_gives_up() -> None:
    restarts = Restarts(initial=1, multiplier=2, longest=5, failures=5)
    assert [restarts.delay(failures) for failures in (1, 2, 3, 4, 5)] == [1, 2, 4, 5, None]


def test_a_healthy_life_forgets_earlier_failures() -> None:
    restarts = Restarts(healthy=60)
    assert restarts.count(4, lived=59) == 5
    assert restarts.count(4, lived=60) == 1


def test_ends_in_words() -> None:
    assert describe_exit(2) == "exit status 2"
    assert describe_exit(-9) == "killed by SIGKILL"
    assert describe_exit(-250) == "killed by signal 250"

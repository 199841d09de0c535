"""`walstream run` as a process. A stand-in for Faust shows how workers are started, and how their ends are met."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

NAMESPACE = """
version: 1
namespace: {name}
targets:
  one: {{sink: kafka, options: {{topic: {name}-one}}}}
  two: {{sink: kafka, options: {{topic: {name}-two}}}}
"""

# What the worker command finds instead of Faust: it says how it was started, and does what its folder's `orders` say.
FAUST = """
import json, os, pathlib, sys, time
print(json.dumps([sys.argv[1:], {k: v for k, v in os.environ.items() if k.startswith("WALSTREAM_")}]), flush=True)
orders = pathlib.Path(__file__).with_name("orders") / (os.environ.get("WALSTREAM_TARGET") or "router")
if orders.exists():
    exec(orders.read_text())
time.sleep(60)
"""


# `walstream`, but without long waits between restarts.
IMPATIENT = """
import functools
from walstream import supervisor
supervisor.Restarts = functools.partial(supervisor.Restarts, initial=0.01)
from walstream.cli import main
main()
"""


class Run:
    """A running `walstream run --json` and the events that it printed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.events: list[dict[str, Any]] = []

    def until(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Read on to the next event that is such."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.events.append(json.loads(line))
            if condition(self.events[-1]):
                return self.events[-1]
        raise AssertionError(f"walstream run ended without it: {self.events}")

    def outputs(self, count: int) -> dict[str, tuple[list[str], dict[str, str]]]:
        """Arguments and variables of so many workers, by name."""
        found = {}
        while len(found) < count:
            event = self.until(lambda event: event["event"] == "output")
            arguments, variables = json.loads(event["line"])
            found[event["name"]] = (arguments, variables)
        return found

    def end(self) -> tuple[int, str]:
        """The exit status and what stands on stderr, once it has ended."""
        _, errors = self.process.communicate(timeout=30)
        return self.process.returncode, errors


Start = Callable[..., Run]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    config, stand_in = tmp_path / "config", tmp_path / "stand-in"
    (stand_in / "orders").mkdir(parents=True)
    (stand_in / "faust.py").write_text(FAUST)
    config.mkdir()
    for name in ("alpha", "beta"):
        (config / f"{name}.yaml").write_text(NAMESPACE.format(name=name))
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, command: Sequence[str] = ("-m", "walstream"), **environment: str) -> Run:
        process = subprocess.Popen(
            [sys.executable, *command, "run", "--json", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ
            | {
                "PYTHONPATH": str(stand_in),
                "WALSTREAM_CONFIG": str(config),
                "WALSTREAM_DATADIR": str(tmp_path / "data"),
                "WALSTREAM_BROKERS": "127.0.0.1:1",
            }
            | environment,
        )
        started.append(process)
        return Run(process)

    yield start
    for process in started:
        process.kill()
        process.communicate()


def give_orders(tmp_path: Path, worker: str, code: str) -> None:
    (tmp_path / "stand-in" / "orders" / worker).write_text(code)


def test_the_router_and_every_target_get_a_folder_and_a_port_of_their_own(start: Start, tmp_path: Path) -> None:
    run = start()
    workers = run.outputs(5)
    assert sorted(workers) == ["alpha.one", "alpha.two", "beta.one", "beta.two", "router"]
    ports, folders = set(), set()
    for name, (arguments, variables) in workers.items():
        topology = "topologies.router" if name == "router" else "topologies.delivery"
        assert arguments[:3] == ["-A", topology, "worker"]
        assert variables.get("WALSTREAM_TARGET") == (None if name == "router" else name)
        assert variables["WALSTREAM_CONFIG"] == str(tmp_path / "config")
        assert variables["WALSTREAM_BROKERS"] == "127.0.0.1:1"
        folders.add(variables["WALSTREAM_DATADIR"])
        ports.add(arguments[arguments.index("--web-port") + 1])
    assert len(ports) == len(folders) == 5
    run.process.terminate()
    status, errors = run.end()
    assert (status, errors) == (0, "")


def test_only_some_of_them(start: Start) -> None:
    run = start("--only", "router", "--only", "beta.two", "--routers", "2")
    assert sorted(run.outputs(3)) == ["beta.two", "router", "router-2"]
    run.process.send_signal(signal.SIGINT)
    assert run.end()[0] == 0


def test_the_namespaces_of_the_settings(start: Start) -> None:
    run = start(WALSTREAM_NAMESPACES="alpha")
    assert sorted(run.outputs(3)) == ["alpha.one", "alpha.two", "router"]
    run.process.terminate()
    assert run.end()[0] == 0


def test_a_killed_worker_comes_back(start: Start) -> None:
    run = start("--only", "router")
    first = run.until(lambda event: event["event"] == "started")
    run.outputs(1)
    os.kill(first["pid"], signal.SIGKILL)
    ended = run.until(lambda event: event["event"] == "ended")
    assert ended["how"] == "killed by SIGKILL"
    second = run.until(lambda event: event["event"] == "started")
    assert second["pid"] != first["pid"]
    assert second["port"] == first["port"]
    run.process.terminate()
    assert run.end()[0] == 0


def test_one_that_fails_again_and_again_is_named_with_the_end_of_its_output(start: Start, tmp_path: Path) -> None:
    give_orders(tmp_path, "alpha.one", "print('the topic alpha.log is missing', flush=True); sys.exit(1)")
    status, errors = start(command=("-c", IMPATIENT), WALSTREAM_NAMESPACES="alpha").end()
    assert status == 1
    assert "alpha.one failed 6 times in a row" in errors
    assert "the topic alpha.log is missing" in errors


def test_one_that_ignores_sigterm_is_killed_at_the_deadline(start: Start, tmp_path: Path) -> None:
    give_orders(
        tmp_path, "router", "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True)"
    )
    run = start("--only", "router", "--deadline", "300ms")
    run.until(lambda event: event.get("line") == "deaf")
    run.process.terminate()
    status, errors = run.end()
    assert status == 1
    assert "router did not stop within 0.3 s" in errors


def test_a_second_supervisor_of_the_same_folder_is_refused(start: Start) -> None:
    first = start("--only", "router")
    first.outputs(1)
    status, errors = start("--only", "router").end()
    assert status == 1
    assert f"as process {first.process.pid}" in errors


def test_a_worker_that_does_not_exist(start: Start) -> None:
    status, errors = start("--only", "alpha.three").end()
    assert status == 1
    assert "there is no worker alpha.three" in errors
    assert "alpha.one" in errors

"""An index is built and compared while builders and workers are killed, and writes go on; then all of it once more."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from walstream.testing.indexed import BASE, INDEX, IndexedSandbox
from walstream.testing.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROWS, KILLS = 6_000, 12


def run(sandbox: IndexedSandbox, command: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a command on the index."""
    full = [sys.executable, "-m", "walstream", "index", command, f"{sandbox.name}.{INDEX}", "--json", *arguments]
    environment = sandbox.environment | {"PYTHONPATH": str(Path.cwd())}
    return subprocess.Popen(full, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_nothing_differs_after_builders_and_workers_were_killed(
    brokers: str, cassandra: str, seed: int, tmp_path: Path
) -> None:
    draw = random.Random(f"{seed} index chaos")
    with IndexedSandbox(tmp_path, brokers, cassandra, seed) as sandbox:
        sandbox.load(ROWS)
        sandbox.start()
        with sandbox.writing(ROWS, rate=200) as written:
            builder = run(sandbox, "build", "--rate", "500/s")
            builders = 1
            for number in range(KILLS):
                time.sleep(draw.uniform(0.3, 2.5))
                if number % 3 == 2:
                    builder.kill()
                    builder.communicate()
                    builder = run(sandbox, "build", "--rate", "500/s", *(["--again"] if number == 5 else []))
                    builders += 1
                else:
                    victim = draw.choice(sandbox.workers)
                    victim.kill()
                    victim.start()
            output, errors = builder.communicate(timeout=300)
            assert builder.returncode == 0, errors.decode()
            assert json.loads(output)["state"] == "ready"
        assert written[0] and builders == 1 + KILLS // 3
        nothing_differs(sandbox)
        sandbox.replay()
        with sandbox.writing(ROWS, rate=200):
            for _ in range(3):
                time.sleep(draw.uniform(0.5, 2.5))
                victim = draw.choice(sandbox.workers)
                victim.kill()
                victim.start()
        nothing_differs(sandbox)


def nothing_differs(sandbox: IndexedSandbox) -> None:
    """Wait until all is done, and compare."""
    wait_until(sandbox.is_quiet, 120, lambda: f"{[sandbox.lag(stage) for stage in ('router', BASE, INDEX)]}")
    output, errors = run(sandbox, "verify").communicate(timeout=120)
    report = json.loads(output)
    assert report["differences"] == [] == report["dead_rows"], errors.decode()
    assert sandbox.found() == sandbox.wanted()

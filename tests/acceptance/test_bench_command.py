"""`walstream bench` against running workers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from walstream.testing.sandbox import COPY, Sandbox


def run(sandbox: Sandbox, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("walstream")), "bench", sandbox.name, "--yes", "--json"]
    environment = {
        "PATH": "/usr/bin:/bin",
        "WALSTREAM_BROKERS": sandbox.brokers,
        "WALSTREAM_CONFIG": str(sandbox.folder / "config"),
        "WALSTREAM_SHARD": sandbox.name,
    }
    return subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, timeout=120)


def test_it_says_what_was_written_how_late_it_came_and_who_kept_up(make_sandbox: Callable[..., Sandbox]) -> None:
    sandbox = make_sandbox()
    sandbox.start("router", COPY)
    done = run(sandbox, "--rate", "100/s", "--duration", "6s", "--size", "100B")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    written = found["written"]["true"]
    assert 500 <= written <= 700 and found["written"] == {"true": written, "false": 0, "unknown": 0}
    assert found["limited_by"] == [] and found["holds_per_s"] == found["acknowledged_per_s"]
    latency = found["latency_ms"]
    assert latency.keys() == {"acknowledged", "in the log", f"at {COPY}"}
    for times in latency.values():
        assert 0 < times["p50"] <= times["p90"] <= times["p99"] <= times["max"]
    # At this rate a fetch holds few records, and the watchers look at each.
    assert latency[f"at {COPY}"]["count"] > 0.5 * written
    assert latency["in the log"]["p50"] < latency[f"at {COPY}"]["p50"]
    stages = {stage["role"]: stage for stage in found["stages"]}
    assert stages.keys() == {"router", COPY}
    for stage in stages.values():
        assert stage["workers"] == 1 and stage["drained_after_s"] is not None and stage["lag_before"] == 0
    assert len(sandbox.readback.records(sandbox.copy)) == written


def test_who_does_not_run_falls_behind(make_sandbox: Callable[..., Sandbox]) -> None:
    sandbox = make_sandbox()
    done = run(sandbox, "--rate", "500/s", "--duration", "3s", "--patience", "1s")
    assert done.returncode == 0, done.stderr
    (router,) = (stage for stage in json.loads(done.stdout)["stages"] if stage["role"] == "router")
    assert router["workers"] == 0 and router["drained_after_s"] is None
    assert "router" in json.loads(done.stdout)["limited_by"]
    assert router["lag_after"] > 1_000 and not router["keeps_up"] and router["held_per_s"] < 200

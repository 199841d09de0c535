"""The demo as a user starts it: it ends well, leaves nothing behind, or with --keep all of it until it is stopped."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import psutil
import pytest

from walstream.testing.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def demo(folder: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit status, result and what stands on stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "walstream", "demo", "--json", "--folder", str(folder), *arguments],
        capture_output=True,
        text=True,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout), done.stderr


def processes(folder: Path) -> list[str]:
    """What runs with the folder in its arguments, its environment or as its working directory."""
    found = []
    for process in psutil.process_iter():
        try:
            seen = [*process.cmdline(), process.cwd(), *process.environ().values()]
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if any(str(folder) in word for word in seen) and process.status() != psutil.STATUS_ZOMBIE:
            found.append(" ".join(process.cmdline()))
    return found


def test_the_demo_finds_all_equal_and_goes_on_until_it_is_stopped(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    picture = tmp_path / "deletes.svg"
    status, result, errors = demo(folder, "--month", "2", "--keep", "--picture", str(picture))
    assert (status, result["ok"], result["problems"]) == (0, True, []), errors
    assert result["rows"]["right"] == result["flights"] == 24_951
    assert result["copies"]["right"] == result["in_log"] == result["mutations"]
    assert result["dropped"] >= result["written_again"] > 1_000
    assert result["killed"] == ["router", "flights.base", "flights.by-tail"]
    for found, total in ((result["indexes"]["by-tail"], 24_951 - 446), (result["indexes"]["by-day"], 24_951)):
        assert found["rows"]["right"] == total
        assert found["left"] == found["verified"]["entries"] < total
        assert not any(found["verified"][kind] for kind in ("missing", "stale", "wrong"))
    assert len(result["query"]["found"]) == 7  # of N14228
    purge = result["purge"]
    assert [answer["outcome"] for answer in purge["answers"]] == ["cancelled", "rescheduled"]
    assert purge["came"]["right"] == purge["written"] - 1 == sum(purge["gone_per_half_second"])
    assert purge["rows"]["right"] == result["flights"] - purge["written"] + 1
    assert purge["late_ms"]["count"] == purge["came"]["right"]
    assert ElementTree.parse(picture).getroot().tag.endswith("svg")
    assert set(result["settings"]) == {"WALSTREAM_BROKERS", "WALSTREAM_CONFIG", "WALSTREAM_DATADIR"}
    running = " ".join(processes(folder))
    for name in ("topologies.router", "topologies.delivery", "kafka", "cassandra", "walstream run"):
        assert name in running
    assert demo(folder, "--stop")[1] == {"stopped": True}
    assert processes(folder) == []
    assert demo(folder, "--stop")[1] == {"stopped": False}


def test_a_demo_that_is_interrupted_leaves_nothing_running(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "walstream", "demo", "--json", "--folder", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        wait_until(lambda: "topologies.delivery" in " ".join(processes(tmp_path)), 120, "the targets to be started")
        running.send_signal(signal.SIGINT)
        output, errors = running.communicate(timeout=60)
    assert (running.returncode, output) == (1, b"") and b"Aborted" in errors, errors
    assert processes(tmp_path) == []


def test_two_regions_that_were_cut_off_end_with_the_same_rows(tmp_path: Path) -> None:
    status, result, errors = demo(tmp_path / "demo", "--regions")
    assert (status, result["ok"], result["problems"]) == (0, True, []), errors
    assert result["compared"] == [result["sides"][name]["rows"]["right"] for name in ("east", "west")]
    assert result["differing_when_cut"] > 100
    for side in result["sides"].values():
        assert side["written"] >= result["writes"] <= side["sent"]
        assert side["log"]["right"] == side["in_log"] == 2 * result["writes"]
        assert side["circled"] == 0 < side["behind"]
    assert result["killed"] == ["router of east", "flights.to-east of west"]
    assert processes(tmp_path) == []

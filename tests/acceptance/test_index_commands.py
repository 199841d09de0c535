"""An index on a table with rows: built, compared and mended by the commands, with real workers, while writes go on."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from walstream.cli import main
from walstream.client import Client
from walstream.mutation import put
from walstream.testing.indexed import BASE, INDEX, IndexedSandbox
from walstream.testing.waiting import wait_until

pytestmark = pytest.mark.slow

ROWS = 2_500
Invoke = Callable[..., Result]


@pytest.fixture(scope="module")
def sandbox(
    brokers: str, cassandra: str, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[IndexedSandbox]:
    with IndexedSandbox(tmp_path_factory.mktemp("index"), brokers, cassandra, seed, partitions=2) as sandbox:
        sandbox.load(ROWS)
        yield sandbox


@pytest.fixture(scope="module")
def invoke(sandbox: IndexedSandbox) -> Invoke:
    """Run a command on the index."""

    def invoke(command: str, *arguments: str, answer: str | None = None) -> Result:
        full = ["index", command, f"{sandbox.name}.{INDEX}", *arguments]
        return CliRunner().invoke(main, full, env=sandbox.environment, input=answer)

    return invoke


def read(result: Result, status: int = 0) -> Any:
    assert result.exit_code == status, result.output
    return json.loads(result.stdout)


def settled(sandbox: IndexedSandbox) -> None:
    wait_until(sandbox.is_quiet, 30, "everybody has finished")


def test_an_index_is_unbuilt_at_first(invoke: Invoke) -> None:
    assert read(invoke("status", "--json"))["state"] == "unbuilt"
    report = read(invoke("verify", "--json", "--limit", "50"), 1)
    assert report["missing"] > 0 and report["stale"] == report["wrong"] == 0
    assert not report["complete"], "it ends when so many base rows differ"


def test_a_build_that_is_killed_goes_on_and_writes_race_it(sandbox: IndexedSandbox, invoke: Invoke) -> None:
    sandbox.start()
    with sandbox.writing(ROWS):
        command = [sys.executable, "-m", "walstream", "index", "build", f"{sandbox.name}.{INDEX}", "--rate", "500/s"]
        building = subprocess.Popen(command, env=sandbox.environment | {"PYTHONPATH": str(Path.cwd())})
        wait_until(
            lambda: 0 < (read(invoke("status", "--json"))["build"] or {"share": 0})["share"] < 1, 90, "a part is noted"
        )
        building.send_signal(signal.SIGKILL)
        building.wait()
        before = read(invoke("status", "--json"))
        assert before["state"] == "building"
        document = read(invoke("build", "--json"))
        assert document["state"] == "ready" and document["build"]["build"] == before["build"]["build"]
        assert document["build"]["rows"] < 1.5 * ROWS, "it has not begun anew"
        report = read(invoke("verify", "--json"))  # while writes go on
        assert report["rows"] > 0.5 * ROWS and report["differences"] == [] == report["dead_rows"]
    settled(sandbox)
    assert sandbox.found() == sandbox.wanted()


def test_what_is_ready_is_not_built_again_unless_asked(invoke: Invoke) -> None:
    first = read(invoke("build", "--json"))
    assert first["state"] == "ready"
    again = read(invoke("build", "--again", "--json"))
    assert again["state"] == "ready" and again["build"]["build"] != first["build"]["build"]


def test_what_was_damaged_is_found_and_mended(sandbox: IndexedSandbox, invoke: Invoke) -> None:
    settled(sandbox)
    session, name = sandbox.session, sandbox.name
    entries = sorted(sandbox.found())
    one, other, (_, deleted), (_, changed) = entries[0], *entries[10:13]
    session.execute(f"DELETE FROM {name}.by_tail WHERE tail = %s AND id = %s", one)
    session.execute(f"UPDATE {name}.by_tail SET dest = 'XXX' WHERE tail = %s AND id = %s", other)
    session.execute(f"INSERT INTO {name}.by_tail (tail, id) VALUES ('bogus', %s)", (entries[20][1],))
    session.execute(f"INSERT INTO {name}.by_tail (tail, id) VALUES ('bogus', 'ghost')")
    session.execute(f"DELETE FROM {name}.flights WHERE id = %s", (deleted,))  # past the log
    session.execute(f"UPDATE {name}.flights SET tail = 'other', dest = 'LAX' WHERE id = %s", (changed,))
    result = invoke("verify", "--json")
    report = read(result, 1)
    found = {(row["kind"], row["key"]["id"], row["entry"]["tail"]) for row in report["differences"]}
    by_row = {id_: {(kind, tail) for kind, other_id, tail in found if other_id == id_} for _, id_, _ in found}
    assert by_row[one[1]] == {("missing", one[0])} and by_row[other[1]] == {("wrong", other[0])}
    assert by_row[deleted] == {("stale", entries[11][0])} and ("missing", "other") in by_row[changed]
    assert by_row["ghost"] == {("stale", "bogus")} and ("stale", "bogus") in by_row[entries[20][1]]
    assert len(by_row) == 6
    shown = next(row for row in report["differences"] if row["kind"] == "wrong")
    assert shown["found"]["dest"] == "XXX" and "tags" not in shown["found"]
    assert re.search(r"1 wrong", invoke("verify").stdout)

    before = sandbox.found()
    plan = read(invoke("repair", "--dry-run", "--json"), 1)
    assert plan["would"] == 6 and sandbox.found() == before
    mended = read(invoke("repair", "--json"))
    assert mended["mended"] == 6 and mended["left"] == 0
    assert sandbox.found() == sandbox.wanted()
    assert read(invoke("verify", "--json"))["differences"] == []
    # What comes through the log later is not held up by what was mended.
    with sandbox.writing(200):
        time.sleep(0.5)
    settled(sandbox)
    assert sandbox.found() == sandbox.wanted()


def test_a_part_is_compared_by_tokens(sandbox: IndexedSandbox, invoke: Invoke) -> None:
    row = sandbox.session.execute(f"SELECT token(id) AS place, id FROM {sandbox.name}.flights LIMIT 1").one()
    report = read(invoke("verify", "--json", "--from", str(row.place - 1), "--to", str(row.place)))
    assert report["rows"] == 1 and report["entries_found"] == report["entries_wanted"] <= 1
    half = read(invoke("verify", "--json", "--fraction", "0.5"))
    whole = read(invoke("verify", "--json"))
    assert 0.4 * whole["rows"] < half["rows"] < 0.6 * whole["rows"]


def test_rows_whose_mutation_is_dead_are_listed_by_themselves(sandbox: IndexedSandbox, invoke: Invoke) -> None:
    def say(*words: str) -> None:
        result = CliRunner().invoke(main, ["target", *words], env=sandbox.environment)
        assert result.exit_code == 0, result.output

    full = f"{sandbox.name}.{INDEX}"
    say("pause", full)
    with Client(sandbox.brokers, config=sandbox.folder / "config") as client:
        mutation = put(table="flights", key={"id": "f1"}, set={"tail": "lost", "dest": "LAX"})
        client.write(sandbox.name, mutation).raise_for_durability()
    wait_until(lambda: not sandbox.lag("router") and not sandbox.lag(BASE), 30, "the base table has it")
    last = [record for record in sandbox.readback.records(sandbox.log) if record.key == b"f1"][-1]
    say("quarantine", full, f"{last.partition}:{last.offset}", "--yes")
    say("resume", full)
    settled(sandbox)
    report = read(invoke("verify", "--json"), 1)
    assert report["differences"] == [] and report["dead"] == 1
    (row,) = report["dead_rows"]
    assert row["key"] == {"id": "f1"} and row["letters"][0]["target"] == full
    assert ("missing", "lost") in {(one["kind"], one["entry"]["tail"]) for one in row["differences"]}
    assert "is dead" in invoke("verify").stdout
    # It is dead at the index, and not at the base table's target: so it is mended.
    assert read(invoke("repair", "--json"))["mended"] == 1
    assert sandbox.found() == sandbox.wanted()


def test_an_index_is_dropped_when_nobody_works_on_it(sandbox: IndexedSandbox, invoke: Invoke) -> None:
    refused = invoke("drop", "--yes")
    assert refused.exit_code == 1 and "a worker delivers" in refused.output
    worker = next(worker for worker in sandbox.workers if INDEX in str(worker.environment))
    worker.terminate()
    wait_until(lambda: not sandbox.assigned(INDEX), 20, "the group is empty")
    assert invoke("drop", answer="n\n").exit_code == 1
    dropped = read(invoke("drop", "--yes", "--json"))["dropped"]
    assert f"the table {sandbox.name}.by_tail" in dropped and len(dropped) > 5
    applied = CliRunner().invoke(main, ["apply", "--yes"], env=sandbox.environment)
    assert applied.exit_code == 0, applied.output
    assert read(invoke("status", "--json"))["state"] == "unbuilt"
    assert sandbox.found() == {}
    assert BASE in sandbox.targets

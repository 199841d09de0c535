"""A target of the sink rocksdb: its workers share a machine, come and go, and die; an application reads along."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from walstream.sinks.rocksdb import Reader
from walstream.testing.history import Content
from walstream.testing.rows import expected_rows
from walstream.testing.sandbox import OwnTarget, Sandbox
from walstream.testing.waiting import wait_until
from walstream.testing.workload import STATE, Workload

LOCAL = "local"


def mutations(seed: int) -> Iterator[tuple[Content, bool]]:
    """Mutations of rows that have one key each."""
    workload = Workload(seed, source="/embedded", opaque_to=None)
    return (item for item in workload if json.loads(item[0].value or b"{}").get("table") == STATE)


@pytest.mark.slow
def test_partitions_move_between_workers_that_die(
    make_sandbox: Callable[..., Sandbox], seed: int, tmp_path: Path
) -> None:
    options = {"path": str(tmp_path), "key": "{flight}", "value": "json", "table": STATE}
    sandbox = make_sandbox(targets={LOCAL: OwnTarget({"sink": "rocksdb", "options": options})})
    store = tmp_path / f"{sandbox.name}.{LOCAL}"
    _, first = sandbox.start("router", LOCAL)
    with Reader(store, max_age=0.1) as reader:
        with sandbox.producer(mutations(seed), rate=500):
            wait_until(lambda: list(reader.scan()), 20, "the reader sees rows")
            second = sandbox.worker(LOCAL).start()
            sandbox.wait_ready(LOCAL, members=2)
            first.kill()
            sandbox.wait_ready(LOCAL, members=1)
            done = sandbox.position(LOCAL)
            wait_until(lambda: sandbox.position(LOCAL) > done + 500, 40, "the second works on all partitions")
            # Who stands still keeps its databases; its successor waits until it has let go of them.
            second.freeze()
            third = sandbox.worker(LOCAL).start()
            wait_until(lambda: "another process has it" in third.output(), 40, "the third finds the databases taken")
            assert list(reader.scan())
            second.thaw()
        sandbox.drain()
        reader.refresh()
        found = {key.decode(): json.loads(text) for key, text in reader.scan()}
    log = sandbox.readback.records(sandbox.log)
    expected = {
        flight: {"flight": flight} | {name: value for name, (value, _) in row.items()}
        for (flight,), row in expected_rows(log, STATE, ("flight",), LOCAL).items()
    }
    assert len(log) > 1_000
    assert found == expected
    assert not sandbox.readback.records(sandbox.dlq(LOCAL))

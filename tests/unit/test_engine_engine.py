"""The engine: its folder, what it takes for stuck, and how it ends."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from faust.types import TP

from walstream.engine import engine as module
from walstream.engine.app import App
from walstream.engine.engine import Engine
from walstream.engine.task import State
from walstream.engine.topology import TableSpec, Topology
from walstream.errors import LostRange, WalstreamError

TOPOLOGY = Topology("t", ("source",), 2, (TableSpec("table", "changelog"),), lambda partition: None, ("log",))  # type: ignore[arg-type,return-value]


class Consumer:
    def __init__(self) -> None:
        self.gates: dict[TP, Any] = {}
        self.held: set[TP] = set()

    async def hold(self, tps: set[TP]) -> None:
        self.held = set(tps)


class FakeTask:
    """A task that only says that it was started and closed."""

    def __init__(self, engine: Any, topology: Topology, partition: int, checkpoint_size: int) -> None:
        self.topology, self.partition, self.name = topology, partition, f"{topology.name}-{partition}"
        self.state, self.since = State.WAITING, time.monotonic()
        self.started = self.closed = False
        self.checkpoint_size = checkpoint_size
        self.ends = asyncio.Event()
        self.ends.set()

    def start(self) -> None:
        self.started = True

    async def close(self, timeout: float) -> None:
        await self.ends.wait()
        self.closed = True


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.delenv("F_DATADIR", raising=False)
    monkeypatch.setattr(module, "Task", FakeTask)
    assignor = SimpleNamespace(assigned_standbys=set)
    app: Any = SimpleNamespace(
        conf=SimpleNamespace(id="group"), consumer=Consumer(), assignor=assignor, rebalancing=False
    )
    exits: list[int] = []
    engine = Engine(app, [TOPOLOGY], {}, tmp_path, dict, exits.append)
    engine.exits = exits  # type: ignore[attr-defined]
    engine.folder.mkdir(parents=True)
    return engine


def test_the_instance_id_stays_with_the_folder(engine: Engine) -> None:
    first = engine.instance_id
    assert first.startswith("group-") and engine.instance_id == first
    (engine.folder / "instance-id").unlink()
    assert engine.instance_id != first


def test_datadir_of_the_command_line_wins(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine.folder == tmp_path / "group"
    monkeypatch.setenv("F_DATADIR", "/said")
    assert engine.store_folder(TOPOLOGY, 1) == Path("/said/group/t/1")
    monkeypatch.setenv("F_DATADIR", "{conf.name}-data")
    assert engine.folder == tmp_path / "group"


def test_a_folder_belongs_to_one_worker(engine: Engine) -> None:
    lock = engine._lock_folder()
    with pytest.raises(WalstreamError, match="is in use by another worker"):
        engine._lock_folder()
    lock.close()
    engine._lock_folder().close()


def test_a_failure_says_why_and_ends_the_process(engine: Engine, capfd: pytest.CaptureFixture[str]) -> None:
    engine.fail(LostRange("offsets 1 to 2 are gone"))
    engine.fail(ZeroDivisionError("oops"))
    said = capfd.readouterr().err
    assert "walstream: LostRange: offsets 1 to 2 are gone\n" in said
    assert "an error that nobody foresaw" in said and "ZeroDivisionError: oops" in said
    assert engine.exits == [1, 1]  # type: ignore[attr-defined]


async def test_what_is_run_beside_fails_the_worker(engine: Engine) -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    engine.spawn(fail())
    await asyncio.sleep(0.01)
    assert engine.exits == [1]  # type: ignore[attr-defined]


async def test_a_task_runs_where_all_its_sources_are(engine: Engine) -> None:
    await engine.assigned({TP("source", 1), TP("changelog", 1), TP("changelog", 0)})
    assert list(engine.tasks) == [TP("source", 1)]
    assert engine.tasks[TP("source", 1)].started  # type: ignore[attr-defined]
    assert engine.consumer.held == {TP("source", 1), TP("changelog", 1), TP("changelog", 0)}  # type: ignore[attr-defined]


async def test_tasks_share_the_memory_of_checkpoints(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def sizes() -> list[int]:
        return [task.checkpoint_size for task in engine.tasks.values()]  # type: ignore[attr-defined]

    await engine.assigned({TP("source", 0)})
    assert sizes() == [module.CHECKPOINT_MEMORY]
    await engine.assigned({TP("source", 0), TP("source", 1)})
    assert sizes() == [module.CHECKPOINT_MEMORY // 2] * 2
    monkeypatch.setattr(module, "CHECKPOINT_MEMORY", module.CHECKPOINT_LEAST)
    await engine.assigned({TP("source", 0), TP("source", 1)})
    assert sizes() == [module.CHECKPOINT_LEAST] * 2


async def test_a_rebalance_ends_all_tasks_before_others_start(engine: Engine) -> None:
    await engine.assigned({TP("source", 0), TP("source", 1)})
    former: Any = dict(engine.tasks)
    await engine.assigned({TP("source", 0)})
    assert all(task.closed for task in former.values())
    assert list(engine.tasks) == [TP("source", 0)] and engine.tasks[TP("source", 0)] is not former[TP("source", 0)]


async def test_an_app_that_stops_takes_nothing_on(engine: Engine) -> None:
    await engine.stop()
    await engine.assigned({TP("source", 0)})
    assert engine.tasks == {}


def old(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    later = time.monotonic() + seconds
    monkeypatch.setattr(module.time, "monotonic", lambda: later)


@pytest.mark.parametrize(
    ("state", "stuck"),
    [
        (State.OPENING, True),
        (State.COMMITTING, True),
        (State.WAITING, False),
        (State.WORKING, False),
        (State.IDLE, False),
    ],
)
async def test_which_states_must_not_last(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, state: State, stuck: bool
) -> None:
    await engine.assigned({TP("source", 0)})
    engine.tasks[TP("source", 0)].state = state
    assert engine.stuck() is None
    old(monkeypatch, module.TASK_LIMIT + 1)
    engine.last_look = engine._last_membership = time.monotonic()
    assert (engine.stuck() == f"t-0 is {state.value} since {module.TASK_LIMIT + 1:.0f} s") == stuck
    assert (engine.stuck() is None) == (not stuck)


@pytest.mark.parametrize(
    ("field", "reason"),
    [("last_look", "nothing looked for fetches"), ("_last_membership", "has not known this worker")],
)
async def test_silence_is_noticed(engine: Engine, monkeypatch: pytest.MonkeyPatch, field: str, reason: str) -> None:
    old(monkeypatch, module.SILENCE_LIMIT + 1)
    assert engine.stuck() is None, "who has no tasks misses nothing"
    await engine.assigned({TP("source", 0)})
    engine.last_look = engine._last_membership = time.monotonic()
    assert engine.stuck() is None
    setattr(engine, field, time.monotonic() - module.SILENCE_LIMIT - 1)
    assert reason in str(engine.stuck())


async def test_tasks_that_do_not_end_are_noticed(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    await engine.assigned({TP("source", 0)})
    task: Any = engine.tasks[TP("source", 0)]
    task.ends.clear()
    ending = asyncio.create_task(engine.revoked(set()))
    await asyncio.sleep(0)
    assert engine.stuck() is None
    with monkeypatch.context() as patch:
        old(patch, module.END_LIMIT + 1)
        assert "tasks have not ended" in str(engine.stuck())
    task.ends.set()
    await ending
    assert engine.stuck() is None


async def test_a_web_port_that_was_asked_for_and_is_taken(engine: Engine, capfd: pytest.CaptureFixture[str]) -> None:
    def end(status: int) -> None:
        raise SystemExit(status)

    engine._exit = end
    with socket.create_server(("127.0.0.1", 0)) as taken:
        conf = SimpleNamespace(web_enabled=True, web_bind="127.0.0.1", web_port=taken.getsockname()[1])
        with pytest.raises(SystemExit):
            await App.on_first_start(cast(Any, SimpleNamespace(conf=conf, engine=engine)))
    said = capfd.readouterr().err
    assert f"the port {conf.web_port} of the web server is taken" in said and "--web-port" in said

"""Dead letters, retries, pauses and quarantine by the commands, with real workers and an application that refuses."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from walstream.cli import main
from walstream.headers import strip_headers
from walstream.testing.failing_target import Answer, FailingTarget, Faults
from walstream.testing.history import Content, Identity
from walstream.testing.sandbox import Sandbox
from walstream.testing.waiting import wait_until
from walstream.testing.workload import cloud_event

BAD, ODD = [f"bad-{number}" for number in range(6)], b"\x00\xff not text \xfe"


class Refusing(Faults):
    """Ids say what they meet: bad ones are refused, slow ones fail, until `repair`."""

    def __init__(self) -> None:
        super().__init__(0)
        self.repaired = False

    def repair(self) -> None:
        self.repaired = True

    def answer(self, identity: Identity, count: int) -> Answer:
        if not self.repaired and identity[2].startswith("bad"):
            return Answer.REFUSED
        return Answer.FAILED if not self.repaired and identity[2].startswith("slow") else Answer.APPLIED


class AppSandbox(Sandbox):
    """A namespace whose only target is an application."""

    def __init__(self, folder: Path, brokers: str, url: str) -> None:
        self.url = url
        super().__init__(folder, brokers, partitions=2)
        self.targets = ("app",)

    def _write_configuration(self) -> None:
        config = self.folder / "config"
        config.mkdir(parents=True)
        (config / "connections.yaml").write_text(f"app: {{sink: http, url: '{self.url}'}}\n")
        (config / f"{self.name}.yaml").write_text(
            f"version: 1\nnamespace: {self.name}\n"
            "topics: {partitions: 2, replication: 1, min_insync: 1}\n"
            "targets:\n"
            "  app: {sink: http, connection: app, options: {path: /}, on_dead: hold,\n"
            "        retry: {attempts: 99, initial: 500ms, max: 1s}}\n"
        )


@pytest.fixture(scope="module")
def target() -> Iterator[FailingTarget]:
    with FailingTarget(Refusing()) as target:
        yield target


@pytest.fixture(scope="module")
def sandbox(brokers: str, target: FailingTarget, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with AppSandbox(tmp_path_factory.mktemp("letters"), brokers, target.url) as sandbox:
        sandbox.start()
        yield sandbox


Run = Callable[..., Any]


@pytest.fixture(scope="module")
def invoke(sandbox: Sandbox) -> Callable[..., Result]:
    """Run a command."""
    environment = {
        "WALSTREAM_BROKERS": sandbox.brokers,
        "WALSTREAM_CONFIG": str(sandbox.folder / "config"),
        "WALSTREAM_SHARD": sandbox.name,
    }

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(main, arguments, env=environment)

    return invoke


@pytest.fixture(scope="module")
def run(invoke: Callable[..., Result]) -> Run:
    """Run a command that does what it is asked, and return what it says as JSON."""

    def run(*arguments: str) -> Any:
        result = invoke(*arguments, "--json")
        assert result.exit_code == 0, (arguments, result.output, result.exception)
        return json.loads(result.stdout)

    return run


def event(id: str, key: str | None = None, value: bytes = b"{}") -> Content:
    return cloud_event((key or id).encode(), value, id=id, source="/test")


def app(sandbox: Sandbox) -> str:
    return f"{sandbox.name}.app"


def health(sandbox: Sandbox, run: Run) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in run("status", sandbox.name) if one["role"] == "app")
    return found


def test_the_life_of_dead_letters(
    sandbox: Sandbox, target: FailingTarget, run: Run, invoke: Callable[..., Result]
) -> None:
    name = app(sandbox)
    sandbox.write(*(event(id, value=ODD) for id in BAD), *(event(f"ok-{number}") for number in range(20)))
    wait_until(lambda: len(run("dlq", "list", name)) == len(BAD), 30, "the bad ones are dead")

    letters = {letter["id"]: letter for letter in run("dlq", "list", name)}
    assert set(letters) == set(BAD)
    assert all(letter["state"] == "dead" and "it is refused" in letter["error"] for letter in letters.values())
    assert not any("payload" in letter for letter in letters.values())
    place = {id: f"{letter['partition']}:{letter['position']}" for id, letter in letters.items()}
    assert [letter["id"] for letter in run("dlq", "list", name, "--key", "bad-1")] == ["bad-1"]
    assert [letter["id"] for letter in run("dlq", "list", name, "--position", place["bad-2"])] == ["bad-2"]
    assert len(run("dlq", "list", name, "--error", "IT IS REFUSED", "--since", "1h", "--limit", "4")) == 4
    assert run("dlq", "list", name, "--until", "1h") == []
    assert run("dlq", "list", name, "--attempts", "2") == []
    wait_until(lambda: health(sandbox, run)["dead"] == len(BAD), 10, "the status counts them")

    shown = run("dlq", "show", name, place["bad-0"])
    assert {"name": "ce_id", "value": "bad-0"} in shown["headers"] and "payload" not in shown
    assert run("dlq", "show", name, place["bad-0"], "--payload")["payload"] == ODD.decode(errors="backslashreplace")
    assert invoke("dlq", "show", name, "1:100000").exit_code == 1

    exported = [json.loads(line) for line in invoke("dlq", "export", name).stdout.splitlines()]
    contents = {written.content.key: written.content for written in sandbox.ledger.written()}
    assert len(exported) == len(BAD)
    for letter in exported:
        content = contents[base64.b64decode(letter["key_base64"])]
        headers = [(header["name"], base64.b64decode(header["value_base64"])) for header in letter["headers"]]
        assert base64.b64decode(letter["value_base64"]) == content.value
        assert tuple(strip_headers(headers)) == content.headers

    assert run("dlq", "drop", name, "--id", "bad-0", "--dry-run")["dropped"] == 1
    assert invoke("dlq", "drop", name, "--id", "bad-0").exit_code == 1  # it asks, and nobody answers
    assert len(run("dlq", "list", name)) == len(BAD)
    dropped = run("dlq", "drop", name, "--id", "bad-0", "--yes")
    assert (dropped["dropped"], dropped["taken"], dropped["states"]) == (1, True, {"dropped": 1})
    assert len(run("dlq", "list", name)) == len(BAD) - 1
    states = [letter["state"] for letter in run("dlq", "list", name, "--all")]
    assert sorted(states) == ["dead"] * 5 + ["dropped"]

    # Not mended yet: they die again, each at the same position.
    assert run("dlq", "redrive", name, "--dry-run")["redriven"] == 5
    again = run("dlq", "redrive", name)
    assert (again["redriven"], again["taken"], again["skipped"]) == (5, True, {"dropped": 1})

    def died_again() -> bool:
        return run("dlq", "show", name, place["bad-1"])["letters"] == 2

    wait_until(died_again, 10, "they die again")
    wait_until(lambda: len(run("dlq", "list", name)) == 5, 10, "all of them")
    assert len(run("dlq", "list", name, "--all")) == 11

    target.faults.repair()
    redriven = run("dlq", "redrive", name, "--rate", "50/s")
    assert (redriven["redriven"], redriven["taken"]) == (5, True)
    wait_until(lambda: {identity[2] for identity in target.applied} >= set(BAD[1:]), 10, "they are applied")
    repeated = run("dlq", "redrive", name)
    assert (repeated["redriven"], repeated["skipped"]) == (0, {"redriven": 5, "dropped": 1})
    assert run("dlq", "list", name) == []
    for id in BAD[1:]:
        assert [request.answer for request in target.of((id.encode(), "/test", id))].count(Answer.APPLIED) == 1
    values = {entry.value for entry in target.deliveries if entry.key in {id.encode() for id in BAD}}
    assert values == {ODD}
    assert target.of((b"bad-0", "/test", "bad-0"))[-1].answer is Answer.REFUSED


def test_what_is_tried_again(sandbox: Sandbox, target: FailingTarget, run: Run) -> None:
    name = app(sandbox)
    assert isinstance(target.faults, Refusing)
    target.faults.repaired = False
    sandbox.write(event("slow", key="k"), *(event(f"behind-{number}", key="k") for number in range(3)))
    wait_until(lambda: len(run("retry", "list", name, "--parked")) == 3, 30, "three are parked")
    wait_until(lambda: bool(run("retry", "list", name)), 10, "one is tried again")
    (blocked,) = run("retry", "list", name, "--blocked", "--key", "k")
    assert (blocked["key"], blocked["state"], blocked["parked"]) == ("k", "retrying", 3)
    parked = run("retry", "list", name, "--parked", "--key", "k", "--limit", "2")
    assert [row["id"] for row in parked] == ["behind-0", "behind-1"]
    assert run("retry", "list", name, "--parked", "--key", "other") == []

    def retrying() -> bool:
        rows = run("retry", "list", name, "--key", "k")
        return len(rows) == 1 and rows[0]["id"] == "slow" and rows[0]["attempt"] >= 2 and "500" in rows[0]["error"]

    wait_until(retrying, 20, lambda: f"it is tried again: {run('retry', 'list', name)}")
    wait_until(lambda: health(sandbox, run)["parked"] == 3, 10, "the status counts them")
    target.faults.repair()
    wait_until(lambda: run("retry", "list", name, "--blocked") == [], 20, "the key goes on")
    order = [entry.identity for entry in target.deliveries if entry.key == b"k"]
    assert [identity[2] for identity in order if identity] == ["slow", "behind-0", "behind-1", "behind-2"]


def test_a_redriven_record_goes_back_to_its_place_and_a_dropped_one_lets_its_key_go(
    sandbox: Sandbox, target: FailingTarget, run: Run
) -> None:
    name = app(sandbox)
    assert isinstance(target.faults, Refusing)
    target.faults.repaired = False
    for key in ("h", "i"):
        sandbox.write(event(f"bad-{key}", key=key), *(event(f"{key}-{number}", key=key) for number in range(3)))
    wait_until(lambda: len(run("retry", "list", name, "--parked")) == 6, 30, "those behind the dead ones are parked")
    assert {row["state"] for row in run("retry", "list", name, "--blocked")} == {"held"}
    target.faults.repair()
    assert run("dlq", "drop", name, "--key", "i", "--yes")["dropped"] == 1
    assert run("dlq", "redrive", name, "--key", "h")["redriven"] == 1
    wait_until(lambda: run("retry", "list", name, "--blocked") == [], 20, "both keys go on")
    applied = [entry.identity for entry in target.deliveries if entry.key in (b"h", b"i")]
    ids = [identity[2] for identity in applied if identity]
    assert [id for id in ids if "h" in id] == ["bad-h", "h-0", "h-1", "h-2"]
    assert [id for id in ids if "i" in id] == ["i-0", "i-1", "i-2"]
    assert run("dlq", "list", name) == []


def test_a_target_that_is_down(
    sandbox: Sandbox, target: FailingTarget, run: Run, invoke: Callable[..., Result]
) -> None:
    name = app(sandbox)
    target.break_down()
    sandbox.write(*(event(f"patient-{number}") for number in range(5)))
    wait_until(lambda: health(sandbox, run)["down"] is not None, 30, "the status says it")
    assert "down since" in (said := invoke("status", sandbox.name).stdout) and "503" in said
    target.come_back()
    assert run("target", "resume", name)["taken"] is True
    wait_until(lambda: (b"patient-4", "/test", "patient-4") in target.applied, 10, "it is tried at once")
    wait_until(lambda: health(sandbox, run)["down"] is None, 10, "the status says it")
    assert run("dlq", "list", name) == []


def test_pause_quarantine_and_resume(
    sandbox: Sandbox, target: FailingTarget, run: Run, invoke: Callable[..., Result]
) -> None:
    name = app(sandbox)
    paused = run("target", "pause", name, "--reason", "the [red] cluster")
    assert (paused["done"], paused["taken"]) == ("paused", True)
    wait_until(lambda: health(sandbox, run)["paused"] is not None, 10, "the status says it")
    assert health(sandbox, run)["paused"]["reason"] == "the [red] cluster"
    assert "paused since" in (said := invoke("status", sandbox.name).stdout) and "the [red] cluster" in said
    sandbox.write(event("crashes"), event("fine"))
    sandbox.drain(stages=["router"])
    (record,) = [record for record in sandbox.readback.records(sandbox.log) if record.key == b"crashes"]

    place = f"{record.partition}:{record.offset}"
    refused = invoke("target", "quarantine", name, f"{record.partition}:100000", "--yes")
    assert refused.exit_code == 1 and "no record" in refused.stderr
    asked = invoke("target", "quarantine", name, place)
    assert asked.exit_code == 1 and "crashes" in asked.stderr
    quarantined = run("target", "quarantine", name, place, "--reason", "it crashes", "--yes")
    assert (quarantined["taken"], quarantined["id"], quarantined["key"]) == (True, "crashes", "crashes")

    assert run("target", "resume", name)["taken"] is True
    wait_until(lambda: (b"fine", "/test", "fine") in target.applied, 20, "it goes on")
    wait_until(lambda: bool(run("dlq", "list", name)), 20, "the other one is dead")
    (letter,) = run("dlq", "list", name)
    assert (letter["id"], letter["error"]) == ("crashes", "quarantined: it crashes")
    assert target.of((b"crashes", "/test", "crashes")) == []
    assert health(sandbox, run)["paused"] is None
    assert run("dlq", "redrive", name, "--position", place)["redriven"] == 1
    wait_until(lambda: (b"crashes", "/test", "crashes") in target.applied, 20, "it was let go")


def test_what_was_not_understood(sandbox: Sandbox, run: Run, invoke: Callable[..., Result]) -> None:
    content = Content(b"k", b"what?", (("ce_specversion", b"1.0"), ("n", None), ("n", b"")), None)
    sandbox.write(content, Content(b"j", None, (), None), understood=False)
    wait_until(lambda: len(run("dlq", "list", sandbox.name)) == 2, 20, "they are refused")
    (letter,) = run("dlq", "list", sandbox.name, "--code", "missing-attribute")
    place = f"{letter['partition']}:{letter['position']}"
    assert run("dlq", "show", sandbox.name, place)["state"] is None
    refused = invoke("dlq", "drop", sandbox.name, "--yes")
    assert refused.exit_code == 2 and "nothing of it can be dropped" in refused.stderr

    assert run("dlq", "redrive", sandbox.name, "--position", place)["written"] == 1
    wait_until(lambda: len(run("dlq", "list", sandbox.name, "--key", "k")) == 2, 20, "it is refused again")
    written = [record for record in sandbox.readback.records(sandbox.ingress) if record.key == b"k"][-2:]
    assert [(record.value, record.headers) for record in written] == [(content.value, content.headers)] * 2
    once = run("dlq", "redrive", sandbox.name, "--key", "k")
    assert (once["written"], once["skipped"]) == (1, {"the same once more": 1})
    assert run("dlq", "redrive", sandbox.name, "--key", "j")["written"] == 1
    wait_until(lambda: len(run("dlq", "list", sandbox.name, "--key", "j")) == 2, 20, "a null value stays null")
    assert [record.value for record in sandbox.readback.records(sandbox.ingress) if record.key == b"j"] == [None] * 2

"""An application that fails, and whole workers: what waits outlives them, and while it is down nothing grows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from click.testing import CliRunner

from walstream.cli import main
from walstream.testing.failing_target import Answer, FailingTarget, Faults
from walstream.testing.history import Content, Identity, foreign
from walstream.testing.sandbox import OwnTarget, Sandbox
from walstream.testing.waiting import wait_until
from walstream.testing.workload import cloud_event

APP = "app"
OURS = (("twice", b"\xff\x00"), ("twice", None), ("größe", b""), ("walstream-time", b"1"))


class ByName(Faults):
    """Ids say what they meet, until `repair`: bad ones are refused, slow ones fail."""

    def __init__(self) -> None:
        super().__init__(0)
        self.repaired = False

    def repair(self) -> None:
        self.repaired = True

    def answer(self, identity: Identity, count: int) -> Answer:
        if self.repaired or identity.id.startswith("ok"):
            return Answer.APPLIED
        return Answer.REFUSED if identity.id.startswith("bad") else Answer.FAILED


@pytest.fixture
def target() -> Iterator[FailingTarget]:
    with FailingTarget(ByName(), latency=0.002) as target:
        yield target


def event(id: str, key: str) -> Content:
    content = cloud_event(key.encode(), b"\x00 of " + id.encode(), id=id, source="/test")
    return content._replace(headers=(*content.headers, *OURS))


def applied(target: FailingTarget, key: str) -> list[str]:
    """The ids that took effect of a key, in order, each once."""
    of_key = (entry.identity.id for entry in target.deliveries if entry.identity and entry.key == key.encode())
    return list(dict.fromkeys(of_key))


@pytest.mark.slow
def test_held_keys_outlive_their_workers_and_go_on_where_they_were(
    make_sandbox: Callable[..., Sandbox], target: FailingTarget
) -> None:
    words = {"on_dead": "hold", "retry": {"attempts": 1_000, "initial": "200ms", "max": "500ms"}}
    app = OwnTarget.http(target.url, lambda: target.deliveries, **words)
    sandbox = make_sandbox(partitions=2, targets={APP: app})
    _, first = sandbox.start("router", APP)
    ids = {key: [f"{key}-1", *(f"ok-{key}-{n}" for n in range(2, 30))] for key in ("bad", "slow", "ok")}
    sandbox.write(*(event(id, key) for key, some in ids.items() for id in some[:15]))
    wait_until(lambda: len(sandbox.table(f"{APP}.parked")) == 28, 20, "followers are parked")
    assert applied(target, "ok") == ids["ok"][:15]

    # Another one takes over, and the first one dies; more comes, also while nobody is there.
    second = sandbox.worker(APP).start()
    sandbox.wait_ready(APP, members=2)
    sandbox.write(*(event(id, key) for key, some in ids.items() for id in some[15:20]))
    first.kill()
    sandbox.write(*(event(id, key) for key, some in ids.items() for id in some[20:]))
    second.kill()
    first.start()
    wait_until(lambda: len(sandbox.table(f"{APP}.parked")) == 56, 60, lambda: f"{sandbox.waiting(APP)} wait")
    wait_until(lambda: applied(target, "ok") == ids["ok"], 20, "the others go on")
    assert applied(target, "bad") == applied(target, "slow") == []
    (letter,) = sandbox.readback.records(sandbox.dlq(APP))
    written = event("bad-1", "bad")
    assert (letter.key, letter.value, foreign(letter.headers)) == (
        written.key, written.value, foreign(written.headers),
    )  # fmt: skip

    target.faults.repair()
    environment = {"WALSTREAM_BROKERS": sandbox.brokers, "WALSTREAM_CONFIG": str(sandbox.folder / "config")}
    for expected in (1, 0):
        arguments = ["dlq", "redrive", f"{sandbox.name}.{APP}", "--json"]
        result = CliRunner().invoke(main, arguments, env=environment)
        assert (result.exit_code, json.loads(result.stdout)["redriven"]) == (0, expected), result.output
        sandbox.drain(stages=[APP])
    history = sandbox.check(least=87)
    assert {key: applied(target, key) for key in ids} == ids
    assert not history.targets[0].dead and not target.overlaps
    times = Counter(request.identity.id for request in target.requests if request.answer is Answer.APPLIED)
    assert times["bad-1"] == 1, "redriven twice, applied once"
    sandbox.check_stores()


def test_while_the_application_is_down_nothing_is_written_and_nothing_is_dead(
    make_sandbox: Callable[..., Sandbox], target: FailingTarget
) -> None:
    words = {"retry": {"attempts": 3, "age": "2s", "initial": "100ms", "max": "200ms"}}
    sandbox = make_sandbox(partitions=2, targets={APP: OwnTarget.http(target.url, lambda: target.deliveries, **words)})
    sandbox.start()
    target.break_down()
    sandbox.write(*(event(f"ok-{n}", f"k{n % 50}") for n in range(500)))
    sandbox.drain(stages=["router"])
    wait_until(lambda: "the target is down" in sandbox.workers[1].output(), 20, "it is seen to be down")
    outputs = [sandbox.dlq(APP), sandbox.retries(APP), f"{sandbox.name}.{APP}.parked.changelog"]
    before = sandbox.position(APP)
    asked = len(target.requests)
    wait_until(lambda: len(target.requests) > asked + 16, 30, "it is probed")
    assert {topic: sum(sandbox.readback.ends(topic).values()) for topic in outputs} == dict.fromkeys(outputs, 0)
    assert sandbox.position(APP) == before and not target.applied
    target.come_back()
    history = sandbox.check(least=500)
    assert not history.targets[0].dead and len(target.applied) == 500

"""The state on disk is gone, old, or of another life: it is rebuilt from the changelogs, and nothing is forgotten."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest

from walstream.testing.history import Content
from walstream.testing.sandbox import COPY, Sandbox
from walstream.testing.worker import Worker
from walstream.testing.workload import Workload


class Known:
    """A router whose records are all written again after its state was tampered with."""

    def __init__(self, sandbox: Sandbox, seed: int) -> None:
        self.sandbox, self.seed = sandbox, seed
        self.router: Worker = sandbox.start("router", COPY)[0]
        self.rounds = 0

    def write(self) -> None:
        """A few new records, and all that were there before once more."""
        self.rounds += 1
        workload = Workload(self.seed, source=f"/state/{self.rounds}")
        again: list[tuple[Content, bool]] = [(written.content, True) for written in self.sandbox.ledger.written()]
        with self.sandbox.producer(iter(again + [next(workload) for _ in range(1_500)])) as producer:
            producer.join()
        self.sandbox.check(least=1_000 * self.rounds)


@pytest.fixture(scope="module")
def known(make_sandbox: Callable[..., Sandbox], seed: int) -> Known:
    known = Known(make_sandbox(), seed)
    known.write()
    return known


def test_a_deleted_store_is_rebuilt(known: Known) -> None:
    assert known.router.terminate() == 0
    shutil.rmtree(known.router.data)
    known.router.start()
    known.write()


def test_a_stale_store_is_brought_up_to_date(known: Known) -> None:
    assert known.router.terminate() == 0
    old = known.router.folder / "old"
    shutil.copytree(known.router.data, old)
    known.router.start()
    known.write()
    known.router.kill()
    shutil.rmtree(known.router.data)
    old.rename(known.router.data)
    known.router.start()
    known.write()


def test_a_store_of_an_earlier_life_of_the_topics_is_not_believed(known: Known) -> None:
    """All topics are deleted and made again: the same identities are new, and stand at the same positions as others."""
    sandbox = known.sandbox
    for worker in sandbox.workers:
        worker.terminate()
    contents = [(written.content, True) for written in sandbox.ledger.written()]
    sandbox.recreate()
    for worker in sandbox.workers:
        worker.start()
    with sandbox.producer(iter(contents[::-1])) as producer:
        producer.join()
    sandbox.check(least=1_000)


def test_the_stores_are_what_the_changelogs_say(known: Known) -> None:
    known.sandbox.check_stores()

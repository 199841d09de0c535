"""The watchdog ends what is stuck, and forgives what was frozen as a whole."""

from __future__ import annotations

import threading

import pytest

from walstream.engine import watchdog
from walstream.engine.watchdog import Watchdog
from walstream.errors import Stuck


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "PERIOD", 0.01)
    monkeypatch.setattr(watchdog, "LOOP_LIMIT", 0.05)


def failure(dog: Watchdog, failed: threading.Event) -> bool:
    dog.start()
    try:
        return failed.wait(5)
    finally:
        dog.stop()
        dog.join()


def test_an_event_loop_that_does_not_turn_ends_the_process() -> None:
    failed, errors = threading.Event(), []
    dog = Watchdog(lambda: None, lambda exc: (errors.append(exc), failed.set()))  # type: ignore[func-returns-value,arg-type]
    assert failure(dog, failed)
    assert isinstance(errors[0], Stuck) and "has not turned" in str(errors[0])


def test_a_task_that_is_stuck_ends_the_process() -> None:
    failed, errors = threading.Event(), []

    def stuck() -> str:
        dog.turned()
        return "t-0 is committing"

    dog = Watchdog(stuck, lambda exc: (errors.append(exc), failed.set()))  # type: ignore[func-returns-value,arg-type]
    dog.turned()
    turning = threading.Event()

    def turn() -> None:
        while not turning.wait(0.005):
            dog.turned()

    thread = threading.Thread(target=turn)
    thread.start()
    try:
        assert failure(dog, failed)
    finally:
        turning.set()
        thread.join()
    assert str(errors[0]) == "t-0 is committing"

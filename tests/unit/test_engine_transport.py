"""When a worker fetches next."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from walstream.engine.pace import Pace
from walstream.engine.transport import FETCH_LARGE, FETCH_WAIT, FETCH_WAIT_LEAST, FetchConsumerThread

FETCH_SIZE = 1 << 20
TIMEOUT = 0.2  # s, of aiokafka's own


class Fetcher:
    """Asks for one fetch each time that it is asked what to do, as aiokafka's does."""

    def __init__(self) -> None:
        self._records: dict[Any, Any] = {}
        self._fetch_max_wait_ms = 0

    def _get_actions_per_node(self, _assignment: Any) -> Any:
        return [(1, "fetch")], {2: "position"}, TIMEOUT, False, ["resumed"]


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Give the time, which stands still."""
    clock = SimpleNamespace(seconds=1_000.0)
    monkeypatch.setattr(time, "monotonic", lambda: clock.seconds)
    return clock


def thread(least: int = 25) -> tuple[FetchConsumerThread, Fetcher]:
    pace = Pace(least)
    for _ in range(200):
        pace.took(0.0602)
    thread: Any = FetchConsumerThread.__new__(FetchConsumerThread)
    thread.app = SimpleNamespace(engine=SimpleNamespace(pace=pace, fetch_size=FETCH_SIZE))
    fetcher = Fetcher()
    thread._follow_pace(fetcher)
    return thread, fetcher


@pytest.mark.parametrize(
    ("sizes", "least", "wait"),
    [
        ((1_000,), 25, 120),  # commits take 60 ms
        ((FETCH_LARGE, 1), 25, 25),  # they do because they are large
        ((FETCH_SIZE, 1), 25, 0),  # there is more
        ((1_000,), 0, 0),
        ((), 25, 0),  # after a pause the first record is fetched as it comes
    ],
)
def test_a_worker_lets_something_come_before_it_fetches_again(
    sizes: tuple[int, ...], least: int, wait: int, now: SimpleNamespace
) -> None:
    worker, fetcher = thread(least)
    worker._pace([SimpleNamespace(size=size) for size in sizes])  # type: ignore[misc]
    if wait:
        now.seconds += (wait - 1) / 1_000
        requests, resets, timeout, *others = fetcher._get_actions_per_node(None)
        assert requests == []
        assert (resets, others) == ({2: "position"}, [False, ["resumed"]])  # nothing else waits
        assert timeout == pytest.approx(0.001)
        now.seconds += 0.001001
    requests, _, timeout, *_ = fetcher._get_actions_per_node(None)
    assert (requests, timeout) == ([(1, "fetch")], TIMEOUT)
    assert fetcher._fetch_max_wait_ms == FETCH_WAIT


def test_what_others_have_does_not_wait_for_long_while_something_is_about_to_be_taken(now: SimpleNamespace) -> None:
    worker, fetcher = thread()
    fetcher._records["a"] = "data"
    requests, _, timeout, *_ = fetcher._get_actions_per_node(None)
    assert (requests, timeout) == ([], pytest.approx(FETCH_WAIT_LEAST / 1_000))  # for long enough to be taken
    now.seconds += 0.001
    worker._pace([SimpleNamespace(size=FETCH_SIZE)])  # type: ignore[list-item]
    assert fetcher._get_actions_per_node(None)[0]
    fetcher._records["b"] = "data"
    fetcher._get_actions_per_node(None)
    now.seconds += 0.0071
    assert fetcher._get_actions_per_node(None)[0]
    assert fetcher._fetch_max_wait_ms == 7
    now.seconds += 0.1  # nobody takes it
    fetcher._get_actions_per_node(None)
    assert fetcher._fetch_max_wait_ms == pytest.approx(107, abs=1)
    now.seconds += 10
    fetcher._get_actions_per_node(None)
    assert fetcher._fetch_max_wait_ms == FETCH_WAIT

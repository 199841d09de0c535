"""How long a broker may gather what is fetched next."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from walstream.engine.pace import Pace
from walstream.engine.transport import FETCH_ENOUGH, FETCH_WAIT, FetchConsumerThread


@pytest.mark.parametrize(
    ("size", "least", "expected"),
    [
        (0, 25, (1, FETCH_WAIT)),  # after a pause the first record is fetched at once
        (1_000, 25, (FETCH_ENOUGH, 120)),
        (FETCH_ENOUGH, 25, (FETCH_ENOUGH, 25)),  # a backlog
        (1_000, 0, (1, FETCH_WAIT)),
    ],
)
def test_a_trickle_is_gathered_for_longer_where_commits_are_slow(
    size: int, least: int, expected: tuple[int, int]
) -> None:
    pace = Pace(least)
    for _ in range(200):
        pace.took(0.0602)
    thread: Any = FetchConsumerThread.__new__(FetchConsumerThread)
    thread.app = SimpleNamespace(engine=SimpleNamespace(pace=pace))
    fetcher = SimpleNamespace()
    thread._pace(fetcher, size)
    assert (fetcher._fetch_min_bytes, thread._fetch_wait) == expected

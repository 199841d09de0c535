"""How long a worker gathers: what it is told, and longer where commits take long."""

from walstream.engine.pace import MOST, Pace


def test_what_commits_quickly_gathers_for_as_long_as_it_is_told() -> None:
    pace = Pace(25)
    for _ in range(100):
        pace.took(0.008)
    assert pace.wait == 25


def test_commits_take_no_more_than_a_share_of_the_time() -> None:
    pace = Pace(25)
    for _ in range(100):
        pace.took(0.06)
    assert 115 <= pace.wait <= 120


def test_one_slow_commit_changes_little() -> None:
    pace = Pace(25)
    for _ in range(100):
        pace.took(0.005)
    pace.took(20.0)
    assert pace.wait <= 25 + MOST * 0.2


def test_it_never_gathers_for_long_and_finds_back() -> None:
    pace = Pace(25)
    for _ in range(100):
        pace.took(5.0)
    assert pace.wait == MOST
    for _ in range(100):
        pace.took(0.005)
    assert pace.wait == 25


def test_what_is_to_wait_for_nothing_waits_for_nothing() -> None:
    pace = Pace(0)
    pace.took(1.0)
    assert pace.wait == 0

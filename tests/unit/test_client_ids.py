"""Ids are UUIDs of version 7, unique and in order."""

import time
import uuid

from walstream.client.ids import Ids


def test_version_variant_and_time() -> None:
    before = time.time_ns() // 1_000_000
    id_ = uuid.UUID(Ids().new())
    after = time.time_ns() // 1_000_000
    assert (id_.version, id_.variant) == (7, uuid.RFC_4122)
    assert before <= id_.int >> 80 <= after


def test_many_in_a_millisecond_are_unique_and_ordered_and_keep_their_time() -> None:
    ids = Ids()
    made = [ids.new() for _ in range(20_000)]
    assert made == sorted(set(made))
    assert all(uuid.UUID(id_).version == 7 for id_ in made[::1000])
    assert uuid.UUID(made[-1]).int >> 80 <= time.time_ns() // 1_000_000


def test_two_sources_differ() -> None:
    assert Ids().new() != Ids().new()


def test_a_clock_that_goes_back_does_not_disturb_the_order(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    ids = Ids()
    first = ids.new()
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000)
    assert ids.new() > first

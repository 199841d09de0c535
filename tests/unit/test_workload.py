"""What test producers write is what it says it is."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest

from walstream.errors import RecordRefused
from walstream.pending import due_time
from walstream.record import parse
from walstream.testing.history import Content, Observed
from walstream.testing.workload import RUBBISH, Workload

NOW = 1_767_225_600_000  # ms


def records(count: int, seed: int = 1, **options: float) -> list[Content]:
    return [content for content, understood in islice(Workload(seed, **options), count) if understood]  # type: ignore[arg-type]


def test_all_that_can_be_understood_is_and_means_the_same_to_who_verifies() -> None:
    for content in records(2_000, delayed=0.5):
        record = parse(content.key, content.value, list(content.headers), NOW)
        observed = Observed(0, 0, content.key, content.value, content.headers, NOW)
        assert (record.action != "write") == observed.is_action
        assert record.ref == (observed.ref.id if observed.ref else None)
        assert record.expiry == observed.expiry
        assert record.time is None or record.time == observed.write_time
        written = NOW * 1_000 if record.time is None else record.time
        for name, due in zip((bytes(16), b"\xff" * 16), observed.due, strict=True):
            assert due_time(written, name, record.delay, record.deliver_at, record.jitter) == due


def test_there_is_some_of_everything() -> None:
    written = [Observed(0, n, c.key, c.value, c.headers, NOW) for n, c in enumerate(records(5_000, delayed=0.5))]
    first = {record.identity: record.offset for record in reversed(written)}
    actions = [record for record in written if record.is_action]
    long_ago = max(record.write_time for record in actions) - 3_500_000_000
    counts = Counter(
        {
            "delayed": sum(record.is_delayed and not record.is_action for record in written),
            "expiring": sum(record.expiry is not None for record in written),
            "before": sum(first.get(record.ref, 0) > record.offset for record in actions),
            "after": sum(first.get(record.ref, 10_000) < record.offset for record in actions),
            "old": sum(record.write_time < long_ago for record in actions),
            "again": len(written) - len(first),
        }
    )
    counts.update(record.attributes["walaction"] for record in actions)
    assert len(counts) == 8 and min(counts.values()) > 40, counts
    assert counts["delayed"] > 1_500


def test_nothing_is_delayed_unless_it_was_asked_for() -> None:
    for content in records(1_000):
        assert not any(name.startswith("ce_wal") and name != "ce_waltargets" for name, _ in content.headers)


@pytest.mark.parametrize("number", range(len(RUBBISH)))
def test_rubbish_is_refused_or_means_what_no_router_takes(number: int) -> None:
    content = RUBBISH[number]("/s", "1")
    try:
        record = parse(content.key, content.value, list(content.headers), NOW)
        due_time(NOW * 1_000, bytes(16), record.delay, record.deliver_at, record.jitter)
    except RecordRefused:
        return
    too_far = record.time is not None and record.time > NOW * 1_000
    assert too_far or record.targets == {"nowhere"} or record.type == "walstream.mutation"

"""What is sent to which region, and what is let in from another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import given as drawn
from hypothesis import strategies as st

from walstream.entry import Entry
from walstream.errors import RecordRefused
from walstream.headers import KIND_HEADER, LOCAL, Header, log_headers, sent_headers
from walstream.pending import Outcome
from walstream.replica import Replica, onward, read_replica, regions_of
from walstream.testing.routing import NOW, Given, RouterPartition, given

pytestmark = pytest.mark.usefixtures("either_wire")

US = NOW * 1000
PAIR: Mapping[str, Any] = {"targets": {"east": {"sink": "replicate", "connection": "e", "options": {"region": "east"}}}}


def sent(
    offset: int, id: str, *, path: bytes = b"east", time: int = US + 7, kind: bytes = b"", timestamp: int = NOW - 99,
    key: bytes | None = b"k", **options: Any,
) -> Given:  # fmt: skip
    """A record of the ingress that another region sent."""
    record = given(offset, id, key=key, **options)
    record.headers = sent_headers(record.headers, time=b"%d" % time, timestamp=b"%d" % timestamp, path=path, kind=kind)
    return record


async def west(folder: Path, **words: Any) -> RouterPartition:
    partition = RouterPartition(folder, region="west", rank=2, **{**PAIR, **words})
    await partition.open()
    return partition


def shown(entry: Entry) -> tuple[str, int, bytes, bytes]:
    return entry.id, entry.time, entry.path, entry.kind


# Where an entry is sent


@pytest.mark.parametrize(
    ("path", "forward", "expected"),
    [
        (b"", False, b"west"),
        (b"", True, b"west"),
        (b"north", False, None),
        (b"north", True, b"north,west"),
        (b"east", True, None),
        (b"east,north", True, None),
        (b"easter,north", True, b"easter,north,west"),
    ],
)
def test_an_entry_is_sent_where_it_has_not_been(path: bytes, forward: bool, expected: bytes | None) -> None:
    assert onward(path, own="west", to="east", forward=forward) == expected


GOOD: list[Header] = sent_headers([("ce_id", b"1")], time=b"-17", timestamp=b"5", path=b"a,b-2")


def test_what_was_sent_is_read() -> None:
    assert read_replica(GOOD) == Replica(-17, 5, b"a,b-2")
    assert read_replica(sent_headers([], time=b"1", timestamp=b"2", path=b"a", kind=b"cancel")) == (
        1,
        2,
        b"a",
        b"cancel",
    )


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("ce_id", b"1")],
        [("ce_id", b"1"), *GOOD],
        [("walstream-version", b"1"), ("walstream-time", b"5")],
        log_headers([], time_us=1, position=2, timestamp_ms=3),
        [("Walstream-path", b"a")],
    ],
)
def test_what_names_no_path_was_written_here(headers: list[Header]) -> None:
    assert read_replica(headers) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("walstream-version", b"2"),
        ("walstream-version", None),
        ("walstream-time", b"+5"),
        ("walstream-time", b""),
        ("walstream-time", None),
        ("walstream-time", b"1" * 19),
        ("walstream-timestamp", b"x"),
        ("walstream-path", None),
        ("walstream-path", b""),
        ("walstream-path", b"a,a"),
        ("walstream-path", b"a,"),
        ("walstream-path", b"A"),
        ("walstream-path", b"a\n"),
        ("walstream-path", b"\xff"),
        ("walstream-path", b",".join(b"r%d" % i for i in range(11))),
        ("walstream-kind", b"local"),
        ("walstream-kind", b"x"),
        ("walstream-position", b"5"),
        ("walstream-other", b"5"),
    ],
)
def test_what_no_replicate_target_writes_is_refused(name: str, value: bytes | None) -> None:
    headers = [header for header in GOOD if header[0] != name]
    with pytest.raises(RecordRefused, match="bad-replica"):
        read_replica([(name, value), *headers])


@pytest.mark.parametrize("name", ["walstream-version", "walstream-time", "walstream-timestamp"])
def test_what_lacks_a_header_or_has_it_twice_is_refused(name: str) -> None:
    with pytest.raises(RecordRefused, match="bad-replica"):
        read_replica([header for header in GOOD if header[0] != name])
    with pytest.raises(RecordRefused, match="bad-replica"):
        read_replica([GOOD[0], *GOOD])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@drawn(st.binary(max_size=30))
def test_a_path_is_read_or_refused(path: bytes) -> None:
    try:
        regions = regions_of(path)
    except RecordRefused:
        return
    assert ",".join(regions).encode() == path and all(regions)


# What a router does with it


@pytest.mark.parametrize("options", [{}, {"extensions": {"partitionkey": "p"}}], ids=["plain", "parsed"])
async def test_its_time_timestamp_and_path_stay(tmp_path: Path, options: dict[str, Any]) -> None:
    router = await west(tmp_path)
    await router.route([sent(0, "a", **options), given(1, "b", time=US), sent(2, "c", path=b"east,north", time=US + 1)])
    assert [shown(entry) for entry in router.log] == [
        ("a", US + 7, b"east", b""),
        ("b", US + 2, b"", b""),
        ("c", US + 1, b"east,north", b""),
    ]
    assert [entry.timestamp for entry in router.log] == [NOW - 99, NOW, NOW - 99]
    assert [entry.ingress_position for entry in router.log] == [0, 1, 2]
    assert list(router.log[0].headers) == given(0, "a", **options).headers


async def test_what_comes_back_is_dropped_however_long_ago_it_was_here(tmp_path: Path) -> None:
    router = await west(tmp_path, dedup={"window": "1s"})
    await router.route([given(0, "a")])
    later = NOW + 3_600_000
    await router.route([
        sent(1, "a", path=b"west,east"), sent(2, "new", path=b"north,west,east"), given(3, "b", timestamp=later),
    ])  # fmt: skip
    assert [entry.id for entry in router.log] == ["a", "b"]
    assert router.counted("records", "circled") == 2
    assert router.refusals == [] and router.counted("records", "duplicate") == 0


async def test_it_is_deduplicated_by_identity_as_everything_is(tmp_path: Path) -> None:
    router = await west(tmp_path)
    await router.route([sent(0, "a"), sent(1, "a"), sent(2, "a", path=b"north,east"), given(3, "a")])
    await router.route([sent(4, "a")])
    assert [shown(entry) for entry in router.log] == [("a", US + 7, b"east", b"")]
    assert router.counted("records", "duplicate") == 4


async def test_read_again_it_goes_on_as_before(tmp_path: Path) -> None:
    router = await west(tmp_path)
    await router.route([sent(0, "a")])
    await router.route([sent(0, "a")])
    assert [shown(entry) for entry in router.log] == [("a", US + 7, b"east", b"")] * 2


@pytest.mark.parametrize(
    ("record", "code"),
    [
        (sent(0, "a", time=US + 301_000_000), "time-ahead"),
        (sent(0, "a", time=US + 301_000_000, extensions={"partitionkey": "p"}), "time-ahead"),
        (sent(0, "a", path=b"east,east"), "bad-replica"),
        (sent(0, "a", kind=b"local"), "bad-replica"),
        (sent(0, "a", kind=b"cancel"), "bad-replica"),
        (sent(0, "a", kind=b"scheduled", action="cancel", ref="x"), "bad-replica"),
    ],
)
async def test_what_cannot_be_is_a_dead_letter(tmp_path: Path, record: Given, code: str) -> None:
    router = await west(tmp_path)
    await router.route([record])
    assert [found for found, _ in router.refusals] == [code]
    assert not router.log


async def test_without_a_region_added_headers_are_ignored(tmp_path: Path) -> None:
    router = RouterPartition(tmp_path)
    await router.open()
    await router.route([sent(0, "a"), sent(1, "b", path=b"east,east")])
    assert [shown(entry) for entry in router.log] == [("a", US + 3, b"", b""), ("b", US + 13, b"", b"")]


async def test_what_the_first_region_let_in_is_let_in(tmp_path: Path) -> None:
    router = await west(tmp_path, topics={"max_record": "1KB", "partitions": 1, "replication": 1}, key="{flight}")
    payload = b'{"op":"delete","table":"t","key":{"flight":"other"}}'
    large = given(1, "b")
    room = 1024 - sum(len(name) + len(text or b"") for name, text in large.headers) - len(large.key or b"")
    await router.route([
        sent(0, "a", type="walstream.mutation", payload=payload, targets=["north"]),
        sent(1, "b", payload=bytes(room)),
        sent(2, "c", payload=bytes(room + 1)),
    ])  # fmt: skip
    assert [entry.id for entry in router.log] == ["a", "b"]
    assert [code for code, _ in router.refusals] == ["too-large"]


async def test_the_rank_of_another_region_is_not_this_ones(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    router = await west(tmp_path)
    await router.route([sent(0, "a", time=US + 2), sent(1, "b", time=US + 12)])
    assert [record.message for record in caplog.records if "rank 2" in record.message] == [
        "flights: the region east, whose records come here by east, has the rank 2, as this one has: of two writes at "
        "the same time it is not sure which one wins. Give each region a WALSTREAM_REGION_RANK of its own"
    ]
    assert len(router.log) == 2


# Delayed where they were written


async def test_a_delayed_record_comes_when_it_is_due_and_does_not_wait_again(tmp_path: Path) -> None:
    router = await west(tmp_path)
    await router.route([sent(0, "a", delay=3_600_000_000, time=US + 7)])
    await router.route([sent(1, "b", expiry=US - 1)])  # its first region decided that
    assert [shown(entry) for entry in router.log] == [("a", US + 7, b"east", b""), ("b", US + 7, b"east", b"")]
    assert router.waiting == 0


async def test_on_an_adopted_topic_it_may_be_much_younger_than_its_timestamp(tmp_path: Path) -> None:
    router = await west(tmp_path)
    record = sent(0, "a", time=US - 59_999_993, timestamp=NOW - 3_600_000)
    record.timestamp, record.timestamp_type = NOW - 3_600_000, 0
    await router.route([record])
    assert [shown(entry) for entry in router.log] == [("a", US - 59_999_993, b"east", b"")]


async def test_an_action_stands_on_the_log_for_other_regions(tmp_path: Path) -> None:
    router = await west(tmp_path)
    await router.route([
        given(0, "a", time=US, delay=60_000_000),
        given(1, "stop", action="cancel", ref="a", time=US),
        sent(2, "move", action="reschedule", ref="b", delay=60_000_000, kind=b"reschedule", path=b"north"),
    ])  # fmt: skip
    assert [shown(entry) for entry in router.log] == [
        ("stop", US + 12, b"", b"cancel"),
        ("move", US + 7, b"north", b"reschedule"),
    ]
    assert [answer.outcome for answer in router.answers] == [Outcome.CANCELLED, Outcome.WAITING]
    for entry in router.log:
        assert not entry.is_for("base") and entry.is_for("east", controls=True)


async def test_an_action_of_another_region_acts_here(tmp_path: Path) -> None:
    router = await west(tmp_path)
    await router.route([given(0, "a", time=US, delay=60_000_000)])
    await router.route([sent(1, "stop", action="cancel", ref="a", kind=b"cancel", time=US + 1_000_007)])
    assert [answer.outcome for answer in router.answers] == [Outcome.CANCELLED]
    assert await router.at(US + 120_000_000) == []


async def test_an_action_of_another_region_that_was_made_before_a_later_one_does_nothing(tmp_path: Path) -> None:
    router = await west(tmp_path)
    await router.route([
        given(0, "a", time=US, delay=60_000_000),
        given(1, "later", action="reschedule", ref="a", time=US + 2_000_000, delay=1_000_000),
        sent(2, "stop", action="cancel", ref="a", kind=b"cancel", time=US + 1_000_007),
    ])  # fmt: skip
    assert [answer.outcome for answer in router.answers] == [Outcome.RESCHEDULED, Outcome.SUPERSEDED]


@pytest.mark.parametrize("options", [{}, {"extensions": {"partitionkey": "p"}}], ids=["plain", "parsed"])
@pytest.mark.parametrize("together", [True, False])
async def test_a_write_that_was_due_elsewhere_is_not_stopped_by_what_waits_here(
    tmp_path: Path, options: dict[str, Any], together: bool
) -> None:
    router = await west(tmp_path)
    stop, write = given(0, "stop", action="cancel", ref="a", time=US), sent(1, "a", **options)
    if together:
        await router.route([stop, write])
    else:
        await router.route([stop])
        await router.route([write])
    assert [entry.id for entry in router.log] == ["stop", "a"]
    assert [(answer.outcome, answer.log_position) for answer in router.answers] == [
        (Outcome.WAITING, None), (Outcome.SENT, 1),
    ]  # fmt: skip
    assert router.waiting == 0


async def test_without_replicate_targets_no_action_is_on_the_log(tmp_path: Path) -> None:
    router = await west(tmp_path, targets={"base": {"sink": "cassandra"}})
    await router.route([given(0, "stop", action="cancel", ref="a"), sent(1, "go", action="cancel", ref="b")])
    assert not router.log and len(router.answers) == 2


# Delayed in each region

EACH: Mapping[str, Any] = {"schedule": {"where": "each"}}


@pytest.mark.parametrize("headers", [[], [("walstream-x", b"y")]], ids=["plain", "parsed"])
async def test_a_delayed_record_is_told_at_once_and_not_again(tmp_path: Path, headers: list[Header]) -> None:
    router = await west(tmp_path, **EACH)
    record = given(0, "a", time=US, delay=60_000_000)
    own = list(record.headers)
    record.headers += headers
    await router.route([record, given(1, "b", time=US, delay=1, timestamp=NOW + 1)])
    assert [shown(entry) for entry in router.log] == [("a", US + 2, b"", b"scheduled"), ("b", US + 12, b"", b"")]
    assert list(router.log[0].headers) == own and router.log[0].value == b"v"
    (due,) = await router.at(US + 60_000_000)
    assert shown(due) == ("a", US + 2, b"", LOCAL)
    assert (list(due.headers), due.timestamp) == (own, NOW)
    assert due.is_for("base")


async def test_a_scheduled_record_waits_in_each_region_and_is_passed_on(tmp_path: Path) -> None:
    router = await west(tmp_path, **EACH)
    scheduled = sent(0, "a", kind=b"scheduled", delay=60_000_000, jitter=5_000_000)
    await router.route([scheduled])
    assert [shown(entry) for entry in router.log] == [("a", US + 7, b"east", b"scheduled")]
    await router.route([sent(1, "a", path=b"north,east")])  # by way of a region that had it too late
    assert len(router.log) == 1
    (due,) = await router.at(US + 66_000_000)
    assert shown(due) == ("a", US + 7, b"east", LOCAL)
    assert (due.timestamp, list(due.headers)) == (NOW - 99, given(0, "a", delay=60_000_000, jitter=5_000_000).headers)


async def test_a_scheduled_record_that_comes_too_late_is_sent_at_once(tmp_path: Path) -> None:
    router = await west(tmp_path, **EACH)
    await router.route([sent(0, "a", kind=b"scheduled", delay=60_000_000)])
    await router.route([sent(1, "b", kind=b"scheduled", delay=1, time=US - 3)])
    assert shown(router.log[-1]) == ("b", US - 3, b"east", b"")
    assert router.log[-1].timestamp == NOW - 99


async def test_regions_draw_the_same_jitter(tmp_path: Path) -> None:
    here = await west(tmp_path / "west", **EACH)
    there = RouterPartition(tmp_path / "east", region="east", rank=7, **{**PAIR, **EACH})
    await there.open()
    await there.route([given(0, "a", time=US, jitter=60_000_000)])
    told = there.log[0]
    await here.route([
        Given(5, told.key, told.value, sent_headers(
            told.headers, time=b"%d" % told.time, timestamp=b"%d" % told.timestamp, path=b"east", kind=told.kind
        ))
    ])  # fmt: skip
    assert here.processor.due_at() == there.processor.due_at() is not None


async def test_a_cancel_reaches_what_waits_in_each_region(tmp_path: Path) -> None:
    router = await west(tmp_path, **EACH)
    await router.route([
        sent(0, "a", kind=b"scheduled", delay=60_000_000),
        sent(1, "stop", kind=b"cancel", action="cancel", ref="a", time=US + 17),
        sent(2, "no", kind=b"cancel", action="cancel", ref="b", time=US + 27),
        sent(3, "b", kind=b"scheduled", delay=60_000_000),
    ])  # fmt: skip
    assert [shown(entry)[::3] for entry in router.log] == [("a", b"scheduled"), ("stop", b"cancel"), ("no", b"cancel")]
    assert await router.at(US + 120_000_000) == []
    assert router.waiting == 0


def test_an_entry_that_is_no_control_is_for_all(tmp_path: Path) -> None:
    own = given(0).headers
    headers = log_headers(own, time_us=1, position=2, timestamp_ms=3, kind=LOCAL)
    entry = Entry.from_log(0, 0, b"k", b"v", headers, 5)
    assert entry.is_for("base") and entry.kind == LOCAL and (KIND_HEADER, LOCAL) not in entry.headers

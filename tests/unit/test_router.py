"""The router's work on one partition, over a real store and without Kafka."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from walstream.deadletter import size_of
from walstream.dedup import Row
from walstream.murmur2 import partition_for
from walstream.mutation import put
from walstream.pending import LATEST_US
from walstream.testing.routing import NOW, Given, RouterPartition, given

pytestmark = pytest.mark.usefixtures("either_wire")

HOUR = 3_600_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "0"


@pytest.fixture
async def router(folder: Path) -> AsyncIterator[RouterPartition]:
    router = RouterPartition(folder)
    await router.open()
    yield router
    router.store.close()


async def test_a_record_stays_what_it_was(router: RouterPartition) -> None:
    record = given(7, time=1_700_000_000_123_456, payload=None, content_type="text/x", extensions={"other": "x"})
    record.headers += [("twice", b"1"), ("twice", None), ("walstream-time", b"from outside")]
    await router.route([record])
    (entry,) = router.log
    assert (entry.key, entry.value, entry.timestamp) == (b"k", None, NOW)
    assert entry.headers == record.headers[:-1], "all but what only walstream may add"
    assert entry.time == 1_700_000_000_123_453, "the write time; its last digit is the region's rank"
    assert (entry.ingress_position, router.refused) == (7, [])
    assert router.row(b"k", "7") == Row(7, 0)


async def test_the_append_time_stands_in_for_a_write_time(router: RouterPartition) -> None:
    await router.route([given(0)])
    assert router.log[0].time == NOW * 1000 + 3


async def test_duplicates_are_left_out_in_one_fetch_in_one_checkpoint_and_later(router: RouterPartition) -> None:
    await router.route([given(0, "a"), given(1, "a"), given(2, "b")], [given(3, "a"), given(4, "c")])
    await router.route([given(5, "b"), given(6, "d")])
    assert [entry.id for entry in router.log] == ["a", "b", "c", "d"]
    assert router.row(b"k", "b") == Row(2, 1)


async def test_identity_is_of_key_source_and_id(router: RouterPartition) -> None:
    await router.route(
        [given(0, "a"), given(1, "a", key=b"other"), given(2, "a", source="other"), given(3, "a", key=None)]
    )
    assert [entry.ingress_position for entry in router.log] == [0, 1, 2, 3]


async def test_partitionkey_stands_in_for_a_key(router: RouterPartition) -> None:
    records = [given(offset, "a", key=None, extensions={"partitionkey": name}) for offset, name in enumerate("xxy")]
    await router.route(records)
    assert [(entry.ingress_position, entry.key) for entry in router.log] == [(0, None), (2, None)]


async def test_a_redelivery_goes_on_with_the_time_that_it_had(router: RouterPartition) -> None:
    await router.route([given(0, "a", time=1_000), given(1, "b", time=1_000)])
    await router.route([given(0, "a", time=1_000), given(1, "b", time=1_000), given(2, "c", time=1_000)])
    assert [entry.id for entry in router.log] == ["a", "b", "a", "b", "c"]
    assert [entry.time for entry in router.log] == [1_003, 1_013, 1_003, 1_013, 1_023]


async def test_equal_write_times_keep_their_order_over_restarts(router: RouterPartition) -> None:
    await router.route([given(0, time=5_000), given(1, time=5_000)])
    await router.open()
    await router.route([given(2, time=5_000), given(3, time=4_999), given(4, time=5_001)])
    times = [entry.time for entry in router.log]
    assert times[:3] == [5_003, 5_013, 5_023]
    assert len(set(times)) == 5 and all(time % 10 == 3 for time in times)


async def test_what_was_not_committed_is_forgotten(router: RouterPartition) -> None:
    await router.route([given(0, "a", time=5_000)], commit=False)
    await router.open()
    await router.route([given(0, "a", time=5_000)])
    assert [(entry.id, entry.time) for entry in router.log] == [("a", 5_003)]


async def test_an_identity_is_kept_for_a_window(folder: Path) -> None:
    router = RouterPartition(folder, dedup={"window": "2h"})
    await router.open()
    await router.route([given(0, "a", timestamp=100 * HOUR)])
    await router.route([given(1, "a", timestamp=102 * HOUR)])
    assert len(router.log) == 1
    await router.route([given(2, "b", timestamp=104 * HOUR), given(3, "a", timestamp=104 * HOUR)])
    assert [entry.ingress_position for entry in router.log] == [0, 2]
    await router.route([given(4, "a", timestamp=104 * HOUR)])
    assert [entry.ingress_position for entry in router.log] == [0, 2, 4]
    assert router.store.segments("flights.dedup") == [105 * 3600]
    router.store.close()


async def test_the_window_s_clock_never_goes_back(folder: Path) -> None:
    router = RouterPartition(folder, dedup={"window": "2h"})
    await router.open()
    await router.route([given(0, "a", timestamp=100 * HOUR), given(1, "b", timestamp=50 * HOUR)])
    await router.open()
    await router.route([given(2, "c", timestamp=50 * HOUR), given(3, "b", timestamp=50 * HOUR)])
    assert router.store.segments("flights.dedup") == [101 * 3600]
    assert [entry.id for entry in router.log] == ["a", "b", "c"]
    router.store.close()


@pytest.mark.parametrize(
    ("code", "options"),
    [
        ("time-ahead", {"time": (NOW + HOUR) * 1000}),
        ("bad-schedule", {"deliver_at": LATEST_US, "jitter": 1 << 57}),
        ("bad-schedule", {"deliver_at": LATEST_US, "jitter": 1 << 57, "action": "reschedule", "ref": "x"}),
        ("unknown-target", {"targets": ["base", "nowhere"]}),
    ],
)
async def test_refused_records_go_to_the_dlq_and_the_others_on(
    router: RouterPartition, code: str, options: Any
) -> None:
    refused = given(1, payload=b"bad", **options)
    await router.route([given(0), refused, given(2)])
    assert [entry.ingress_position for entry in router.log] == [0, 2]
    assert router.refusals == [(code, b"bad")]
    ((key, _, headers),) = router.refused
    ours = [(name, text) for name, text in headers if name.startswith("walstream-")]
    assert (key, headers[len(ours) :]) == (b"k", refused.headers)
    assert dict(ours)["walstream-position"] == b"1"
    assert dict(ours)["walstream-timestamp"] == b"%d" % NOW
    assert dict(ours)["walstream-error"]
    assert router.row(b"k", "1") is None, "a refused record is not known: written right, it goes through"


async def test_what_no_one_can_parse_goes_to_the_dlq(router: RouterPartition) -> None:
    await router.route(
        [
            Given(0, None, None, []),
            Given(1, b"\xff", b"\xff\xfe", [("ce_id", b"\xff")]),
            Given(2, b"k", b"{", [("content-type", b"application/cloudevents+json")]),
            Given(3, b"k", b"v", [("ce_id", b"1"), ("ce_id", b"2")]),
            given(4),
        ]
    )
    assert len(router.refused) == 4
    assert [entry.ingress_position for entry in router.log] == [4]


def misnamed(record: Given, *names: bytes) -> Given:
    """The record with headers whose names are these bytes."""
    return replace(
        record, headers=[*record.headers, *((name.decode(errors="surrogateescape"), b"x") for name in names)]
    )


async def test_a_header_s_name_that_is_not_utf8_spoils_only_its_record(router: RouterPartition) -> None:
    await router.route([given(0), misnamed(given(1, payload=b"bad"), b"b\xff"), given(2)])
    assert [entry.ingress_position for entry in router.log] == [0, 2]
    assert router.refusals == [("not-utf8", b"bad")]
    ((_, _, headers),) = router.refused
    assert headers[-1] == ("b\\xff", b"x"), "shown as far as it can be"
    assert dict(headers)["walstream-error"] == b"the name of a header is not UTF-8: b\\xff"


async def test_a_name_that_looks_like_a_replaced_one_is_good(router: RouterPartition) -> None:
    await router.route([misnamed(given(0), b"b\\xff", "größe".encode())])
    assert router.refused == []
    assert router.log[0].headers[-2:] == [("b\\xff", b"x"), ("größe", b"x")]


async def test_names_that_grow_as_they_are_shown_are_cut_like_any_record(folder: Path) -> None:
    router = RouterPartition(folder, topics={"max_record": "64KB"})
    await router.open()
    await router.route([misnamed(given(0), b"\xff" * 20_000), misnamed(given(1), b"\xff" * 10_000), given(2)])
    assert [code for code, _ in router.refusals] == ["too-large", "not-utf8"]
    assert [entry.ingress_position for entry in router.log] == [2]
    router.store.close()


@pytest.mark.parametrize("more", [0, 1])
async def test_the_limit_is_about_key_value_and_headers_as_they_are(folder: Path, more: int) -> None:
    """Not about the bytes that their encoding adds."""
    router = RouterPartition(folder, topics={"max_record": "64KB"})
    await router.open()
    record = given(0, extensions={f"x{number}": "y" for number in range(100)})
    record.value = bytes(65_536 + more - size_of(record.key, b"", record.headers))
    await router.route([record])
    assert [code for code, _ in router.refusals] == ["too-large"] * more
    assert [entry.value for entry in router.log] == [record.value][more:]
    router.store.close()


async def test_a_fetch_of_nothing_but_refusals_leaves_the_log_alone(router: RouterPartition) -> None:
    checkpoint = await router.route([Given(0)])
    assert list(checkpoint.batches) == [("flights.dlq", 0)]


async def test_oversized_records_are_cut_with_size_and_digest(folder: Path) -> None:
    router = RouterPartition(folder, topics={"max_record": "64KB"})
    await router.open()
    value = bytes(range(256)) * 1_000
    await router.route([given(0, payload=value), given(1)])
    ((key, kept, headers),) = router.refused
    added = dict(headers)
    assert router.refusals == [("too-large", kept)]
    assert key == b"k" and kept is not None and value.startswith(kept) and len(kept) > 60_000
    assert added["walstream-digest"] == hashlib.sha256(value).hexdigest().encode()
    assert int(added["walstream-size"] or b"") > 256_000
    assert [entry.ingress_position for entry in router.log] == [1]
    router.store.close()


async def test_a_key_that_does_not_fit_the_template(folder: Path) -> None:
    router = RouterPartition(folder, key="{flight}")
    await router.open()
    good, bad = put(key={"flight": "UA1"}, set={"gate": "A"}), put(key={"flight": "UA2"}, set={})
    records = [
        given(0, key=b"UA1", payload=good.to_bytes(), type="walstream.mutation"),
        given(1, key=b"UA1", payload=bad.to_bytes(), type="walstream.mutation"),
        given(2, key=b"UA1", payload=b"{", type="walstream.mutation"),
        given(3, key=b"UA1", payload=b"{", type="another"),
    ]
    await router.route(records)
    assert [entry.ingress_position for entry in router.log] == [0, 3]
    assert len(router.refused) == 2 and router.refusals[0][0] == "key-mismatch"
    router.store.close()


async def test_expired_records_are_known_but_not_logged(router: RouterPartition) -> None:
    await router.route([given(0, "a", expiry=(NOW - 1) * 1000), given(1, "b", expiry=(NOW + 1) * 1000)])
    assert [entry.id for entry in router.log] == ["b"]
    assert router.row(b"k", "a") == Row(0, -1)
    await router.route([given(2, "a")])
    assert len(router.log) == 1, "a duplicate of what has expired"


async def test_an_adopted_ingress_has_the_producers_times(router: RouterPartition) -> None:
    now = int(time.time() * 1000)  # the worker's own clock is what bounds them
    future = given(0, timestamp=now + 10 * HOUR)
    future.timestamp_type = 0
    late = given(1, time=(now + HOUR) * 1000, timestamp=now + HOUR)
    late.timestamp_type = 0
    await router.route([future, late])
    assert [entry.timestamp for entry in router.log] == [now + 10 * HOUR]
    assert router.log[0].time < (now + HOUR) * 1000, (
        "a time from the future would win over all that is written until then"
    )
    assert [code for code, _ in router.refusals] == ["time-ahead"]


async def test_producers_with_another_partitioner_are_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    key = next(b"%d" % number for number in range(99) if partition_for(b"%d" % number, 12) != 0)
    router = RouterPartition(folder, topics={"partitions": 12})
    await router.open()
    with caplog.at_level(logging.WARNING):
        await router.route([given(0, key=key, source="careless"), given(1, key=key, source="careless")])
    assert [record.getMessage() for record in caplog.records if "careless" in record.getMessage()] != []
    assert "murmur2_random" in caplog.text
    router.store.close()


async def test_only_the_last_rows_of_times_stay(router: RouterPartition) -> None:
    for checkpoint in range(30):
        await router.route([given(checkpoint * 1_000 + number, time=checkpoint) for number in range(1_000)])
    rows = list(router.store.items("flights.times"))
    assert 10 <= len(rows) <= 11, "10,000 times are enough"

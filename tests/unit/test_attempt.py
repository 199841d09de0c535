"""Records on a retry topic: nothing of theirs is lost on the way, and when they are tried again."""

from __future__ import annotations

from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walstream import deadletter, stored
from walstream.attempt import Attempt, next_due, read_attempt, read_dead, retry_message
from walstream.control import redrive
from walstream.entry import Entry
from walstream.errors import RecordRefused, StateMismatch
from walstream.headers import PREFIX, Header, log_headers
from walstream.namespace import RetryOptions
from walstream.record import Message, encode
from walstream.testing.raw_batch import record_on_wire
from walstream.wire import COMPILED, plain

if COMPILED:
    from walstream.wire import compiled
MODULES: list[ModuleType] = [plain, compiled] if COMPILED else [plain]
both = pytest.mark.parametrize("wire", MODULES, ids=["plain", "compiled"][: len(MODULES)])

names = st.text(max_size=12).filter(lambda name: name[:10].lower() != PREFIX)
contents = st.none() | st.binary(max_size=200)
headers = st.lists(st.tuples(names, contents), max_size=6)
times = st.integers(0, 2**53)
reasons = st.text(st.characters(codec="utf-8"), max_size=40)
entries = st.builds(
    Entry,
    st.just(3), st.integers(-1, 2**53), contents, contents, headers, times, times, st.integers(-1, 2**53),
    st.binary(max_size=20),
)  # fmt: skip


def facts(entry: Entry) -> tuple[object, ...]:
    return (
        entry.partition, entry.position, entry.key, entry.value, list(entry.headers), entry.timestamp, entry.time,
        entry.ingress_position, entry.path,
    )  # fmt: skip


def retried(entry: Entry, **changes: object) -> Message:
    words = {"target": "flights.base", "count": 1, "age": 0, "due": 9, "reason": "no", "first": None, "now": 8}
    return retry_message(entry, **(words | changes))  # type: ignore[arg-type]


@both
@given(entries, st.integers(0, 2**31), times, times, reasons, st.none() | reasons, times)
def test_all_of_it_comes_back(
    wire: ModuleType, entry: Entry, count: int, age: int, due: int, reason: str, first: str | None, now: int
) -> None:
    message = retry_message(
        entry, target="flights.base", count=count, age=age, due=due, reason=reason, first=first, now=now
    )
    record = record_on_wire(wire, message, offset=77)
    for raw in (record, stored.load(stored.store(record), 78)):
        attempt = read_attempt(3, raw)
        assert facts(attempt.entry) == facts(entry)
        assert (attempt.count, attempt.age, attempt.due, attempt.when) == (count, age, due, now)
        assert (attempt.last, attempt.first) == (reason, reason if first is None else first)
        # And again, as often as it fails.
        again = retry_message(
            attempt.entry, target="flights.base", count=count, age=age, due=due, reason=reason, first=attempt.first,
            now=now,
        )  # fmt: skip
        assert again == message


@both
@given(entries)
def test_what_the_producer_wrote_is_behind_it_byte_for_byte(wire: ModuleType, entry: Entry) -> None:
    attempt = read_attempt(3, record_on_wire(wire, retried(entry), offset=5))
    writer, expected = wire.RecordWriter(1 << 20), wire.RecordWriter(1 << 20)
    assert attempt.entry.raw is not None
    writer.append_original(attempt.entry.raw, entry.timestamp)
    expected.append(entry.timestamp, entry.key, entry.value, list(entry.headers))
    assert writer.payload() == expected.payload()


@pytest.mark.usefixtures("either_wire")
def test_an_entry_of_the_log_and_its_retry_look_the_same(either_wire: ModuleType) -> None:
    event = encode(b"v", key=b"k", id="1", source="s", type="t", time=5, targets=["base"], extensions={"traceid": "x"})
    added = log_headers(event.headers, time_us=53, position=11, timestamp_ms=99)
    entry = Entry.from_record(3, record_on_wire(either_wire, (b"k", b"v", added), offset=17, timestamp=1_000))
    record = record_on_wire(either_wire, retried(entry), offset=5, timestamp=2_000)
    again = read_attempt(3, record).entry
    assert facts(again) == facts(entry)
    assert (again.id, again.source, again.type, again.payload) == ("1", "s", "t", b"v")
    assert again.is_for("base") and not again.is_for("other")
    assert again.size >= entry.size
    # And to whoever reads it as an entry of the log.
    assert facts(Entry.from_record(3, record)) == (3, 5, *facts(entry)[2:])


def test_what_came_from_outside_the_log_has_no_position_and_no_error_yet() -> None:
    entry = Entry(3, -1, b"k", b"v", [], 1, 2, -1)
    message = retried(entry, count=0, reason=None)
    assert not {"walstream-log-position", "walstream-error"} & dict(message.headers).keys()
    attempt = read_attempt(3, record_on_wire(plain, message))
    assert (attempt.entry.position, attempt.count, attempt.last, attempt.first) == (-1, 0, None, None)


def test_errors_are_bounded() -> None:
    entry = Entry(3, 1, b"k", b"v", [], 1, 2, 3)
    attempt = read_attempt(3, record_on_wire(plain, retried(entry, reason="é" * 5_000, first="half \ud800" * 500)))
    assert attempt.last == "é" * 1_000
    assert attempt.first is not None and attempt.first.startswith("half \\ud800half")


# Dead letters


def dead_record(entry: Entry, **words: object) -> Message:
    known = {"target": "flights.base", "reason": "no", "attempt": 3, "now": 8, "first": "maybe", "age": 700}
    return deadletter.dead(entry, **(known | words))  # type: ignore[arg-type]


@both
@given(entries)
def test_a_dead_letter_can_be_read_and_begins_anew_when_it_is_redriven(wire: ModuleType, entry: Entry) -> None:
    message = dead_record(entry)
    letter = read_dead(3, record_on_wire(wire, message))
    assert facts(letter.entry) == facts(entry)
    assert (letter.count, letter.age, letter.due, letter.when) == (3, 700, 0, 8)
    assert (letter.last, letter.first) == ("no", "maybe")
    record = record_on_wire(wire, redrive(*message))
    for raw in (record, stored.load(stored.store(record), 78)):
        anew = read_attempt(3, raw)
        assert facts(anew.entry) == facts(entry)
        assert (anew.count, anew.age, anew.due, anew.last, anew.first) == (0, 0, 0, "no", None)


def test_a_letter_of_the_first_attempt_has_no_age() -> None:
    message = dead_record(Entry(3, 1, b"k", b"v", [], 1, 2, 3), age=None, first=None)
    letter = read_dead(3, record_on_wire(plain, message))
    assert (letter.age, letter.first) == (0, "no")


# What somebody else wrote

GOOD = retried(Entry(3, 1, b"k", b"v", [("own", b"1")], 1, 2, 3))


def changed(name: str, value: bytes | None) -> list[Header]:
    return [(header, value if header == name else text) for header, text in GOOD.headers]


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("own", b"1"), *GOOD.headers],
        dead_record(Entry(3, 1, b"k", b"v", [], 1, 2, 3)).headers,  # copied from the DLQ by hand
        log_headers([], time_us=1, position=2, timestamp_ms=3),
        *(
            [header for header in GOOD.headers if header[0] != name]
            for name in ("walstream-version", "walstream-time", "walstream-due", "walstream-attempt", "walstream-when")
        ),
        changed("walstream-due", b"soon"),
        changed("walstream-attempt", None),
        changed("walstream-log-position", b""),
        changed("walstream-version", b"0"),
        changed("walstream-version", b"x"),
    ],
)
@pytest.mark.usefixtures("either_wire")
def test_what_walstream_did_not_write_is_refused(headers: list[Header], either_wire: ModuleType) -> None:
    with pytest.raises(RecordRefused, match="the record at offset 5 was not written by walstream") as refusal:
        read_attempt(3, record_on_wire(either_wire, (b"k", b"v", headers), offset=5))
    assert refusal.value.code == "not-an-attempt"


@pytest.mark.parametrize("read", [read_attempt, read_dead])
def test_a_newer_format_is_refused(read: object) -> None:
    record = record_on_wire(plain, (b"k", b"v", changed("walstream-version", b"2")))
    with pytest.raises(StateMismatch, match="added headers of format 2; this version of walstream reads 1"):
        read(3, record)  # type: ignore[operator]


# When


OPTIONS = RetryOptions.model_construct(attempts=5, age=10_000, initial=100, multiplier=2.0, max=1_000)
draws = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize(("count", "longest"), [(1, 100), (2, 200), (3, 400), (4, 800)])
def test_waits_grow_with_full_jitter(count: int, longest: int) -> None:
    assert next_due(OPTIONS, count, 0, None, 5, 0.0) == (5, 0)
    assert next_due(OPTIONS, count, 50, None, 5, 0.5) == (5 + longest * 500, 50 + longest // 2)
    assert next_due(OPTIONS.model_copy(update={"max": 150}), count, 0, None, 0, 0.5) == (
        min(longest, 150) * 500, min(longest, 150) // 2,
    )  # fmt: skip


def test_attempts_and_age_are_bounds() -> None:
    assert next_due(OPTIONS, 5, 0, None, 0, 0.5) is None
    assert next_due(OPTIONS, 1, 10_000, None, 0, 0.5) is None
    assert next_due(OPTIONS, 4, 9_999, None, 0, 0.9) == (1_000, 10_000)  # one more, when its time is over


def test_the_target_is_left_alone_for_as_long_as_it_asks() -> None:
    assert next_due(OPTIONS, 1, 0, 2.5, 7, 0.5) == (7 + 2_500_000, 2_500)
    assert next_due(OPTIONS, 1, 0, 0.001, 7, 0.5) == (7 + 50_000, 50)
    for never in (3_600.0, float("inf")):
        assert next_due(OPTIONS, 1, 4_000, never, 0, 0.5) == (6_000_000, 10_000)
    for nonsense in (-1.0, float("nan")):
        assert next_due(OPTIONS, 1, 0, nonsense, 0, 0.5) == (50_000, 50)


@given(
    st.builds(
        RetryOptions.model_construct,
        attempts=st.integers(1, 10**6),
        age=st.integers(0, 10**12),
        initial=st.integers(1, 1_000),
        multiplier=st.floats(1, 100), max=st.integers(1_000, 10**9),
    ),
    st.integers(1, 10**6), st.integers(0, 10**12), st.none() | st.floats(), times, draws,
)  # fmt: skip
def test_no_wait_is_too_long(
    options: RetryOptions, count: int, age: int, after: float | None, now: int, draw: float
) -> None:
    planned = next_due(options, count, age, after, now, draw)
    assert (planned is None) == (count >= options.attempts or age >= options.age)
    if planned is not None:
        due, later = planned
        assert due - now == 1_000 * (later - age)
        assert age <= later <= options.age
        if after is None:
            assert later - age <= options.max


def test_an_attempt_is_at_once_where_nothing_else_is_said() -> None:
    attempt = Attempt(Entry(3, 1, b"k", b"v", [], 1, 2, 3))
    assert (attempt.count, attempt.age, attempt.due, attempt.last, attempt.first) == (0, 0, 0, None, None)


NUMBER = st.sampled_from([b"0", b"1", b"-1", b"-2", b"77", b"123456789012345678", b"9" * 19, b"+1", b" 1", b"", None])
NUMBERS = [f"walstream-{name}" for name in ("time", "position", "timestamp", "attempt", "due", "age", "when")]
MORE = st.lists(
    st.tuples(
        st.sampled_from([*NUMBERS, "walstream-version", "walstream-log-position", "walstream-error", "walstream-kind",
                         "walstream-path", "walstream-control", "walstream-x", "Walstream-time", "ce_type",
                         "ce_waltargets", "ce_partitionkey", "content-type", "trace"]),
        NUMBER | st.sampled_from([b"t", "ä".encode(), b"application/cloudevents+json"]),
    ),
    max_size=2,
)  # fmt: skip


@pytest.mark.skipif(not COMPILED, reason="walstream was installed without a C compiler")
@given(st.data(), MORE, MORE)
def test_what_is_read_where_it_stands_is_what_its_headers_say(
    data: st.DataObject, more: list[Header], own: list[Header]
) -> None:
    numbers = [(name, data.draw(NUMBER | st.just(b"5") | st.just(b"5"))) for name in NUMBERS]
    ours = [("walstream-version", b"1"), ("walstream-target", b"flights.base"), *numbers, *more]
    event = encode(b"{}", key=b"k", id="i", source="s", type="t", time=None)
    record = record_on_wire(compiled, (b"k", b"{}", [*ours, *event.headers, *own]), offset=7)
    found = compiled.plain_attempt(record)
    if found is None:
        return
    read, parsed = read_attempt(3, record), read_dead(3, record)
    assert facts(read.entry) == facts(parsed.entry)
    assert (read.count, read.age, read.due, read.last, read.first, read.when) == (
        parsed.count, parsed.age, parsed.due, None, None, parsed.when,
    )  # fmt: skip
    assert (read.entry.type, read.entry.payload) == (parsed.entry.record.type, parsed.entry.record.payload)
    assert read.entry.kind == parsed.entry.kind


@pytest.mark.skipif(not COMPILED, reason="walstream was installed without a C compiler")
def test_what_no_target_has_said_anything_about_is_read_where_it_stands() -> None:
    event = encode(b"{}", key=b"k", id="i", source="s", type="t", time=None)
    for position in (-1, 12):
        entry = Entry(3, position, b"k", b"{}", event.headers, 5, 6, -1)
        record = record_on_wire(compiled, retried(entry, reason=None), offset=7)
        assert compiled.plain_attempt(record) == (6, -1, 5, position, 1, 0, 9, 8, b"t")

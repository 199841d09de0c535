"""The verifier itself: right histories pass, and each way of breaking one is caught by the invariant that it breaks."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walstream.testing.history import Answer, Content, Headers, History, Observed, Progress, Target, Written
from walstream.testing.invariants import explain, store_differs, violations
from walstream.testing.ledger import Ledger

PARTITIONS = 3
EPOCH = 1_700_000_000_000  # ms


def build(seed: int) -> History:
    """A right history: what a tiny model of walstream makes of random records."""
    rng = random.Random(seed)
    ledger, ingress, log, refused = Ledger(), [], [], []
    offsets: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    seen: set[object] = set()
    times: dict[int, set[int]] = defaultdict(set)

    def append(topic: str, records: list[Observed], partition: int, content: Content, added: Headers = ()) -> Observed:
        offset = offsets[topic][partition]
        offsets[topic][partition] = offset + rng.choice((1, 1, 1, 2))  # 2: a transaction's marker is in between
        stamp = EPOCH + len(records)
        observed = Observed(partition, offset, content.key, content.value, content.headers + added, stamp)
        records.append(observed)
        return observed

    for number in range(rng.randint(12, 40)):
        key = rng.choice((b"a", b"b", b"c", b"d", None))
        partition = rng.randrange(PARTITIONS) if key is None else key[0] % PARTITIONS
        millis = EPOCH + rng.randrange(5)
        time = datetime.fromtimestamp(millis / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        name = f"id-{rng.randrange(number + 1)}" if rng.random() < 0.2 else f"id-{number}"
        headers: Headers = (("ce_specversion", b"1.0"), ("ce_id", name.encode()), ("ce_source", b"/test"))
        headers += (("ce_type", b"t"), ("ce_time", time.encode()), ("twice", b"1"), ("twice", None))
        if rng.random() < 0.1:
            headers += (("ce_waltargets", b"copy, other"),)
        understood = rng.random() < 0.9
        if not understood:
            headers = (("junk", b""),)
        content = Content(key, rng.choice((None, b"", b"value-%d" % number)), headers, millis)
        answer = rng.choice((Answer.ACKED,) * 8 + (Answer.FAILED, Answer.ABORTED, Answer.UNKNOWN))
        if answer in (Answer.FAILED, Answer.ABORTED):
            ledger.answered(ledger.sent(content, understood=understood), answer)
            continue
        sequence = ledger.sent(content, understood=understood)
        if answer is Answer.UNKNOWN and rng.random() < 0.5:
            continue  # it never arrived
        record = append("ingress", ingress, partition, content)
        if answer is Answer.ACKED:
            ledger.answered(sequence, answer, partition=partition, offset=record.offset)
        position = (("walstream-position", b"%d" % record.offset), ("walstream-timestamp", b"%d" % record.timestamp))
        if not understood:
            append("dlq", refused, partition, content, position)
        elif (partition, record.identity) not in seen:
            seen.add((partition, record.identity))
            effective = millis * 1000
            while effective in times[partition]:
                effective += 10
            times[partition].add(effective)
            append("log", log, partition, content, (*position, ("walstream-time", b"%d" % effective)))

    copied, copies = [record for record in log if record.is_for("copy")], []
    for record in copied:
        copies.append(
            Observed(0, len(copies), record.key, record.value, record.content.headers, record.content[3] or 0)
        )
    dead = [record for record in log if record.is_for("base") and record.value == b""]
    alive = [record for record in log if record.is_for("base") and record.value != b""]
    back = rng.randrange(len(alive) + 1)
    again = rng.randrange(back + 1)
    deliveries = alive[:back] + alive[again:]  # killed at `back`, the last checkpoint was at `again`

    progress = []
    for _ in range(3):
        done = rng.randrange(len(copied) + 1)
        committed = {
            p: max((r.offset + 1 for r in copied[:done] if r.partition == p), default=0) for p in range(PARTITIONS)
        }
        for record in log:  # not meant for this target, and so not held back by it
            if record.offset == committed[record.partition] and not record.is_for("copy"):
                committed[record.partition] += 1
        progress.append(Progress("copy", committed, {"target": {0: done}}))
        at = {p: rng.choice([0, *(r.offset + 1 for r in ingress if r.partition == p)]) for p in range(PARTITIONS)}
        below = {(r.partition, r.offset) for r in ingress if r.offset < at[r.partition]}
        ends = {
            name: {
                p: max(
                    (r.offset + 1 for r in records if (p, r.ingress_position) in below and r.partition == p), default=0
                )
                for p in range(PARTITIONS)
            }
            for name, records in (("log", log), ("dlq", refused))
        }
        progress.append(Progress("router", at, ends))
    targets = (Target("copy", copies, once=True), Target("base", deliveries, dead))
    return History(ledger.written(), ingress, log, refused, targets, progress, {"router": 0, "copy": 0})


def without(records: Sequence[Observed], index: int) -> list[Observed]:
    return [record for number, record in enumerate(records) if number != index]


def changed_at(records: Sequence[Observed], index: int, **changes: object) -> list[Observed]:
    return [replace(r, **changes) if number == index else r for number, r in enumerate(records)]


def with_target(history: History, name: str, **changes: object) -> History:
    return replace(history, targets=[replace(t, **changes) if t.name == name else t for t in history.targets])


def target(history: History, name: str) -> Target:
    return next(target for target in history.targets if target.name == name)


def neighbours(records: Sequence[Observed]) -> list[tuple[int, int]]:
    """Pairs of places at which one key stands twice, nothing of that key between, each identity once."""
    last: dict[bytes, int] = {}
    pairs = []
    for index, record in enumerate(records):
        if record.key is not None and record.identity is not None:
            if record.key in last:
                pairs.append((last[record.key], index))
            last[record.key] = index
    return pairs


def swapped(records: Sequence[Observed], pair: tuple[int, int]) -> list[Observed]:
    """The two change places, and offsets with them; what else they are stays theirs."""
    left, right = records[pair[0]], records[pair[1]]
    changed = changed_at(records, pair[0], **_payload(right))
    return changed_at(changed, pair[1], **_payload(left))


def _payload(record: Observed) -> dict[str, object]:
    return {name: getattr(record, name) for name in ("key", "value", "headers", "timestamp")}


Break = Callable[[History, random.Random], History | None]


def drop_from_ingress(history: History, rng: random.Random) -> History | None:
    acked = {written.position for written in history.written if written.answer is Answer.ACKED}
    places = [index for index, record in enumerate(history.ingress) if record.position in acked]
    return replace(history, ingress=without(history.ingress, rng.choice(places))) if places else None


def drop_from_log(history: History, rng: random.Random) -> History | None:
    return replace(history, log=without(history.log, rng.randrange(len(history.log)))) if history.log else None


def drop_from_dlq(history: History, rng: random.Random) -> History | None:
    return replace(history, refused=history.refused[1:]) if history.refused else None


def drop_from_copy(history: History, rng: random.Random) -> History | None:
    copies = target(history, "copy").deliveries
    return with_target(history, "copy", deliveries=without(copies, rng.randrange(len(copies)))) if copies else None


def drop_from_target_dlq(history: History, rng: random.Random) -> History | None:
    dead = target(history, "base").dead
    return with_target(history, "base", dead=dead[1:]) if dead else None


def invent(history: History, rng: random.Random) -> History | None:
    headers = (("ce_id", b"?"), ("ce_source", b"/nobody"), ("walstream-position", b"0"), ("walstream-time", b"10"))
    return replace(history, log=[*history.log, Observed(0, 10_000, b"a", b"", headers, EPOCH)])


def apply_the_aborted(history: History, rng: random.Random) -> History | None:
    if not history.log or history.log[0].identity is None:
        return None
    content = history.log[0].content
    if any(written.identity == history.log[0].identity for written in history.written[1:]):
        return None
    return replace(history, written=[Written(content, 0, Answer.ABORTED)])


def leave_pending(history: History, rng: random.Random) -> History | None:
    return replace(history, lag={"copy": 1})


def kill_the_applied(history: History, rng: random.Random) -> History | None:
    base = target(history, "base")
    return with_target(history, "base", dead=[*base.dead, base.deliveries[0]]) if base.deliveries else None


def refuse_the_logged(history: History, rng: random.Random) -> History | None:
    return replace(history, refused=[*history.refused, rng.choice(history.log)]) if history.log else None


def swap_in_log(history: History, rng: random.Random) -> History | None:
    pairs = neighbours(history.log)
    return replace(history, log=swapped(history.log, rng.choice(pairs))) if pairs else None


def swap_in_copy(history: History, rng: random.Random) -> History | None:
    copies = target(history, "copy").deliveries
    pairs = neighbours(copies)
    return with_target(history, "copy", deliveries=swapped(copies, rng.choice(pairs))) if pairs else None


def skip_in_redelivery(history: History, rng: random.Random) -> History | None:
    """The last record of a key is delivered in the middle of the first pass, its predecessor only later."""
    copies = list(target(history, "copy").deliveries)
    pairs = neighbours(copies)
    if not pairs:
        return None
    left, right = rng.choice(pairs)
    return with_target(history, "copy", once=False, deliveries=[*copies[:left], copies[right], *copies[left:]])


def repeat_in_log(history: History, rng: random.Random) -> History | None:
    places = [record for record in history.log if record.identity is not None]
    if not places:
        return None
    again = replace(rng.choice(places), offset=10_000)
    return replace(history, log=[*history.log, again])


def repeat_in_copy(history: History, rng: random.Random) -> History | None:
    copies = target(history, "copy").deliveries
    return with_target(history, "copy", deliveries=[*copies, rng.choice(copies)]) if copies else None


def log_the_second(history: History, rng: random.Random) -> History | None:
    """The log holds a later occurrence of an identity instead of the first."""
    for index, record in enumerate(history.log):
        later = [r for r in history.ingress if r.identity == record.identity and r.partition == record.partition][1:]
        if later:
            headers = tuple(header for header in record.headers if header[0] != "walstream-position")
            headers += (("walstream-position", b"%d" % later[0].offset),)
            return replace(history, log=changed_at(history.log, index, headers=headers, value=later[0].value))
    return None


def same_time_twice(history: History, rng: random.Random) -> History | None:
    groups = defaultdict(list)
    for index, record in enumerate(history.log):
        groups[record.partition].append(index)
    for places in groups.values():
        if len(places) > 1:
            first, second = places[0], places[1]
            time = history.log[first].header("walstream-time")
            headers = [h for h in history.log[second].headers if h[0] != "walstream-time"]
            headers.append(("walstream-time", time))
            return replace(history, log=changed_at(history.log, second, headers=tuple(headers)))
    return None


def time_lost(history: History, rng: random.Random) -> History | None:
    if not history.log:
        return None
    headers = tuple(header for header in history.log[0].headers if header[0] != "walstream-time")
    return replace(history, log=changed_at(history.log, 0, headers=headers))


def commit_past_unfinished(history: History, rng: random.Random) -> History | None:
    records = [record for record in history.log if record.is_for("copy")]
    if not records:
        return None
    record = rng.choice(records)
    before = [r.identity for r in target(history, "copy").deliveries].index(record.identity)
    sample = Progress("copy", {record.partition: record.offset + 1}, {"target": {0: before}})
    return replace(history, progress=[*history.progress, sample])


def commit_past_unrouted(history: History, rng: random.Random) -> History | None:
    if not history.log:
        return None
    record = rng.choice(history.log)
    committed = {record.partition: (record.ingress_position or 0) + 1}
    sample = Progress("router", committed, {"log": {record.partition: record.offset}, "dlq": {}})
    return replace(history, progress=[*history.progress, sample])


def change_value(history: History, rng: random.Random) -> History | None:
    if not history.log:
        return None
    index = rng.randrange(len(history.log))
    flipped = (history.log[index].value or b"") + b"\x00"
    return replace(history, log=changed_at(history.log, index, value=flipped))


def null_becomes_empty(history: History, rng: random.Random) -> History | None:
    places = [index for index, record in enumerate(history.log) if record.value is None]
    return replace(history, log=changed_at(history.log, rng.choice(places), value=b"")) if places else None


def change_header_at_target(history: History, rng: random.Random) -> History | None:
    copies = target(history, "copy").deliveries
    if not copies:
        return None
    headers = tuple(("twice", b"2") if header == ("twice", b"1") else header for header in copies[0].headers)
    return with_target(history, "copy", deliveries=changed_at(copies, 0, headers=headers))


def headers_reordered(history: History, rng: random.Random) -> History | None:
    if not history.log:
        return None
    headers = history.log[0].headers
    return replace(history, log=changed_at(history.log, 0, headers=(headers[1], headers[0], *headers[2:])))


def change_timestamp(history: History, rng: random.Random) -> History | None:
    copies = target(history, "copy").deliveries
    changed = changed_at(copies, 0, timestamp=copies[0].timestamp + 1) if copies else None
    return with_target(history, "copy", deliveries=changed) if changed else None


def change_key_in_ingress(history: History, rng: random.Random) -> History | None:
    acked = {written.position for written in history.written if written.answer is Answer.ACKED}
    places = [index for index, record in enumerate(history.ingress) if record.position in acked]
    return replace(history, ingress=changed_at(history.ingress, places[0], key=b"z")) if places else None


def change_in_dlq(history: History, rng: random.Random) -> History | None:
    return replace(history, refused=changed_at(history.refused, 0, value=b"?")) if history.refused else None


BREAKS: list[tuple[int, Break]] = [
    (1, drop_from_ingress),
    (1, drop_from_log),
    (1, drop_from_dlq),
    (1, drop_from_copy),
    (1, drop_from_target_dlq),
    (1, invent),
    (1, apply_the_aborted),
    (1, leave_pending),
    (2, drop_from_copy),
    (2, kill_the_applied),
    (2, refuse_the_logged),
    (3, swap_in_log),
    (3, swap_in_copy),
    (3, skip_in_redelivery),
    (5, repeat_in_log),
    (5, repeat_in_copy),
    (5, log_the_second),
    (5, same_time_twice),
    (5, time_lost),
    (7, commit_past_unfinished),
    (7, commit_past_unrouted),
    (10, change_value),
    (10, null_becomes_empty),
    (10, change_header_at_target),
    (10, headers_reordered),
    (10, change_timestamp),
    (10, change_key_in_ingress),
    (10, change_in_dlq),
]


@given(st.integers(min_value=0, max_value=2**32))
def test_a_right_history_passes(seed: int) -> None:
    found = violations(build(seed))
    assert not found, explain(found)


@pytest.mark.parametrize(("invariant", "break_it"), BREAKS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_a_broken_history_is_caught(invariant: int, break_it: Break) -> None:
    tried = 0
    for seed in range(40):
        broken = break_it(build(seed), random.Random(seed))
        if broken is not None:
            tried += 1
            found = violations(broken)
            assert invariant in {violation.invariant for violation in found}, f"seed {seed}: {explain(found)}"
    assert tried >= 10, "the break hardly ever applies, so that this test says little"


def test_a_redelivery_may_go_back_but_never_skip() -> None:
    def record(offset: int) -> Observed:
        headers = (("ce_id", b"%d" % offset), ("ce_source", b"/"), ("walstream-position", b"%d" % offset))
        return Observed(0, offset, b"k", None, headers, EPOCH)

    log = [record(offset) for offset in range(4)]

    def order(*offsets: int) -> list[int]:
        history = History((), (), log, targets=[Target("t", [record(offset) for offset in offsets])])
        return [violation.invariant for violation in violations(history) if violation.invariant == 3]

    assert order(0, 1, 2, 1, 2, 3) == []
    assert order(0, 1, 2, 0, 2, 3) == [3]
    assert order(1, 0, 2, 3) == [3, 3]


rows = st.dictionaries(st.binary(max_size=4), st.binary(max_size=4), max_size=8)


@given(rows)
def test_equal_stores_are_equal(store: dict[bytes, bytes]) -> None:
    assert store_differs(store, dict(store)) == []


@given(rows, st.binary(max_size=4), st.binary(max_size=4), st.booleans())
def test_a_row_that_differs_is_found(store: dict[bytes, bytes], key: bytes, value: bytes, in_local: bool) -> None:
    other = dict(store)
    if other.get(key) == value:
        del other[key]
    else:
        other[key] = value
    found = store_differs(store, other) if in_local else store_differs(other, store)
    assert [violation.invariant for violation in found] == [8]
    assert key.hex() in str(found[0])


def test_an_expired_row_may_be_on_one_side() -> None:
    def expired(key: bytes, value: bytes) -> bool:
        return key == b"old"

    assert store_differs({b"old": b"1", b"new": b"2"}, {b"new": b"2"}, expired=expired) == []
    assert len(store_differs({b"old": b"1", b"new": b"2"}, {}, expired=expired)) == 1


def test_the_ledger_is_honest_about_what_got_no_answer() -> None:
    ledger = Ledger()
    content = Content(b"k", b"v", (), None)
    first, second = ledger.sent(content), ledger.sent(content, understood=False)
    ledger.answered(second, Answer.ACKED, partition=1, offset=7)
    assert [(w.sequence, w.answer, w.position, w.understood) for w in ledger.written()] == [
        (first, Answer.UNKNOWN, None, True),
        (second, Answer.ACKED, (1, 7), False),
    ]
    assert ledger.counts() == {Answer.UNKNOWN: 1, Answer.ACKED: 1}


def test_structured_mode_has_an_identity_too() -> None:
    event = b'{"specversion": "1.0", "id": "7", "source": "/s", "partitionkey": "p", "data": {"id": "no"}}'
    assert Observed(0, 0, None, event, (), 0).identity == (b"p", "/s", "7")
    assert Observed(0, 0, b"k", event, (), 0).identity == (b"k", "/s", "7")
    assert Observed(0, 0, b"k", b"[1]", (), 0).identity is None
    assert Observed(0, 0, b"k", None, (), 0).identity is None

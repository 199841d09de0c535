"""What must hold, as pure functions over a history; each returns what it found broken.

========== ================================= ==============================================================
Invariant  Function                          In short
========== ================================= ==============================================================
1          `lost`, `unanswered`              every acknowledged record is somewhere, and nothing is pending
2          `not_one_end`, `wrong_answers`    a record ends in one way: at a target, dead, cancelled or expired
3          `out_of_order`                    each key in order, without a gap
5          `not_once`, `wrong_times`         an identity stands once in the log; its time settles the order
6          `early`                           nothing is in the log before it is due
7          `committed_too_far`               no committed offset passes a record that is not finished
8          `store_differs`                   a changelog rebuilt equals the local store
10         `changed`                         key, value, headers and timestamp survive
========== ================================= ==============================================================

`violations` runs all that a `History` is enough for (not 8, which compares two stores).
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from walstream.testing.history import (
    Answer,
    Content,
    History,
    Identity,
    Observed,
    Progress,
    Reply,
    Target,
    attributes_of,
    foreign,
)
from walstream.testing.lifecycle import NOBODY, Once, groups, lifecycle, one, refused_at

K = TypeVar("K")
T = TypeVar("T")
REMEMBERED = 10_000
"""As many given times of a partition are part of its state, from the contract."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that must not be.

    Parameters
    ----------
    invariant
        Its number in the table above.
    what
        One sentence with the identities and positions that are needed to look further.
    """

    invariant: int
    what: str

    def __str__(self) -> str:
        return f"invariant {self.invariant}: {self.what}"


def violations(history: History) -> list[Violation]:
    """Check every invariant for which a history is enough."""
    found: list[Violation] = []
    for check in (
        *(lost, unanswered, not_one_end, wrong_answers, out_of_order, not_once, wrong_times, early),
        *(committed_too_far, changed),
    ):
        found += check(history)
    return found


def explain(found: Sequence[Violation], limit: int = 20) -> str:
    """Text for a failed test: how many of each, then the first of them."""
    counts = Counter(violation.invariant for violation in found)
    head = ", ".join(f"{count} of invariant {number}" for number, count in sorted(counts.items()))
    return "\n".join([f"{len(found)} violations ({head})", *(f"  {violation}" for violation in found[:limit])])


# ---------------------------------------------------------------------------------------------- 1: nothing is lost


def lost(history: History) -> list[Violation]:
    """Invariant 1: every acknowledged record is logged, refused, cancelled or expired, then at every target or dead.

    Nothing is pending. What producers were told was not written must not be there, and nothing may stand in the log
    that nobody wrote.
    """
    return [Violation(1, what) for what in _lost(history)]


def _lost(history: History) -> Iterator[str]:
    ingress = {record.position: record for record in history.ingress}
    logged = set(_once(history.log))
    refused = refused_at(history)
    said = lifecycle(history)
    contents = {_sent(record.content) for record in history.ingress}
    for written in history.written:
        # Of what was sent again, and stands there for long, a broker that has restarted says that but not where.
        stands = written.position in ingress if written.offset is not None else _sent(written.content) in contents
        if written.answer is Answer.ACKED and not stands:
            yield f"acknowledged, and not in the ingress: #{written.sequence} {written.identity} at {written.position}"
    yield from _unwanted(history)

    for record in history.ingress:
        in_log = record.identity is not None and (record.partition, record.identity) in logged
        if not (in_log or record.is_action or record.position in refused or said.ended(record)):
            yield f"in the ingress, and neither in the log, refused, cancelled nor expired: {record}"
    for record in history.log:
        origin = ingress.get((record.partition, _or(record.ingress_position)))
        if origin is None or origin.identity != record.identity:
            yield f"in the log, and not at its place in the ingress: {record} from {record.ingress_position}"

    for target in history.targets:
        there = Counter(record.identity for record in (*target.deliveries, *target.dead))
        wanted: Counter[Identity | None] = Counter()
        for record in history.log:
            if record.is_for(target.name):
                wanted[record.identity] += 1
                if there[record.identity] < wanted[record.identity] and not _may_have_expired(target, record, history):
                    yield f"in the log, and neither at {target.name} nor in its DLQ: {record}"
        if target.pending:
            yield f"not at rest: {target.pending} records wait at {target.name}"
        for record in (*target.deliveries, *target.dead, *target.redriven):
            if record.identity not in wanted:
                yield f"at {target.name} or in its DLQ, and not meant for it in the log: {record}"
    for stage, lag in history.lag.items():
        if lag:
            yield f"not at rest: {stage} is {lag} records behind"
    if history.pending:
        yield f"not at rest: {history.pending} delayed records are pending"


def unanswered(history: History) -> list[Violation]:
    """Invariant 1: every cancel and reschedule is answered, and once more where it had to wait for its write."""
    return [Violation(1, what) for what in _unanswered(history)]


def _unanswered(history: History) -> Iterator[str]:
    said = lifecycle(history)
    for once, action in said.actions.items():
        replies = said.replies.get(once, ())
        if not replies:
            yield f"in the ingress, and not answered: {action}"
        elif replies[-1].outcome == "waiting" and (write := said.writes.get((action.partition, replies[-1].ref))):
            yield f"its write has come, and it waits for ever: {replies[-1]}, {write}"


def _unwanted(history: History) -> Iterator[str]:
    """Records that their producers were told are not there, and that are."""
    absent = {
        written.identity: written
        for written in history.written
        if written.answer in (Answer.FAILED, Answer.ABORTED) and written.identity is not None
    }
    if not absent:
        return
    for written in history.written:
        if written.answer in (Answer.ACKED, Answer.UNKNOWN):
            absent.pop(written.identity or NOBODY, None)
    for name, records in (("ingress", history.ingress), ("log", history.log)):
        for record in records:
            if record.identity in absent:
                yield f"{absent[record.identity].answer.value}, and in the {name}: {record}"


# ------------------------------------------------------------------------------------------- 2: exactly one end


def not_one_end(history: History) -> list[Violation]:
    """Invariant 2: a record ends logged, refused, cancelled or expired, then at each target as applied or dead.

    In one way only.
    """
    return [Violation(2, what) for what in _not_one_end(history)]


def _not_one_end(history: History) -> Iterator[str]:
    logged = {(record.partition, _or(record.ingress_position)) for record in history.log}
    for position, count in Counter(
        (record.partition, _or(record.ingress_position)) for record in history.refused
    ).items():
        if count > 1:
            yield f"{count} times in the namespace's DLQ: ingress {position}"
        if position in logged:
            yield f"in the log and refused: ingress {position}"
    positions = {record.position for record in history.ingress}
    understood = {written.position: written.understood for written in history.written if written.answer is Answer.ACKED}
    for position, record in refused_at(history).items():
        if position not in positions:
            yield f"refused, and not in the ingress: {record} from {position}"
        elif understood.get(position, False):
            yield f"refused, and nothing is wrong with it: {record}, {record.headers}"
    for position in logged:
        if not understood.get(position, True):
            yield f"in the log, and it cannot be understood: ingress {position}"

    said = lifecycle(history)
    for record in history.log:
        if record.is_action:
            yield f"a {record.attributes['walaction']} is in the log: {record}"
        if said.cancelled(record):
            yield f"cancelled, and in the log: {record}"
        if said.cancelled_before(record):
            yield f"a newer cancel was there before it came, and it is in the log: {record}"
        if said.expired_before(record):
            yield f"it had expired when it came or was due, and is in the log: {record}"

    # Without a key an identity may rightly stand in several partitions, and have an end for each.
    logged_times = Counter(record.identity for record in history.log)
    for target in history.targets:
        applied, dead = _identities(target.deliveries), Counter(record.identity for record in target.dead)
        for record in history.log:
            ends = (record.identity in applied) + dead[record.identity]
            least = 0 if _may_have_expired(target, record, history) else 1
            if record.is_for(target.name) and not least <= ends <= logged_times[record.identity]:
                yield f"{ends} ends at {target.name} (applied {record.identity in applied}): {record}"
        for position, count in Counter(record.log_position for record in target.redriven).items():
            if count > target.redrives.get(position, 0):
                yield f"{count} times in the DLQ of {target.name} before it ended, redriven less often: log {position}"


def wrong_answers(history: History) -> list[Violation]:
    """Invariant 2: what a cancel or reschedule is answered is what became of its write."""
    return [Violation(2, what) for what in _wrong_answers(history)]


def _wrong_answers(history: History) -> Iterator[str]:
    said = lifecycle(history)
    for record in history.answers:
        if record.position not in said.readable:
            yield f"in the answers, and none: {record.partition}@{record.offset} {record.value!r}"
    logged = _first(history.log, one)
    for reply in history.replies:
        action = said.actions.get((reply.partition, reply.identity))
        if action is None or action.ref != reply.ref or action.attributes["walaction"] != reply.action:
            yield f"an answer to nothing that was asked: {reply}"
            continue
        there = logged.get((reply.partition, reply.ref))
        if reply.outcome == "sent" and (there is None or there.offset != reply.log_position):
            yield f"it is said to be at {reply.log_position} in the log: {reply}, {there}"
        if reply.outcome == "expired" and there is not None:
            yield f"in the log, and said to have expired: {reply}, {there}"
        if reply.outcome == "cancelled" and not said.has_cancel(reply):
            yield f"there is no cancel that could have done it: {reply}"
        if reply.outcome == "superseded" and not said.has_newer(action):
            yield f"nothing newer was said: {reply}"
        if reply.outcome == "rescheduled" and not (
            reply.due is not None and action.due[0] <= reply.due <= action.due[1]
        ):
            yield f"it said {action.due}, and the answer is {reply.due}: {reply}"


# ---------------------------------------------------------------------------------------------------- 3: order


def out_of_order(history: History) -> list[Violation]:
    """Invariant 3: the log has each key in the ingress's order, and an ordered target sees each key in the log's order.

    What is delayed, or was acted on, stands in the log when it is due, among the others of its key. A target may see
    records again, from any earlier one of the key on, but never one before its predecessor.
    """
    return [Violation(3, what) for what in _out_of_order(history)]


def _out_of_order(history: History) -> Iterator[str]:
    said = lifecycle(history)
    for key, records in _by_key(history.log).items():
        for before, after in itertools.pairwise(records):
            if before.partition != after.partition:
                yield f"key {key!r} is in two partitions of the log: {before}, {after}"
        at_once = [record for record in records if not said.may_wait(record)]
        for before, after in itertools.pairwise(at_once):
            if _or(before.ingress_position) >= _or(after.ingress_position):
                yield f"key {key!r} in the log: {before} is from behind {after} in the ingress"
    for target in history.targets:
        if target.ordered:
            yield from _out_of_order_at(target, history.log)


def _out_of_order_at(target: Target, log: Sequence[Observed]) -> Iterator[str]:
    left_out = _identities(target.dead) | (set() if target.held else _identities(target.redriven))
    expiring = _identities(record for record in log if record.expiry is not None)
    left_out |= expiring - _identities(target.deliveries)
    due = {
        key: [record.identity for record in records if record.is_for(target.name) and record.identity not in left_out]
        for key, records in _by_key(log).items()
    }
    for key, seen in _by_key(target.deliveries).items():
        place = {identity: index for index, identity in enumerate(due.get(key, ()))}
        last = -1
        met: set[Identity | None] = set()
        for record in seen:
            index = place.get(record.identity)
            if index is None:
                continue  # not meant for this target: `lost` says so
            # What came in time may have expired when its key comes again.
            missed = [one for one in due[key][last + 1 : index] if one not in expiring or one not in met]
            if missed:
                yield f"key {key!r} at {target.name}: {record} came before {missed[0]}"
            last = index
            met.add(record.identity)


# ------------------------------------------------------------------------------------- 5: one identity, one effect


def not_once(history: History) -> list[Violation]:
    """Invariant 5: an identity stands once in the log, for its first occurrence; once at targets that promise it."""
    return [Violation(5, what) for what in _not_once(history)]


def _not_once(history: History) -> Iterator[str]:
    first: dict[Once, int] = {}
    refused = refused_at(history)
    for record in history.ingress:
        if record.identity is not None and record.position not in refused:
            first.setdefault((record.partition, record.identity), record.offset)
    for once, records in groups(history.log, one).items():
        if len(records) > 1:
            yield f"{len(records)} times in the log: {', '.join(map(str, records))}"
        if once in first and records[0].ingress_position != first[once]:
            yield f"in the log from {records[0].ingress_position}, and first written at {first[once]}: {records[0]}"
    for target in history.targets:
        if target.once:
            logged = Counter(record.identity for record in history.log)
            for identity, records in groups(target.deliveries, lambda record: record.identity).items():
                if len(records) > max(1, logged[identity]):
                    yield f"{len(records)} times at {target.name}: {', '.join(map(str, records))}"


def wrong_times(history: History) -> list[Violation]:
    """Invariant 5, at a store that settles by time: a free write time is kept, and a given one becomes the next free.

    So no two records of a partition have one effective time, and of equal write times the later in the ingress is
    newer. A record that was pending, and never came into the log, may have been given one.
    """
    return [Violation(5, what) for what in _wrong_times(history)]


def _wrong_times(history: History) -> Iterator[str]:
    logged = set(_once(history.log))
    said = lifecycle(history)
    unlogged = [
        (record.partition, record.offset, record)
        for once, record in said.writes.items()
        if once not in logged and said.may_wait(record)
    ]
    there = [(record.partition, _or(record.ingress_position), record) for record in history.log]
    never = {position[:2] for position in unlogged}
    for places in groups(sorted(there + unlogged, key=lambda place: place[:2]), lambda place: place[0]).values():
        given: dict[int, Observed] = {}
        maybe: set[int] = set()
        for *place, record in places:
            time, written = record.time, record.write_time
            expected = written - written % 10
            if tuple(place) in never:
                while expected in given or expected in maybe:
                    expected += 10
                maybe.add(expected)
                continue
            if time is None:
                yield f"no effective time: {record}"
                continue
            slot = time - time % 10
            while expected in given or (expected in maybe and expected < slot):
                expected += 10
            if slot in given:
                yield f"one effective time, {time}: {given[slot]} and {record}"
            elif slot != expected:
                yield f"effective time {time} instead of {expected}, written at {written}: {record}"
            given[slot] = record
            if len(given) > REMEMBERED:
                del given[next(iter(given))]


# ------------------------------------------------------------------------------------------------- 6: never early


def early(history: History) -> list[Violation]:
    """Invariant 6: by the broker's clock nothing is in the log before it is due, by what was said last."""
    said = lifecycle(history)
    return [
        Violation(6, f"in the log at {record.timestamp} ms, and due at {due} us: {record}")
        for record in history.log
        if (due := said.due(record)) is not None and record.timestamp * 1000 + 999 < due
    ]


# ------------------------------------------------------------------------------------------- 7: committed offsets


def committed_too_far(history: History) -> list[Violation]:
    """Invariant 7: at each sample, everything below a committed offset had left its stage."""
    return [Violation(7, what) for what in _committed_too_far(history)]


def _committed_too_far(history: History) -> Iterator[str]:
    for stage, samples in groups(history.progress, lambda sample: sample.stage).items():
        if stage == "router":
            said = lifecycle(history)
            source = [record for record in history.ingress if not said.may_wait(record)]
            finished = _finished_by_router(history)
        else:
            target = next(target for target in history.targets if target.name == stage)
            source = [record for record in history.log if record.is_for(target.name)]
            finished = _finished_at(target)
        by_partition = groups(source, lambda record: record.partition)
        checked: dict[int, int] = defaultdict(int)
        before: Progress | None = None
        for sample in samples:
            if before is not None and not _reaches(sample, before):
                checked.clear()  # else what was finished at one sample is so at the next: each record is looked at once
            before = sample
            for partition, committed in sample.committed.items():
                records = by_partition.get(partition, [])
                while checked[partition] < len(records) and records[checked[partition]].offset < committed:
                    record = records[checked[partition]]
                    checked[partition] += 1
                    output, place, offset = finished(record) or ("", 0, 0)
                    if offset >= sample.outputs.get(output, {}).get(place, 0):
                        yield f"{stage} had committed {committed}, and was not done with {record}"


Place = tuple[str, int, int]
"""An output, its partition, and the offset at which a record shows that it is finished."""


def _finished_by_router(history: History) -> Callable[[Observed], Place | None]:
    logged, refused = _first(history.log, one), refused_at(history)
    answered: dict[Once, Reply] = {}
    for reply in history.replies:
        answered.setdefault((reply.partition, reply.identity), reply)

    def finished(record: Observed) -> Place | None:
        if record.is_action and (reply := answered.get(one(record) or (-1, NOBODY))) is not None:
            return "answers", reply.partition, reply.offset
        if (there := logged.get(one(record))) is not None:
            return "log", *there.position
        return ("dlq", *refused[record.position].position) if record.position in refused else None

    return finished


def _finished_at(target: Target) -> Callable[[Observed], Place | None]:
    delivered = _first(target.deliveries, lambda record: record.identity)
    # Without a key an identity may stand in several partitions, and is delivered from each.
    delivered_here = _first(target.deliveries, one)
    dead = _first(target.dead, lambda record: record.identity)

    def finished(record: Observed) -> Place | None:
        there = delivered_here.get(one(record)) or delivered.get(record.identity)
        if there is not None:
            return "target", *there.position
        return ("dlq", *dead[record.identity].position) if record.identity in dead else None

    return finished


def _reaches(later: Progress, earlier: Progress) -> bool:
    """Whether no output of a sample is behind what it was at an earlier one."""
    return all(
        later.outputs.get(output, {}).get(partition, 0) >= end
        for output, ends in earlier.outputs.items()
        for partition, end in ends.items()
    )


# ------------------------------------------------------------------------------------------ 8: changelog and store


def store_differs(
    rebuilt: Mapping[bytes, bytes],
    local: Mapping[bytes, bytes],
    *,
    expired: Callable[[bytes, bytes], bool] = lambda key, value: False,
    name: str = "table",
) -> list[Violation]:
    """Invariant 8: a table rebuilt from its changelog equals the local store, but for what has expired.

    Parameters
    ----------
    rebuilt, local
        Rows of one partition, from the changelog and from RocksDB.
    expired
        Whether a row may be on one side only.
    """
    found = []
    for key in sorted(rebuilt.keys() | local.keys()):
        left, right = rebuilt.get(key), local.get(key)
        if left != right and not any(expired(key, value) for value in (left, right) if value is not None):
            sides = f"{_hex(left)} in the changelog, {_hex(right)} in the store"
            found.append(Violation(8, f"{name}: row {key.hex()} is {sides}"))
    return found


# ------------------------------------------------------------------------------------------------ 10: untouched


def changed(history: History) -> list[Violation]:
    """Invariant 10: key, value, headers and timestamp are the same from the producer's hand to the targets and DLQs.

    The ingress has the broker's append time, so the ledger's timestamp is not compared.
    """
    return [Violation(10, what) for what in _changed(history)]


def _changed(history: History) -> Iterator[str]:
    ingress = {record.position: record for record in history.ingress}
    for written in history.written:
        if written.answer is Answer.ACKED and written.position in ingress:
            observed = ingress[written.position]
            key, value, headers, _ = written.content
            content = Content(key, value, foreign(headers), observed.content.timestamp)
            yield from _difference("the ingress", content, observed)
    for name, records in (("the log", history.log), ("the namespace's DLQ", history.refused)):
        for record in records:
            origin = ingress.get((record.partition, _or(record.ingress_position)))
            if origin is not None and record.header("walstream-size") is None:
                yield from _difference(name, origin.content, record)
    logged: dict[Identity | None, list[Content]] = defaultdict(list)
    for record in history.log:
        logged[record.identity].append(record.content)
    for target in history.targets:
        letters = [*target.dead, *target.redriven]
        for name, records in ((target.name, target.deliveries), (f"the DLQ of {target.name}", letters)):
            seen = _attributes_only if records is target.deliveries and not target.whole else _all_of_it
            for record in records:
                contents = [seen(content) for content in logged.get(record.identity, ())]
                if contents and seen(record.content) not in contents:
                    yield from _difference(name, logged[record.identity][0], record)


def _sent(content: Content) -> Content:
    """What is there of a record as its producer has it: the time may be the broker's."""
    return content._replace(headers=foreign(content.headers), timestamp=None)


def _all_of_it(content: Content) -> Content:
    return content


def _attributes_only(content: Content) -> Content:
    """What survives where headers travel only as far as they are attributes of the event."""
    attributes = sorted(attributes_of(content).items())
    return content._replace(headers=tuple((name, text.encode()) for name, text in attributes))


def _difference(name: str, before: Content, after: Observed) -> Iterator[str]:
    for part, left, right in zip(Content._fields, before, after.content, strict=True):
        if left != right:
            yield f"{part} changed on the way to {name}: {left!r} became {right!r}: {after}"


# ---------------------------------------------------------------------------------------------------- helpers


def _may_have_expired(target: Target, record: Observed, history: History) -> bool:
    """Whether a record of the log may rightly have come to nothing, since it expired while it waited at a target."""
    return not target.once and record.expiry is not None and record.expiry <= history.ended * 1000


def _or(number: int | None) -> int:
    """A position that no record has, where there is none."""
    return -1 if number is None else number


def _hex(value: bytes | None) -> str:
    return "absent" if value is None else value.hex() or "empty"


def _once(records: Iterable[Observed]) -> Iterator[Once]:
    return (once for record in records if (once := one(record)) is not None)


def _identities(records: Iterable[Observed]) -> set[Identity | None]:
    return {record.identity for record in records}


def _by_key(records: Iterable[Observed]) -> dict[bytes, list[Observed]]:
    """Records that have a key, by it, in their order."""
    grouped: dict[bytes, list[Observed]] = defaultdict(list)
    for record in records:
        if record.identity is not None and record.identity.key is not None:
            grouped[record.identity.key].append(record)
    return grouped


def _first(records: Iterable[Observed], of: Callable[[Observed], K]) -> dict[K, Observed]:
    found: dict[K, Observed] = {}
    for record in records:
        found.setdefault(of(record), record)
    return found

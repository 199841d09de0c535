"""What must hold, as pure functions over a history; each returns what it found broken.

========== ================================= ==============================================================
Invariant  Function                          In short
========== ================================= ==============================================================
1          `lost`                            every acknowledged record is somewhere, and nothing is pending
2          `not_one_end`                     a record ends in one way at a target
3          `out_of_order`                    each key in order, without a gap
5          `not_once`, `wrong_times`         an identity stands once in the log; its time settles the order
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

from walstream.testing.history import Answer, Content, History, Identity, Observed, Position, Progress, Target, foreign

K = TypeVar("K")
T = TypeVar("T")
Once = tuple[int, Identity]
"""A partition and an identity: deduplication is by partition."""

NOBODY = Identity(None, "", "")
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
    for check in (lost, not_one_end, out_of_order, not_once, wrong_times, committed_too_far, changed):
        found += check(history)
    return found


def explain(found: Sequence[Violation], limit: int = 20) -> str:
    """Text for a failed test: how many of each, then the first of them."""
    counts = Counter(violation.invariant for violation in found)
    head = ", ".join(f"{count} of invariant {number}" for number, count in sorted(counts.items()))
    return "\n".join([f"{len(found)} violations ({head})", *(f"  {violation}" for violation in found[:limit])])


# ---------------------------------------------------------------------------------------------- 1: nothing is lost


def lost(history: History) -> list[Violation]:
    """Invariant 1: every acknowledged record is logged or refused, then at every target or dead; nothing is pending.

    What producers were told was not written must not be there, and nothing may stand in the log that nobody wrote.
    """
    return [Violation(1, what) for what in _lost(history)]


def _lost(history: History) -> Iterator[str]:
    ingress = {record.position: record for record in history.ingress}
    logged = set(_once(history.log))
    refused = _refused(history)
    for written in history.written:
        if written.answer is Answer.ACKED and written.position not in ingress:
            yield f"acknowledged, and not in the ingress: #{written.sequence} {written.identity} at {written.position}"
    yield from _unwanted(history)

    for record in history.ingress:
        in_log = record.identity is not None and (record.partition, record.identity) in logged
        if not in_log and record.position not in refused:
            yield f"in the ingress, and neither in the log nor refused: {record}"
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
                if there[record.identity] < wanted[record.identity]:
                    yield f"in the log, and neither at {target.name} nor in its DLQ: {record}"
        for record in (*target.deliveries, *target.dead):
            if record.identity not in wanted:
                yield f"at {target.name} or in its DLQ, and not meant for it in the log: {record}"
    for stage, lag in history.lag.items():
        if lag:
            yield f"not at rest: {stage} is {lag} records behind"


def _unwanted(history: History) -> Iterator[str]:
    """Records that their producers were told are not there, and that are."""
    absent = {
        written.identity: written
        for written in history.written
        if written.answer in (Answer.FAILED, Answer.ABORTED) and written.identity is not None
    }
    for written in history.written:
        if written.answer in (Answer.ACKED, Answer.UNKNOWN):
            absent.pop(written.identity or NOBODY, None)
    for name, records in (("ingress", history.ingress), ("log", history.log)):
        for record in records:
            if record.identity in absent:
                yield f"{absent[record.identity].answer.value}, and in the {name}: {record}"


def _refused(history: History) -> dict[Position, Observed]:
    """The namespace's DLQ by the position in the ingress."""
    return {(record.partition, _or(record.ingress_position)): record for record in history.refused}


# ------------------------------------------------------------------------------------------- 2: exactly one end


def not_one_end(history: History) -> list[Violation]:
    """Invariant 2: a record ends as logged or refused, then at each target as applied or dead; in one way only."""
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
    for position, record in _refused(history).items():
        if position not in positions:
            yield f"refused, and not in the ingress: {record} from {position}"
        elif understood.get(position, False):
            yield f"refused, and nothing is wrong with it: {record}, {record.headers}"
    for position in logged:
        if not understood.get(position, True):
            yield f"in the log, and it cannot be understood: ingress {position}"

    # Without a key an identity may rightly stand in several partitions, and have an end for each.
    logged_times = Counter(record.identity for record in history.log)
    for target in history.targets:
        applied, dead = _identities(target.deliveries), Counter(record.identity for record in target.dead)
        for record in history.log:
            ends = (record.identity in applied) + dead[record.identity]
            if record.is_for(target.name) and not 1 <= ends <= logged_times[record.identity]:
                yield f"{ends} ends at {target.name} (applied {record.identity in applied}): {record}"


# ---------------------------------------------------------------------------------------------------- 3: order


def out_of_order(history: History) -> list[Violation]:
    """Invariant 3: the log has each key in the ingress's order, and an ordered target sees each key in the log's order.

    A target may see records again, from any earlier one of the key on, but never one before its predecessor.
    """
    return [Violation(3, what) for what in _out_of_order(history)]


def _out_of_order(history: History) -> Iterator[str]:
    for key, records in _by_key(history.log).items():
        for before, after in itertools.pairwise(records):
            if before.partition != after.partition:
                yield f"key {key!r} is in two partitions of the log: {before}, {after}"
            elif _or(before.ingress_position) >= _or(after.ingress_position):
                yield f"key {key!r} in the log: {before} is from behind {after} in the ingress"
    for target in history.targets:
        if target.ordered:
            yield from _out_of_order_at(target, history.log)


def _out_of_order_at(target: Target, log: Sequence[Observed]) -> Iterator[str]:
    dead = _identities(target.dead)
    due = {
        key: [record.identity for record in records if record.is_for(target.name) and record.identity not in dead]
        for key, records in _by_key(log).items()
    }
    for key, seen in _by_key(target.deliveries).items():
        place = {identity: index for index, identity in enumerate(due.get(key, ()))}
        last = -1
        for record in seen:
            index = place.get(record.identity)
            if index is None:
                continue  # not meant for this target: `lost` says so
            if index > last + 1:
                yield f"key {key!r} at {target.name}: {record} came before {due[key][last + 1]}"
            last = index


# ------------------------------------------------------------------------------------- 5: one identity, one effect


def not_once(history: History) -> list[Violation]:
    """Invariant 5: an identity stands once in the log, for its first occurrence; once at targets that promise it."""
    return [Violation(5, what) for what in _not_once(history)]


def _not_once(history: History) -> Iterator[str]:
    first: dict[Once, int] = {}
    refused = _refused(history)
    for record in history.ingress:
        if record.identity is not None and record.position not in refused:
            first.setdefault((record.partition, record.identity), record.offset)
    for once, records in _groups(history.log, _one).items():
        if len(records) > 1:
            yield f"{len(records)} times in the log: {', '.join(map(str, records))}"
        if once in first and records[0].ingress_position != first[once]:
            yield f"in the log from {records[0].ingress_position}, and first written at {first[once]}: {records[0]}"
    for target in history.targets:
        if target.once:
            logged = Counter(record.identity for record in history.log)
            for identity, records in _groups(target.deliveries, lambda record: record.identity).items():
                if len(records) > max(1, logged[identity]):
                    yield f"{len(records)} times at {target.name}: {', '.join(map(str, records))}"


def wrong_times(history: History) -> list[Violation]:
    """Invariant 5, at a store that settles by time: a free write time is kept, and a given one becomes the next free.

    So no two records of a partition have one effective time, and of equal write times the later in the log is newer.
    """
    return [Violation(5, what) for what in _wrong_times(history)]


def _wrong_times(history: History) -> Iterator[str]:
    for records in _groups(history.log, lambda record: record.partition).values():
        given: dict[int, Observed] = {}
        for record in records:
            time, written = record.time, record.write_time
            if time is None:
                yield f"no effective time: {record}"
                continue
            slot, expected = time - time % 10, written - written % 10
            while expected in given:
                expected += 10
            if slot in given:
                yield f"one effective time, {time}: {given[slot]} and {record}"
            elif slot != expected:
                yield f"effective time {time} instead of {expected}, written at {written}: {record}"
            given[slot] = record
            if len(given) > REMEMBERED:
                del given[next(iter(given))]


# ------------------------------------------------------------------------------------------- 7: committed offsets


def committed_too_far(history: History) -> list[Violation]:
    """Invariant 7: at each sample, everything below a committed offset had left its stage."""
    return [Violation(7, what) for what in _committed_too_far(history)]


def _committed_too_far(history: History) -> Iterator[str]:
    for stage, samples in _groups(history.progress, lambda sample: sample.stage).items():
        if stage == "router":
            source, finished = history.ingress, _finished_by_router(history)
        else:
            target = next(target for target in history.targets if target.name == stage)
            source = [record for record in history.log if record.is_for(target.name)]
            finished = _finished_at(target)
        by_partition = _groups(source, lambda record: record.partition)
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
    logged, refused = _first(history.log, _one), _refused(history)

    def finished(record: Observed) -> Place | None:
        if (there := logged.get(_one(record))) is not None:
            return "log", *there.position
        return ("dlq", *refused[record.position].position) if record.position in refused else None

    return finished


def _finished_at(target: Target) -> Callable[[Observed], Place | None]:
    delivered = _first(target.deliveries, lambda record: record.identity)
    # Without a key an identity may stand in several partitions, and is delivered from each.
    delivered_here = _first(target.deliveries, _one)
    dead = _first(target.dead, lambda record: record.identity)

    def finished(record: Observed) -> Place | None:
        there = delivered_here.get(_one(record)) or delivered.get(record.identity)
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
        for name, records in ((target.name, target.deliveries), (f"the DLQ of {target.name}", target.dead)):
            for record in records:
                contents = logged.get(record.identity, ())
                if contents and record.content not in contents:
                    yield from _difference(name, contents[0], record)


def _difference(name: str, before: Content, after: Observed) -> Iterator[str]:
    for part, left, right in zip(Content._fields, before, after.content, strict=True):
        if left != right:
            yield f"{part} changed on the way to {name}: {left!r} became {right!r}: {after}"


# ---------------------------------------------------------------------------------------------------- helpers


def _or(number: int | None) -> int:
    """A position that no record has, where there is none."""
    return -1 if number is None else number


def _hex(value: bytes | None) -> str:
    return "absent" if value is None else value.hex() or "empty"


def _one(record: Observed) -> Once | None:
    return None if record.identity is None else (record.partition, record.identity)


def _once(records: Iterable[Observed]) -> Iterator[Once]:
    return (once for record in records if (once := _one(record)) is not None)


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


def _groups(records: Iterable[T], of: Callable[[T], K]) -> dict[K, list[T]]:
    grouped: dict[K, list[T]] = defaultdict(list)
    for record in records:
        grouped[of(record)].append(record)
    return grouped

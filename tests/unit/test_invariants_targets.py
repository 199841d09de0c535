"""The verifier on what waits, dies, expires and is redriven at a target: right ones pass, each wrong one is caught."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from walstream.testing.history import Answer, Content, Headers, History, Observed, Target, Written, foreign
from walstream.testing.invariants import changed, lost, not_one_end, out_of_order

NOW = 1_700_000_000_000  # ms
EXPIRED = (("ce_expirytime", b"2020-01-01T00:00:00Z"),)


def record(offset: int, key: bytes = b"k", extra: Headers = (), *, topic: Headers = ()) -> Observed:
    event: Headers = (("ce_specversion", b"1.0"), ("ce_id", b"%d" % offset), ("ce_source", b"s"), ("ce_type", b"t"))
    ours: Headers = (("walstream-position", b"%d" % offset), ("walstream-timestamp", b"7"))
    return Observed(0, offset, key, b"v%d" % offset, (*ours, *topic, *event, *extra), NOW)


def letter(of: Observed) -> Observed:
    """What is in the DLQ of a record of the log."""
    return replace(of, offset=of.offset + 50, headers=(("walstream-log-position", b"%d" % of.offset), *of.headers))


def history(log: Sequence[Observed], **target: Any) -> History:
    ingress = [replace(each, headers=foreign(each.headers), timestamp=7) for each in log]
    return History((), ingress, log, targets=[Target("app", **target)], ended=NOW)


ONCE = {(0, 1): 1}
LOG = [record(0), record(1), record(2)]


def broken(history: History) -> list[int]:
    return [violation.invariant for check in (lost, not_one_end, out_of_order, changed) for violation in check(history)]


RIGHT = {
    "all applied": history(LOG, deliveries=LOG),
    "again from an earlier one on": history(LOG, deliveries=[*LOG[:2], *LOG]),
    "one dead": history(LOG, deliveries=[LOG[0], LOG[2]], dead=[letter(LOG[1])]),
    "redriven, and late": history(
        LOG, deliveries=[LOG[0], LOG[2], LOG[1]], redriven=[letter(LOG[1])], redrives=ONCE
    ),
    "held, and redriven in its place": history(
        LOG, deliveries=LOG, redriven=[letter(LOG[1])], redrives={(0, 1): 2}, held=True
    ),
    "redriven, and dead again": history(
        LOG, deliveries=[LOG[0], LOG[2]], dead=[letter(LOG[1])], redriven=[letter(LOG[1])], redrives=ONCE
    ),
    "expired": history([LOG[0], record(1, extra=EXPIRED), LOG[2]], deliveries=[LOG[0], LOG[2]]),
    "in time at first, and expired when its key came again": history(
        [LOG[0], record(1, extra=EXPIRED), LOG[2]],
        deliveries=[LOG[0], record(1, extra=EXPIRED), LOG[2], LOG[0], LOG[2]],
    ),
    "headers that do not travel": history(
        [record(0, extra=(("mine", b"x"),))], deliveries=[record(0)], whole=False
    ),
}  # fmt: skip

WRONG = {
    "one is nowhere": (history(LOG, deliveries=LOG[:2]), 1),
    "one waits": (history(LOG, deliveries=LOG, pending=1), 1),
    "redriven, and nowhere": (history(LOG, deliveries=LOG[:1] + LOG[2:], redriven=[letter(LOG[1])], redrives=ONCE), 1),
    "expired at a target that takes part in checkpoints": (
        history([LOG[0], record(1, extra=EXPIRED)], deliveries=LOG[:1], once=True), 1,
    ),
    "applied and dead": (history(LOG, deliveries=LOG, dead=[letter(LOG[1])]), 2),
    "twice in the DLQ, never redriven": (
        history(LOG, deliveries=[LOG[0], LOG[2]], dead=[letter(LOG[1])], redriven=[letter(LOG[1])]), 2,
    ),
    "out of order": (history(LOG, deliveries=[LOG[1], *LOG]), 3),
    "one that would have expired, late": (
        history(
            [LOG[0], record(1, extra=EXPIRED), LOG[2]], deliveries=[LOG[0], LOG[2], record(1, extra=EXPIRED)]
        ), 3,
    ),
    "held, and late": (
        history(LOG, deliveries=[LOG[0], LOG[2], LOG[1]], redriven=[letter(LOG[1])], redrives=ONCE, held=True), 3,
    ),
    "expired, and before its predecessor": (
        history([LOG[0], record(1, extra=EXPIRED)], deliveries=[record(1, extra=EXPIRED), LOG[0]]), 3,
    ),
    "a dead letter is not what was written": (
        history(LOG, deliveries=[LOG[0], LOG[2]], dead=[replace(letter(LOG[1]), value=b"other")]), 10,
    ),
    "a redriven letter has lost a header": (
        history(
            [record(0, extra=(("mine", b"x"),))], deliveries=[record(0)], whole=False, redriven=[letter(record(0))],
            redrives={(0, 0): 1},
        ), 10,
    ),
    "an attribute is lost on the way": (
        history([record(0, extra=(("ce_mine", b"x"),))], deliveries=[record(0)], whole=False), 10,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_passes(name: str) -> None:
    assert broken(RIGHT[name]) == []


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_caught(name: str) -> None:
    wrong, invariant = WRONG[name]
    assert invariant in broken(wrong)


@pytest.mark.parametrize(("value", "found"), [(b"v1", []), (b"other", [1])])
def test_what_is_acknowledged_without_a_place_must_be_somewhere(value: bytes, found: list[int]) -> None:
    content = Content(b"k", value, foreign(LOG[1].headers), None)
    written = Written(content, 0, Answer.ACKED, partition=0)
    assert broken(replace(history(LOG, deliveries=LOG), written=(written,))) == found

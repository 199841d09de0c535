"""Dead letters as people see them: read, filtered, and which of them are redriven or dropped."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walstream import dead, deadletter
from walstream.dead import State
from walstream.entry import Entry
from walstream.headers import POSITION_HEADER, VERSION, Header
from walstream.letters import DeadLetters, Letter, Wanted
from walstream.namespace import Namespace
from walstream.record import Message
from walstream.redrive import CUT, NO_POSITION, REPEATED, TOO_OLD, UNREADABLE, move, rewrite
from walstream.scan import Found

NAMESPACE = Namespace.model_validate(
    {"version": 1, "namespace": "n", "topics": {"partitions": 3}, "targets": {"t": {"sink": "kafka"}}}
)
NOW = 1_795_000_000_000  # ms
OWN: list[Header] = [
    ("ce_specversion", b"1.0"), ("ce_id", b"id"), ("ce_source", b"/s"), ("ce_type", b"x"), ("n", None), ("n", b""),
]  # fmt: skip


def letter(
    message: Message, partition: int = 0, offset: int = 0, state: State | None = None, when: int | None = None
) -> Letter:
    made = Letter(Found(partition, offset, NOW, message.key, message.value, message.headers))
    made.state, made.changed = state, when
    return made


def death(
    position: int = 7, *, when: int = NOW, reason: str = "no such column", key: bytes = b"k", time: int = NOW
) -> Message:
    entry = Entry(0, position, key, b"\x00v", OWN, NOW - 5, time * 1_000, 3)
    return deadletter.dead(entry, target="n.t", reason=reason, attempt=4, now=when, first="before")


def refusal(code: str = "bad-json", **options: Any) -> Message:
    position = options.pop("position", 3)
    return deadletter.refused(
        b"k", b"v", OWN, code=code, reason="it is none", position=position, timestamp=NOW, now=NOW, **options
    )


class Topics:
    """What is in the topics, in place of a scanner: letters by partition, and rows of what is dead."""

    def __init__(self, letters: dict[int, list[Message]], rows: dict[tuple[int, int], tuple[State, int]]) -> None:
        self.letters, self.rows = letters, rows
        self.asked: list[dict[str, Any]] = []

    def bounds(self, partitions: Iterable[tuple[str, int]], **times: Any) -> dict[tuple[str, int], tuple[int, int]]:
        self.asked.append(times)
        return {(topic, n): (0, len(self.letters.get(n, ()))) for topic, n in partitions}

    def records(self, bounds: dict[tuple[str, int], tuple[int, int]]) -> Iterator[Found]:
        for (_, number), (begin, end) in bounds.items():
            for offset, message in enumerate(self.letters[number][begin:end]):
                yield Found(number, offset, NOW, message.key, message.value, message.headers)

    def newest(self, partitions: Iterable[tuple[str, int]]) -> dict[tuple[tuple[str, int], bytes], bytes]:
        return {
            ((topic, n), dead.row_key(position)): dead.encode(*row)
            for topic, n in partitions
            for (number, position), row in self.rows.items()
            if number == n
        }


def read(topics: Topics, wanted: Wanted, target: str | None = "t") -> list[Letter]:
    scanner: Any = topics
    return list(DeadLetters(scanner, NAMESPACE, target).read(wanted))


def test_a_letter_says_what_its_headers_say() -> None:
    found = letter(death(), partition=2, state=State.DEAD, when=NOW)
    assert (found.partition, found.position, found.attempts, found.when) == (2, 7, 4, NOW)
    assert (found.error, found.first_error, found.code) == ("no such column", "before", None)
    assert (found.time, found.timestamp) == (NOW * 1_000, NOW - 5)
    assert found.headers == OWN
    assert found.identity == ("/s", "id")
    assert not found.is_cut
    summary = found.summary()
    assert (summary["state"], summary["key"], summary["id"]) == ("dead", "k", "id")
    assert "payload" not in found.document(payload=False)
    assert found.document(payload=True)["payload"] == "\x00v"


def test_a_letter_of_what_was_not_understood() -> None:
    found = letter(refusal())
    assert (found.position, found.code, found.attempts, found.state) == (3, "bad-json", None, None)
    assert found.summary()["cut"] is False
    message = deadletter.oversized(b"k", b"v" * 99, [], limit=10, position=0, timestamp=0, now=NOW)
    assert letter(message).is_cut


def test_an_identity_that_cannot_be_read_is_guessed() -> None:
    message = deadletter.refused(
        b"k", None, [("ce_id", b"a\xff")], code="c", reason="r", position=0, timestamp=0, now=NOW
    )
    assert letter(message).identity == (None, "a\\xff")


def test_broken_headers_are_no_error() -> None:
    message = Message(None, None, [VERSION, (POSITION_HEADER, b"x"), (deadletter.CODE_HEADER, None)])
    assert letter(message).document(payload=True)["position"] is None
    assert letter(Message(None, None, [])).summary()["error"] == ""


headers = st.lists(st.tuples(st.text(min_size=1).filter(lambda name: name.isascii()), st.none() | st.binary()))


@given(st.none() | st.binary(), st.none() | st.binary(), headers)
def test_an_export_is_byte_for_byte(key: bytes | None, value: bytes | None, own: list[Header]) -> None:
    message = deadletter.dead(Entry(0, 1, key, value, own, 0, 0, 0), target="n.t", reason="r", attempt=1, now=NOW)
    exported = letter(message).export()

    def decode(text: str | None) -> bytes | None:
        return None if text is None else base64.b64decode(text)

    assert (decode(exported["key_base64"]), decode(exported["value_base64"])) == (key, value)
    found = [(header["name"], decode(header["value_base64"])) for header in exported["headers"]]
    assert found == list(message.headers)


@pytest.mark.parametrize(
    ("wanted", "matches"),
    [
        (Wanted(), True),
        (Wanted(error="NO SUCH"), True),
        (Wanted(error="before"), False),
        (Wanted(key=b"k", id="id", position=(0, 7), attempts=4), True),
        (Wanted(key=b""), False),
        (Wanted(id="other"), False),
        (Wanted(position=(1, 7)), False),
        (Wanted(position=(0, 8)), False),
        (Wanted(attempts=5), False),
        (Wanted(code="bad-json"), False),
    ],
)
def test_filters(wanted: Wanted, matches: bool) -> None:
    assert wanted.matches(letter(death())) is matches


def test_a_code_is_a_filter() -> None:
    assert Wanted(code="bad-json").matches(letter(refusal()))
    assert not Wanted(code="bad-time").matches(letter(refusal()))


def test_letters_have_the_state_of_their_rows() -> None:
    topics = Topics(
        {
            0: [death(1), death(2), death(1, when=NOW + 5), death(3)],
            1: [death(1, when=NOW + 1), refusal()],
            2: [death(9), death(-1)],
        },
        {
            (0, 1): (State.DEAD, NOW + 5),
            (0, 2): (State.REDRIVEN, NOW + 9),
            (0, 3): (State.DROPPED, NOW + 9),
            (1, 1): (State.DEAD, NOW + 1),
        },
    )
    dead_ones = [(found.partition, found.position, found.found.offset) for found in read(topics, Wanted())]
    # Of what died twice the last letter; what is not an entry has no state; 2:9 died by an older release.
    assert dead_ones == [(0, 1, 2), (1, 1, 0), (1, 3, 1), (2, 9, 0), (2, None, 1)]
    states = [found.state for found in read(topics, Wanted(every_state=True))]
    assert states == [
        State.REDRIVEN, State.REDRIVEN, State.DEAD, State.DROPPED, State.DEAD, None, State.DEAD, State.DEAD,
    ]  # fmt: skip
    assert [found.partition for found in read(topics, Wanted(position=(1, 1)))] == [1]
    assert read(topics, Wanted(position=(7, 1))) == []


def test_times_are_for_the_scanner() -> None:
    topics = Topics({}, {})
    assert read(topics, Wanted(since=5, until=6)) == []
    assert topics.asked == [{"since": 5, "until": 6}]


def test_progress_reaches_the_end() -> None:
    scanner: Any = Topics({0: [death()] * 250, 2: [death()] * 3}, {})
    seen: list[tuple[int, int]] = []
    letters = DeadLetters(scanner, NAMESPACE, "t")
    assert len(list(letters.read(Wanted(), lambda *place: seen.append(place)))) == 253
    assert seen == [(0, 253), (100, 253), (200, 253), (250, 253), (253, 253)]


def test_a_namespaces_letters_have_no_state() -> None:
    topics = Topics({0: [refusal()]}, {(0, 3): (State.DROPPED, NOW)})
    assert [found.state for found in read(topics, Wanted(), None)] == [None]


def sent(letters: list[Letter], **options: Any) -> tuple[list[int], Counter[str]]:
    told: list[Letter] = []
    result = move(letters, told.append, now_ms=NOW, **options)
    assert result.sent == len(told)
    return [found.found.offset for found in told], result.skipped


def test_only_what_is_dead_is_moved() -> None:
    letters = [
        letter(death(1), offset=0, state=State.REDRIVEN),
        letter(death(1), offset=1, state=State.DEAD),
        letter(death(1), offset=2, state=State.DEAD),
        letter(death(2), offset=3, state=State.REDRIVEN),
        letter(death(2), offset=4, state=State.REDRIVEN),
        letter(death(3), offset=5, state=State.DROPPED),
        letter(refusal(), offset=6),
        letter(death(-1), offset=7, state=State.DEAD),
    ]
    assert sent(letters) == ([1, 7], Counter({"redriven": 1, "dropped": 1, UNREADABLE: 1}))
    offsets, skipped = sent(letters, needs_position=True)
    assert (offsets, skipped[NO_POSITION]) == ([1], 1)
    assert sent(letters, limit=1)[0] == [1]


def test_what_is_too_old_is_left_out() -> None:
    day = 86_400_000
    letters = [
        letter(death(1, time=NOW - day), state=State.DEAD),
        letter(death(2, time=NOW - day - 1), offset=1, state=State.DEAD),
    ]
    assert sent(letters, remember=day) == ([0], Counter({TOO_OLD: 1}))
    assert sent(letters) == ([0, 1], Counter())


def test_what_could_not_be_done_is_a_failure_and_what_was_done_before_none() -> None:
    done = [letter(death(1), state=State.REDRIVEN), letter(death(2), state=State.DROPPED)]
    assert move(done, lambda _: None).failed == 0
    assert move([letter(refusal())], lambda _: None).failed == 1
    assert move([letter(death(1, time=0), state=State.DEAD)], lambda _: None, remember=1).failed == 1


def test_the_same_record_is_written_once() -> None:
    cut = deadletter.oversized(b"k", b"v" * 99, [], limit=10, position=0, timestamp=0, now=NOW)
    other = replace_value(refusal(position=5), b"w")
    told: list[Letter] = []
    letters = [letter(message) for message in (refusal(position=3), refusal(position=4), cut, other)]
    result = rewrite(letters, told.append)
    assert [found.position for found in told] == [3, 5]
    assert result.skipped == Counter({REPEATED: 1, CUT: 1})
    assert rewrite(letters, told.append, limit=1).sent == 1


def replace_value(message: Message, value: bytes | None) -> Message:
    return message._replace(value=value)


@pytest.mark.parametrize(
    ("one", "two"),
    [(b"", None), (b"1:", b""), (b"k", b"kk")],
)
def test_records_that_differ_are_not_the_same(one: bytes | None, two: bytes | None) -> None:
    messages = [
        Message(one, two, [VERSION, (deadletter.CODE_HEADER, b"c")]),
        Message(two, one, [VERSION, (deadletter.CODE_HEADER, b"c")]),
    ]
    assert rewrite([letter(message) for message in messages], lambda _: None).sent == 2


def test_a_filter_that_is_none() -> None:
    assert Wanted().is_for_all
    assert Wanted(every_state=True).is_for_all
    assert not replace(Wanted(), key=b"k").is_for_all

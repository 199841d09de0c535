"""Answers come back as they were written, and what is none is refused."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from walstream import RecordRefused
from walstream.answers import TYPE, Answer, read_answer
from walstream.pending import LATEST_US, Outcome
from walstream.record import encode, parse

texts = st.text(min_size=1, max_size=20)


@given(
    st.builds(
        Answer,
        st.sampled_from(["cancel", "reschedule"]),
        texts,
        texts,
        texts,
        st.sampled_from(Outcome),
        st.none() | st.integers(0, LATEST_US),
        st.none() | st.integers(0, 2**62),
    ),
    st.none() | st.binary(max_size=10),
)
def test_an_answer_comes_back(answer: Answer, key: bytes | None) -> None:
    message = answer.encode(key)
    assert message.key == key
    assert read_answer(*message) == answer


def test_an_answer_is_a_cloudevent_that_others_can_read() -> None:
    answer = Answer("reschedule", "r-1", "/ops", "departed-1", Outcome.RESCHEDULED, due=1_772_344_800_000_000)
    message = answer.encode(b"UA1")
    event = parse(*message, 0)
    assert (event.key, event.id, event.source, event.type) == (b"UA1", "r-1", "/ops", "walstream.answer")
    assert json.loads(message.value or b"") == {
        "action": "reschedule",
        "id": "r-1",
        "source": "/ops",
        "ref": "departed-1",
        "outcome": "rescheduled",
        "due": "2026-03-01T06:00:00Z",
    }


def test_which_outcomes_are_what_was_asked_for() -> None:
    for action, wanted in (("cancel", Outcome.CANCELLED), ("reschedule", Outcome.RESCHEDULED)):
        done = {outcome for outcome in Outcome if Answer(action, "1", "s", "2", outcome).done}
        assert done == {wanted, Outcome.WAITING}


GOOD = {"action": "cancel", "id": "1", "source": "s", "ref": "2", "outcome": "sent", "log_position": 5}


@pytest.mark.parametrize(
    "body",
    [
        [],
        {**GOOD, "outcome": "lost"},
        {**GOOD, "action": 1},
        {**GOOD, "ref": None},
        {**GOOD, "due": "tomorrow"},
        {**GOOD, "due": 5},
        {**GOOD, "log_position": "5"},
        {name: value for name, value in GOOD.items() if name != "ref"},
    ],
)
def test_what_is_no_answer_is_refused(body: Any) -> None:
    message = encode(orjson.dumps(body), key=None, id="1", source="s", type=TYPE, time=None)
    with pytest.raises(RecordRefused, match="bad-answer"):
        read_answer(*message)


def test_another_record_is_no_answer() -> None:
    message = encode(orjson.dumps(GOOD), key=None, id="1", source="s", type="walstream.record", time=None)
    with pytest.raises(RecordRefused, match="bad-answer"):
        read_answer(*message)
    assert read_answer(*encode(orjson.dumps(GOOD), key=None, id="1", source="s", type=TYPE, time=None)).ref == "2"

"""What sinks share, and the parts of the built-in ones that need no server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar

import pytest
from pydantic import ValidationError

from walstream.entry import Entry
from walstream.sinks.base import (
    APPLIED,
    DEAD,
    RETRY,
    SKIPPED,
    TARGET_DOWN,
    Applied,
    Dead,
    Outcome,
    Sink,
    SinkContext,
    TargetDown,
)
from walstream.sinks.cassandra import CassandraOptions
from walstream.sinks.cassandra.provision import Create
from walstream.sinks.cassandra.requests import Requests
from walstream.sinks.cassandra.schema import normal_type
from walstream.sinks.cassandra.session import _contact_point
from walstream.sinks.kafka import KafkaOptions
from walstream.testing.conformance import Rows
from walstream.testing.delivering import DeliveryPartition


class Broken(Sink):
    errors: ClassVar = {OSError: TARGET_DOWN, ConnectionError: RETRY, ValueError: DEAD}

    async def write(self, batch: Sequence[Entry]) -> Sequence[Outcome]:
        return [APPLIED] * len(batch)


def test_the_most_specific_error_counts() -> None:
    sink = Broken.for_context(SinkContext("ns", "t", None))
    assert sink.verdict(ConnectionResetError()) is RETRY
    assert sink.verdict(TimeoutError()) is TARGET_DOWN
    assert sink.verdict(UnicodeDecodeError("utf-8", b"", 0, 1, "")) is DEAD
    assert sink.verdict(KeyError()) is None


def test_a_target_that_is_down_is_so_of_every_sink() -> None:
    error = TargetDown("no", after=3.0, outcomes=[APPLIED, None])
    assert Broken.for_context(SinkContext("ns", "t", None)).verdict(error) is TARGET_DOWN
    assert (str(error), error.after, error.outcomes) == ("no", 3.0, [APPLIED, None])


async def test_of_a_call_in_which_the_target_goes_down_what_was_answered_is_finished(
    make_partition: Callable[..., Awaitable[DeliveryPartition]],
) -> None:
    one = await make_partition()
    positions = [one.write(b"%d" % n) for n in range(4)]
    one.sink.whole = [TargetDown("bye", outcomes=[APPLIED, Dead("no"), None, APPLIED])]
    await one.work()
    assert one.committed[one.log_topic] == positions[2]
    assert one.buried == [(positions[1], "no")]
    await one.until_done()
    assert one.sink.applied == positions[2:], "the others are not sent again"
    assert one.topics[one.retry_topic] == [], "and nothing counts as tried"


def test_what_a_row_of_a_stateful_sink_becomes() -> None:
    table = Rows()
    table.settle([Applied({b"a": b"1", b"b": b"1"}), SKIPPED, Dead("no"), Applied({b"a": None}), APPLIED])
    assert table.get_many([b"a", b"b", b"c"]) == [None, b"1", None]


Answer = Callable[[], None]


class Session:
    """A driver's session that answers when the test says so, in a thread of its own."""

    def __init__(self, *, at_once: bool = False) -> None:
        self.at_once = at_once
        self.open: list[Any] = []
        self.most = 0

    def execute_async(self, statement: Any) -> Any:
        if statement == "raise":
            raise RuntimeError("cannot be sent")
        session = self

        class Future:
            def add_callbacks(self, callback: Any, errback: Any, callback_args: Any, errback_args: Any) -> None:
                def answer() -> None:
                    if statement == "fail":
                        errback(ValueError(statement), *errback_args)
                    else:
                        callback([], *callback_args)

                if session.at_once:
                    answer()
                else:
                    session.open.append(answer)
                    session.most = max(session.most, len(session.open))

        return Future()

    def answer_all(self) -> None:
        while self.open:
            self.open.pop(0)()


async def test_requests_answer_in_order_and_in_bounds() -> None:
    session = Session()
    requests = Requests(session, 10)
    statements = [("fail", "raise", "fine")[i % 3] for i in range(300)]
    calls = [asyncio.create_task(requests.run(statements)) for _ in range(3)]
    await asyncio.sleep(0)
    thread = threading.Thread(target=session.answer_all)
    thread.start()
    for errors in await asyncio.gather(*calls):
        assert [type(error) for error in errors] == [ValueError, RuntimeError, type(None)] * 100
    thread.join()
    assert session.most <= 10
    assert await requests.run([]) == []


async def test_thousands_of_failures_at_once_do_not_nest() -> None:
    errors = await Requests(Session(at_once=True), 4).run(["fail"] * 5000)
    assert len(errors) == 5000
    assert all(isinstance(error, ValueError) for error in errors)


async def test_a_call_given_up_does_not_send_the_rest() -> None:
    session = Session()
    requests = Requests(session, 2)
    given_up = asyncio.create_task(requests.run(["fine"] * 10))
    await asyncio.sleep(0)
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    other = asyncio.create_task(requests.run(["fail"]))
    await asyncio.sleep(0)
    assert len(session.open) == 2
    session.answer_all()
    assert len(await other) == 1
    assert not session.open


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("VARCHAR", "text"),
        ("map<text,int>", "map<text, int>"),
        ("Frozen < List<VARCHAR> >", "frozen<list<text>>"),
        ('frozen<"Odd, Type">', 'frozen<"Odd, Type">'),
        ("vector<float,3>", "vector<float, 3>"),
    ],
)
def test_types_are_compared_in_one_spelling(written: str, normal: str) -> None:
    assert normal_type(written) == normal


def test_contact_points() -> None:
    assert _contact_point("db", 9042) == ("db", 9042)
    assert _contact_point("db:9999", 9042) == ("db", 9999)
    assert _contact_point("::1", 9042) == ("::1", 9042)
    assert _contact_point("[::1]:9999", 9042) == ("::1", 9999)


CREATE = {"columns": {"a": "text", "b": "int"}, "primary_key": {"partition": ["a"]}}


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (["a"], {"partition": ["a"], "clustering": [], "order": {}}),
        (["a", "b"], {"partition": ["a"], "clustering": ["b"], "order": {}}),
        ([["a", "b"], "c"], {"partition": ["a", "b"], "clustering": ["c"], "order": {}}),
    ],
)
def test_a_primary_key_may_be_written_as_in_cql(written: list[Any], meant: dict[str, Any]) -> None:
    columns = {"a": "text", "b": "int", "c": "int"}
    assert Create(columns=columns, primary_key=written).primary_key.model_dump() == meant


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"keyspace": "k", "colour": 1}, "Extra inputs"),
        ({"keyspace": ""}, "at least 1"),
        ({"keyspace": "k", "consistency": "ANY"}, "LOCAL_QUORUM"),
        ({"keyspace": "k", "create": CREATE}, "has no name"),
        (
            {"keyspace": "k", "table": "t", "create": {**CREATE, "primary_key": {"partition": ["x"]}}},
            "not in columns: x",
        ),
        ({"keyspace": "k", "table": "t", "create": {**CREATE, "primary_key": {"partition": ["a", "a"]}}}, "twice"),
        ({"keyspace": "k", "table": "t", "create": {**CREATE, "columns": {"a": "text", "b": "Counter"}}}, "counter"),
        ({"keyspace": "k", "table": "t", "create": {**CREATE, "replication": {"dc1": 3}}}, "no class"),
        (
            {
                "keyspace": "k",
                "table": "t",
                "create": {**CREATE, "primary_key": {"partition": ["a"], "order": {"b": "asc"}}},
            },
            "not in clustering: b",
        ),
    ],
)
def test_cassandra_options_that_cannot_be(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        CassandraOptions.model_validate(options)


@pytest.mark.parametrize("topic", ["", "a b", "..", "x" * 250])
def test_kafka_topics_that_cannot_be(topic: str) -> None:
    with pytest.raises(ValidationError):
        KafkaOptions(topic=topic)

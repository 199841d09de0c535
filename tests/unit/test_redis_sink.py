"""The redis sink without a Redis: keys, texts, options, connections, and its table of errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError
from redis import exceptions
from redis._parsers.base import BaseParser
from redis.asyncio.connection import Connection
from redis.exceptions import ResponseError

from walstream.connections import RedisConnection
from walstream.entry import Entry
from walstream.errors import ConfigurationError, RecordRefused
from walstream.mutation import Mutation, delete, put
from walstream.namespace import Namespace
from walstream.sinks.base import APPLIED, DEAD, RETRY, SKIPPED, TARGET_DOWN, SinkContext, Verdict
from walstream.sinks.redis import RedisOptions, RedisSink
from walstream.sinks.redis.call import BYTES, ROWS, call, pack, read, shares
from walstream.sinks.redis.place import KEYS as ASKED
from walstream.sinks.redis.place import is_one_server
from walstream.sinks.redis.rows import Rows, marks_key, slot
from walstream.sinks.redis.script import COLUMNS_MAX, SHA, time_text
from walstream.testing.conformance import TIME_0, entry
from walstream.units import HOUR

OPTIONS = RedisOptions(key="flight:{flight}", value="hash")
CONNECTION = RedisConnection(sink="redis", host="localhost")


def log(mutation: Mutation, **words: Any) -> Entry:
    return entry(0, **{"key": b"k", "payload": mutation.to_bytes(), "type": "walstream.mutation", **words})


def arguments(mutation: Mutation, value: str, key: str = "flight:{flight}", table: str | None = None) -> Any:
    return Rows(key, value, table).arguments(log(mutation))


# Braces that lead somewhere, nowhere, and to nothing.
KEYS = st.lists(st.sampled_from([b"{", b"}", b"a", b"", b"\xff", b"flight:"]), max_size=9).map(b"".join) | st.binary()


@given(KEYS)
@example(b"")
@example(b"a}b")
@example(b"{}a")
def test_marks_are_in_the_slot_of_their_row(key: bytes) -> None:
    assert slot(marks_key(key)) == slot(key)


@given(KEYS, KEYS)
def test_no_two_rows_share_their_marks(one: bytes, other: bytes) -> None:
    assert (marks_key(one) == marks_key(other)) == (one == other)


def test_slots_are_those_of_the_specification() -> None:
    # Its example of CRC16, and of a tag.
    assert slot(b"123456789") == 0x31C3
    assert slot(b"{user1000}.following") == slot(b"user1000") != slot(b"{}user1000")


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
def test_times_compare_as_texts(one: int, other: int) -> None:
    assert (time_text(one) < time_text(other)) == (one < other)
    assert len(time_text(one)) == 20


def test_a_put_as_arguments() -> None:
    row = put(key={"flight": "UA1"}, set={"gate": "D4", "at": None, "on_time": True, "miles": [1, {"a": "ü"}]})
    keys = [b"flight:UA1", b"walstream:{flight:UA1}"]
    time = b"1%019d" % TIME_0
    assert arguments(row, "hash") == [
        *keys, time + b"5", b"flight", b"=UA1", b"gate", b"=D4", b"at", b"",
        b"on_time", b"=true", b"miles", '=[1,{"a":"ü"}]'.encode(),
    ]  # fmt: skip
    assert arguments(row, "json")[:7] == [*keys, time + b"5", b'"flight"', b'="UA1"', b'"gate"', b'="D4"']
    assert arguments(row, "gate") == [*keys, time + b"1", b"gate", b"=D4"]
    assert arguments(row, "at")[3:] == [b"at", b""]
    assert arguments(row, "flight")[3:] == [b"flight", b"=UA1"]
    assert arguments(row, "elsewhere") is None


def test_every_digit_stays() -> None:
    payload = b'{"op":"put","key":{"flight":1},"set":{"a":123456789012345678901234567890,"b":0.1234567890123456789}}'
    found = Rows("{flight}", "json", None).arguments(entry(0, key=b"1", payload=payload, type="walstream.mutation"))
    assert found is not None
    assert found[3:] == [
        b'"flight"', b"=1", b'"a"', b"=123456789012345678901234567890", b'"b"', b"=0.1234567890123456789",
    ]  # fmt: skip


@pytest.mark.parametrize("value", ["json", "hash", "gate"])
def test_a_delete_as_arguments(value: str) -> None:
    found = arguments(delete(key={"flight": "UA1"}), value)
    assert found == [b"flight:UA1", b"walstream:{flight:UA1}", b"1%019d" % TIME_0]


# Rows that share a call

ROW = [b"k", b"m", b"t", b"c", b"=v"]


@given(st.lists(st.lists(st.binary(max_size=9) | st.integers(0, 2 * BYTES).map(bytes), min_size=3, max_size=9)))
def test_a_call_is_bounded_and_rows_stay_in_order(rows: list[list[bytes]]) -> None:
    found = list(shares(rows))
    assert [row for share in found for row in share] == rows
    for share in found:
        assert len(share) == 1 or len(pack([text for row in share for text in row])) < 2 * BYTES
        assert len(share) == 1 or sum(len(text) for row in share for text in row) <= BYTES


def test_a_call_has_so_many_rows() -> None:
    assert [len(share) for share in shares([ROW] * (2 * ROWS + 1))] == [ROWS, ROWS, 1]
    assert [len(share) for share in shares([[b"", b"", b"1", *[b""] * 2 * COLUMNS_MAX]] * 3)] == [1, 1, 1]
    assert list(shares([])) == []


@given(st.lists(st.binary(max_size=2_000), min_size=1))
def test_a_command_is_what_the_library_makes_of_it(arguments: list[bytes]) -> None:
    assert pack([b"SET", *arguments]) == b"".join(Connection().pack_command(b"SET", *arguments))


def test_a_call_as_it_is_sent() -> None:
    other = [b"k2", b"m2", b"t2"]
    expected = [b"EVALSHA", SHA, b"4", b"k", b"m", b"k2", b"m2", b"json", b"1000", b"t", b"c", b"=v", b"t2"]
    assert call([ROW, other], b"json", b"1000") == pack(expected)


def test_what_an_answer_says_of_each_row() -> None:
    error, other = ResponseError("WRONGTYPE a"), ResponseError("WRONGTYPE b")
    assert read([b"10-1-", error, other], 5) == [APPLIED, SKIPPED, error, APPLIED, other]
    assert read(error, 3) == [error] * 3
    with pytest.raises(ValueError, match="answers for 1 rows"):
        read([b"1"], 2)


@pytest.mark.parametrize(
    ("mutation", "words", "code"),
    [
        (put(key={"airline": "UA"}), {}, "bad-key"),
        (put(key={"flight": ["UA1"]}), {}, "bad-key"),
        (put(key={"flight": "UA1", "day": 1}), {}, "bad-key"),
        (put(key={"flight": "UA1"}, table="planes"), {"table": "flights"}, "wrong-table"),
        (put(key={"flight": "UA1"}, set={f"c{i}": i for i in range(COLUMNS_MAX)}), {}, "bad-mutation"),
    ],
)
def test_what_it_cannot_take(mutation: Mutation, words: Any, code: str) -> None:
    with pytest.raises(RecordRefused) as refused:
        arguments(mutation, "hash", **words)
    assert refused.value.code == code


def test_only_mutations() -> None:
    with pytest.raises(RecordRefused, match="its type is test"):
        Rows("{flight}", "json", None).arguments(entry(0, key=b"k", payload=b"{}"))


# Where rows may share a call

ONE = b"standalone 1f"


class Server:
    """What answers to the question where keys are."""

    def __init__(self, answers: list[Any]) -> None:
        self.answers = iter([b"sha", *answers])

    async def send_packed_command(self, command: bytes) -> None:
        assert command.count(b"EVALSHA") == ASKED
        assert b"\r\nflight:0\r\n" in command

    async def read_response(self) -> Any:
        answer = next(self.answers)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.mark.parametrize(
    ("answers", "is_one"),
    [
        ([ONE] * ASKED, True),
        ([b"cluster 1f"] * ASKED, False),
        ([b"sentinel 1f"] * ASKED, False),
        ([*[ONE] * (ASKED - 1), b"standalone 2f"], False),  # a proxy, by the keys' names
        ([b"standalone 2f", *[ONE] * (ASKED - 1)], False),
        ([*[ONE] * (ASKED - 1), ResponseError("ERR no")], False),
        ([ResponseError("ERR no")] * ASKED, False),
        ([1] * ASKED, False),
    ],
)
async def test_whether_one_server_has_all_keys(answers: list[Any], is_one: bool) -> None:
    server: Any = Server(answers)
    assert await is_one_server(server, b"flight:") is is_one
    assert next(server.answers, None) is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"key": "flight", "value": "json"}, "names no column"),
        ({"key": "flight:{", "value": "json"}, "not a key template"),
        ({"key": "walstream:{flight}", "value": "json"}, "walstream's own"),
        ({"key": "{flight}", "value": ""}, "at least 1 character"),
        ({"key": "{flight}"}, "required"),
    ],
)
def test_options_that_cannot_be(options: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        RedisOptions.model_validate(options)


def test_needs_a_connection() -> None:
    with pytest.raises(ConfigurationError, match=r"names no connection"):
        RedisSink(SinkContext("n", "t", OPTIONS))


@pytest.mark.parametrize(
    ("words", "address"),
    [
        ({"host": "cache"}, "redis://cache:6379/0"),
        ({"host": "::1", "port": 7000, "db": 2}, "redis://[::1]:7000/2"),
        ({"host": "cache", "ssl": True}, "rediss://cache:6379/0"),
        ({"url": "rediss://cache:7000/3", "ssl": {"check_hostname": False}}, "rediss://cache:7000/3"),
        ({"url": "unix:///run/redis.sock?db=1"}, "unix:///run/redis.sock?db=1"),
    ],
)
def test_where_a_redis_is(words: Any, address: str) -> None:
    assert RedisConnection.model_validate({"sink": "redis", **words}).address == address


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({}, "at one place"),
        ({"host": "a", "url": "redis://a"}, "at one place"),
        ({"url": "redis://a/1", "db": 2}, "in the url already"),
        ({"url": "redis://a", "ssl": True}, "starts with rediss"),
        ({"url": "http://a"}, "no url of a Redis"),
        ({"url": "redis://:secret@a"}, "does not stand in the url"),
        ({"host": "a", "username": "me"}, "needs a password"),
        ({"host": "a", "password": "secret"}, "does not stand in the file"),
        ({"url": {"env": "WALSTREAM_NO_SUCH_VARIABLE"}}, "is not set"),
    ],
)
def test_connections_that_cannot_be(words: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        RedisConnection.model_validate({"sink": "redis", **words})


def test_a_certificate_that_is_not_there_is_named(tmp_path: Path) -> None:
    from walstream.sinks.redis.session import make_client

    connection = RedisConnection.model_validate({"sink": "redis", "host": "a", "ssl": {"cafile": tmp_path / "no.pem"}})
    with pytest.raises(ConfigurationError, match=r"no\.pem"):
        make_client(connection)


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ("LOADING Redis is loading the dataset in memory", TARGET_DOWN),
        ("BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.", TARGET_DOWN),
        ("READONLY You can't write against a read only replica.", TARGET_DOWN),
        ("OOM command not allowed when used memory > 'maxmemory'.", TARGET_DOWN),
        ("MISCONF Errors writing to the AOF file: No space left on device", TARGET_DOWN),
        ("NOREPLICAS Not enough good replicas to write.", TARGET_DOWN),
        ("CLUSTERDOWN The cluster is down", TARGET_DOWN),
        ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", TARGET_DOWN),
        ("MOVED 3999 127.0.0.1:6381", TARGET_DOWN),
        ("NOPERM this user has no permissions to run the 'evalsha' command", TARGET_DOWN),
        ("NOAUTH Authentication required.", TARGET_DOWN),
        ("WRONGPASS invalid username-password pair or user is disabled.", TARGET_DOWN),
        ("ERR max number of clients reached", TARGET_DOWN),
        ("TRYAGAIN Multiple keys request during rehashing of slot", RETRY),
        ("NOSCRIPT No matching script. Please use EVAL.", RETRY),
        ("WRONGTYPE k is a list, not a string", DEAD),
        ("ERR something that nobody has heard of", None),
        ("SOMETHING else", None),
    ],
)
def test_what_an_answer_means(answer: str, verdict: Verdict | None) -> None:
    sink = RedisSink(SinkContext("n", "t", OPTIONS, CONNECTION))
    assert sink.verdict(BaseParser.parse_error(answer)) is verdict


def test_what_an_exception_means() -> None:
    sink = RedisSink(SinkContext("n", "t", OPTIONS, CONNECTION))
    assert sink.verdict(exceptions.ConnectionError("reset")) is TARGET_DOWN
    assert sink.verdict(exceptions.TimeoutError("late")) is TARGET_DOWN
    assert sink.verdict(exceptions.InvalidResponse("rubbish")) is None
    assert sink.verdict(ValueError("ours")) is None


def test_a_delete_is_remembered_while_something_older_may_come() -> None:
    words = {
        "version": 1,
        "namespace": "n",
        "topics": {"retention": "2h"},
        "targets": {"t": {"sink": "kafka", "retry": {"age": "3h"}}},
    }
    assert Namespace.model_validate(words).remember("t") == 5 * HOUR

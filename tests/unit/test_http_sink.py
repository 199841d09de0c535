"""The http sink, as far as it needs no server: requests from entries, outcomes from answers, its words in files."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from walstream.connections import HttpConnection
from walstream.entry import Entry
from walstream.errors import ConfigurationError, RecordRefused
from walstream.headers import Header
from walstream.identity import identity
from walstream.sinks.base import APPLIED, SKIPPED, Dead, Retry, SinkContext, TargetDown
from walstream.sinks.http import HttpOptions, HttpSink
from walstream.sinks.http.answer import EXCERPT, Answer, outcome, retry_after
from walstream.sinks.http.message import message, percent_encoded
from walstream.testing.conformance import entry

NOW = datetime(2026, 3, 1, 6, 0, tzinfo=UTC)
REQUIRED: list[Header] = [("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_source", b"/s"), ("ce_type", b"t")]


def of(key: bytes | None, value: bytes | None, headers: list[Header]) -> Entry:
    return Entry(3, 42, key, value, headers, 1_357_000_000_000, 1_357_000_000_000_010, 41)


def test_binary_mode() -> None:
    others: list[Header] = [("content-type", b"application/json"), ("ce_subject", b"a"), ("host", b"evil"), ("x", None)]
    sent = message(of(b"UA1545", b'{"a": 1}', [*REQUIRED, *others]))
    assert sent.body == b'{"a": 1}'
    assert dict(sent.headers) == {
        "Idempotency-Key": identity(b"UA1545", "/s", "1").hex(),
        "walstream-time": "1357000000000010",
        "walstream-timestamp": "1357000000000",
        "walstream-partition": "3",
        "walstream-log-position": "42",
        "walstream-key": "UA1545",
        "ce-specversion": "1.0",
        "ce-id": "1",
        "ce-source": "/s",
        "ce-type": "t",
        "ce-subject": "a",
        "Content-Type": "application/json",
    }


def test_the_bindings_own_example_of_percent_encoding() -> None:
    assert percent_encoded("Euro € 😀") == "Euro%20%E2%82%AC%20%F0%9F%98%80"


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_attribute_can_be_read_again(text: str) -> None:
    encoded = percent_encoded(text)
    assert unquote(encoded, errors="strict") == text
    assert all("!" <= character <= "~" and character != '"' for character in encoded)


@given(st.binary())
def test_any_key_can_be_read_again(key: bytes) -> None:
    assert unquote_to_bytes(dict(message(of(key, b"", REQUIRED)).headers)["walstream-key"]) == key


def test_no_key_is_no_header_and_a_partitionkey_is_one() -> None:
    assert "walstream-key" not in dict(message(of(None, b"", REQUIRED)).headers)
    sent = dict(message(of(None, b"", [*REQUIRED, ("ce_partitionkey", b"p")])).headers)
    assert sent["walstream-key"] == sent["ce-partitionkey"] == "p"


def test_null_is_not_empty() -> None:
    null, empty = message(of(b"k", None, REQUIRED)), message(of(b"k", b"", REQUIRED))
    assert dict(null.headers)["walstream-null"] == "true"
    assert "walstream-null" not in dict(empty.headers)


def test_the_data_s_content_type_is_no_header_of_its_own() -> None:
    sent = message(of(b"k", b"", [*REQUIRED, ("ce_datacontenttype", b"text/plain")]))
    assert dict(sent.headers)["Content-Type"] == "text/plain"
    assert "ce-datacontenttype" not in dict(sent.headers)
    sent = message(of(b"k", b"", [*REQUIRED, ("ce_datacontenttype", b"text/plain"), ("Content-Type", b"text/csv")]))
    assert dict(sent.headers)["Content-Type"] == "text/csv"
    assert "Content-Type" not in dict(message(of(b"k", b"", REQUIRED)).headers)


EVENT = b'{"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "datacontenttype": "text/plain", "data": "x"}'


@pytest.mark.parametrize(
    ("headers", "content_type"),
    [
        ([("Content-Type", b"application/cloudevents+json")], "application/cloudevents+json"),
        ([], "application/cloudevents+json; charset=UTF-8"),
        ([("content-type", b"application/json")], "application/cloudevents+json; charset=UTF-8"),
    ],
)
def test_structured_mode(headers: list[Header], content_type: str) -> None:
    sent = message(of(b"k", EVENT, headers))
    assert sent.body == EVENT
    assert dict(sent.headers)["Content-Type"] == content_type
    assert dict(sent.headers)["Idempotency-Key"] == identity(b"k", "/s", "1").hex()
    assert not [name for name, _ in sent.headers if name.startswith("ce-")]


@pytest.mark.parametrize(
    "header",
    [("ce_a b", b"1"), ("ce_", b"1"), ("ce_a\r\nx", b"1"), ("ce_é", b"1"), ("content-type", "text/é".encode())],
)
def test_what_http_cannot_carry_is_refused(header: Header) -> None:
    with pytest.raises(RecordRefused, match="not-a-header"):
        message(of(b"k", b"", [*REQUIRED, header]))

    with pytest.raises(RecordRefused, match="not-a-header"):
        message(of(b"k", EVENT, [("content-type", b"application/cloudevents+json; charset=\xff")]))


def test_an_attribute_cannot_bring_a_header_of_its_own() -> None:
    sent = message(of(b"k\r\nHost: evil", b"", [*REQUIRED, ("ce_subject", b"a\r\nHost: evil")]))
    assert not [value for _, value in sent.headers if "\r" in value or "\n" in value]


def answer(status: int, body: bytes = b"", **headers: str) -> Answer:
    return Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


def judge(given: Answer, *, conflict_skips: bool = False) -> Any:
    try:
        return outcome(given, NOW, conflict_skips=conflict_skips)
    except TargetDown as error:
        return error


def test_statuses() -> None:
    kinds = {status: type(judge(answer(status))).__name__.lower() for status in range(200, 600)}
    unreached = {502, 504}
    retried = {408, 409, 423, 425, 429, *range(500, 600)} - {503} - unreached
    down = {401, 407, 503, *range(300, 400)}
    assert {status for status, kind in kinds.items() if kind == "applied"} == set(range(200, 300)) - {208}
    assert {status for status, kind in kinds.items() if kind == "skipped"} == {208}
    assert {status for status, kind in kinds.items() if kind == "retry"} == retried
    assert {status for status, kind in kinds.items() if kind == "targetdown"} == down
    assert {status for status, kind in kinds.items() if kind == "unreached"} == unreached
    assert {status for status, kind in kinds.items() if kind == "dead"} == set(range(400, 500)) - retried - down
    assert judge(answer(409), conflict_skips=True) is SKIPPED
    assert judge(answer(200)) is APPLIED


def test_a_reason_quotes_some_of_the_body() -> None:
    assert judge(answer(422, b"no  such\r\nflight \xff")) == Dead("HTTP 422: no such flight �")
    assert judge(answer(404)) == Dead("HTTP 404")
    assert judge(answer(400, b"x" * 10_000)) == Dead("HTTP 400: " + "x" * EXCERPT)
    assert judge(answer(500, b"oops")) == Retry("HTTP 500: oops")
    assert "https://new.example.com" in str(judge(answer(308, Location="https://new.example.com")))


def test_retry_after() -> None:
    assert judge(answer(429, Retry_After="7")) == Retry("HTTP 429", 7.0)
    assert judge(answer(503, Retry_After="120")).after == 120.0
    assert judge(answer(503)).after is None
    assert judge(answer(502, Retry_After="3")).after == 3.0
    date = "Sun, 01 Mar 2026 06:00:30 GMT"
    assert retry_after({"Retry-After": date}, NOW) == 30.0
    # The application's clock is half an hour behind ours.
    assert retry_after({"Retry-After": date, "Date": "Sun, 01 Mar 2026 06:00:25 GMT"}, NOW.replace(minute=30)) == 5.0
    assert retry_after({"Retry-After": "Sun, 01 Mar 2020 06:00:00 GMT"}, NOW) == 0.0
    for rubbish in ("", "soon", "-1", "1e9", "9" * 5000, "Sun, 99 Mar 2026 06:00:30 GMT", "٣"):
        assert retry_after({"Retry-After": rubbish}, NOW) is None


@pytest.mark.parametrize(
    "words",
    [
        {"path": "flights"},
        {"path": "/a#b"},
        {"method": "GET"},
        {"timeout": "30s"},
        {"timeout": "0s"},
        {"connections": 0},
        {"colour": "red"},
    ],
)
def test_wrong_options(words: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        HttpOptions.model_validate(words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"url": "app:8080"}, "no url"),
        ({"url": "http://"}, "no url"),
        ({"url": "ftp://app"}, "no url"),
        ({"url": "http://app:99999"}, "no url"),
        ({"url": "http://app/?a=1"}, "no url"),
        ({"url": "http://me:secret@app"}, "password"),
        ({"url": "http://app", "ssl": True}, "https"),
        ({"url": "http://app", "token": "secret"}, "does not stand in the file"),
        ({"url": "http://app", "headers": {"a b": "1"}}, "name"),
        ({"url": "http://app", "headers": {"a": "1\n2"}}, "printable"),
        ({"url": "http://app", "headers": {"CE-Id": "1"}}, "each request"),
        ({"url": "http://app", "headers": {"Content-Length": "1"}}, "each request"),
        ({"url": "http://app", "headers": {"authorization": "x"}, "token": {"env": "T"}}, "two Authorization"),
    ],
)
def test_wrong_connections(words: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        HttpConnection.model_validate({"sink": "http"} | words)


def test_secrets_are_read_when_they_are_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = {
        "url": "https://app",
        "token": {"file": "token"},
        "headers": {"X-Tenant": "a", "X-Key": {"env": "APP_KEY"}},
    }
    connection = HttpConnection.model_validate({"sink": "http"} | words, context={"folder": tmp_path})
    with pytest.raises(ConfigurationError, match="APP_KEY"):
        connection.request_headers()
    monkeypatch.setenv("APP_KEY", "k")
    (tmp_path / "token").write_text("t\n")
    assert connection.request_headers() == {"X-Tenant": "a", "X-Key": "k", "Authorization": "Bearer t"}
    (tmp_path / "token").write_text("t\nu")
    with pytest.raises(ConfigurationError, match="Authorization"):
        connection.request_headers()


def test_late_writes_are_harmless_where_the_application_says_so() -> None:
    connection = HttpConnection(sink="http", url="http://app")
    plain = HttpSink.for_context(SinkContext("ns", "t", HttpOptions(), connection))
    timed = HttpSink.for_context(SinkContext("ns", "t", HttpOptions(compares_times=True), connection))
    assert (plain.late_writes_harmless, timed.late_writes_harmless) == (False, True)


def test_a_target_without_a_connection_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="names no connection"):
        HttpSink(SinkContext("ns", "t", HttpOptions()))


def test_an_entry_of_the_log_is_a_message() -> None:
    sent = message(entry(7, key=b"k", payload=b"{}"))
    assert dict(sent.headers)["walstream-log-position"] == "7"
    assert dict(sent.headers)["ce-time"].endswith("Z")

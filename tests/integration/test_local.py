"""The local servers, through the command line and through Python."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from walstream.cli import main
from walstream.errors import ServerError
from walstream.local import KafkaOptions, Servers
from walstream.testing.waiting import wait_until


class Cli:
    """`walstream local` in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def command(self, *words: str) -> list[str]:
        program = [sys.executable, "-c", "from walstream.cli import main; main()"]
        return [*program, "local", words[0], "--folder", str(self.folder), *words[1:]]

    def run(self, *words: str, status: int = 0, stdin: str = "") -> str:
        done = subprocess.run(self.command(*words), input=stdin, capture_output=True, text=True, timeout=120)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout if status == 0 else done.stderr

    def status(self) -> dict[str, dict[str, Any]]:
        return {each["name"]: each for each in json.loads(self.run("status", "--json"))}

    @contextlib.contextmanager
    def foreground(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        """`up`, until it says that the servers answer."""
        up = subprocess.Popen(self.command("up", "--json", *words), stdout=subprocess.PIPE, text=True)
        try:
            assert up.stdout is not None
            said = ""
            while line := up.stdout.readline():
                said += line
                if line.startswith("]"):
                    break
            assert json.loads(said)
            yield up
        finally:
            up.kill()
            up.wait()


def ended(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def write(address: str, topic: str, value: bytes) -> None:
    producer = Producer({"bootstrap.servers": address, "log_level": 0})
    producer.produce(topic, value)
    assert producer.flush(30) == 0


def read_first(address: str, topic: str) -> bytes | None:
    consumer = Consumer({"bootstrap.servers": address, "group.id": "unused", "log_level": 0})
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        message = consumer.poll(30)
        return message.value() if message else None
    finally:
        consumer.close()


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """Both servers, as a `walstream local up` in the foreground holds them, until SIGTERM."""
    cli = Cli(tmp_path_factory.mktemp("local"))
    with cli.foreground() as up:
        yield cli
        last = [each["pid"] for each in cli.status().values()]
        up.send_signal(signal.SIGTERM)
        assert up.wait(timeout=60) == 0
        assert all(map(ended, last))


def test_both_run_and_say_where(cli: Cli) -> None:
    status = cli.status()
    assert {name: each["state"] for name, each in status.items()} == {"kafka": "running", "cassandra": "running"}
    assert cli.run("env").splitlines() == [
        f"export WALSTREAM_BROKERS={status['kafka']['address']}",
        f"export WALSTREAM_CASSANDRA={status['cassandra']['address']}",
    ]
    assert AdminClient({"bootstrap.servers": status["kafka"]["address"]}).list_topics(timeout=10).brokers


def test_topics_are_not_made_by_accident(cli: Cli) -> None:
    admin = AdminClient({"bootstrap.servers": cli.status()["kafka"]["address"]})
    admin.list_topics("mistyped", timeout=10)
    assert "mistyped" not in admin.list_topics(timeout=10).topics


def test_a_second_up_finds_the_first(cli: Cli) -> None:
    before = cli.status()
    assert json.loads(cli.run("up", "--json")) == list(before.values())
    assert json.loads(cli.run("up", "--detach", "--json")) == list(before.values())


def test_kafka_alone_is_killed_and_comes_back_with_its_data(cli: Cli) -> None:
    before = cli.status()
    address = before["kafka"]["address"]
    admin = AdminClient({"bootstrap.servers": address})
    admin.create_topics([NewTopic("kept", 1, 1)])["kept"].result(timeout=30)
    write(address, "kept", b"written before")
    cli.run("stop", "kafka", "--kill")
    stopped = cli.status()
    assert stopped["kafka"]["state"] == "stopped"
    assert stopped["cassandra"] == before["cassandra"]
    cli.run("start", "kafka")
    after = cli.status()["kafka"]
    assert after["address"] == address
    assert after["pid"] != before["kafka"]["pid"]
    assert read_first(address, "kept") == b"written before"


def test_cassandra_alone_is_stopped_and_comes_back_with_its_data(cli: Cli) -> None:
    before = cli.status()
    schema = (
        "CREATE KEYSPACE kept WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}; "
        "CREATE TABLE kept.words (id int PRIMARY KEY, word text); -- a comment; not a statement\n"
        "INSERT INTO kept.words (id, word) VALUES (1, 'semi;colon')"
    )
    cli.run("cql", stdin=schema)
    cli.run("stop", "cassandra")
    assert cli.status()["kafka"] == before["kafka"]
    assert "No Cassandra answers" in cli.run("cql", "SELECT * FROM kept.words", status=1)
    cli.run("start", "cassandra")
    assert json.loads(cli.run("cql", "--json", "SELECT * FROM kept.words")) == [{"id": 1, "word": "semi;colon"}]
    assert "kept.nothing" in cli.run("cql", "SELECT * FROM kept.nothing", status=1)


def test_a_dead_parent_leaves_no_orphan(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    with cli.foreground("kafka") as up:
        cli.run("stop", "kafka")
        cli.run("start", "kafka")  # By another process; it belongs to the first all the same.
        pid = cli.status()["kafka"]["pid"]
        up.kill()
        up.wait()
        wait_until(lambda: ended(pid), 60, "the orphan has ended")
    assert cli.status()["kafka"]["state"] == "stopped"
    assert json.loads(cli.run("down", "--json")) == {"stopped": []}


def test_a_parent_killed_while_it_starts_leaves_no_orphan(tmp_path: Path) -> None:
    up = subprocess.Popen(Cli(tmp_path).command("up", "cassandra"), stderr=subprocess.DEVNULL)
    state = tmp_path / "state.json"
    wait_until(lambda: state.exists() and json.loads(state.read_bytes())["processes"], 60, "a server is started")
    up.kill()
    up.wait()
    pid = json.loads(state.read_bytes())["processes"]["cassandra"]["pid"]
    wait_until(lambda: ended(pid), 60, "the orphan has ended")


def test_detached_goes_on_until_down_which_stops_nothing_else(tmp_path: Path, cli: Cli) -> None:
    others = cli.status()
    detached = Cli(tmp_path)
    detached.run("up", "--detach", "kafka")
    pid = detached.status()["kafka"]["pid"]
    assert not ended(pid)
    assert json.loads(detached.run("down", "--json")) == {"stopped": ["kafka"]}
    assert ended(pid)
    assert cli.status() == others


def test_down_leaves_a_process_alone_that_only_has_the_id(tmp_path: Path) -> None:
    innocent = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        former = {"pid": innocent.pid, "created": psutil.Process(innocent.pid).create_time() - 60}
        state = {"ports": {}, "processes": {"kafka": former}, "owners": {}}
        (tmp_path / "state.json").write_text(json.dumps(state))
        servers = Servers(tmp_path)
        assert servers.status()[0].crashed
        assert servers.down() == []
        assert innocent.poll() is None
    finally:
        innocent.kill()
        innocent.wait()


def test_a_failing_start_shows_the_end_of_the_servers_own_log(tmp_path: Path) -> None:
    data = tmp_path / "kafka" / "data"
    data.mkdir(parents=True)
    (data / "meta.properties").touch()  # So that it counts as set up, and the server itself meets the mistake.
    with pytest.raises(ServerError, match=r"(?s)ended with status 1 .*num\.io\.threads") as failure:
        Servers(tmp_path, kafka=KafkaOptions(properties={"num.io.threads": "0"})).up(cassandra=False)
    assert str(tmp_path / "kafka" / "server.log") in str(failure.value)


@pytest.mark.slow
def test_each_region_has_a_kafka_of_its_own(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    with cli.foreground("kafka", "--regions", "east,west") as up:
        status = cli.status()
        assert {name: each["state"] for name, each in status.items()} == {
            "cassandra": "stopped", "east/kafka": "running", "west/kafka": "running",
        }  # fmt: skip
        assert json.loads(cli.run("stop", "kafka", "--region", "west", "--json")) == {"stopped": ["west/kafka"]}
        after = cli.status()
        assert after["west/kafka"]["state"] == "stopped"
        assert after["east/kafka"] == status["east/kafka"]
        cli.run("start", "kafka", "--region", "west")
        for name in ("east/kafka", "west/kafka"):
            assert AdminClient({"bootstrap.servers": status[name]["address"]}).list_topics(timeout=10).brokers
        assert sorted(json.loads(cli.run("down", "--json"))["stopped"]) == ["east/kafka", "west/kafka"]
        assert up.wait(timeout=60) == 0


def test_the_settings_of_a_region(tmp_path: Path) -> None:
    ports = {"east/kafka": {"PLAINTEXT": 1001}, "far-west/kafka": {"PLAINTEXT": 1002}}
    state = {"ports": ports, "processes": {}, "owners": {}, "regions": ["east", "far-west"]}
    (tmp_path / "state.json").write_text(json.dumps(state))
    runner = CliRunner()

    def run(*words: str, status: int = 0) -> str:
        done = runner.invoke(main, ["local", words[0], "--folder", str(tmp_path), *words[1:]])
        assert done.exit_code == status, done.output
        return done.output

    assert run("env", "--region", "far-west").splitlines() == [
        "export WALSTREAM_BROKERS=127.0.0.1:1002",
        "export WALSTREAM_REGION=far-west",
        "export WALSTREAM_REGION_RANK=1",
        "export WALSTREAM_BROKERS_EAST=127.0.0.1:1001",
        "export WALSTREAM_BROKERS_FAR_WEST=127.0.0.1:1002",
    ]
    assert "--region east" in run("env", status=1)
    assert "no region north" in run("env", "--region", "north", status=1)
    assert [each["name"] for each in json.loads(run("status", "--json"))] == [
        "cassandra", "east/kafka", "far-west/kafka",
    ]  # fmt: skip
    assert "share the cassandra" in run("stop", "cassandra", "--region", "east", status=2)
    assert "'East' is no name" in run("up", "--regions", "East,west", status=2)
    with pytest.raises(ServerError, match="more than 10 regions"):
        Servers(tmp_path).up(regions=[f"r{i}" for i in range(9)])


def test_a_kept_port_that_somebody_took_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        state = {"ports": {"kafka": {"PLAINTEXT": port}}, "processes": {}, "owners": {}}
        (tmp_path / "state.json").write_text(json.dumps(state))
        with pytest.raises(ServerError, match=f"Port {port} of kafka .* is taken"):
            Servers(tmp_path).up(cassandra=False)

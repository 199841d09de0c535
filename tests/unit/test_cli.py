"""The command, without servers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from walstream.cli import COMMANDS, main
from walstream.config import load_connections, load_namespaces

NO_KAFKA = "127.0.0.1:1"


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WALSTREAM_CONFIG", raising=False)
    monkeypatch.delenv("WALSTREAM_CASSANDRA", raising=False)
    monkeypatch.setenv("WALSTREAM_BROKERS", NO_KAFKA)


def walstream(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def test_help_lists_every_command_and_imports_none() -> None:
    script = (
        "import sys, walstream.cli\n"
        "try: walstream.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'pydantic', 'confluent_kafka', 'aiokafka', 'faust', 'cassandra', 'rich', 'ruamel'}\n"
        "print('imported', heavy & set(sys.modules))"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "imported set()" in said
    for name in COMMANDS:
        assert f"\n  {name} " in said


@pytest.mark.parametrize("name", ["init", "check", "apply", "status", "config"])
def test_each_command_has_examples(name: str) -> None:
    result = walstream(name, "--help")
    assert result.exit_code == 0
    assert name == "config" or "Examples:" in result.stdout


def test_completion_knows_the_commands() -> None:
    script = "from walstream.cli import main; main(prog_name='walstream')"
    environment = {"_WALSTREAM_COMPLETE": "bash_complete", "COMP_WORDS": "walstream st", "COMP_CWORD": "1"}
    said = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert said.stdout.split() == ["plain,status"]


def test_wrong_usage_is_2() -> None:
    assert walstream("nonsense").exit_code == 2
    assert walstream("check", "--nonsense").exit_code == 2


def test_a_missing_command_fails_cleanly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "write", ("walstream.cli.not_there:write", ""))
    result = walstream("write")
    assert result.exit_code == 1
    assert "no command write" in result.stderr


def test_init_writes_what_check_accepts() -> None:
    result = walstream("init", "flights", "--yes", "--replication", "3", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {
        "written": ["config/namespaces/flights.yaml", "config/namespaces/connections.yaml"]
    }
    flights = load_namespaces(Path("config/namespaces"))["flights"]
    assert (flights.topics.partitions, flights.topics.replication, flights.topics.min_insync) == (12, 3, 2)
    assert set(load_connections(Path("config/namespaces"))) == {"main"}
    assert walstream("check", "--offline").exit_code == 0
    assert walstream("config", "lint").exit_code == 0


def test_init_asks() -> None:
    result = CliRunner().invoke(main, ["init", "--replication", "1"], input="trains\n5\n")
    assert result.exit_code == 0
    assert load_namespaces(Path("config/namespaces"))["trains"].topics.partitions == 5


def test_init_overwrites_nothing() -> None:
    for path in ("config/namespaces/flights.yaml", "config/namespaces/connections.yaml"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text("# mine\n")
    result = walstream("init", "flights", "--yes", "--replication", "3")
    assert result.exit_code == 1
    assert "exists already" in result.stderr
    assert walstream("init", "trains", "--yes", "--replication", "3").exit_code == 0
    assert Path("config/namespaces/flights.yaml").read_text() == "# mine\n"
    assert Path("config/namespaces/connections.yaml").read_text() == "# mine\n"


def test_init_refuses_a_bad_name() -> None:
    result = walstream("init", "router", "--yes")
    assert result.exit_code == 1
    assert "remedy" in result.stderr


def test_check_says_file_line_and_remedy() -> None:
    walstream("init", "flights", "--yes", "--replication", "3")
    file = Path("config/namespaces/flights.yaml")
    file.write_text(file.read_text().replace("dedup:", "dedupe:"))
    for command in (["check"], ["config", "lint"]):
        result = walstream(*command)
        assert result.exit_code == 1
        assert "flights.yaml:17: unknown word 'dedupe'" in result.stdout
        assert "did you mean dedup?" in result.stdout
        problems = json.loads(walstream(*command, "--json").stdout)["problems"]
        assert [(problem["line"], problem["remedy"]) for problem in problems] == [(17, "did you mean dedup?")]


def test_no_traceback_where_kafka_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("walstream.admin.TIMEOUT", 0.5)
    monkeypatch.setattr("walstream.cli.check.TIMEOUT", 0.5)
    walstream("init", "flights", "--yes", "--replication", "3")
    result = walstream("check")
    assert result.exit_code == 0
    assert f"Kafka at {NO_KAFKA}" in result.stderr


def test_show_fills_in_defaults() -> None:
    walstream("init", "flights", "--yes", "--replication", "3")
    (document,) = json.loads(walstream("config", "show", "--json").stdout)
    assert document["targets"]["base"]["retry"]["max"] == "5m"
    assert "max: 5m" in walstream("config", "show").stdout


def test_show_of_no_namespace() -> None:
    walstream("init", "flights", "--yes", "--replication", "3")
    result = walstream("config", "show", "flihgts")
    assert result.exit_code == 1
    assert "did you mean flights?" in result.stderr


def test_schema() -> None:
    schema = json.loads(walstream("config", "schema").stdout)
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["DedupOptions"]["properties"]["window"]["default"] == "1d"
    assert {"cassandra", "http", "kafka", "redis"} <= set(schema["$defs"]["Target"]["properties"]["sink"]["enum"])
    assert "keyspace" in schema["$defs"]["cassandra-options"]["properties"]
    referred = [part["then"]["properties"]["options"]["$ref"] for part in schema["$defs"]["Target"]["allOf"]]
    assert all(reference.removeprefix("#/$defs/") in schema["$defs"] for reference in referred)
    connections = json.loads(walstream("config", "schema", "--connections").stdout)
    assert "CassandraConnection" in connections["$defs"]

"""What the documentation says exists, and what exists is in the documentation."""

from __future__ import annotations

import json
import random
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from prometheus_client import CollectorRegistry
from pydantic import BaseModel
from ruamel.yaml import YAML

from walstream import attempt, deadletter, headers, record, topics
from walstream.cli import main
from walstream.config import check_folder
from walstream.connections import CONNECTIONS, Tls
from walstream.delivery.breaker import Breaker
from walstream.delivery.metrics import DeliveryMetrics, TargetCollector
from walstream.delivery.slots import Slots
from walstream.metrics import TaskCollector
from walstream.namespace import Namespace, Target
from walstream.router.metrics import RouterMetrics
from walstream.settings import PREFIX, Settings
from walstream.sinks.registry import sink_class, sink_names

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").rglob("*.md"))]
REFERENCE = ROOT / "docs/reference"
MINIMAL = {"version": 1, "namespace": "example"}


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(*languages: str) -> list[Any]:
    """The code blocks of all pages, as parameters: page and text."""
    found = []
    for page in PAGES:
        for language, text in re.findall(r"^ *```(\w+)\n(.*?)^ *```", page.read_text(), re.S | re.M):
            if language in languages:
                found.append(pytest.param(text, id=f"{name(page)}-{len(found)}"))
    return found


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    with click.Context(group) as context:
        for word in group.list_commands(context):
            command = group.get_command(context, word)
            if isinstance(command, click.Group):
                yield from commands(command, (*path, word))
            else:
                yield (*path, word)


def words(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """The words of a part of a file, with dots between."""
    for field, info in model.model_fields.items():
        word = f"{path}{info.alias or field}"
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from words(info.annotation, f"{word}.")
        else:
            yield word


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        if ":" in path:
            continue
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", there.read_text(), re.M)
            assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}, target


@pytest.mark.parametrize("text", blocks("yaml"))
def test_files_that_are_shown_are_right(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = YAML(typ="safe").load(text)
    connections = "main: {sink: cassandra, hosts: [localhost]}\napp: {sink: http, url: http://localhost}\n"
    connections += "cache: {sink: redis, host: localhost}\nfront: {sink: memcached, host: localhost}\n"
    connections += "cache-east: {sink: redis, host: east}\ncache-west: {sink: redis, host: west}\n"
    connections += "east: {sink: kafka, brokers: east:1, rank: 0}\nwest: {sink: kafka, brokers: west:1, rank: 1}\n"
    monkeypatch.setenv("WALSTREAM_BROKERS_WEST", "localhost:9093")
    if all(isinstance(entry, dict) and "sink" in entry for entry in document.values()):
        connections, document = text, MINIMAL
    elif "namespace" not in document:
        document = MINIMAL | document
    (tmp_path / "connections.yaml").write_text(connections)
    with (tmp_path / "example.yaml").open("w") as file:
        YAML().dump(document, file)
    _, errors = check_folder(tmp_path)
    assert errors == []


def calls(line: str) -> Iterator[list[str]]:
    """The arguments of each call of walstream in a line of shell."""
    for inner in re.findall(r"\$\((walstream [^)]*)\)", line):
        yield shlex.split(inner)[1:]
    tokens = shlex.shlex(line, posix=True, punctuation_chars=True)
    tokens.whitespace_split = True
    call: list[str] | None = None
    for token in [*tokens, ";"]:
        if token == "walstream" and call is None:
            call = []
        elif call is not None and set(token) <= set("|&;<>()"):
            yield call
            call = None
        elif call is not None:
            call.append(token)


@pytest.mark.parametrize("text", blocks("python"))
def test_programs_that_are_shown_can_be_read(text: str) -> None:
    compile(text, "page", "exec", dont_inherit=True)


@pytest.mark.parametrize("text", blocks("json"))
def test_json_that_is_shown_is_json(text: str) -> None:
    decode, position = json.JSONDecoder().raw_decode, 0
    while position < len(text.rstrip()):
        _, position = decode(text, position)
        position += len(text[position:]) - len(text[position:].lstrip())


@pytest.mark.parametrize("text", blocks("sh"))
def test_commands_that_are_shown_can_be_called(text: str) -> None:
    text = re.sub(r"<<'END'.*?^END$", "", text, flags=re.S | re.M)
    for line in text.replace("\\\n", " ").splitlines():
        for arguments in calls(line):
            command: click.Command = main
            while isinstance(command, click.Group):
                with click.Context(command) as context:
                    found = command.get_command(context, arguments.pop(0))
                assert found is not None, line
                command = found
            command.make_parser(click.Context(command)).parse_args(arguments)


def test_every_command_is_in_the_reference() -> None:
    text = (REFERENCE / "commands.md").read_text().replace("\\|", "|")
    documented = re.findall(r"`walstream ([a-z|]+)(?: ([a-z|]+))?", text)
    named = {(first, second) for first, seconds in documented for second in (seconds or "").split("|")}
    for path in commands(main):
        assert (path[0], path[1] if len(path) > 1 else "") in named, path


def test_every_setting_is_in_the_reference() -> None:
    documented = re.findall(r"^\| `(WALSTREAM_\w+)`", (REFERENCE / "settings.md").read_text(), re.M)
    assert sorted(documented) == sorted(f"{PREFIX}{field}".upper() for field in Settings.model_fields)


def test_every_word_of_files_is_in_the_reference() -> None:
    documented = set(re.findall(r"^\| `([\w.<>]+)`", (REFERENCE / "namespace-file.md").read_text(), re.M))
    expected = {word for word in words(Namespace) if word != "targets"}
    assert documented == expected | {f"targets.<name>.{word}" for word in words(Target)}
    text = (REFERENCE / "connections.md").read_text()
    for model in (*CONNECTIONS.values(), Tls):
        for field in model.model_fields:
            assert f"`{field}" in text, field
    text = (REFERENCE / "sinks.md").read_text()
    for sink in sink_names():
        assert f"## {sink}" in text
        for word in words(sink_class(sink).Options):
            assert f"| `{word}` |" in text, (sink, word)


def test_every_code_of_a_refusal_is_in_the_reference() -> None:
    source = "\n".join(path.read_text() for path in (ROOT / "walstream").rglob("*.py"))
    used = set(re.findall(r'RecordRefused\(\s*"([a-z0-9-]+)"', source))
    used |= set(re.findall(r'read_value\([^)]*, "([a-z-]+)"\)', source))
    text = (REFERENCE / "records.md").read_text()
    documented = set(re.findall(r"`([a-z0-9-]+)`", text))
    assert used <= documented
    table = text.partition("| code |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `([a-z0-9-]+)`", table, re.M)) <= used


def test_every_header_is_in_the_reference() -> None:
    text = (REFERENCE / "records.md").read_text()
    for module in (record, headers, deadletter, attempt):
        for constant, header in vars(module).items():
            if constant.endswith("_HEADER"):
                assert f"`{header}`" in text, constant


def test_every_topic_is_in_the_reference() -> None:
    namespace = Namespace.model_validate(MINIMAL | {"namespace": "n", "targets": {"t": {"sink": "kafka"}}})
    text = (REFERENCE / "topics.md").read_text()
    for topic in topics.all_topics(namespace):
        generic = re.sub(r"^n\.(t\.)?", lambda found: "<namespace>." + ("<target>." if found[1] else ""), topic.name)
        assert f"| `{generic}` |" in text, topic.name


def test_every_metric_is_in_the_reference() -> None:
    registry = CollectorRegistry()
    RouterMetrics(registry)
    DeliveryMetrics(registry).count("n", "t", "applied", 1)
    engine: Any = SimpleNamespace(tasks={})
    exist = {f"{metric.name}{'_total' * (metric.type == 'counter')}" for metric in registry.collect()}
    exist |= {metric.name for metric in TaskCollector(engine).collect()}
    watched: Any = SimpleNamespace(
        breaker=Breaker(random.random, 1.0), slots=Slots(1, 1, 1), counts=dict, oldest=lambda partition: None
    )
    exist |= {metric.name for metric in TargetCollector("n", "t", watched).collect()}
    documented = re.findall(r"^\| `(walstream_\w+)`", (REFERENCE / "metrics.md").read_text(), re.M)
    assert sorted(documented) == sorted(exist)
    for page in PAGES:
        assert set(re.findall(r"\bwalstream_[a-z_]+_[a-z_]+\b", page.read_text())) <= exist, page


def test_every_module_is_on_the_map() -> None:
    map_ = (ROOT / "ARCHITECTURE.md").read_text().partition("## The path of a record")[0]
    named = {word.removesuffix(".py") for text in re.findall(r"`([^`]+)`", map_) for word in re.split(r"[\s/]", text)}
    modules = [*(ROOT / "walstream").rglob("*.py"), *(ROOT / "topologies").glob("*.py")]
    assert {path.stem for path in modules if not path.stem.startswith("__")} <= named


def test_the_example_is_the_demos() -> None:
    example, demos = ROOT / "config/namespaces/flights.yaml", ROOT / "walstream/demo/flights.yaml"
    assert example.read_text() == demos.read_text()

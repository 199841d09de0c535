"""What the demo writes, where it works, and when it says that all is equal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from walstream.answers import Answer
from walstream.config import load_connections, load_namespaces
from walstream.demo import scenario
from walstream.demo.check import Findings
from walstream.demo.flights import Step
from walstream.demo.folder import clear, own_folder
from walstream.demo.indexes import Index, Query, both
from walstream.demo.purge import Purge
from walstream.demo.scenario import Result, record_of, repeated, write_config, write_of
from walstream.errors import ConfigurationError, WalstreamError
from walstream.mutation import KeyTemplate, Mutation
from walstream.pending import Outcome

STEPS = [Step(n, f"flight-{n % 100}", f"status-{n}", {"status": "departed"}) for n in range(10_000)]


def test_every_step_is_written_in_order_and_some_are_repeated_later() -> None:
    written = repeated(STEPS)
    seen: set[str] = set()
    firsts = [step for step in written if not (step.id in seen or seen.add(step.id))]  # type: ignore[func-returns-value]
    assert firsts == STEPS
    again = len(written) - len(STEPS)
    assert 0.5 * scenario.AGAIN < again / len(STEPS) < 2 * scenario.AGAIN
    # Some come back when their flight is a step further: only dedup, or the write's own time, keeps the row right.
    overtaken = 0
    newest: dict[str, int] = {}
    for step in written:
        overtaken += step.time < newest.get(step.flight, -1)
        newest[step.flight] = max(step.time, newest.get(step.flight, -1))
    assert overtaken > again / 2


def test_it_repeats_the_same_ones_each_time() -> None:
    assert repeated(STEPS) == repeated(STEPS)


def test_what_is_compared_is_what_is_written() -> None:
    write, record = write_of(STEPS[0]), record_of(STEPS[0])
    assert isinstance(write.payload, Mutation)
    assert (write.payload.to_bytes(), str(write.id).encode()) == (record.value, record.id)
    assert KeyTemplate("{flight}").render(write.payload.key) == record.key


def test_its_configuration_is_right_and_that_of_the_examples(tmp_path: Path) -> None:
    write_config(tmp_path / "config", "127.0.0.1:9999")
    namespace = load_namespaces(tmp_path / "config")["flights"]
    assert set(namespace.targets) == {"base", "copy", *(index.target for index in both())}
    assert all(namespace.targets[index.target].options["table"] == index.table for index in both())
    assert namespace.targets["copy"].options["topic"] == scenario.COPY_TOPIC
    assert load_connections(tmp_path / "config")["main"].hosts == ["127.0.0.1:9999"]  # type: ignore[union-attr]
    examples = Path(__file__).parents[2] / "config" / "namespaces" / "flights.yaml"
    assert (tmp_path / "config" / "flights.yaml").read_text() == examples.read_text()


def purged() -> Purge:
    purge = Purge("2013-01-01", at=0, due={"a": 1_000, "b": 2_000}, written=2)
    purge.answers = [
        Answer("cancel", "1", "/demo", "c", Outcome.CANCELLED),
        Answer("reschedule", "2", "/demo", "b", Outcome.RESCHEDULED, due=2_000),
    ]
    purge.sent, purge.gone = {"a": [1], "b": [3]}, {"a": 1.0, "b": 2.0}
    purge.rows, purge.left = Findings(right=1), 0
    return purge


def indexed() -> list[Index]:
    indexes = both()
    for index in indexes:
        index.rows, index.left, index.entries = Findings(right=2), 1, 1
        index.verified = {"missing": 0}
    return indexes


def good() -> Result:
    return Result(
        month=1, flights=2, mutations=6, written=7, written_again=1, in_log=6, dropped=1,
        rows=Findings(right=2), copies=Findings(right=6), purge=purged(), indexes=indexed(), query=Query("N1"),
    )  # fmt: skip


def test_all_is_equal() -> None:
    assert good().ok
    assert good().as_dict()["ok"] is True


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"rows": Findings(1, 1, ["a: status is x"])}, "row a: status is x"),
        ({"copies": Findings(5, 1, ["a/1 is not there"])}, "a/1 is not there"),
        ({"dead": {"flights.dlq": 1}}, "flights.dlq holds 1 records"),
        ({"in_log": 7}, "the log has 7 records of 6 mutations"),
        ({"purge": None}, "nothing was deleted"),
        ({"query": None}, "nothing was asked by the index"),
        ({"query": Query("N1", problems=["0 flights were found"])}, "0 flights were found"),
        ({"indexes": [replace(indexed()[0], verified={"stale": 1})]}, "walstream index verify by-tail: 1 stale"),
        ({"purge": replace(purged(), left=1)}, "the schedule still has rows"),
        ({"dropped": 0}, "0 records were dropped as duplicates, and 1 written again"),
    ],
)
def test_not_all_is_equal(wrong: dict[str, object], problem: str) -> None:
    result = good()
    for name, value in wrong.items():
        setattr(result, name, value)
    assert result.problems == [problem]
    assert not result.ok


def test_a_comparison_of_nothing_is_not_ok() -> None:
    assert not Result(month=1).ok


def test_it_works_in_a_new_or_empty_folder_or_a_demos_and_in_no_other(tmp_path: Path) -> None:
    with own_folder(tmp_path / "new"):
        pass
    with own_folder(tmp_path / "new"):
        pass
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "data").write_text("somebody's")
    with pytest.raises(ConfigurationError, match="not a demo's"), own_folder(tmp_path / "other"):
        pass
    assert (tmp_path / "other" / "data").exists()


def test_two_demos_do_not_share_a_folder(tmp_path: Path) -> None:
    with own_folder(tmp_path / "a"), pytest.raises(WalstreamError, match="running"), own_folder(tmp_path / "a"):
        pass


def test_it_clears_only_what_is_its_own(tmp_path: Path) -> None:
    for name in ("config", "data", "local", "notes"):
        (tmp_path / name).mkdir()
    (tmp_path / "run.log").touch()
    clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]

"""The demo's comparisons must see every way in which a row or a copied record can be wrong."""

from __future__ import annotations

from typing import Any

import pytest

from walstream.demo.check import Findings, Record, compare_records, compare_rows

ROWS: dict[str, dict[str, Any]] = {"a": {"flight": "a", "delay": 1}, "b": {"flight": "b", "delay": None}}

A1, A2, B1 = Record(b"a", b"a/1", b"x"), Record(b"a", b"a/2", b"y"), Record(b"b", b"b/1", b"z")
WRITTEN = [A1, B1, A2]


def test_equal_rows_are_right_in_any_order() -> None:
    assert compare_rows(ROWS, [ROWS["b"], ROWS["a"]], "flight") == Findings(right=2)


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        ([ROWS["a"]], "b is not in the table"),
        ([*ROWS.values(), {"flight": "c", "delay": 0}], "c is in the table, and should not be"),
        ([*ROWS.values(), ROWS["a"]], "a is in the table, and should not be"),
        ([ROWS["a"], {"flight": "b", "delay": 0}], "b: delay is 0, should be None"),
        ([ROWS["a"], {"flight": "b", "delay": None, "more": 1}], "b: more is 1, should be None"),
    ],
)
def test_a_wrong_row_is_named(found: list[dict[str, Any]], problem: str) -> None:
    findings = compare_rows(ROWS, found, "flight")
    assert not findings.ok
    assert findings.problems == [problem]


def test_records_may_come_in_any_order_but_that_of_a_key() -> None:
    assert compare_records(WRITTEN, [B1, A1, A2]) == Findings(right=3)


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        ([A1, B1], "a/2 is not there"),
        ([A1, B1, A2, A1], "a/1 is there more than once"),
        ([B1, A2, A1], "a/1 comes after a/2, which was written later"),
        ([A1, A2, B1._replace(value=b"other")], "b/1 was changed on the way"),
        ([A1, A2, B1._replace(key=b"other")], "b/1 was changed on the way"),
        ([*WRITTEN, Record(b"c", b"c/1", b"")], "c/1 was never written"),
        ([*WRITTEN, Record(b"c", None, b"")], "a record without id was never written"),
    ],
)
def test_a_wrong_record_is_named(found: list[Record], problem: str) -> None:
    findings = compare_records(WRITTEN, found)
    assert not findings.ok
    assert findings.problems == [problem]


def test_nothing_at_all_is_not_ok() -> None:
    assert not compare_rows({}, [], "flight").ok
    assert not compare_records([], []).ok


def test_only_some_problems_are_written_out_and_all_are_counted() -> None:
    findings = compare_records([Record(b"k", str(n).encode(), b"") for n in range(100)], [])
    assert findings.wrong == 100
    assert len(findings.problems) == 10

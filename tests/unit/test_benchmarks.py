"""The harness of the benchmarks, as far as it can be wrong without servers: records, figures, comparisons, plots."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.drain import Sample, figures
from benchmarks.load import Shape, records
from benchmarks.plot import bars
from benchmarks.results import Results, Spread, load
from benchmarks.verify import Content, Output, compare
from walstream.mutation import parse_mutation
from walstream.record import parse

CONTENT: Content = (0, b"key", b"value", (("ce_id", b"00a"),))
GIVEN = Output(10, 10, {b"00a": CONTENT})


def test_records_are_events_of_300_bytes_with_eight_headers_and_random_ids() -> None:
    ids = set()
    for key, value, headers, repeated in records(Shape(), 500, seed=1):
        assert len(headers) == 8 and not repeated
        assert len(key) + len(value) + sum(len(name) + len(data) for name, data in headers) == 300
        record = parse(key, value, headers, 0)
        assert record.time is not None
        ids.add(record.id)
    assert len(ids) == 500


def test_a_share_of_them_repeats_key_and_id_of_an_earlier_one() -> None:
    seen: set[tuple[bytes, bytes]] = set()
    repetitions = 0
    for key, _, headers, repeated in records(Shape(duplicates=0.1), 5_000, seed=1):
        name = (key, dict(headers)["ce_id"])
        assert repeated == (name in seen)
        seen.add(name)
        repetitions += repeated
    assert 350 < repetitions < 650


def test_rows_are_mutations_with_so_many_of_a_partition() -> None:
    rows = [parse_mutation(value) for _, value, _, _ in records(Shape(rows=10), 100, seed=1, first=100)]
    assert len({(row.key["id"], row.key["seq"]) for row in rows}) == 100
    assert len({row.key["id"] for row in rows}) == 10


def test_figures_are_of_what_came_out_once_warm() -> None:
    # 100 records/s cold, then 1,000/s at 1 ms of processor time each.
    samples = [Sample(1.0, 100, 1.0, 0.0), Sample(3.0, 300, 2.0, 0.1), Sample(4.0, 1_300, 3.0, 0.2)]
    found = figures(samples, begun=0.0, expected=1_300, warm=0.2, peak_rss=7)
    assert found.complete and found.records == 1_300 and found.start == 1.0 and found.peak_rss == 7
    assert found.rate == 1_000 and found.cpu == pytest.approx(1_000) and found.broker_cpu == pytest.approx(100)
    assert found.cold_rate == 400 and found.total_cpu == pytest.approx(3 / 1_300 * 1e6)


def test_markers_of_transactions_are_no_records() -> None:
    samples = [Sample(0.0, 100, 0.0, 0.0), Sample(1.0, 1_020, 1.0, 0.0)]
    assert figures(samples, 0.0, expected=1_000, warm=0, peak_rss=0).records == 1_000


def test_who_was_stopped_is_measured_by_what_came_out() -> None:
    samples = [Sample(0.0, 10, 0.0, 0.0), Sample(10.0, 110, 1.0, 0.0)]
    found = figures(samples, 0.0, expected=1_000_000, warm=0.25, peak_rss=0)
    assert not found.complete and found.rate == 10


def test_one_look_is_no_measurement() -> None:
    with pytest.raises(RuntimeError, match="more records"):
        figures([Sample(0.0, 10, 0.0, 0.0)], 0.0, expected=10, warm=0, peak_rss=0)


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (Output(9, 9, {b"00a": CONTENT}), "9 distinct records came out, and not 10"),
        (Output(11, 10, {b"00a": CONTENT}), "1 came out more than once"),
        (Output(10, 10, {b"00a": (0, b"key", b"other", CONTENT[3])}), "1 of 1 sampled records differ"),
        (Output(10, 10, {b"00b": CONTENT}), "1 of 1 sampled records differ"),
        (Output(10, 10, {}), "no record to compare"),
    ],
)
def test_a_wrong_output_is_seen(output: Output, said: str) -> None:
    (wrong,) = compare(GIVEN, output, expected=10, complete=True, once=True)
    assert said in wrong


def test_a_right_output_is_right() -> None:
    assert compare(GIVEN, GIVEN, expected=10, complete=True, once=True) == []
    assert compare(GIVEN, Output(3, 3, GIVEN.sample), expected=10, complete=False, once=True) == []


def test_results_are_added_to_what_is_there(tmp_path: Path) -> None:
    for value in (1, 2):
        Results("thing", {"records": 5}, tmp_path).save({"value": value})
    kept = load(tmp_path / "results.json")
    assert [each["measured"]["value"] for each in kept] == [1, 2]
    assert kept[0]["figure"] == "thing" and kept[0]["machine"]["cores"]


def test_a_spread_tells_median_and_range() -> None:
    assert Spread([3, 1, 2]).text() == "2 (1-3)" and Spread([1234.5]).text(1) == "1,234.5"


def test_a_plot_is_drawn_with_a_bar_for_everybody(tmp_path: Path) -> None:
    bars(tmp_path / "plot.svg", "a < b", {"rate": {"walstream": [1, 2, 3], "other": [2.0]}, "cpu": {"other": [1.0]}})
    root = ElementTree.parse(tmp_path / "plot.svg").getroot()
    drawn = [each.get("height") for each in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert drawn.count("18") == 3

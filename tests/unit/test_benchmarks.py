"""The harness of the benchmarks, as far as it can be wrong without servers: records, figures, comparisons, plots."""

from __future__ import annotations

import asyncio
import json
import random
import time
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

from benchmarks.contenders.replicate import sent
from benchmarks.delayed import DAY, SPREAD, rows
from benchmarks.drain import Sample, figures
from benchmarks.figures.replication import look_for
from benchmarks.link import lead
from benchmarks.load import Shape, records
from benchmarks.plot import bars
from benchmarks.profile import count, place, put
from benchmarks.results import Results, Spread, load
from benchmarks.table import GOALS, Measurements, write
from benchmarks.verify import Content, Output, compare
from walstream.headers import log_headers, sent_headers
from walstream.local.ports import free_port
from walstream.mutation import parse_mutation
from walstream.record import parse
from walstream.router.delayed import StoredRecord, decode_delayed

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


def test_what_was_only_counted_is_compared_by_its_number() -> None:
    assert compare(GIVEN, Output(10, 10, None), expected=10, complete=True, once=True) == []
    assert compare(GIVEN, Output(11, 11, None), expected=10, complete=True, once=True) != []


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


def test_a_bar_that_would_dwarf_all_others_is_cut(tmp_path: Path) -> None:
    bars(tmp_path / "plot.svg", "title", {"cpu": {"walstream": [5.0], "other": [9.0], "slow": [400.0]}})
    text = (tmp_path / "plot.svg").read_text()
    assert text.count('stroke="white"') == 1 and ">400<" in text


def drained(rate: float, cpu: float = 1.0, **more: float) -> dict[str, float]:
    common = {"records": 2_000_000, "complete": True, "total_cpu": 9.0, "broker_cpu": 2.0, "others": 0.0}
    return {"rate": rate, "cpu": cpu, "peak_rss": 200 << 20, **common, **more}


def entry(measured: object, figure: str = "router", **settings: object) -> dict[str, object]:
    machine = {"at": "2026-01-01T00:00:00+00:00", "commit": "abc", "cores": 2, "python": "3.11", "busy_before": 0.1}
    return {"figure": figure, "settings": settings, "machine": machine, "done": True, "measured": measured}


ALIKE = {"records": 2_000_000, "rounds": 5, "partitions": 4, "compression": "none", "duplicates": 0.0}


def test_the_table_has_a_row_for_each_goal_with_a_ratio_taken_round_by_round(tmp_path: Path) -> None:
    rounds = {
        "walstream router": {"rounds": [drained(120), drained(260), drained(300)], "wrong": []},
        "aiokafka loop, by hand": {"rounds": [drained(100), drained(200), drained(200)], "wrong": []},
    }
    (tmp_path / "results.json").write_text(json.dumps([entry(rounds, **ALIKE)]))
    write(tmp_path)
    page = (tmp_path / "README.md").read_text()
    row = next(line for line in page.splitlines() if "against a hand-written loop" in line)
    assert row == "| router, records/s, against a hand-written loop | ≥ 1.20x | 1.30x (1.20x to 1.50x) | yes |  |"
    assert len([line for line in page.splitlines() if "| not measured |" in line]) == len(GOALS) - 2
    assert "200 (200-200)" in page and (tmp_path / "router-4-none.svg").exists()


def test_a_goal_is_looked_up_where_all_took_part_and_says_what_is_to_be_known(tmp_path: Path) -> None:
    loop = "aiokafka loop, by hand"
    full = entry({name: {"rounds": [drained(100, others=0.9)]} for name in ("walstream router", loop)}, **ALIKE)
    later = entry({"walstream router": {"rounds": [drained(500)]}}, **ALIKE | {"rounds": 1})
    found = GOALS[0].row(Measurements([full, later]))
    assert found[2:] == ("1.00x", "**no**", "the machine was busy with something else")


def test_delayed_records_are_compared_with_others_round_by_round() -> None:
    goal = next(goal for goal in GOALS if goal.figure.startswith("scheduling"))
    measured = {
        "delayed": {"rounds": [drained(50), drained(80)]},
        "undelayed": {"rounds": [drained(100), drained(100)]},
    }
    row = goal.row(Measurements([entry(measured, "delay scheduling", partitions=4, rounds=2)]))
    assert row[1:4] == ("≥ 0.50x", "0.65x (0.50x to 0.80x)", "yes")


def test_rows_that_wait_are_what_a_router_stores_in_another_order_than_they_are_due() -> None:
    found = list(rows(100, 1_000, 2_000, seed=1))
    assert sorted(due for due, *_ in found) == list(range(1_000, 2_000, 10))
    assert [due for due, *_ in found] != sorted(due for due, *_ in found)
    assert len({identity for _, _, identity, _ in found}) == 100
    for number, (_, position, identity, stored) in enumerate(found):
        record = decode_delayed(stored)
        assert position == number and record.identity == identity == StoredRecord(stored).identity
        assert parse(record.key, record.value, record.headers, record.timestamp).type == "bench.write"


def test_records_of_a_shape_may_ask_for_a_delay() -> None:
    ((key, value, headers, _),) = records(Shape(extra=SPREAD), 1, seed=1)
    record = parse(key, value, headers, 0)
    assert record.delay == DAY and record.jitter == DAY // 24


def test_what_is_at_most_may_be_less() -> None:
    goal = next(goal for goal in GOALS if goal.figure.startswith("write to applied"))
    row = goal.row(Measurements([entry({"target": {"p99": 59.0}}, "latency", rate=10_000.0)]))
    assert row[1:4] == ("≤ 60.0 ms", "59.0 ms", "yes")


def test_what_was_saved_in_between_is_replaced_by_what_comes_after(tmp_path: Path) -> None:
    results = Results("thing", {"records": 5}, tmp_path)
    results.save([1], done=False)
    results.save([1, 2])
    (kept,) = load(tmp_path / "results.json")
    assert kept["measured"] == [1, 2] and kept["done"]


@pytest.mark.parametrize(
    ("stack", "where"),
    [
        ("main (faust:1);parse (walstream/record.py:124)", ("walstream/record.py", "parse")),
        ("main (faust:1);parse (walstream/record.py:124);memcpy (libc.so.6)", ("walstream/record.py", "parse")),
        ("get (a/b.py:1);rocksdb::Get (rocksdict/rocksdict.abi3.so)", ("rocksdict, compiled", "rocksdb::Get")),
        ("take (walstream/x.py:1);__next__ (default_records.c:7);Py_DECREF (object.h:5)",
         ("aiokafka, compiled", "__next__")),
        ("run (asyncio/events.py:1);0x7f (libc.so.6)", ("asyncio", "run")),
        ("0x7f (libc.so.6)", ("interpreter", "")),
    ],
)  # fmt: skip
def test_a_look_counts_for_the_innermost_function_that_has_a_name(stack: str, where: tuple[str, str]) -> None:
    assert place(stack.split(";")) == where


def test_a_thread_that_waits_is_at_no_work() -> None:
    lines = ["a (x.py:1);wait (threading.py:3);PyThread_acquire_lock_timed (libpython3.so);0x1 (libc.so.6) 7"]
    assert not count(lines) and count(["a (x.py:1) 2", "a (x.py:9) 3"]) == {("x", "a"): 5}


def test_a_step_of_a_profile_replaces_the_one_of_its_name(tmp_path: Path) -> None:
    page = tmp_path / "router.md"
    for step, text in (("before", "1"), ("after", "2"), ("before", "3")):
        put(page, "# Title", step, f"## {step}\n\n{text}\n")
    assert page.read_text() == "# Title\n\n## before\n\n3\n\n## after\n\n2\n"


ALL_AT_ONCE = 1e12  # rows/s


class Rows:
    """A Redis in which a row is there from a certain look on."""

    def __init__(self, there_from: dict[str, int]) -> None:
        self._there_from, self._looks = there_from, 0

    def mget(self, keys: list[str]) -> list[bytes | None]:
        self._looks += 1
        written = b"%d" % (time.time_ns() - 5_000_000)
        return [written if self._looks >= self._there_from[key] else None for key in keys]


def test_rows_in_the_other_region_are_looked_for_until_each_was_read() -> None:
    late = {f"row-{number:09d}:0": 1 + number % 3 for number in range(0, 60, 3)} | {"row-000000006:0": 4}
    found = look_for(Rows(late), range(0, 60, 3), ALL_AT_ONCE, 10.0, lambda: None)
    assert sorted(number for number, _ in found) == list(range(0, 60, 3)) and found[-1][0] == 6
    assert all(milliseconds >= 5 for _, milliseconds in found)


def test_rows_are_looked_for_when_they_may_be_there() -> None:
    rows = Rows({f"row-{number:09d}:0": 0 for number in range(20)})
    began = time.monotonic()
    assert len(look_for(rows, range(20), 200.0, 10.0, lambda: None)) == 20
    assert time.monotonic() - began >= 19 / 200


def test_rows_that_do_not_come_are_given_up() -> None:
    with pytest.raises(TimeoutError, match="only 1 of 2 rows"):
        look_for(Rows({"row-000000000:0": 1, "row-000000001:0": 1_000}), range(2), ALL_AT_ONCE, 0.02, lambda: None)


def test_rows_may_say_when_they_were_written() -> None:
    before = time.time_ns()
    ((_, value, _, _),) = records(Shape(rows=1, stamped=True), 1, seed=1)
    note = parse_mutation(value).set["note"]
    assert isinstance(note, str) and before <= int(note) <= time.time_ns()


async def test_a_way_takes_as_long_as_it_is_told_and_keeps_the_order() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100_000):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = free_port()
    way = asyncio.create_task(lead(port, f"127.0.0.1:{server.sockets[0].getsockname()[1]}", 0.05))
    given, begun = random.Random(1).randbytes(3_000_000), time.monotonic()
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            break
        except OSError:
            await asyncio.sleep(0.01)
    writer.write(given)
    writer.write_eof()
    assert await reader.readexactly(1) == given[:1] and time.monotonic() - begun >= 0.1
    assert await reader.read() == given[1:]
    writer.close()
    way.cancel()
    server.close()


def test_what_travels_by_hand_has_the_headers_that_the_other_router_asks_for() -> None:
    own = [("ce_id", b"1"), ("trace", b"2")]
    logged = log_headers(own, time_us=12, position=3, timestamp_ms=4)
    timestamp, headers = sent(SimpleNamespace(headers=logged))
    path = b"east"
    assert timestamp == 4 and headers == sent_headers(own, time=b"12", timestamp=b"4", path=path)


@pytest.mark.parametrize(("rate", "reached"), [(90_000, "yes"), (70_000, "**no**")])
def test_replication_has_goals_for_itself_and_against_others(rate: float, reached: str) -> None:
    measured = {
        "walstream replication": {"rounds": [drained(rate)]},
        "aiokafka loop, by hand": {"rounds": [drained(100_000)]},
        "MirrorMaker 2": {"rounds": [drained(60_000, 3.0)]},
    }
    found = Measurements([entry(measured, "replication", records=1_000_000, partitions=4, duplicates=0.0, rounds=1)])
    mine = next(number for number, goal in enumerate(GOALS) if goal.figure.startswith("replication, one region"))
    rows = [goal.row(found) for goal in GOALS[mine : mine + 3]]
    assert [row[3] for row in rows] == [reached, "yes" if rate > 75_000 else "**no**", "yes"]

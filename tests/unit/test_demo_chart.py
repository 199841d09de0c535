"""The demo's curve: what is counted where, and how it is drawn."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from walstream.demo.chart import Curve


def curve(*seconds: float, at_once: int = 80) -> Curve:
    return Curve.of(seconds, at_once=at_once, delay=2, jitter=4)


def test_each_is_counted_in_its_half_second_and_what_is_out_of_range_at_the_ends() -> None:
    found = curve(0.1, 1.99, 2.0, 2.49, 2.5, 6.9, 100.0)
    assert found.first == 1.5
    assert found.came == [2, 2, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1]
    assert found.level == 10


def test_the_text_has_a_column_for_each_half_second_and_cuts_what_is_too_high() -> None:
    lines = curve(*[2.1] * 10, *[3.1] * 5, 4.1, *[5.1] * 20).text().plain.splitlines()
    assert lines == [
        "  20 ┤     █ 80 at once, without the jitter",
        "     │     █               ██",
        "     │     █               ██",
        "     │     █               ██",
        "  10 ┤   ███               ██",
        "     │   ███               ██",
        "     │   ███   ██          ██",
        "     │   ███   ██    ▃▃    ██",
        "   0 └────────────────────────────────────",
        "         2           4           6 s",
    ]


def test_one_among_many_is_seen() -> None:
    assert "▁▁" in curve(3.0, at_once=100_000).text().plain


def test_a_curve_of_nothing_can_be_drawn(tmp_path: Path) -> None:
    assert "█" in curve().text().plain
    curve().picture(tmp_path / "none.svg", "nothing")
    assert ElementTree.parse(tmp_path / "none.svg").getroot().tag.endswith("svg")


def test_the_picture_has_the_columns_to_one_scale(tmp_path: Path) -> None:
    path = tmp_path / "new" / "curve.svg"
    curve(*[2.1] * 20, *[4.1] * 10).picture(path, "a < b")
    root = ElementTree.parse(path).getroot()
    heights = [float(it.attrib["height"]) for it in root.iter("{http://www.w3.org/2000/svg}rect") if "x" in it.attrib]
    assert heights == [260.0, 65.0, 32.5]  # 80 at once, 20, 10
    texts = ["".join(it.itertext()) for it in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[0] == "a < b"
    assert "without jitter: 80 at once" in texts

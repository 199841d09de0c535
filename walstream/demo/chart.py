"""A curve over time as columns: in a terminal, and as a picture (SVG) for documentation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from rich.text import Text

STEP = 0.5  # seconds of a column

_HEIGHT = 8  # lines
_EIGHTHS = " ▁▂▃▄▅▆▇█"
_CAME, _AT_ONCE = "cyan", "red"

_LEFT, _TOP, _WIDTH, _TALL = 56, 60, 30, 260  # of the picture, in pixels; the width is a column's
_STYLE = "text{font:13px sans-serif;fill:#333} .title{font-weight:bold;font-size:15px}"
_CAME_COLOUR, _AT_ONCE_COLOUR = "#2a6f97", "#c9a0a0"


@dataclass(frozen=True)
class Curve:
    """How many came in each half second, beside how many would have come at once.

    Parameters
    ----------
    first
        Seconds at which the first column begins.
    came
        How many came, by column.
    at_once, moment
        How many would have come at one moment, and in which column.
    level
        What a column would have if all were spread evenly.
    """

    first: float
    came: list[int]
    at_once: int
    moment: int
    level: float

    @classmethod
    def of(cls, seconds: Iterable[float], *, at_once: int, delay: float, jitter: float) -> Curve:
        """Count what came.

        Parameters
        ----------
        seconds
            When each came, from the write on. What is out of range is counted in the first or the last column.
        at_once
            How many were written,
        delay, jitter
            and how they were delayed, in seconds.
        """
        first = delay - STEP  # an empty column shows that nothing is early
        columns = int(jitter / STEP) + 4
        count = Counter(min(max(0, int((second - first) // STEP)), columns - 1) for second in seconds)
        return cls(first, [count[column] for column in range(columns)], at_once, 1, at_once * STEP / jitter)

    def text(self) -> Text:
        """The curve for a terminal: high enough for twice the even level, and what is higher is cut."""
        top = max(2 * self.level, 1.0)
        lines = []
        for row in range(_HEIGHT, 0, -1):
            axis = f"{top * row / _HEIGHT:4,.0f} ┤" if row % 4 == 0 else "     │"
            line = Text(axis, style="dim")
            label = f" {self.at_once:,} at once, without the jitter" if row == _HEIGHT else ""
            for column, count in enumerate(self.came):
                if label and self.moment < column <= self.moment + -(-(len(label) + 1) // 3):
                    continue  # the label's place
                line.append(_EIGHTHS[_eighths(count, top, row)] * 2, style=_CAME)
                if column == self.moment:
                    line.append(_EIGHTHS[_eighths(self.at_once, top, row)], style=_AT_ONCE)
                    line.append(label, style=_AT_ONCE)
                else:
                    line.append(" ")
            line.rstrip()
            lines.append(line)
        ticks = "".join(
            f"{second:<12g}" for column in range(1, len(self.came), 4) for second in [self.first + column * STEP]
        )
        lines.append(Text("   0 └" + "───" * len(self.came), style="dim"))
        lines.append(Text(" " * 9 + ticks.rstrip() + " s", style="dim"))
        return Text("\n").join(lines)

    def picture(self, path: Path, title: str) -> None:
        """Draw it as SVG, both to the same scale."""
        right = _LEFT + _WIDTH * len(self.came)
        bottom = _TOP + _TALL
        scale = _TALL / max(self.at_once, *self.came, 1)
        spike = _LEFT + _WIDTH * self.moment
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {right + 24} {bottom + 56}">',
            f'<style>{_STYLE}</style><rect width="100%" height="100%" fill="white"/>',
            f'<text class="title" x="12" y="26">{escape(title)}</text>',
            f'<text x="{_LEFT - 8}" y="{_TOP + 5}" text-anchor="end">{self.at_once:,}</text>',
            f'<text x="{_LEFT - 8}" y="{bottom + 4}" text-anchor="end">0</text>',
            _rectangle(spike + 2, bottom, self.at_once * scale, _AT_ONCE_COLOUR),
            f'<text x="{spike + _WIDTH + 8}" y="{_TOP + 14}">without jitter: {self.at_once:,} at once</text>',
            f'<text x="{spike + 6 * _WIDTH}" y="{bottom - max(self.came) * scale - 14:.1f}">'
            f"as they came, with jitter: {max(self.came):,} in a half second at most</text>",
        ]
        parts += [
            _rectangle(_LEFT + _WIDTH * column + 2, bottom, count * scale, _CAME_COLOUR)
            for column, count in enumerate(self.came)
            if count
        ]
        parts.append(f'<path d="M{_LEFT} {bottom}H{right}" stroke="#333"/>')
        parts += [
            f'<text x="{_LEFT + _WIDTH * column}" y="{bottom + 20}" text-anchor="middle">'
            f"{self.first + column * STEP:g}</text>"
            for column in range(1, len(self.came) + 1, 2)
        ]
        parts.append(f'<text x="{right}" y="{bottom + 42}" text-anchor="end">seconds after the write</text>')
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join((*parts, "</svg>\n")))


def _eighths(count: int, top: float, row: int) -> int:
    """How much of a line a column fills. What there is at all is seen."""
    filled = max(round(count / top * _HEIGHT * 8), 1 if count else 0)
    return min(max(filled - (row - 1) * 8, 0), 8)


def _rectangle(x: float, bottom: float, height: float, colour: str) -> str:
    height = max(height, 2)  # what there is at all is seen
    return f'<rect x="{x}" y="{bottom - height:.1f}" width="{_WIDTH - 4}" height="{height:.1f}" fill="{colour}"/>'

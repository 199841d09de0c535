"""A bar chart of a comparison, as SVG: medians as bars, the range of the rounds as a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

LEFT, WIDTH, BAR, GAP, TOP = 290, 400, 18, 10, 56
PANEL = LEFT + WIDTH + 80
FAR = 4.0  # times the median of the panel: a bar that would be longer is cut there, or one hides what all others are
OURS, OTHERS = "#2a6f97", "#a3b1bd"
STYLE = "text{font:13px sans-serif;fill:#333} .title{font-weight:bold;font-size:15px} .small{font-size:12px}"


def bars(path: Path, title: str, panels: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Draw panels beside each other.

    Parameters
    ----------
    panels
        For each, under its own title, the measurements of each contender; walstream's are coloured.
    """
    rows = max(len(panel) for panel in panels.values())
    height = TOP + rows * (BAR + GAP) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {PANEL * len(panels)} {height}">',
        f'<style>{STYLE}</style><rect width="100%" height="100%" fill="white"/>',
        f'<text class="title" x="12" y="22">{escape(title)}</text>',
    ]
    for number, (name, panel) in enumerate(panels.items()):
        parts.append(f'<g transform="translate({PANEL * number} 0)">{_panel(name, panel)}</g>')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join((*parts, "</svg>\n")))


def _panel(name: str, panel: Mapping[str, Sequence[float]]) -> str:
    middles = sorted(sorted(values)[len(values) // 2] for values in panel.values())
    most = min(max(max(values) for values in panel.values()), FAR * middles[len(middles) // 2])
    parts = [f'<text class="small" x="{LEFT}" y="44">{escape(name)}</text>']
    for row, (contender, values) in enumerate(panel.items()):
        y, middle = TOP + row * (BAR + GAP), sorted(values)[len(values) // 2]
        low, high, end = (LEFT + WIDTH * min(value / most, 1) for value in (min(values), max(values), middle))
        colour = OURS if contender.startswith("walstream") else OTHERS
        text = f"{middle:,.0f}" if middle >= 100 else f"{middle:.1f}"
        parts += [
            f'<text x="{LEFT - 8}" y="{y + 14}" text-anchor="end">{escape(contender)}</text>',
            f'<rect x="{LEFT}" y="{y}" width="{end - LEFT:.1f}" height="{BAR}" fill="{colour}"/>',
            f'<path d="M{low:.1f} {y + BAR / 2}H{high:.1f}" stroke="#111" stroke-width="2"/>',
            f'<text class="small" x="{max(high, end) + 6:.1f}" y="{y + 14}">{text}</text>',
        ]
        if middle > most:
            parts.append(f'<path d="M{LEFT + WIDTH - 24} {y + BAR + 2}l8 -{BAR + 4}" stroke="white" stroke-width="4"/>')
    return "\n".join(parts)

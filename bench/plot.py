"""Plot: some figures as horizontal bars, written as SVG by hand. Pure.

It is drawn in colours that can be read on white and on black, and follows the reader's preference where it is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from bench.report import number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.figures import Spread

WIDTH = 880
LABEL = 440
BAR = 350
ROW = 24
HEAD = 40
GAP = 14

STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600 }
.ours { fill: #1a7f37 } .peer { fill: #8c959f } .range { stroke: #57606a; stroke-width: 1.5 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .ours { fill: #3fb950 } .peer { fill: #6e7681 } .range { stroke: #c9d1d9 }
}
"""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One line of a panel."""

    label: str
    spread: Spread
    ours: bool = False


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One figure of several contenders; `better` says which end is the good one."""

    title: str
    better: str
    bars: Sequence[Bar]


def svg(panels: Sequence[Panel]) -> str:
    """Return the picture."""
    parts: list[str] = []
    top = 0
    for panel in panels:
        parts += _panel(panel, top)
        top += HEAD + ROW * len(panel.bars) + GAP
    start = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" role="img">'
    return "\n".join([start, f"<style>{STYLE}</style>", *parts, "</svg>", ""])


def _panel(panel: Panel, top: int) -> list[str]:
    parts = [f'<text class="title" x="8" y="{top + 26}">{escape(panel.title)} ({escape(panel.better)})</text>']
    largest = max((bar.spread.high for bar in panel.bars), default=0) or 1
    for row, bar in enumerate(panel.bars):
        y = top + HEAD + row * ROW
        middle = y + ROW / 2 - 3
        length, low, high = (BAR * value / largest for value in (bar.spread.median, bar.spread.low, bar.spread.high))
        kind = "ours" if bar.ours else "peer"
        parts.append(f'<text x="{LABEL - 8}" y="{y + 14}" text-anchor="end">{escape(bar.label)}</text>')
        parts.append(
            f'<rect class="{kind}" x="{LABEL}" y="{y + 2}" width="{max(length, 1):.1f}" height="{ROW - 10}" rx="2"/>'
        )
        if high > low:
            line = f'x1="{LABEL + low:.1f}" x2="{LABEL + high:.1f}" y1="{middle}" y2="{middle}"'
            parts.append(f'<line class="range" {line}/>')
        parts.append(f'<text x="{LABEL + max(length, high) + 8:.1f}" y="{y + 14}">{number(bar.spread.median)}</text>')
    return parts

"""Pages: what the figures look like in README.md, docs/performance.md and docs/bench.svg. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench import plot, report
from bench.figures import Absence, Figure, Spread, summary

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COLUMNS = (
    ("drain", "drained", "tasks/s"),
    ("latency", "p50", "p50 ms at 50/s"),
    ("latency", "p99", "p99 ms"),
    ("kill", "lost", "lost by SIGKILL"),
    ("kill", "all had run after", "all had run after s"),
)
"""What README.md tells of each contender: scenario, what, heading."""

PANELS = (
    ("drain", "drained", "Drained tasks a second", "more is better"),
    ("latency", "p50", "Latency at 50/s, median in ms", "less is better"),
    ("latency", "p99", "Latency at 50/s, 99th percentile in ms", "less is better"),
    ("http", "answered", "HTTP requests answered a second", "more is better"),
)


def whole(outcomes: Sequence[Figure | Absence], titles: Mapping[str, str], about: Mapping[str, str]) -> str:
    """Return a table for each scenario, with where it was measured."""
    parts = [", ".join(f"{name} {value}" for name, value in about.items()) + "."]
    for scenario, title in titles.items():
        found = [one for one in outcomes if one.scenario == scenario]
        if found:
            parts += [f"### {title}", report.table(found)]
    return "\n\n".join(parts)


def short(outcomes: Sequence[Figure | Absence]) -> str:
    """Return the table for README.md: a row for each contender that was drained."""
    found = {(scenario, who, what): spread for (scenario, who, what, _), spread in _summary(outcomes).items()}
    rows = list(dict.fromkeys(one.who for one in outcomes if one.scenario == "drain"))
    lines = [report.row(["", *(heading for *_, heading in COLUMNS)]), "|---" * (len(COLUMNS) + 1) + "|"]
    for who in rows:
        cells = [_cell(found, scenario, who, what) for scenario, what, _ in COLUMNS]
        if not any(cells):
            cells[0] = "missing"
        lines.append(report.row([who, *(cell or "-" for cell in cells)]))
    return "\n".join(lines)


def picture(outcomes: Sequence[Figure | Absence]) -> str:
    """Return the plot."""
    found = _summary(outcomes)
    panels = []
    for scenario, what, title, better in PANELS:
        bars = [
            plot.Bar(label=who, spread=spread, ours=who.startswith("broker"))
            for (one, who, which, _), spread in found.items()
            if (one, which) == (scenario, what)
        ]
        if bars:
            panels.append(plot.Panel(title=title, better=better, bars=bars))
    return plot.svg(panels)


def _cell(found: Mapping[tuple[str, str, str], Spread], scenario: str, who: str, what: str) -> str:
    if scenario == "kill":  # configured for it, so it is called otherwise: the name before the comma is the same
        same = [name for one, name, _ in found if one == "kill" and name.partition(",")[0] == who.partition(",")[0]]
        if not same or (who != same[0] and who.startswith("broker")):
            return ""
        who = same[0]
        if what != "lost" and (scenario, who, "lost") in found and found[scenario, who, "lost"].high > 0:
            return "never"
    spread = found.get((scenario, who, what))
    if spread is None:
        return ""
    return report.cell(spread) if scenario == "kill" else report.number(spread.median)


def _summary(outcomes: Sequence[Figure | Absence]) -> dict[tuple[str, str, str, str], Spread]:
    return summary(one for one in outcomes if isinstance(one, Figure))

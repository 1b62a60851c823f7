"""Report: figures as Markdown tables and as JSON, and their place in the documentation. Pure but for `replace`."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from bench.figures import Absence, Figure, Spread, summary

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

LONGEST = 200
"""Characters of a reason that a table shows; all of it was printed when it happened."""


def number(value: float) -> str:
    """Return a value with three significant digits: `12,300`, `4.56`, `0.0123`; small whole ones as they are."""
    if value == int(value) and abs(value) < 1000:
        return f"{value:.0f}"
    digits = 2 - math.floor(math.log10(abs(value)))
    rounded = round(value, digits)
    return f"{rounded:,.{max(0, min(digits, 4))}f}"


def cell(spread: Spread) -> str:
    """Return the median, with its range where there were several: `4.56 [4.01..5.00]`."""
    if spread.count == 1:
        return number(spread.median)
    return f"{number(spread.median)} [{number(spread.low)}..{number(spread.high)}]"


def table(outcomes: Iterable[Figure | Absence]) -> str:
    """Return a Markdown table of one scenario: a row for each who, a column for each what."""
    outcomes = list(outcomes)
    cells = {(who, _column(what, unit)): cell(found) for (_, who, what, unit), found in _summary(outcomes).items()}
    columns = list(dict.fromkeys(column for _, column in cells)) or [""]
    rows = list(dict.fromkeys(one.who for one in outcomes))
    why = {one.who: one.why for one in outcomes if isinstance(one, Absence)}
    lines = [row(["", *columns]), "|---" * (len(columns) + 1) + "|"]
    for who in rows:
        found = [cells.get((who, column), "") for column in columns]
        if who in why and not any(found):
            found = [f"missing: {_escape(why[who])}", *[""] * (len(columns) - 1)]
        lines.append(row([who, *found]))
    return "\n".join(lines)


def row(cells: Iterable[str]) -> str:
    """Return a row of a Markdown table."""
    return "|" + "|".join(f" {one} " if one else " " for one in cells) + "|"


def as_json(outcomes: Sequence[Figure | Absence], about: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything: what was measured where, each repetition's value, and who was missing."""
    rows: dict[tuple[str, str, str, str], list[float]] = {}
    for one in outcomes:
        if isinstance(one, Figure):
            rows.setdefault((one.scenario, one.who, one.what, one.unit), []).append(one.value)
    return {
        "about": dict(about),
        "figures": [
            {"scenario": scenario, "who": who, "what": what, "unit": unit, "values": values}
            for (scenario, who, what, unit), values in rows.items()
        ],
        "missing": [
            {"scenario": one.scenario, "who": one.who, "why": one.why}
            for one in dict.fromkeys(one for one in outcomes if isinstance(one, Absence))
        ],
    }


def from_json(document: Mapping[str, Any]) -> list[Figure | Absence]:
    """Return what `as_json` was given."""
    figures = [
        Figure(scenario=row["scenario"], who=row["who"], what=row["what"], unit=row["unit"], value=value)
        for row in document["figures"]
        for value in row["values"]
    ]
    return [*figures, *(Absence(**row) for row in document["missing"])]


def merge(old: Mapping[str, Any], new: Mapping[str, Any], order: Sequence[str]) -> dict[str, Any]:
    """Return a document with the scenarios of the new one, and those that only the old one has."""
    measured = {row["scenario"] for row in [*new["figures"], *new["missing"]]}

    def rows(kind: str) -> list[Any]:
        kept = [row for row in old[kind] if row["scenario"] not in measured and row["scenario"] in order]
        return sorted([*kept, *new[kind]], key=lambda row: order.index(row["scenario"]))

    return {"about": new["about"], "figures": rows("figures"), "missing": rows("missing")}


def between(text: str, name: str, new: str) -> str:
    """Return a page with `new` between its markers `<!-- NAME -->` and `<!-- /NAME -->`. Raises ValueError."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    pattern = re.compile(rf"{re.escape(start)}\n.*?{re.escape(end)}", re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise ValueError(f"expected the markers {start} and {end} once")
    return pattern.sub(lambda _: f"{start}\n{new.strip()}\n{end}", text)


def replace(page: Path, name: str, new: str) -> None:
    """Write `new` between a page's markers. Raises ValueError."""
    page.write_text(between(page.read_text(), name, new))


def _summary(outcomes: Sequence[Figure | Absence]) -> dict[tuple[str, str, str, str], Spread]:
    return summary(one for one in outcomes if isinstance(one, Figure))


def _column(what: str, unit: str) -> str:
    return f"{what}, {unit}" if unit else what


def _escape(text: str) -> str:
    words = " ".join(text.split())
    return (words if len(words) < LONGEST else f"{words[:LONGEST]} ...").replace("|", "\\|")

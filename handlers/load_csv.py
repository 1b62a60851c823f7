"""Load a CSV file of weather into the database.

The first line names the columns: `city`, `day` (2026-11-23) and `temperature`, if there are any also `rain` and `wind`,
in any order; others are ignored. Comma, semicolon, tab and bar may part them; where it is not the comma, numbers may
have a decimal comma. A city's day that is there already is overwritten, so loading a file twice changes nothing.
"""

from __future__ import annotations

import csv
import logging
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, TextIO

from handlers.database import writing
from handlers.paths import inside

log = logging.getLogger(__name__)

INBOX = Path(os.environ.get("INBOX", "inbox"))

REQUIRED = ("city", "day", "temperature")
COLUMNS = (*REQUIRED, "rain", "wind")
DELIMITERS = ",;\t|"

SHOWN = 5
"""How many bad rows are told one by one."""

_UPSERT = """
INSERT INTO weather (city, day, temperature, rain, wind) VALUES (:city, :day, :temperature, :rain, :wind)
ON CONFLICT (city, day) DO UPDATE SET
    city = excluded.city, temperature = excluded.temperature, rain = excluded.rain, wind = excluded.wind
"""

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]{1,3})?", re.IGNORECASE)

Row = dict[str, str | float | None]


@dataclass(kw_only=True)
class _Bad:
    """The bad rows so far: how many, and what is wrong with the first ones."""

    count: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, problem: str) -> None:
        self.count += 1
        if self.count <= SHOWN:
            self.problems.append(problem)


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Load the file of a `file.created` or `file.modified` event; all of it or nothing.

    Returns `{"file", "rows", "bad", "problems", "ignored"}`: bad rows are left out, counted, and the first ones
    told. Raises ValueError for a file that is no such table, or has no good row.
    """
    path = inside(INBOX, event["data"]["path"])
    with path.open(encoding="utf-8-sig", newline="") as file:
        delimiter, names = _header(file)
        bad = _Bad()
        rows = 0
        with writing() as database:
            for row in _rows(file, delimiter, names, bad):
                database.execute(_UPSERT, row)
                rows += 1
            if bad.count and not rows:
                raise ValueError(f"{path.name} has no good row; {bad.problems[0]}")
    for problem in bad.problems:
        log.warning("%s, %s", path.name, problem)
    print(f"{path.name}: {rows} rows loaded, {bad.count} bad")
    return {
        "file": path.name,
        "rows": rows,
        "bad": bad.count,
        "problems": bad.problems,
        "ignored": [name for name in names if name not in COLUMNS],
    }


def _header(file: TextIO) -> tuple[str, list[str]]:
    """Return delimiter and names of the columns: the delimiter is the one by which the most of them are known."""
    line = file.readline()
    readings = [(delimiter, _names(line, delimiter)) for delimiter in DELIMITERS]
    delimiter, names = max(readings, key=lambda reading: len(set(reading[1]) & set(COLUMNS)))
    if missing := [name for name in REQUIRED if name not in names]:
        raise ValueError(f"the first line names no column {', '.join(missing)}: {line.strip()[:200]!r}")
    if twice := [name for name in COLUMNS if names.count(name) > 1]:
        raise ValueError(f"the first line names {twice[0]} twice")
    return delimiter, names


def _names(line: str, delimiter: str) -> list[str]:
    return [name.strip().lower() for name in next(csv.reader([line], delimiter=delimiter), [])]


def _rows(file: TextIO, delimiter: str, names: list[str], bad: _Bad) -> Iterator[Row]:
    """Yield the good rows; count the others."""
    reader = csv.reader(file, delimiter=delimiter)
    for values in reader:
        if not any(value.strip() for value in values):
            continue
        try:
            row = _row(names, values, decimal_comma=delimiter != ",")
        except ValueError as error:
            bad.add(f"line {reader.line_num + 1}: {error}")
        else:
            yield row


def _row(names: list[str], texts: list[str], *, decimal_comma: bool) -> Row:
    if len(texts) != len(names):
        raise ValueError(f"expected {len(names)} values, got {len(texts)}")
    values = dict(zip(names, map(str.strip, texts), strict=True))
    if not values["city"]:
        raise ValueError("city is empty")
    row: Row = {"city": values["city"], "day": date.fromisoformat(values["day"]).isoformat()}
    for name in COLUMNS[2:]:
        text = values.get(name, "")
        row[name] = _number(name, text.replace(",", ".") if decimal_comma else text)
    if row["temperature"] is None:
        raise ValueError("temperature is empty")
    return row


def _number(name: str, text: str) -> float | None:
    if not text:
        return None
    number = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name}: expected a number, got {text[:50]!r}")
    return number

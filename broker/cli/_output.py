"""What commands print: a table for a terminal, aligned columns for a pipe, JSON when asked for."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
"""Gives a command the parameter `as_json`."""

# What could move the cursor or change the terminal; texts come from events and functions.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


GAP = 2
"""Blanks between two columns on a terminal."""

ENOUGH = 10
"""Characters below which a value is not broken: it could not be read."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a table: the key of its values in a row, and its heading (by default the key)."""

    key: str
    title: str = ""
    right: bool = False
    """Whether it is aligned to the right, as numbers are."""
    folds: bool = True
    """Whether a narrow terminal may break its values."""
    spare: bool = False
    """Whether a terminal that is too narrow for all columns does without it."""

    @property
    def heading(self) -> str:
        """What stands above it."""
        return self.title or self.key


def coloured() -> bool:
    """Whether a terminal gets colours: not when NO_COLOR is set (https://no-color.org), nor when it has none."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def print_table(
    rows: Iterable[Mapping[str, Any]],
    columns: Sequence[Column],
    *,
    as_json: bool = False,
    title: str = "",
    nothing: str = "",
) -> None:
    """Print rows: as one JSON array with all their keys, or the named columns for people.

    `nothing` is said, to people only, when there are no rows. A value of None is left empty.
    """
    rows = list(rows)
    if as_json:
        print_json(rows)
    elif not rows:
        if nothing:
            click.echo(f"{title}: {nothing}" if title else nothing)
    elif sys.stdout.isatty():
        _draw(rows, columns, title)
    else:
        _align(rows, columns, title)


def print_json(value: Any) -> None:
    """Print a value as JSON, indented for people and on one line for programs."""
    click.echo(json.dumps(value, indent=2 if sys.stdout.isatty() else None, default=str))


def print_record(record: Mapping[str, Any], *, as_json: bool = False) -> None:
    """Print one thing: a line for each of its fields."""
    if as_json:
        print_json(record)
        return
    width = max(map(len, record), default=0)
    for key, value in record.items():
        click.echo(f"{click.style(key.ljust(width), bold=True)}  {clean(value)}")


def warn(text: str) -> None:
    """Print a warning on the standard error."""
    click.echo(f"{click.style('warning:', fg='yellow')} {text}", err=True)


def clean(value: Any) -> str:
    """Return a value as text that is safe to show: control characters are spelled out."""
    text = "" if value is None else str(value)
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def _draw(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], title: str) -> None:
    # 80 ms to import, so only when there is somebody to look at it.
    from rich import box  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console(color_system="auto" if coloured() else None)
    shown = fitting(rows, columns, console.width - GAP)
    if not shown:
        _list(rows, columns, title)
        return
    table = Table(
        box=box.SIMPLE_HEAD, title=title or None, title_justify="left", title_style="bold", padding=(0, GAP - 1, 0, 0)
    )
    for column, least in shown.items():
        side: Literal["left", "right"] = "right" if column.right else "left"
        table.add_column(column.heading, justify=side, overflow="fold", no_wrap=not column.folds, min_width=least)
    for row in rows:
        table.add_row(*(Text(clean(row.get(column.key))) for column in shown))
    console.print(table)


def fitting(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], width: int) -> dict[Column, int]:
    """Return the columns for which a terminal has room, with the least width of each; none when a table is no use."""
    whole = {column: max(map(len, _lines(rows, column))) for column in columns}
    shown = list(columns)
    for spare in [column for column in columns[::-1] if column.spare]:
        if _together(whole[column] for column in shown) <= width:
            break
        shown.remove(spare)
    least = {
        column: max(min(whole[column], ENOUGH), *map(len, column.heading.split())) if column.folds else whole[column]
        for column in shown
    }
    return least if _together(least.values()) <= width else {}


def _together(widths: Iterable[int]) -> int:
    return sum(width + GAP for width in widths) - GAP


def _lines(rows: Sequence[Mapping[str, Any]], column: Column) -> list[str]:
    return [column.heading, *(line for row in rows for line in clean(row.get(column.key)).splitlines())]


def _list(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], title: str) -> None:
    """Print each row by itself, a line for each of its values: for terminals that are too narrow for a table."""
    if title:
        click.secho(title, bold=True)
    for row in rows:
        print_record({one.heading: row[one.key] for one in columns if clean(row.get(one.key))})
        click.echo()


def _align(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], title: str) -> None:
    if title:
        click.echo(f"{title}:")
    cells = [[column.heading.upper() for column in columns]]
    cells += [[clean(row.get(column.key)).replace("\n", "\\n") for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        padded = [
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        ]
        click.echo("  ".join(padded).rstrip())

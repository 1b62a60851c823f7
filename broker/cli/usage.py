"""`broker usage`: what functions have used, and what AWS would have charged for it."""

from __future__ import annotations

import csv
import math
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from broker.cli._given import DURATION
from broker.cli._output import Column, json_option, print_table, warn
from broker.cli._project import Project, pass_project

if TYPE_CHECKING:
    from broker.price import Price
    from broker.quantity import Duration
    from broker.usage import By, Usage

_FIGURES = (
    *("requests", "errors", "throttles", "cold_starts"),
    *("billed_seconds", "gb_seconds", "cpu_seconds", "log_bytes"),
)


@click.command()
@click.option("--since", type=DURATION, default="7d", show_default=True, help="Of the days since then, UTC.")
@click.option("--by", type=click.Choice(["function", "day"]), default="function", show_default=True, help="Summed so.")
@click.option(
    "--price",
    "prices",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Add what it would have cost at AWS, with the prices of this file (see prices.toml).",
)
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@json_option
@pass_project
def usage(project: Project, *, since: Duration, by: By, prices: Path | None, as_csv: bool, as_json: bool) -> None:
    """Show what functions have used.

    That is how often they ran and failed, their billed time, memory times time, and processor time. The last row is the
    sum.
    """
    if as_csv and as_json:
        raise click.UsageError("--csv and --json exclude each other")
    from broker import usage as metering  # noqa: PLC0415 -- Redis' library loads slowly; help does without
    from broker.budget import Budgets  # noqa: PLC0415 -- ditto
    from broker.ledger import reading  # noqa: PLC0415 -- ditto
    from broker.ledger.jobs import function_of  # noqa: PLC0415 -- ditto
    from broker.price import Price  # noqa: PLC0415 -- ditto

    price = Price.read(prices) if prices else None
    period = metering.days(datetime.now(UTC).date(), max(1, math.ceil(since / 86400)))
    # Also those that have left the configuration.
    functions = {*project.functions, *map(function_of, reading.queues(project.redis))}
    cells = metering.cells(project.redis, sorted(functions), period)
    rows = [_row(by, name, used, price) for name, used in metering.summed(cells, by).items()]
    if rows:
        months = metering.summed(cells, "month").values()
        rows += _ends(by, metering.total(months), price, [(used.requests, used.gb_seconds) for used in months])
    for account in Budgets(project.config).accounts(project.redis, datetime.now(UTC)):
        if account.is_used_up:
            warn(str(account))
    figures = [*_FIGURES, f"cost_{price.currency.lower()}"] if price else [*_FIGURES]
    if as_csv:
        writer = csv.DictWriter(sys.stdout, [by, *figures])
        writer.writeheader()
        writer.writerows(rows)
        return
    print_table(
        rows,
        [Column(key=by), *(_column(figure) for figure in figures)],
        as_json=as_json,
        nothing=f"nothing was run since {period[0]}",
    )


def _column(figure: str) -> Column:
    return Column(
        key=figure,
        title=figure.replace("_", " "),
        right=True,
        spare=figure in {"throttles", "cold_starts", "log_bytes"},
    )


def _ends(by: By, used: Usage, price: Price | None, months: list[tuple[float, float]]) -> list[dict[str, Any]]:
    """Return the last rows: what is free, and the sum. No function and no day has a name in brackets."""
    sum_row = _row(by, "(total)", used, price)
    if price is None or not (rebate := price.rebate(months)):
        return [sum_row]
    cost = f"cost_{price.currency.lower()}"
    free_row: dict[str, Any] = {by: "(free)", **dict.fromkeys(_FIGURES), cost: -round(rebate, 6) or 0.0}
    return [free_row, {**sum_row, cost: round(price.cost(used.requests, used.gb_seconds) - rebate, 6)}]


def _row(by: By, name: str, used: Usage, price: Price | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        by: name,
        "requests": used.requests,
        "errors": used.errors,
        "throttles": used.throttles,
        "cold_starts": used.cold_starts,
        "billed_seconds": round(used.billed_seconds, 3),
        "gb_seconds": round(used.gb_seconds, 6),
        "cpu_seconds": round(used.cpu_seconds, 3),
        "log_bytes": used.log_bytes,
    }
    if price:
        row[f"cost_{price.currency.lower()}"] = round(price.cost(used.requests, used.gb_seconds), 6)
    return row

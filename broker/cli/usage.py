"""`broker usage`: what functions cost."""

from __future__ import annotations

import csv
import math
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from broker.cli._given import DURATION
from broker.cli._output import Column, json_option, print_table
from broker.cli._project import Project, pass_project

if TYPE_CHECKING:
    from broker.quantity import Duration
    from broker.usage import By, Usage

_FIGURES = (
    *("requests", "errors", "throttles", "cold_starts"),
    *("billed_seconds", "gb_seconds", "cpu_seconds", "log_bytes"),
)


@click.command()
@click.option("--since", type=DURATION, default="7d", show_default=True, help="Of the days since then, UTC.")
@click.option("--by", type=click.Choice(["function", "day"]), default="function", show_default=True, help="Summed so.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@json_option
@pass_project
def usage(project: Project, *, since: Duration, by: By, as_csv: bool, as_json: bool) -> None:
    """Show what functions cost.

    That is how often they ran and failed, their billed time, and memory times time.
    """
    if as_csv and as_json:
        raise click.UsageError("--csv and --json exclude each other")
    from broker import usage as metering  # noqa: PLC0415 -- Redis' library loads slowly; help does without
    from broker.ledger import reading  # noqa: PLC0415 -- ditto
    from broker.ledger.ledger import function_of  # noqa: PLC0415 -- ditto

    period = metering.days(datetime.now(UTC).date(), max(1, math.ceil(since / 86400)))
    # Also those that have left the configuration.
    functions = {*project.config.functions, *map(function_of, reading.queues(project.redis))}
    found = metering.usage(project.redis, sorted(functions), period, by)
    rows = [_row(by, name, used) for name, used in found.items()]
    if as_csv:
        writer = csv.DictWriter(sys.stdout, [by, *_FIGURES])
        writer.writeheader()
        writer.writerows(rows)
        return
    print_table(
        rows,
        [Column(key=by), *(Column(key=figure, title=figure.replace("_", " "), right=True) for figure in _FIGURES)],
        as_json=as_json,
        nothing=f"nothing was run since {period[0]}",
    )


def _row(by: By, name: str, used: Usage) -> dict[str, Any]:
    return {
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

"""`broker status` and `broker audit`: what is going on, and whether the books balance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from broker.cli._output import Column, json_option, print_json, print_record, print_table
from broker.cli._project import Project, pass_project

if TYPE_CHECKING:
    from broker.config import Config
    from broker.ledger import Account

_PLACES = ("queued", "scheduled", "deferred", "leased", "dead", "finished")
_BUDGETED = ("requests", "requests_limit", "gb_seconds", "gb_seconds_limit")
_PLAIN = ("queued", "scheduled", "deferred", "started", "failed")
_BOOKS = ("accepted", *_PLACES, "dropped", "cancelled", "superseded", "vanished", "missing")


@click.command()
@json_option
@pass_project
def status(project: Project, *, as_json: bool) -> None:
    """Show what is going on.

    That is Redis, the workers, what waits and runs of each function, the sources, plain jobs, and what was used of
    budgets.
    """
    from broker.cli import _state  # noqa: PLC0415 -- Redis' library loads slowly; help does without

    state = _state.read(project.config, project.redis)
    if as_json:
        print_json(state)
        return
    print_record({"redis": "{where}, {version}, {memory}, {keys:,} keys".format(**state["redis"])})
    if state["suspended"]:
        click.echo("The workers are suspended (`rq resume` goes on).")
    for title, columns, nothing in (
        ("workers", ["name", "host", "state", "lease"], "none; start one with `broker up`"),
        ("functions", ["name", *_PLACES], "none"),
        ("sources", ["name", "kind", "open", "waiting", "bad"], "none"),
        ("plain jobs", ["name", *_PLAIN], ""),
        ("budgets", ["name", "per", *_BUDGETED, "state"], ""),
    ):
        if not nothing and not state[title]:
            continue
        click.echo()
        numbers = {*_PLACES, *_PLAIN, *_BUDGETED, "open", "waiting", "bad"}
        print_table(
            state[title],
            [Column(key=column, title=column.replace("_", " "), right=column in numbers) for column in columns],
            title=title,
            nothing=nothing,
        )


@click.command()
@click.option("--deep", is_flag=True, help="Look at every invocation, too; it may take minutes.")
@click.option("--write-off", is_flag=True, help="Count what is missing as vanished: you know who deleted it.")
@json_option
@pass_project
def audit(project: Project, *, deep: bool, write_off: bool, as_json: bool) -> int:
    """Check that every accepted invocation is in exactly one place.

    The exit code is 1 when one is missing, or in two places.

    RQ's `Job.delete` and `rq empty` leave no trace of what they delete; --write-off books it as vanished.
    """
    from broker import ledger  # noqa: PLC0415 -- as above
    from broker.ledger.inspection import misplaced  # noqa: PLC0415 -- as above

    client = project.redis
    if write_off:
        for account in ledger.audit(client):
            if account.accepted:
                ledger.write_off(client, account)
    accounts = [account for account in ledger.audit(client) if _is_ours(account, project.config)]
    wrong = list(misplaced(client, [account.queue for account in accounts])) if deep else []
    books = [{**msgspec.structs.asdict(account), "missing": account.missing} for account in accounts]
    unbalanced = [account.queue for account in accounts if account.missing]
    code = 1 if unbalanced or wrong else 0
    if as_json:
        print_json(
            {"balanced": code == 0, "queues": books, "misplaced": [msgspec.structs.asdict(one) for one in wrong]}
        )
        return code
    spare = {key for key in _BOOKS if key != "missing" and not any(row[key] for row in books)}
    print_table(
        books,
        [Column(key="queue"), *(Column(key=key, right=True, spare=key in spare) for key in _BOOKS)],
        nothing="nothing was accepted yet",
    )
    for one in wrong:
        where = ", ".join(one.found) or "in no place"
        click.echo(f"{one.id} is {one.status or 'without a record'}, and {where}", err=True)
    for queue in unbalanced:
        click.echo(f"The books of {queue} do not balance: see the column missing.", err=True)
    if code == 0:
        click.echo("The books balance.")
    return code


def _is_ours(account: Account, config: Config) -> bool:
    """Tell our queues from those of other programs that use RQ in the same Redis."""
    from broker.ledger.jobs import function_of  # noqa: PLC0415 -- as above

    return account.accepted > 0 or function_of(account.queue) in config.functions

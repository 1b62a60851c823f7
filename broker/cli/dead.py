"""`broker dead`: dead letters: look at them, run them again, or forget them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import click

from broker.cli._given import check_name, confirm
from broker.cli._output import json_option, print_json, print_table
from broker.cli._project import Project, pass_project
from broker.cli.runs import COLUMNS, record, row
from broker.errors import UnknownInvocation

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

    from redis import Redis

GROUP = 500
"""How many are settled in one call: a bound on how long one script may hold Redis."""


@click.group()
def dead() -> None:
    """Look at dead letters, run them again, or forget them.

    A dead letter is an invocation that used up its retries or its age.
    """


function_option = click.option("--function", metavar="NAME", help="Only those of this function.")


def choice(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the parameters that say which dead letters it is about."""
    for add in (
        json_option,
        click.option("--yes", is_flag=True, help="Do not ask."),
        click.option("--all", "every", is_flag=True, help="All there are (with --function: all of that)."),
        function_option,
        click.argument("ids", metavar="[ID]...", nargs=-1),
    ):
        command = add(command)
    return command


@dead.command("list")
@click.option("-n", "--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many.")
@function_option
@json_option
@pass_project
def list_(project: Project, *, limit: int, function: str | None, as_json: bool) -> None:
    """List the newest dead letters."""
    from broker.ledger import reading  # noqa: PLC0415 -- Redis' library loads slowly; help does without

    client = project.redis
    found = reading.recent(client, _queues(project, function), statuses=["failed"], limit=limit)
    events = {id_: (head.source, head.id) for id_, head in reading.heads(client, found).items()}
    rows = [record(one, events) for one in found] if as_json else [row(one, events) for one in found]
    print_table(rows, COLUMNS, as_json=as_json, nothing="no dead letters")


@dead.command()
@choice
@pass_project
def replay(
    project: Project, *, ids: tuple[str, ...], function: str | None, every: bool, yes: bool, as_json: bool
) -> None:
    """Run dead letters again, as if they had just been accepted."""
    letters = _chosen(project, ids, function, every=every)
    _confirm("Replay", letters, ask=every and not yes)
    _tell("replayed", _settle(project.redis, letters, "replay"), as_json=as_json)


@dead.command()
@choice
@pass_project
def drop(
    project: Project, *, ids: tuple[str, ...], function: str | None, every: bool, yes: bool, as_json: bool
) -> None:
    """Forget dead letters, for good."""
    letters = _chosen(project, ids, function, every=every)
    _confirm("Drop", letters, ask=every and not yes)
    _tell("dropped", _settle(project.redis, letters, "drop"), as_json=as_json)


def _queues(project: Project, function: str | None) -> list[str]:
    """Return the queues that are meant; also those of functions that have left the configuration."""
    from broker.ledger import reading  # noqa: PLC0415 -- as above

    names = reading.queues(project.redis, None if function is None else [function])
    if function is not None and not names:
        check_name("function", function, project.functions)
    return names


def _chosen(project: Project, ids: tuple[str, ...], function: str | None, *, every: bool) -> list[tuple[str, str]]:
    """Return (queue, id) of the dead letters that are meant."""
    if bool(ids) == every:
        raise click.UsageError("name the dead letters, or say --all")
    from broker.ledger import reading  # noqa: PLC0415 -- as above

    client, names = project.redis, _queues(project, function)
    if every:
        # All at once, before the first is touched: one that dies again at once is not replayed again and again.
        return list(dict.fromkeys(reading.dead(client, names)))
    letters = []
    for text in ids:
        one = reading.fetch(client, reading.resolve(client, names, text))
        if one.status not in {"failed", "stopped"}:
            raise UnknownInvocation(f"{one.id} is no dead letter: it is {one.status}")
        if function not in {None, one.function}:
            raise UnknownInvocation(f"{one.id} is an invocation of {one.function}, not of {function}")
        letters.append((one.queue, one.id))
    return list(dict.fromkeys(letters))


def _confirm(verb: str, letters: list[tuple[str, str]], *, ask: bool) -> None:
    if ask and letters:
        confirm(f"{verb} {_count(len(letters))}?")


def _settle(client: Redis, letters: list[tuple[str, str]], verdict: Literal["replay", "drop"]) -> Counter[str]:
    """Settle them in groups; return how many of each function were still there."""
    from broker.ledger import Ledger, Settlement  # noqa: PLC0415 -- as above
    from broker.ledger.jobs import function_of  # noqa: PLC0415 -- as above

    ledger, done = Ledger(client), Counter[str]()
    for start in range(0, len(letters), GROUP):
        group = letters[start : start + GROUP]
        settlements = [Settlement(verdict=verdict, queue=queue, id=id_) for queue, id_ in group]
        for (queue, _), there in zip(group, ledger.settle("cli", settlements), strict=True):
            done[function_of(queue)] += there
    return done


def _tell(what: str, done: Counter[str], *, as_json: bool) -> None:
    if as_json:
        print_json({what: done.total(), "functions": done})
        return
    of = ", ".join(f"{count:,} of {name}" for name, count in done.items()) if len(done) > 1 else ""
    click.echo(f"{_count(done.total())} {what}" + (f": {of}" if of else ""))


def _count(number: int) -> str:
    return f"{number:,} dead letter{'' if number == 1 else 's'}"

"""`broker runs` and `broker show`: which invocations there are, and all about one of them."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from broker.cli._given import check_name
from broker.cli._output import Column, clean, json_option, print_json, print_record, print_table
from broker.cli._project import Project, pass_project
from broker.cli._when import age, iso, length

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from broker.ledger.reading import Ending, Invocation

STATUSES = ("queued", "scheduled", "deferred", "started", "finished", "failed", "canceled")

SHOWN_DIGITS = 10
"""How much of an id is shown on a terminal; `broker show` takes it."""

SHOWN_EVENT = 24
"""How much of an event's id is shown on a terminal."""

COLUMNS = [
    Column(key="id", folds=False),
    Column(key="function"),
    Column(key="status", folds=False),
    Column(key="attempt", title="tries", right=True, folds=False),
    Column(key="age", right=True, folds=False),
    Column(key="took", right=True, folds=False),
    Column(key="reason"),
    Column(key="source", spare=True),
    Column(key="event", spare=True),
]


@click.command()
@click.argument("function", required=False)
@click.option("--status", type=click.Choice(STATUSES), help="Only invocations of this status; failed: dead letters.")
@click.option("-n", "--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many.")
@json_option
@pass_project
def runs(project: Project, *, function: str | None, status: str | None, limit: int, as_json: bool) -> None:
    """List the newest invocations."""
    if function is not None:
        check_name("function", function, project.functions)
    from broker.ledger import reading  # noqa: PLC0415 -- Redis' library loads slowly; help does without

    client = project.redis
    statuses = [one for one in reading.STATUSES if status in {None, one}]
    names = reading.queues(client, None if function is None else [function])
    found = reading.recent(client, names, statuses=statuses, limit=limit)
    heads = reading.heads(client, found)
    events = {id_: (head.source, head.id) for id_, head in heads.items()}
    rows = [record(one, events) for one in found] if as_json else [row(one, events) for one in found]
    print_table(rows, COLUMNS, as_json=as_json, nothing="no invocations")


@click.command()
@click.argument("invocation", metavar="ID")
@json_option
@pass_project
def show(project: Project, *, invocation: str, as_json: bool) -> None:
    """Show all about one invocation.

    How a recent one's id begins is enough.
    """
    from broker import tail  # noqa: PLC0415 -- as above
    from broker.ledger import reading  # noqa: PLC0415 -- as above

    client = project.redis
    one = reading.fetch(client, reading.resolve(client, reading.queues(client), invocation))
    event = json.loads(reading.event(client, one))
    endings = reading.endings(client, one.id)
    since_ms = int(one.accepted.timestamp() * 1000) if one.accepted else 0
    lines = [line.text for line in tail.read(client, [one.function], since_ms=since_ms, invocation=one.id)]
    record_ = {
        **record(one, {one.id: (event.get("source"), event.get("id"))}),
        "queue": one.queue,
        "failures": one.failures,
        "crashes": one.crashes,
        "worker": one.worker,
        "version": _version(lines),
        "data": event,
        **_outcome(one, endings),
        "log": lines,
    }
    if as_json:
        print_json(record_)
    else:
        _show(one, record_)


def record(one: Invocation, events: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
    """Return an invocation for programs."""
    source, event = events.get(one.id, (None, None))
    return {
        "id": one.id,
        "function": one.function,
        "status": one.status,
        "attempt": one.attempt,
        "reason": one.reason or None,
        "accepted": iso(one.accepted),
        "started": iso(one.started),
        "ended": iso(one.ended),
        "duration": one.duration,
        "source": source,
        "event": event,
    }


def row(one: Invocation, events: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
    """Return an invocation for people; on a terminal with a short id."""
    source, event = events.get(one.id, ("", ""))
    narrow = sys.stdout.isatty()
    return {
        "id": one.id[:SHOWN_DIGITS] if narrow else one.id,
        "function": one.function,
        "status": one.status,
        "attempt": one.attempt,
        "age": age(one.accepted),
        "took": length(one.duration),
        "reason": one.reason,
        "source": source,
        "event": f"{event[: SHOWN_EVENT - 1]}…" if narrow and len(event) > SHOWN_EVENT else event,
    }


def _outcome(one: Invocation, endings: Sequence[Ending]) -> dict[str, Any]:
    """Return its result or its error; of an older failure the error, until it has ended."""
    last = endings[0] if endings else None
    if one.status == "finished":
        return {"result": json.loads(last.body) if last and last.ok else None, "error": None}
    return {"result": None, "error": last.body if last and not last.ok else None}


def _show(one: Invocation, found: dict[str, Any]) -> None:
    facts = {
        "invocation": one.id,
        "function": one.function,
        "status": one.status,
        "queue": one.queue,
        "attempts": one.attempt,
        "failures": one.failures,
        "crashes": one.crashes,
        "reason": one.reason,
        "accepted": f"{iso(one.accepted)} ({age(one.accepted)} ago)" if one.accepted else "",
        "started": iso(one.started),
        "ended": iso(one.ended),
        "duration": length(one.duration),
        "worker": one.worker,
        "version": found["version"],
    }
    print_record({key: value for key, value in facts.items() if value})
    _section("event", json.dumps(found["data"], indent=2, ensure_ascii=False))
    if one.status == "finished":
        _section("result", json.dumps(found["result"], indent=2, ensure_ascii=False))
    if found["error"]:
        _section("error", found["error"])
    if found["log"]:
        _section("log", "\n".join(found["log"]))


def _version(lines: Sequence[str]) -> str | None:
    """Return the version that the last attempt ran, as its log says it."""
    starts = [line.rpartition(" Version: ")[2] for line in lines if line.startswith("START RequestId: ")]
    return starts[-1] if starts else None


def _section(title: str, text: str) -> None:
    click.echo(f"\n{click.style(title, bold=True)}")
    for line in text.splitlines():
        click.echo(f"  {clean(line)}")

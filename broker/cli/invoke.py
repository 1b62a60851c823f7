"""`broker invoke`: run a function now, past all triggers, and see what it prints and returns."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click
import msgspec

from broker.cli._given import DURATION, check_name, read_json
from broker.cli._output import clean, print_json, warn
from broker.cli._project import Project, pass_project
from broker.errors import EventError, HandlerFailed
from broker.event import Event, decode, new_event

if TYPE_CHECKING:
    from broker.quantity import Duration
    from broker.tail import Logged


@click.command()
@click.argument("function")
@click.argument("data", metavar="[JSON|@FILE|-]", default="null")
@click.option("--event", "whole", is_flag=True, help="The JSON is a whole CloudEvent, not only its data.")
@click.option("--client-context", "client", metavar="JSON|@FILE|-", help="An object for context.client_context.")
@click.option("--async", "alone", is_flag=True, help="Print the invocation's id, and do not wait.")
@click.option("--timeout", type=DURATION, help="How long to wait for the end; by default for ever.")
@pass_project
def invoke(
    project: Project,
    *,
    function: str,
    data: str,
    whole: bool,
    client: str | None,
    alone: bool,
    timeout: Duration | None,
) -> int:
    """Run FUNCTION and print its result.

    Of a deployed function FUNCTION:ALIAS and FUNCTION:VERSION run that, FUNCTION alone what is live.

    What it prints goes to the standard error, the result as JSON to the standard output. Retries are waited
    for. The exit code is 1 when the function failed.
    """
    config = project.config
    name, colon, qualifier = function.partition(":")
    event = _event(read_json(data), whole=whole)
    client_context = b"" if client is None else _client_context(read_json(client))
    from broker.cli._call import Call  # noqa: PLC0415 -- Redis' library loads slowly; mistakes are told before

    check_name("function", name, project.functions)
    if colon:
        _check_qualifier(project, name, qualifier)
    call = Call(config, project.redis, name, event, client_context=client_context, qualifier=qualifier)
    if not call.has_worker():
        warn("no worker runs; start one with `broker up`")
    if alone:
        call.publish()
        click.echo(call.id)
        return 0
    try:
        outcome = call.run(_hear, timeout)
    except KeyboardInterrupt:
        if call.id:
            click.echo(f"\nIt goes on: see `broker show {call.id}`.", err=True)
        raise
    if outcome is None:
        click.echo(f"It has not ended within {timeout}: see `broker show {call.id}`.", err=True)
        return 1
    if not outcome.ok:
        raise _failure(outcome.body)
    if sys.stdout.isatty():
        print_json(json.loads(outcome.body))
    else:
        click.echo(outcome.body)
    return 0


def _event(given: Any, *, whole: bool) -> Event:
    if not whole:
        return new_event(source="cli", type="invoke", data=given)
    if not isinstance(given, dict):
        raise EventError(f"--event: expected a CloudEvent, got {json.dumps(given)[:60]}")
    return decode(given)


def _check_qualifier(project: Project, name: str, qualifier: str) -> None:
    from broker.deployed import catalog  # noqa: PLC0415 -- as above
    from broker.deployed.record import Record  # noqa: PLC0415 -- as above

    record = catalog.read(project.redis)[1].get(name, Record(name=name))
    if record.resolve(qualifier, "") is None or not qualifier:
        known = ", ".join([*record.aliases, *map(str, sorted(record.versions))])
        raise click.UsageError(f"{name} has no alias or version {qualifier!r}; known: {known or 'none'}")


def _client_context(given: Any) -> bytes:
    if not isinstance(given, dict):
        raise click.UsageError(f"--client-context: expected a JSON object, got {json.dumps(given)[:60]}")
    return json.dumps(given, allow_nan=False).encode()


def _hear(lines: list[Logged]) -> None:
    for line in lines:
        click.echo(clean(line.text) if sys.stderr.isatty() else line.text, err=True)


def _failure(body: bytes) -> HandlerFailed:
    error = msgspec.json.decode(body)
    return HandlerFailed(clean(f"{error.get('errorType', 'Error')}: {error.get('errorMessage', '')}"))

"""`broker emit`: publish one event as if a source had."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from broker.cli._given import check_name, read_json
from broker.cli._output import json_option, print_json, warn
from broker.cli._project import Project, pass_project
from broker.event import Event, decode, new_event


@click.command()
@click.argument("source")
@click.argument("data", metavar="[JSON|@FILE|-]", default="null")
@click.option("--type", "kind", metavar="TYPE", help='Its type; by default "emit".')
@click.option("--subject", metavar="TEXT", help="What it is about.")
@click.option("--id", "ident", metavar="ID", help="Its id; one that is known is not taken on again.")
@json_option
@pass_project
def emit(
    project: Project,
    *,
    source: str,
    data: str,
    kind: str | None,
    subject: str | None,
    ident: str | None,
    as_json: bool,
) -> None:
    """Publish an event as if SOURCE had.

    The JSON is the event's data, or a whole CloudEvent (it has a "specversion"); of that the options replace
    what they name. The id of each invocation that is owed now is printed.
    """
    config = project.config
    check_name("source", source, config.sources)
    options = {"type": kind, "subject": subject, "id": ident}
    event = _event(source, read_json(data), {name: value for name, value in options.items() if value is not None})
    from broker.ledger import Ledger  # noqa: PLC0415 -- 200 ms; mistakes are told before
    from broker.publisher import Publisher  # noqa: PLC0415 -- ditto

    (receipt,) = Publisher(config, Ledger(project.redis)).publish([event])
    if as_json:
        print_json(msgspec.structs.asdict(receipt))
    else:
        for invocation in receipt.invocations:
            click.echo(invocation)
    if not receipt.invocations:
        warn(f"event {receipt.event} matched no trigger, so nothing runs for it")
    if receipt.duplicate:
        warn(f"event {receipt.event}, or an equal one, had been published before, and does not run again")
    for invocation in receipt.superseded:
        warn(f"{invocation} does not run now: this event came within its debounce")


def _event(source: str, given: Any, options: dict[str, str]) -> Event:
    if isinstance(given, dict) and "specversion" in given:
        event = decode(given)
    else:
        event = new_event(source=source, type="emit", data=given)
    return msgspec.structs.replace(event, source=source, **options)

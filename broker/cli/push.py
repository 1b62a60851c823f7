"""`broker push`: put messages into a queue source, one or a whole stream of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast, get_args

import click

from broker.cli._given import DURATION, check_name, parse_json
from broker.cli._output import json_option, warn
from broker.cli._project import Project, pass_project
from broker.function import Priority
from broker.source import Publishing

if TYPE_CHECKING:
    from io import BufferedReader

    from broker.quantity import Duration

BLOCK = 1 << 20
"""Bytes of the standard input that are read at once, at the most; what is there is pushed without waiting for more."""


@click.command()
@click.argument("queue")
@click.argument("message", metavar="[JSON]", required=False)
@click.option("--id", "ident", metavar="ID", help="Its id; one that is known is not taken on again.")
@click.option("--delay", type=DURATION, default="0", help="How long it waits before it may run: 5m.")
@click.option("--priority", type=click.Choice(get_args(Priority)), default="normal", help="What goes first.")
@json_option
@pass_project
def push(
    project: Project,
    *,
    queue: str,
    message: str | None,
    ident: str | None,
    delay: Duration,
    priority: Priority,
    as_json: bool,
) -> None:
    """Put messages into a queue.

    The message is JSON. With `-`, or without one when something is piped in, each line of the standard input
    is a message. The ids of their events are printed.
    """
    many = message == "-" or (message is None and not sys.stdin.isatty())
    if message is None and not many:
        raise click.UsageError("expected a message as JSON, or - to read one from each line of the standard input")
    if ident is not None and many:
        raise click.UsageError("--id is for a single message")
    config = project.config
    check_name("queue", queue, (name for name, kind in config.kinds.items() if kind == "queue"))
    data = None if many else parse_json(message or "")
    if not any(trigger.source == queue for trigger in config.triggers):
        warn(f"no trigger has the source {queue!r}, so nothing runs for what is pushed")
    # Redis' library takes longer to load than all else together; mistakes are told before.
    from broker.cli._pusher import Pusher  # noqa: PLC0415
    from broker.ledger import Ledger  # noqa: PLC0415
    from broker.publisher import Publisher  # noqa: PLC0415

    publisher = Publisher(config, Ledger(project.redis))
    pusher = Pusher(publisher, queue, Publishing(delay=float(delay), priority=priority), as_json=as_json, many=many)
    if many:
        pusher.push_lines(_blocks(cast("BufferedReader", sys.stdin.buffer)))
    else:
        pusher.push(data, ident)
    for remark in pusher.remarks():
        warn(remark)


def _blocks(stream: BufferedReader) -> Iterator[list[bytes]]:
    """Yield the lines of a stream in lists, as they come."""
    rest = b""
    while block := stream.read1(BLOCK):
        *lines, rest = (rest + block).split(b"\n")
        yield lines
    if rest:
        yield [rest]

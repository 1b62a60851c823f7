"""Requests for a queue: a body as a message, with its delay and its priority from the query."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal, get_args
from urllib.parse import parse_qsl

from broker.errors import EventError
from broker.event import Event, new_event
from broker.quantity import Duration
from broker.source import Publishing

if TYPE_CHECKING:
    from sources._http.message import Request

Priority = Literal["high", "normal", "low"]


def message(queue: str, body: bytes, ident: str) -> Event:
    """Return the message of `queue` that a body stands for. Raises EventError when it is not JSON."""
    try:
        data = json.loads(body, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise EventError(f"a message of queue {queue!r} is JSON: {error}") from error
    return new_event(source=queue, type="queue.message", id=ident, data=data)


def publishing(request: Request, *, reply: bool) -> Publishing:
    """Return how a message is published: `?delay=5m&priority=high`. Raises EventError."""
    wanted = dict(parse_qsl(request.query.decode(errors="replace"), keep_blank_values=True))
    if unknown := sorted(set(wanted) - {"delay", "priority"}):
        raise EventError(f"unknown parameter {unknown[0]!r}: expected delay or priority")
    priority: Any = wanted.get("priority", "normal")
    if priority not in get_args(Priority):
        raise EventError(f"priority: expected high, normal or low, got {priority!r}")
    try:
        delay = Duration.parse(wanted.get("delay", "0s"))
    except ValueError as error:
        raise EventError(f"delay: {error}") from error
    return Publishing(delay=delay, priority=priority, reply=reply)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")

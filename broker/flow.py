"""Flow: what a function's flow control asks of one of its events, worked out from what is in the event.

Events that belong together have the same key. A path to it is written as in a pattern, `subject` or `data.customer`,
and goes through objects only. An event that has nothing there, or null, belongs to no other.
"""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Any

import msgspec

from broker.event import ATTRIBUTES, Event
from broker.function import Function

ROOTS = frozenset({*ATTRIBUTES, "data", "partitionkey"})
"""What a path may begin with; `partitionkey` is CloudEvents' documented extension for this very purpose."""


class Flow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the ledger is to heed when it takes on an invocation. Keys begin with the function's name and a colon."""

    turn: str = ""
    """Of all invocations with the same one, one is queued, scheduled or leased at a time; the others wait."""
    unique: str = ""
    """Another one with the same one is refused for a while."""
    unique_ms: int = 0
    debounce: str = ""
    """Another one with the same one takes its place while it waits for quiet."""
    quiet: float = 0
    """Seconds."""
    longest: float = 0
    """Seconds after the first of them when the last one runs even if there was no quiet; 0: never."""


def flow_of(function: Function, event: Event) -> Flow | None:
    """Return what the function asks of the event; None when that is nothing."""
    if not (function.order_by or function.debounce or function.unique_for):
        return None
    turn = unique = debounce = ""
    if function.order_by:
        turn = key_at(event, function.order_by)
    if function.unique_for:
        whole = [event.type, event.subject, event.data, event.data_base64]
        unique = key_at(event, function.unique_by) if function.unique_by else digest(whole)
    if function.debounce:
        debounce = key_at(event, function.debounce_by) if function.debounce_by else digest(event.subject)
    prefix = f"{function.name}:"
    return Flow(
        turn=turn and prefix + turn,
        unique=unique and prefix + unique,
        unique_ms=int(function.unique_for * 1000) if unique and function.unique_for else 0,
        debounce=debounce and prefix + debounce,
        quiet=float(function.debounce) if debounce and function.debounce else 0,
        longest=float(function.debounce_max) if debounce and function.debounce_max else 0,
    )


def is_path(text: str) -> bool:
    """Return whether it names something that an event may have."""
    first, *rest = text.split(".")
    return first in ROOTS and all(rest) and (first == "data" or not rest)


def key_at(event: Event, path: str) -> str:
    """Return a digest of what the event has at the path; empty when it has nothing there, or null."""
    value: Any = event.record()
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return "" if value is None else digest(value)


def digest(value: Any) -> str:
    """Return 32 hexadecimal digits that stand for a JSON value; as a whole, 5 and 5.0 are the same."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return blake2b(text.encode(), digest_size=16).hexdigest()

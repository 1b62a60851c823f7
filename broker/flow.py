"""Flow: which events a function must treat as belonging together, worked out from what is in them.

A path is written as in a pattern: `subject`, `data.customer`. It goes through objects only.
"""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Any

from broker.event import ATTRIBUTES, Event

ROOTS = frozenset({*ATTRIBUTES, "data", "partitionkey"})
"""What a path may begin with; `partitionkey` is CloudEvents' documented extension for this very purpose."""


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
    """Return 16 hexadecimal digits that stand for a JSON value; 5 and 5.0 are the same."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return blake2b(text.encode(), digest_size=8).hexdigest()

"""Trigger: source + pattern -> function."""

from __future__ import annotations

from typing import Any

import msgspec


class Trigger(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `[[triggers]]` table: events of `source` that match `pattern` are owed to `function`.

    The pattern is EventBridge's, over the CloudEvents record: `{ data = { size = [{ numeric = [">", 0] }] } }`.
    Without one every event of the source matches.
    """

    source: str
    function: str
    pattern: dict[str, Any] | None = None

"""What a configuration sets up: its functions, triggers and sources, for `broker check` and the start screen."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from broker.cli._output import Column, print_table
from broker.errors import StoreMissing, StoreUnavailable

if TYPE_CHECKING:
    from broker.config import Config

FIRINGS = 5
"""How many of a schedule's next firings are shown."""

FEW = 100
"""Of so many schedules they are shown to people; to work out those of ten thousand takes seconds."""


def functions(config: Config) -> list[dict[str, Any]]:
    """Return a row for each function."""
    return [
        {
            "name": function.name,
            "handler": function.handler,
            "timeout": str(function.timeout),
            "memory": str(function.memory),
            "attempts": function.retry.attempts,
        }
        for function in config.functions.values()
    ]


def triggers(config: Config) -> list[dict[str, Any]]:
    """Return a row for each trigger."""
    return [
        {"source": trigger.source, "function": trigger.function, "pattern": trigger.pattern}
        for trigger in config.triggers
    ]


def sources(config: Config) -> list[dict[str, Any]]:
    """Return a row for each source, with what it will do."""
    return [
        {"name": name, "kind": config.kinds[name], "plan": source.plan(config.root)}
        for name, source in config.sources.items()
    ]


def schedules(config: Config) -> list[str]:
    """Return the sources that know their next firings (`upcoming`)."""
    return [name for name, source in config.sources.items() if hasattr(source, "upcoming")]


def firings(config: Config, names: list[str], now: datetime | None = None) -> list[dict[str, Any]]:
    """Return a row for each of the next firings of these schedules."""
    now = now or datetime.now(UTC)
    return [
        {"source": name, "due": moment.isoformat()}
        for name in names
        for moment in getattr(config.sources[name], "upcoming")(now, FIRINGS)  # noqa: B009 -- Source itself has none
    ]


def complaints(config: Config) -> list[str]:
    """Return what this machine lacks for what is configured, and what the Redis does; the embedded one lacks nothing.

    Raises StoreError when it refuses us.
    """
    from broker.runtime import isolation  # noqa: PLC0415 -- help does without what it imports

    return [*_complaints_about_redis(config), *isolation.complaints(config)]


def _complaints_about_redis(config: Config) -> list[str]:
    if config.settings.redis is None:
        return []
    from broker.store import connection  # noqa: PLC0415 -- 200 ms, and only for an external Redis

    try:
        with connection.connect(config) as client:
            return [f"Redis: {complaint}" for complaint in connection.complaints(client)]
    except (StoreMissing, StoreUnavailable) as error:
        return [str(error)]


def show(config: Config) -> None:
    """Print functions, triggers and sources for people."""
    print_table(
        functions(config),
        [
            Column(key="name", title="function"),
            Column(key="handler"),
            Column(key="timeout", right=True),
            Column(key="memory", right=True),
            Column(key="attempts", right=True),
        ],
        nothing="no functions: config.toml needs a [functions.NAME] table",
    )
    print_table(
        [
            {**row, "name": row["name"] if first else "", "kind": row["kind"] if first else "", "plan": line}
            for row in sources(config)
            for first, line in _numbered(row["plan"])
        ],
        [Column(key="name", title="source"), Column(key="kind"), Column(key="plan", title="does")],
        nothing="no sources: config.toml needs a [sources.NAME] table",
    )
    print_table(
        [
            {**row, "pattern": json.dumps(row["pattern"]) if row["pattern"] else "every event"}
            for row in triggers(config)
        ],
        [
            Column(key="source", title="events of"),
            Column(key="pattern", title="that match"),
            Column(key="function", title="run"),
        ],
        nothing="no triggers: config.toml needs a [[triggers]] table",
    )


def _numbered(lines: list[str]) -> list[tuple[bool, str]]:
    return [(number == 0, line) for number, line in enumerate(lines or [""])]

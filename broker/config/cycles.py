"""Cycles: functions whose destinations lead back to themselves, so that one event keeps them busy for ever; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from broker.function import Function
from broker.trigger import Trigger


def cycles(functions: Mapping[str, Function], triggers: Sequence[Trigger], key: str) -> list[list[str]]:
    """Return each circle that `on_success` (or `on_failure`) closes, as the functions along it; each circle once.

    A queue leads to the functions whose triggers take all of its messages. What a pattern lets through is not known,
    and a circle that needs both a success and a failure ends with the one or the other.
    """
    follow = {name: _next(function, triggers, key, functions) for name, function in functions.items()}
    found: list[list[str]] = []
    done: set[str] = set()
    for start in follow:
        path: list[str] = []
        _walk(start, follow, path, done, found)
    return found


def _next(function: Function, triggers: Sequence[Trigger], key: str, functions: Mapping[str, Function]) -> list[str]:
    target: str | None = getattr(function, key)
    if target is None:
        return []
    kind, _, name = target.rpartition(":")
    if kind == "queue":
        names = [trigger.function for trigger in triggers if trigger.source == name and trigger.pattern is None]
    else:
        names = [name]
    return [name for name in dict.fromkeys(names) if name in functions]


def _walk(name: str, follow: Mapping[str, list[str]], path: list[str], done: set[str], found: list[list[str]]) -> None:
    if name in path:
        found.append(path[path.index(name) :])
        return
    if name in done:
        return
    path.append(name)
    for other in follow[name]:
        _walk(other, follow, path, done, found)
    path.pop()
    done.add(name)

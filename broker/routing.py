"""Routing: which functions does an event concern? An index over all triggers, so that a thousand cost what ten do.

A trigger's pattern can only match when each of its fields has one of its values. For each pattern one field whose
values are listed exactly is looked up in a hash table; the few patterns that this yields are then asked themselves.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from broker.pattern import Branch, Pattern, compile  # noqa: A004 -- as in re.compile
from broker.pattern.operators import identity
from broker.pattern.path import Path
from broker.trigger import Trigger


class Routes:
    """The triggers of a configuration, ready to be asked. Raises PatternError for a pattern that is none."""

    __slots__ = ("_sources",)

    def __init__(self, triggers: Iterable[Trigger]) -> None:
        """Compile the triggers' patterns and index them."""
        by_source: dict[str, list[Trigger]] = {}
        for trigger in triggers:
            by_source.setdefault(trigger.source, []).append(trigger)
        self._sources = {source: _Table(listed) for source, listed in by_source.items()}

    def match(self, record: dict[str, Any], source: str) -> list[str]:
        """Return the functions that are owed the event, each once, in the order of the triggers."""
        table = self._sources.get(source)
        return table.match(record) if table else []


class _Table:
    """The triggers of one source."""

    __slots__ = ("_always", "_functions", "_index", "_patterns")

    def __init__(self, triggers: list[Trigger]) -> None:
        self._functions = [trigger.function for trigger in triggers]
        self._patterns = [None if trigger.pattern is None else compile(trigger.pattern) for trigger in triggers]
        self._always: list[int] = []
        """Triggers whose patterns have to be asked for every event."""
        index: dict[str, tuple[Path, dict[Any, list[int]]]] = {}
        variety = _variety(self._patterns)
        for number, pattern in enumerate(self._patterns):
            keys = _keys(pattern, variety) if pattern else None
            if keys is None:
                self._always.append(number)
                continue
            for path, value in keys:
                listed = index.setdefault(path.name, (path, {}))[1].setdefault(value, [])
                if number not in listed[-1:]:
                    listed.append(number)
        self._index = tuple((path.values, numbers) for path, numbers in index.values())

    def match(self, record: dict[str, Any]) -> list[str]:
        candidates = self._always
        for values, numbers in self._index:
            for value in values(record):
                if listed := numbers.get(identity(value)):
                    candidates = [*candidates, *listed]
        if not candidates:
            return []
        if candidates is not self._always:
            candidates = sorted(set(candidates))
        patterns, functions = self._patterns, self._functions
        matched = [
            functions[number]
            for number in candidates
            if (pattern := patterns[number]) is None or pattern.matches(record)
        ]
        return matched if len(matched) < 2 else list(dict.fromkeys(matched))


def _variety(patterns: Iterable[Pattern | None]) -> dict[str, int]:
    """Return how many different values the patterns list for each field: the more, the fewer patterns share one."""
    values: dict[str, set[Any]] = {}
    for pattern in patterns:
        for branch in pattern.branches if pattern else ():
            for path, choice in branch.fields:
                if choice.exact:
                    values.setdefault(path.name, set()).update(choice.exact)
    return {name: len(found) for name, found in values.items()}


def _keys(pattern: Pattern, variety: dict[str, int]) -> list[tuple[Path, Any]] | None:
    """Return fields and values of which any matching event has one; None when a branch has no exact field."""
    keys = []
    for branch in pattern.branches:
        best = _most_selective(branch, variety)
        if best is None:
            return None
        path, exact = best
        keys += [(path, value) for value in exact]
    return keys


def _most_selective(branch: Branch, variety: dict[str, int]) -> tuple[Path, frozenset[Any]] | None:
    exact = [(path, choice.exact) for path, choice in branch.fields if choice.exact]
    # Few values of the many that are listed; the name makes the choice the same in every process.
    return min(exact, key=lambda field: (len(field[1]) / variety[field[0].name], field[0].name), default=None)

"""Path: where a pattern's field lies in an event, and the values that are there.

A field is named by its keys joined with dots. So, as in EventBridge, `{"a": {"b": 1}}` and `{"a.b": 1}` have the same
field, `a.b`. An array adds nothing to the name: each of its values is a value of the field.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

ABSENT: Final = object()
"""No value has this name."""

DEEP: Final = object()
"""Not to be said with one look: there are arrays of containers on the way, or keys with dots; ask `leaves`."""

_DEEPEST = 100  # containers; what lies deeper is not looked at, so that no event can exhaust the stack

_CONTAINERS = frozenset({dict, list})

Location = tuple[str | int, ...]
"""The keys and array indexes that lead to the container of a value."""


class Path:
    """The path of one field; made once, looked up often."""

    __slots__ = ("_joined", "_steps", "name")

    def __init__(self, name: str) -> None:
        """Take the keys joined with dots."""
        self.name = name
        keys = name.split(".")
        # _joined[i] are the ways to go on from the i-th key: one key alone, or several joined into one.
        self._joined = tuple(
            tuple((".".join(keys[start:end]), end) for end in range(start + 1, len(keys) + 1))
            for start in range(len(keys))
        )
        self._steps = tuple((ways[0][0], tuple(key for key, _ in ways[1:])) for ways in self._joined)

    def look(self, record: dict[str, Any]) -> Any:
        """Return the value, or a list of plain values, or ABSENT; DEEP when only `leaves` can tell."""
        node: Any = record
        for key, joined in self._steps:
            if type(node) is not dict:
                return DEEP if type(node) is list and _nested(node) else ABSENT
            for other in joined:
                if other in node:
                    return DEEP
            node = node.get(key, ABSENT)
            if node is ABSENT:
                return ABSENT
        if type(node) is list:
            return DEEP if _nested(node) else node or ABSENT
        return ABSENT if type(node) is dict else node

    def leaves(self, record: dict[str, Any]) -> Iterator[tuple[Location, Any]]:
        """Yield every value of the field with its location; values in one array share the array's location."""
        end = len(self._joined)
        stack: list[tuple[Any, int, Location]] = [(record, 0, ())]
        while stack:
            node, position, location = stack.pop()
            if type(node) is dict:
                stack += self._entries(node, position, location)
            elif type(node) is list:
                items = enumerate(node) if len(location) < _DEEPEST else ()
                stack += [(item, position, (*location, at)) for at, item in items if type(item) in _CONTAINERS]
                if position == end:
                    yield from ((location, item) for item in node if type(item) not in _CONTAINERS)
            elif position == end:
                yield location, node

    def _entries(self, node: dict[str, Any], position: int, location: Location) -> list[tuple[Any, int, Location]]:
        if position == len(self._joined) or len(location) >= _DEEPEST:
            return []
        return [(node[key], after, (*location, key)) for key, after in self._joined[position] if key in node]

    def values(self, record: dict[str, Any]) -> list[Any]:
        """Return every value of the field, in no particular order."""
        found = self.look(record)
        if found is DEEP:
            return [value for _, value in self.leaves(record)]
        if found is ABSENT:
            return []
        return found if type(found) is list else [found]


def _nested(items: list[Any]) -> bool:
    return any(type(item) in _CONTAINERS for item in items)
